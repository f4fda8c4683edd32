//! `vpc-ipam limits`, `max-pods` and `footprint` as a shell sees them: what they print, to which stream, and their exit code.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

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
        (
            "m5.large --custom-networking",
            "20 pods, bound by custom networking, which keeps the primary ENI from pods\n",
        ),
        (
            "m5.large --trunk",
            "20 pods, bound by the ENI kept for a trunk\n9 of them with a branch ENI\n",
        ),
        ("t3.large --trunk", "35 pods, bound by addresses of the instance type\n"),
        ("p5.48xlarge --efa-only 1", "51 pods, bound by ENIs kept for other uses\n"),
        ("m5.large --reserved-enis 3", "2 pods, bound by no ENI left for pods\n"),
        ("m5.large --ipv6 --cap 200", "200 pods, bound by cap\n65538 by addresses alone\n"),
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

eni-max-pods.txt, pluto        29     -81  knows the type alone
max-pods-calculator.sh        110
nodeadm                        29     -81  knows the type alone
Karpenter                      29     -81  knows RESERVED_ENIS, but no prefixes, IPv6, MAX_ENI or cap
cluster-autoscaler from 0     110
"
    );
    assert_eq!(
        prints("max-pods m5.4xlarge --compare"),
        "234 pods, bound by addresses of the instance type

eni-max-pods.txt, pluto       234
max-pods-calculator.sh        110    -124  caps at 110 up to 30 vCPUs and at 250 above, and gives bare metal no prefixes
nodeadm                       234
Karpenter                     234
cluster-autoscaler from 0     110    -124  takes 110 for every type
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
            "others": {
                "eni-max-pods.txt, pluto": 29, "max-pods-calculator.sh": 20, "nodeadm": 29,
                "Karpenter": 20, "cluster-autoscaler from 0": 110,
            },
        })
    );
    let without: Value = serde_json::from_str(&prints("max-pods m5.large --json")).unwrap();
    assert_eq!(without.get("others"), None);
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
                "at_boot": {"enis": 1, "for_pods": 2, "in_all": 3},
                "at_pods": {"enis": 2, "for_pods": 12, "in_all": 14},
                "worst": {"enis": 3, "for_pods": 27, "in_all": 30},
            },
        })
    );
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
    assert_eq!(all.lines().count(), 1396);
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
    assert_eq!((code, out.lines().count()), (0, 1397));

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
