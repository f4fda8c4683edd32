use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::{INTROSPECTION, get, request};
use crate::runtime::{Pod, address, netns, spec, start};

#[test]
fn a_browser_gets_a_page_that_may_load_nothing_from_elsewhere() {
    let node = start(&spec("m5.large"));
    get(&node, INTROSPECTION, "/");
    let text =
        "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html,application/xml;q=0.9\r\n\r\n";
    let page = request(&node, INTROSPECTION, text).unwrap();
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    let policy = page.head.lines().find(|line| line.starts_with("content-security-policy:"));
    assert!(policy.unwrap().contains("default-src 'none'"), "{}", page.head);
    assert!(!page.body.contains("http"), "it names nothing of elsewhere");
    node.stop().unwrap();
}

#[test]
fn the_page_shows_the_node_in_chromium() {
    let mut spec = spec("m5.large");
    spec.vars.push(("WARM_IP_TARGET".into(), "12".into()));
    spec.vars.push(("IP_COOLDOWN_PERIOD".into(), "600".into()));
    let node = start(&spec);
    let mut pods: Vec<Pod> = ["db", "gone"].iter().map(|name| Pod::new(&node, name)).collect();
    // Pods choose their names: what looks like HTML is text.
    pods.insert(0, Pod::again(&node, "web", "<b>web</b>"));
    let addresses: Vec<String> = pods.iter().map(|pod| address(&pod.add(&node.address))).collect();
    pods[2].del(&node.address);
    get(&node, INTROSPECTION, "/readyz");

    let seen = browse(&node, &addresses[0]);

    let text = seen["text"].as_str().unwrap();
    let instance = node.address.instance_id.to_string();
    for part in [
        instance.as_str(),
        "✓ ready",
        "2 assigned",
        "1 cooling",
        "WARM_IP_TARGET",
        "Latest decisions",
        "Blocked",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert_eq!(seen["title"], format!("ready · {instance}"));
    let detail = seen["detail"].as_str().unwrap();
    assert!(detail.contains(&addresses[0]) && detail.contains("default/<b>web</b>"), "{detail}");
    assert_eq!(seen["kept"], seen["detail"], "the choice is kept");
    assert_eq!(seen["errors"], Value::Array(Vec::new()));
    assert_eq!(seen["elsewhere"], Value::Array(Vec::new()));
    assert_eq!(seen["unnamed"], 0, "every button has a name for who does not see it");
    for name in ["light.png", "dark.png", "narrow.png"] {
        let shot = &seen["shots"][name];
        assert!(shot["colours"].as_u64().unwrap() > 20, "{name} is blank: {shot}");
        assert_eq!(shot["overflows"], false, "{name} is wider than its window");
    }
    assert_ne!(seen["shots"]["light.png"]["ground"], seen["shots"]["dark.png"]["ground"]);
    node.stop().unwrap();
}

/// Looks at the page as a browser in the node's namespace, which leads nowhere else.
fn browse(node: &vpc_ipam::lab::LabNode, address: &str) -> Value {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("VPC_IPAM_TEST_PYTHON")
        .map_or(here.join("../../target/venv/bin/python"), PathBuf::from);
    assert!(python.is_file(), "{} is missing: `make test-deps` makes it", python.display());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&folder).unwrap();
    let url = format!("http://127.0.0.1:{INTROSPECTION}/");
    let browse = || {
        Command::new(python)
            .arg(here.join("keep/http/browser.py"))
            .args(["chromium", url.as_str(), address])
            .arg(&folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
    };
    let output = netns(node).run(browse).unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
