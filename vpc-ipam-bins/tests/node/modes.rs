//! `vpc-ipam lab run` in every mode of a node, and with what is given for some nodes only.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use vpc_ipam_tests::program;

use crate::support::printed;
use crate::user::User;

/// A run of the lab: its arguments, and what it has to say.
type Case<'a> = (&'a [&'a str], &'a [&'a str]);

/// Runs a lab for each case, a few at a time: most of the time of each is waiting.
fn run_all(cases: &[Case<'_>], program: impl Fn() -> Command) {
    const AT_ONCE: usize = 4;
    for some in cases.chunks(AT_ONCE) {
        let start = |(arguments, _): &Case<'_>| {
            let mut run = program();
            let run = run.args(["lab", "run"]).args(*arguments);
            run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let runs: Vec<_> = some.iter().map(start).collect();
        for (run, (arguments, expected)) in runs.into_iter().zip(some) {
            assert_says(&run.wait_with_output().unwrap(), &arguments.join(" "), expected);
        }
    }
}

fn assert_says(output: &Output, arguments: &str, expected: &[&str]) {
    let said = printed(output);
    assert!(output.status.success() && said.contains("all passed"), "{arguments}: {said}");
    for expected in expected {
        // Columns are as wide as the widest of the run.
        let is_said = words(&said).contains(&words(expected));
        assert!(is_said, "{arguments}: {expected:?} is not in\n{said}");
    }
}

fn words(text: &str) -> String {
    let of_line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split('\n').map(of_line).collect::<Vec<_>>().join("\n")
}

fn as_root() -> Command {
    Command::new(program("vpc-ipam"))
}

const IPV4: &str = "--env=ENABLE_IPv4=true";
const IPV6: &str = "--env=ENABLE_IPv6=true";
const PREFIXES: &str = "--env=ENABLE_PREFIX_DELEGATION=true";
const CUSTOM: &str = "--env=AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true";
const CARDS: &str = "--env=ENABLE_MULTI_NIC=true";

/// One of each mode.
const MODES: [Case<'_>; 12] = [
    (
        &[IPV6],
        &[
            "16 pods on 1 ENIs",
            "pod to pod, eth0 to eth0, IPv6 240 240 ok",
            "internet to pod, IPv6 16 16 ok",
            "pod by its node to internet, IPv4 16 16 ok",
            "egress address is sealed, IPv4 2 2 ok",
            "IPv6 prefixes left without pods 1 1 ok",
            "source/dest. check drops 0 0 ok",
        ],
    ),
    (
        &[IPV4, IPV6],
        &[
            "19 pods on 3 ENIs",
            "pod to pod, eth1 to eth2, IPv4 9 9 ok",
            "pod to pod, eth1 to eth2, IPv6 9 9 ok",
            "packet of 9001 bytes, IPv6 19 19 ok",
            "IPv6 prefixes left without pods 1 1 ok",
        ],
    ),
    (
        &["--env=ENABLE_V6_EGRESS=true"],
        &["19 pods on 3 ENIs", "pod by its node to internet, IPv6 19 19 ok"],
    ),
    (&[PREFIXES, "--max-pods=20"], &["20 pods on 1 ENIs", "addresses left without pods 16 16 ok"]),
    (
        &[CUSTOM],
        &["18 pods on 2 ENIs", "pods in 100.64.0.0/19 18 18 ok", "pod to internet 18 18 ok"],
    ),
    (&[CUSTOM, IPV4, IPV6], &["pods in 100.64.0.0/19 18 18 ok", "internet to pod, IPv6 18 18 ok"]),
    (
        &[CARDS, "--instance-type=c6in.32xlarge"],
        &[
            "pods on every network card 2 2 ok",
            "network cards with pods 2 2 ok",
            "pod to pod, eth100 to eth100 2 2 ok",
            "ENIs left without pods 2 2 ok",
        ],
    ),
    (
        &[CARDS, IPV6, "--instance-type=hpc7a.12xlarge"],
        &["pods on every network card 2 2 ok", "pod to pod, eth100 to eth0, IPv6"],
    ),
    (
        &["--env=AWS_VPC_K8S_CNI_EXTERNALSNAT=true"],
        &["no translation on the way to the internet", "internet to pod 19 19 ok"],
    ),
    (
        &["--env=AWS_VPC_ENI_MTU=1500"],
        &[
            "packet of 1500 bytes 19 19 ok",
            "pods with MTU 1500 19 19 ok",
            "ENIs with MTU 1500 3 3 ok",
        ],
    ),
    (
        &["--env=POD_MTU=1450", IPV6],
        &["packet of 1450 bytes, IPv6 16 16 ok", "pods with MTU 1450", "ENIs with MTU 9001 1 1 ok"],
    ),
    (
        &["--env=ENABLE_IPv6=true", "--env=ENABLE_V4_EGRESS=false"],
        &["pods get IPv6 addresses\n", "16 pods on 1 ENIs"],
    ),
];

#[test]
fn lab_run_passes_in_every_mode() {
    run_all(&MODES, as_root);
}

#[test]
fn users_lab_passes_in_every_mode_too() {
    let user = User::new();
    run_all(&MODES, || user.vpc_ipam());
}

/// Files of settings and limits.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file, and returns the option that hands it to a lab.
    fn option(&self, option: &str, name: &str, text: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        format!("{option}={}", path.display())
    }
}

#[test]
fn settings_and_limits_of_some_nodes_hold_for_those() {
    let files = Files::new();
    let settings = files.option(
        "--overrides",
        "overrides.json",
        r#"[{"when": {}, "set": {"target": {"Ips": {"warm": 2, "minimum": 0}}}},
            {"when": {"families": ["t3"]}, "set": {"enis_max": 1}},
            {"when": {"labels": {"team": "batch"}, "zones": ["lab-1a"]}, "set": {"enis_max": 2}},
            {"when": {"labels": {"team": "six"}}, "set": {"families": "Ipv6"}}]"#,
    );
    // EC2 holds m5.large to its true limits all the same; of m99.large only the file knows any.
    let limits = files.option(
        "--limits",
        "limits.json",
        r#"{"instance_type": "m5.large", "enis_per_card": [2], "ipv4_per_eni": 5}
           {"instance_type": "m99.large", "enis_per_card": [3, 3], "ipv4_per_eni": 4, "hypervisor": "nitro"}"#,
    );
    let cases: [Case<'_>; 8] = [
        (&[&settings], &["19 pods on 3 ENIs", "addresses left without pods 2 2 ok"]),
        (&[&settings, "--label=team=batch"], &["18 pods on 2 ENIs"]),
        (&[&settings, "--label=team=web"], &["19 pods on 3 ENIs"]),
        (&[&settings, "--instance-type=t3.small"], &["3 pods on 1 ENIs"]),
        (
            &[&settings, "--label=team=six"],
            &["16 pods on 1 ENIs", "pod to internet, IPv6 16 16 ok"],
        ),
        (&[&limits], &["8 pods on 2 ENIs"]),
        (&[&limits, "--instance-type=m99.large"], &["7 pods on 3 ENIs"]),
        (
            &[&limits, "--instance-type=m99.large", CARDS],
            &["16 pods on 6 ENIs", "network cards with pods 2 2 ok"],
        ),
    ];
    run_all(&cases, as_root);
}

#[test]
fn custom_networking_takes_the_subnet_that_is_named() {
    let files = Files::new();
    // That of the other host, whose id is the same in every lab.
    let named = files.option(
        "--overrides",
        "overrides.json",
        r#"[{"when": {"zones": ["lab-1a"]}, "set": {"eni_config": {"subnet": "subnet-071c18690ee42c90b"}}}]"#,
    );
    let output =
        Command::new(program("vpc-ipam")).args(["lab", "run", CUSTOM, &named]).output().unwrap();
    assert_says(&output, CUSTOM, &["pods in 10.0.32.0/19 18 18 ok"]);
}

#[test]
fn what_cannot_be_shown_is_refused_with_the_reason() {
    let cases: [(&[&str], &str); 5] = [
        (&["--env=ENABLE_IMDS_ONLY_MODE=true"], "asks for no addresses"),
        (&["--max-pods=0"], "leave no address for any pod"),
        (&[CUSTOM, "--env=MAX_ENI=1"], "leave no address for any pod"),
        (&[CUSTOM, IPV6], "custom networking does not go together with IPv6"),
        (&[IPV6, "--instance-type=m4.large"], "m4.large takes no prefixes, which IPv6 needs"),
    ];
    for (arguments, expected) in cases {
        let output = Command::new(program("vpc-ipam"))
            .args(["lab", "run"])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", printed(&output));
        assert!(printed(&output).contains(expected), "{arguments:?}: {}", printed(&output));
    }
}

#[test]
fn file_that_cannot_be_used_is_told() {
    let files = Files::new();
    let cases = [
        (files.option("--overrides", "a", r#"[{"when": {}, "set": {"max_eni": 2}}]"#), "max_eni"),
        (files.option("--limits", "b", "{}"), "limits of instance types"),
        ("--overrides=/nonexistent/overrides.json".to_owned(), "/nonexistent/overrides.json"),
    ];
    for (option, expected) in cases {
        for command in ["run", "up"] {
            let output =
                Command::new(program("vpc-ipam")).args(["lab", command, &option]).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{option}: {}", printed(&output));
            assert!(printed(&output).contains(expected), "{option}: {}", printed(&output));
        }
    }
}
