//! `vpc-ipam limits`, `max-pods` and `footprint` as a shell sees them: what they print, to which stream, and their exit code.
#![allow(clippy::disallowed_methods, reason = "the Python of tests is found by a variable")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// Exit code, standard output, standard error.
fn run(args: &str) -> (i32, String, String) {
    run_with(args.split_whitespace().collect())
}

fn run_with(args: Vec<&str>) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vpc-ipam")).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Returns what a command prints if all is well and there is nothing to remark.
fn prints(args: &str) -> String {
    let (code, out, err) = run(args);
    assert_eq!((code, err.as_str()), (0, ""), "{args}");
    out
}

#[test]
fn max_pods_names_what_binds() {
    let cases = [
        ("m5.large", "29 pods, bound by addresses of the instance type\n"),
        (
            "m5.large --prefix-delegation --cap aws",
            "110 pods, bound by cap\n434 by addresses alone\n",
        ),
        ("m5.large --max-eni 2", "20 pods, bound by MAX_ENI\n"),
        ("m5.large --max-eni 0", "29 pods, bound by addresses of the instance type\n"),
        (
            "m5.large --custom-networking",
            "20 pods, bound by custom networking, which keeps the primary ENI from pods\n",
        ),
        (
            "m5.large --trunk",
            "20 pods, bound by the ENI kept for a trunk\n9 of them with a branch ENI\n",
        ),
        ("p5.48xlarge --efa-only 1", "51 pods, bound by ENIs kept for other uses\n"),
        ("m5.large --reserved-enis 3", "2 pods, bound by no ENI left for pods\n"),
        ("m5.large --ipv6 --cap 200", "200 pods, bound by cap\n65538 by addresses alone\n"),
        (
            "m5.large --kube-reserved",
            "29 pods, bound by addresses of the instance type
kube-reserved: cpu=70m,memory=574Mi,ephemeral-storage=1024Mi\n",
        ),
        ("m5.large --host-network-pods 0", "27 pods, bound by addresses of the instance type\n"),
    ];
    for (args, expected) in cases {
        assert_eq!(prints(&format!("max-pods {args}")), expected, "{args}");
    }
}

#[test]
fn max_pods_compares_with_other_tools_and_says_why_they_differ() {
    assert_eq!(
        prints("max-pods m5.large --prefix-delegation --cap aws --compare"),
        "110 pods, bound by cap
434 by addresses alone

eni-max-pods.txt               29     -81  knows the type alone
pluto (Bottlerocket)           29     -81  knows the type alone
nodeadm                        29     -81  knows the type alone
max-pods-calculator.sh        110
Karpenter                      29     -81  knows RESERVED_ENIS, but no prefixes, IPv6, MAX_ENI or cap
cluster-autoscaler from 0     110
Cilium, ENI mode              430    +320  counts all network cards, no pods on the host's network, and keeps two addresses
"
    );
    assert_eq!(
        prints("max-pods m5.4xlarge --compare"),
        "234 pods, bound by addresses of the instance type

eni-max-pods.txt              234
pluto (Bottlerocket)          234
nodeadm                       234
max-pods-calculator.sh        110    -124  caps at 110 up to 30 vCPUs and at 250 above, and gives bare metal no prefixes
Karpenter                     234
cluster-autoscaler from 0     110    -124  takes 110 for every type
Cilium, ENI mode              230      -4  counts all network cards, no pods on the host's network, and keeps two addresses
"
    );
    assert_eq!(
        prints("max-pods i7ie.48xlarge --compare"),
        "394 pods, bound by addresses of the instance type

eni-max-pods.txt              737    +343  counts the ENIs of both network cards as one's
pluto (Bottlerocket)            -          does not list the type, so kubelet takes 110
nodeadm                       737    +343  counts the ENIs of both network cards as one's
max-pods-calculator.sh        250    -144  caps at 110 up to 30 vCPUs and at 250 above, and gives bare metal no prefixes
Karpenter                     394
cluster-autoscaler from 0     110    -284  takes 110 for every type
Cilium, ENI mode              733    +339  counts all network cards, no pods on the host's network, and keeps two addresses
"
    );
}

#[test]
fn max_pods_prints_json() {
    let document: Value =
        serde_json::from_str(&prints("max-pods m5.large --custom-networking --compare --json"))
            .unwrap();
    assert_eq!(
        document,
        json!({
            "instance_type": "m5.large",
            "capacity": {
                "by_addresses": 20, "max_pods": 20, "bound_by": "custom_networking", "branch_enis": null,
            },
            "notes": [],
            "others": {
                "eni-max-pods.txt": 29, "pluto (Bottlerocket)": 29, "max-pods-calculator.sh": 20,
                "nodeadm": 29, "Karpenter": 20, "cluster-autoscaler from 0": 110,
                "Cilium, ENI mode": 16,
            },
        })
    );
    let without: Value = serde_json::from_str(&prints("max-pods m5.large --json")).unwrap();
    assert_eq!(without.get("others"), None);
    let unlisted: Value = serde_json::from_str(&prints(
        "max-pods r9g.large --trunk --compare --kube-reserved --json",
    ))
    .unwrap();
    assert_eq!(unlisted["others"]["eni-max-pods.txt"], Value::Null);
    assert_eq!(
        unlisted["notes"],
        json!(["how many branch ENIs a trunk of r9g.large carries is not published"])
    );
    assert_eq!(
        unlisted["kube_reserved"],
        json!({"cpu_millis": 70, "memory_mib": 695, "ephemeral_storage_mib": 1024})
    );
}

#[test]
fn footprint_shows_boot_pods_and_worst() {
    assert_eq!(
        prints("footprint m4.4xlarge --pods 30 --max-pods 110"),
        "                  enis   for pods  out of subnets in all
at boot              1         29                     30
with 30 pods         3         87                     90
at worst             4        110                    114
"
    );
    let document: Value =
        serde_json::from_str(&prints("footprint m5.large --pods 10 --env WARM_IP_TARGET=2 --json"))
            .unwrap();
    assert_eq!(
        document,
        json!({
            "instance_type": "m5.large",
            "claims": {
                "at_boot": {"enis": 1, "for_pods": 2, "in_all": 3, "ipv6_prefixes": 0},
                "at_pods": {"enis": 2, "for_pods": 12, "in_all": 14, "ipv6_prefixes": 0},
                "worst": {"enis": 3, "for_pods": 27, "in_all": 30, "ipv6_prefixes": 0},
            },
            "notes": [],
        })
    );
}

#[test]
fn footprint_says_how_many_pods_fit_if_not_all_do() {
    for (args, note) in [
        ("r7g.medium --pods 20", "r7g.medium takes 6 pods that need an address, not 20"),
        ("m5.large --pods 12 --max-pods 10", "m5.large takes 10 pods that need an address, not 12"),
    ] {
        let (code, out, err) = run(&format!("footprint {args}"));
        assert_eq!((code, err), (0, format!("vpc-ipam: {note}\n")), "{args}");
        assert_eq!(out.lines().count(), 4, "{args}: {out}");
        let document: Value =
            serde_json::from_str(&prints(&format!("footprint {args} --json"))).unwrap();
        assert_eq!(document["notes"], json!([note]), "{args}");
    }
}

#[test]
fn footprint_counts_prefixes_of_ipv6() {
    assert_eq!(
        prints("footprint m5.large --pods 10 --env ENABLE_IPv6=true --env ENABLE_IPv4=true"),
        "                  enis   for pods  out of subnets in all ipv6 prefixes
at boot              1          9                     10             1
with 10 pods         3         27                     30             3
at worst             3         27                     30             3
"
    );
}

#[test]
fn patterns_stand_for_any_number_of_types() {
    assert_eq!(
        prints("max-pods m5.large t3.nano t3.*large --prefix-delegation --cap aws"),
        "type                         pods  by addresses branch enis  bound by
m5.large                      110           434           -  cap
t3.nano                        34            34           -  addresses of the instance type
t3.2xlarge                    110           898           -  cap
t3.large                      110           530           -  cap
t3.xlarge                     110           898           -  cap
"
    );
    let lines = prints("max-pods m5.* --json");
    assert!(
        lines.lines().count() > 5 && lines.lines().all(|line| line.contains("\"m5.")),
        "{lines}"
    );
    assert_eq!(prints("max-pods m5.larg?").lines().count(), 2);
    assert_eq!(
        prints("limits m?.large t3.nano").lines().last().unwrap().split(' ').next(),
        Some("t3.nano")
    );
    let blocks = prints("footprint t3.?ano t3.micro --pods 1");
    assert!(blocks.starts_with("t3.nano\n") && blocks.contains("\n\nt3.micro\n"), "{blocks}");
    // A pattern takes in types that cannot do it; they are shown with their reason.
    let (code, out, _) = run("max-pods m4.* --ipv6 --json");
    assert_eq!(code, 0);
    assert!(out.lines().all(|line| line.contains(r#""bound_by":"no_prefixes_for_ipv6""#)), "{out}");
}

#[test]
fn expressions_of_nodeadm_and_karpenter_are_computed() {
    let expression = |text| {
        let args = vec!["max-pods", "m5.large", "--compare", "--expression", text];
        let (code, out, err) = run_with(args);
        assert_eq!((code, err.as_str()), (0, ""), "{text}");
        out.lines().rev().take(2).map(str::to_string).collect::<Vec<_>>()
    };
    let [karpenter, nodeadm] = expression("max_pods * 2").try_into().unwrap();
    assert_eq!(nodeadm, "nodeadm, expression            58     +29  as the expression has it");
    assert_eq!(karpenter, "Karpenter, expression          58     +29  as the expression has it");
    // nodeadm has no min(); it keeps its own number and says so in its log.
    let [karpenter, nodeadm] = expression("min(20, max_pods)").try_into().unwrap();
    assert_eq!(karpenter, "Karpenter, expression          20      -9  as the expression has it");
    assert!(nodeadm.starts_with("nodeadm, expression            29  "), "{nodeadm}");
    assert!(nodeadm.contains("keeps its own number") && nodeadm.contains("min"), "{nodeadm}");
}

#[test]
fn a_type_known_from_other_tables_is_marked() {
    let (code, out, err) = run("max-pods dl1.24xlarge");
    assert_eq!((code, out.as_str()), (0, "737 pods, bound by addresses of the instance type\n"));
    assert_eq!(
        err,
        "vpc-ipam: dl1.24xlarge is known from public tables of other tools, not from EC2\n"
    );
    let limits = prints("limits dl1.24xlarge m5.large");
    let last = |line: &str| line.split("  ").last().unwrap().to_string();
    let sources: Vec<String> = limits.lines().skip(1).map(last).collect();
    assert_eq!(sources, ["other tables", "ec2"]);
    let (_, out, err) = run("max-pods t3.large --trunk");
    assert_eq!(out, "35 pods, bound by addresses of the instance type\n");
    assert_eq!(err, "vpc-ipam: t3.large takes no trunk; no ENI is kept for one\n");
}

/// `make capacity-data` writes them anew.
#[test]
fn the_data_files_are_what_the_code_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder");
    let printed = prints(&format!("capacity-data {}", path.display()));
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/capacity");
    for name in ["limits.json", "limits.csv", "max-pods.json", "max-pods.csv", "vectors.json"] {
        assert!(printed.contains(name), "{printed}");
        let [is, says] =
            [&committed, &path].map(|folder| std::fs::read_to_string(folder.join(name)).unwrap());
        assert!(is == says, "data/capacity/{name} is out of date: make capacity-data");
    }
    let (code, _, err) = run("capacity-data /proc/none");
    assert_eq!(code, 1);
    assert!(err.contains("write /proc/none: No such file"), "{err}");
}

#[test]
fn the_data_files_follow_their_schemas() {
    let script = "import json, jsonschema, sys
for name in ['limits', 'max-pods', 'vectors']:
    document = json.load(open(f'{sys.argv[1]}/{name}.json'))
    schema = json.load(open(f'{sys.argv[1]}/{name}.schema.json'))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    rows = document[next(key for key in document if isinstance(document[key], list))]
    try:
        jsonschema.validate({**document, 'version': 2}, schema)
        sys.exit(f'{name}: the schema takes any version')
    except jsonschema.ValidationError:
        print(name, len(rows))
";
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("VPC_IPAM_TEST_PYTHON")
        .map_or(here.join("../../target/venv/bin/python"), PathBuf::from);
    assert!(python.is_file(), "{} is missing: `make test-deps` makes it", python.display());
    let folder = here.join("../../data/capacity");
    let output = Command::new(python).args(["-c", script]).arg(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "limits 1458\nmax-pods 1458\nvectors 630\n");
}

#[test]
fn the_earlier_name_of_footprint_still_works() {
    assert_eq!(prints("claim m5.large --pods 10"), prints("footprint m5.large --pods 10"));
    let (_, help, _) = run("--help");
    assert!(help.contains("footprint") && !help.contains("claim"), "{help}");
}

#[test]
fn footprint_remarks_on_settings_and_goes_on() {
    let (code, out, err) =
        run("footprint m4.4xlarge --env WARM_IP_TARGET=many --env ENABLE_PREFIX_DELEGATION=true");
    assert_eq!(code, 0);
    assert!(out.contains("at boot"), "{out}");
    assert!(err.contains("vpc-ipam: WARM_IP_TARGET=\"many\": not a whole number"), "{err}");
    assert!(err.contains("the instance type takes no prefixes"), "{err}");
}

#[test]
fn limits_lists_types_as_text_and_as_json() {
    let all = prints("limits");
    assert_eq!(all.lines().count(), 1459);
    let two = prints("limits m5.large p5.48xlarge --json");
    let lines: Vec<Value> = two.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["enis_per_card"], json!([3]));
    assert_eq!(lines[1]["enis_per_card"].as_array().unwrap().len(), 32);
}

#[test]
fn a_file_gives_types_that_the_table_does_not_have_and_other_limits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("limits.json");
    // What `limits --json` prints is what `--limits` reads.
    let mut text = prints("limits m5.large --json").replace("[3]", "[5]");
    text.push_str(r#"{"instance_type": "m99.large", "enis_per_card": [4], "ipv4_per_eni": 11}"#);
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    for (name, expected) in
        [("m5.large", "47 pods"), ("m99.large", "42 pods"), ("m5.xlarge", "58 pods")]
    {
        let (code, out, err) = run_with(vec!["max-pods", name, "--limits", path]);
        assert_eq!((code, err.as_str()), (0, ""), "{name}");
        assert!(out.starts_with(expected), "{name}: {out}");
    }
    let (code, out, _) = run_with(vec!["footprint", "m99.large", "--limits", path]);
    assert_eq!((code, out.lines().count()), (0, 4));
    let (code, out, _) = run_with(vec!["limits", "--limits", path]);
    assert_eq!((code, out.lines().count()), (0, 1460));

    std::fs::write(&file, r#"{"instance_type": "m99.large", "enis": 4}"#).unwrap();
    let (code, out, err) = run_with(vec!["max-pods", "m99.large", "--limits", path]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("limits.json: unknown field `enis`"), "{err}");
}

#[test]
fn failures_say_what_to_do_and_have_a_code() {
    // Arguments, exit code, words of the message.
    let cases = [
        ("max-pods m99.large", 1, "instance type m99.large is not in the built-in table"),
        ("max-pods m5.larg", 1, "did you mean m5.large"),
        ("footprint m5large", 1, "m5.large"),
        ("max-pods zz*", 1, "no instance type matches zz*: * stands for"),
        ("footprint m4.large --env ENABLE_IPv6=true", 1, "takes no prefixes, which IPv6 needs"),
        ("max-pods m5.large --expression max_pods", 2, "--compare"),
        ("max-pods m99.large", 1, "give its limits in an override file"),
        ("limits m99.large", 1, "m99.large"),
        ("footprint m99.large", 1, "m99.large"),
        ("max-pods m4.4xlarge --ipv6", 1, "takes no prefixes, which IPv6 needs"),
        ("max-pods m5.large --limits /nonexistent", 1, "read /nonexistent: No such file"),
        ("max-pods m5.large --cap most", 2, "expected none, aws or a number"),
        ("max-pods m5.large --ipv6 --prefix-delegation", 2, "cannot be used with"),
        ("footprint m5.large --env WARM_IP_TARGET", 2, "expected NAME=VALUE"),
        ("max-pods", 2, "TYPE"),
    ];
    for (args, expected, words) in cases {
        let (code, out, err) = run(args);
        assert_eq!((code, out.as_str()), (expected, ""), "{args}");
        assert!(err.contains(words), "{args}: {err}");
    }
}

#[test]
fn a_type_without_prefixes_is_counted_by_addresses_with_a_remark() {
    let (code, out, err) = run("max-pods m4.4xlarge --prefix-delegation");
    assert_eq!((code, out.as_str()), (0, "234 pods, bound by addresses of the instance type\n"));
    assert_eq!(err, "vpc-ipam: m4.4xlarge takes no prefixes; counting single addresses\n");
}
