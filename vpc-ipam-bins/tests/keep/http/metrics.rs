use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use vpc_ipam::lab::LabNode;
use vpc_ipam_tests::workspace;

use super::{METRICS, get};
use crate::runtime::{Pod, spec, start, status, wait_until};

#[test]
fn metrics_tell_what_a_node_holds_and_did() {
    let mut spec = spec("m5.large");
    spec.vars.push(("WARM_IP_TARGET".into(), "3".into()));
    spec.vars.push(("IP_COOLDOWN_PERIOD".into(), "600".into()));
    let node = start(&spec);
    let pods = ["a", "b"].map(|name| Pod::new(&node, name));
    pods.iter().for_each(|pod| drop(pod.add(&node.address)));
    pods[1].del(&node.address);

    let metrics = wait_until("the node to converge", || {
        let (metrics, _) = scrape(&node);
        let free = of_state(&metrics, "free");
        if free == 3.0 { Ok(metrics) } else { Err(format!("{free} free in {metrics:#?}")) }
    });

    assert_eq!(of_state(&metrics, "assigned"), 1.0);
    assert_eq!(of_state(&metrics, "cooling"), 1.0);
    assert_eq!(of_state(&metrics, "withheld"), 0.0);
    let expected = [
        ("vpc_ipam_ready", 1.0),
        ("vpc_ipam_pods_waiting", 0.0),
        // m5.large: 3 ENIs of 9 addresses for pods each.
        ("awscni_eni_max", 3.0),
        ("awscni_ip_max", 27.0),
        ("awscni_assigned_ip_addresses", 1.0),
        ("awscni_total_ip_addresses", 5.0),
        ("awscni_total_ipv4_prefixes", 0.0),
        ("awscni_add_ip_req_count", 2.0),
        (r#"awscni_del_ip_req_count{reason="PodDeleted"}"#, 1.0),
        (r#"vpc_ipam_adds_total{result="ok"}"#, 2.0),
        (r#"vpc_ipam_add_duration_seconds_count{phase="total"}"#, 2.0),
        (
            r#"awscni_ipamd_startup_duration_seconds_count{failure_reason="",success="true",with_api_server="false"}"#,
            1.0,
        ),
    ];
    for (name, value) in expected {
        assert_eq!(metrics.get(name), Some(&value), "{name} in {metrics:#?}");
    }
    assert_eq!(metrics["awscni_eni_allocated"], status(&node).enis.len() as f64);
    let calls = metrics[r#"awscni_ec2api_req_count{fn="AssignPrivateIpAddresses"}"#];
    let took = r#"vpc_ipam_ec2_call_duration_seconds_count{operation="AssignPrivateIpAddresses"}"#;
    assert!(calls >= 1.0 && metrics[took] == calls, "{metrics:#?}");
    let decided =
        r#"vpc_ipam_decisions_total{action="AssignPrivateIpAddresses",because="off_target"}"#;
    assert_eq!(metrics[decided], calls, "{metrics:#?}");
    node.stop().unwrap();
}

/// promtool says what Prometheus cannot read, and what it finds ill named; the names of amazon-vpc-cni-k8s are, and stay.
#[test]
fn promtool_finds_fault_with_the_names_of_amazon_vpc_cni_alone() {
    let node = start(&spec("m5.large"));
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    pod.del(&node.address);
    let (_, text) = scrape(&node);

    let faults = promtool(&["check", "metrics"], &text);

    let ours = |line: &&str| !line.is_empty() && !line.starts_with("awscni_");
    assert_eq!(faults.lines().filter(ours).collect::<Vec<_>>(), [""; 0], "{faults}");
    node.stop().unwrap();
}

#[test]
fn each_metric_is_in_the_page_and_each_of_the_page_is_served() {
    let page = std::fs::read_to_string(workspace().join("docs/metrics.md")).unwrap();
    let in_page: BTreeMap<&str, &str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .filter(|(name, _)| name.starts_with("awscni_") || name.starts_with("vpc_ipam_"))
        .collect();
    let node = start(&spec("m5.large"));
    let pod = Pod::new(&node, "a");
    pod.add(&node.address);
    let (_, text) = scrape(&node);
    let served: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| !name.starts_with("process_"))
        .collect();

    for name in &served {
        assert!(in_page.contains_key(name), "docs/metrics.md has no {name}");
    }
    // What has not happened on a node yet has no sample, and is named as such in the page.
    for (name, row) in in_page {
        let later = row.contains("once ") || row.contains("absent");
        assert!(later || served.contains(&name), "{name} is not served: {text}");
    }
    node.stop().unwrap();
}

#[test]
fn alert_rules_fire_when_they_should() {
    let deploy = workspace().join("deploy");
    let run = |arguments: &[&str]| {
        let output = Command::new("promtool").args(arguments).current_dir(&deploy).output();
        let output = output.expect("promtool is there: scripts/deps.sh test installs it");
        assert!(output.status.success(), "{output:?}");
    };
    run(&["check", "rules", "prometheus-alerts.yaml"]);
    run(&["test", "rules", "prometheus-alerts-test.yaml"]);
}

#[test]
fn readiness_says_why() {
    // No address but the primary one, which no pod gets, and none may be asked for.
    let mut unserved = spec("m5.large");
    unserved.vars.push(("DISABLE_NETWORK_RESOURCE_PROVISIONING".into(), "true".into()));
    let node = start(&unserved);
    let said = wait_until("the reason", || match get(&node, METRICS, "/readyz") {
        answer if answer.status == 503 && !answer.body.contains("not said yet") => Ok(answer.body),
        answer => Err(format!("{answer:?}")),
    });
    assert!(said.starts_with("not ready: "), "{said}");
    assert_eq!(get(&node, METRICS, "/healthz").status, 200, "it lives");
    assert_eq!(scrape(&node).0["vpc_ipam_ready"], 0.0);
    node.stop().unwrap();

    let node = start(&spec("m5.large"));
    let said = wait_until("readiness", || match get(&node, METRICS, "/readyz") {
        answer if answer.status == 200 => Ok(answer.body),
        answer => Err(format!("{answer:?}")),
    });
    assert!(said.starts_with("ready"), "{said}");
    assert_eq!(get(&node, METRICS, "/healthz").body, "ok\n");
    node.stop().unwrap();
}

/// Returns the samples of a scrape by name and labels, and its text.
fn scrape(node: &LabNode) -> (BTreeMap<String, f64>, String) {
    let answer = get(node, METRICS, "/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    (samples.collect(), answer.body.clone())
}

/// Returns how many addresses are in a state.
fn of_state(metrics: &BTreeMap<String, f64>, state: &str) -> f64 {
    let label = format!(r#"state="{state}""#);
    let of_state = |name: &str| name.starts_with("vpc_ipam_addresses{") && name.contains(&label);
    metrics.iter().filter(|(name, _)| of_state(name)).map(|(_, value)| value).sum()
}

/// Runs promtool with some input, and returns what it finds fault with.
fn promtool(arguments: &[&str], input: &str) -> String {
    assert!(Path::new("/usr/bin/promtool").exists(), "scripts/deps.sh test installs promtool");
    let child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    // 3: it can be read, and there are faults.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}\n{input}");
    String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap()
}
