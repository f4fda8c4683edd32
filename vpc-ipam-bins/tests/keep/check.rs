use crate::runtime::{Pod, call, failed, run, spec, start, succeeded};

#[test]
fn check_compares_both_sides_with_what_add_made() {
    let node = start(&spec("m5.large"));
    let pod = Pod::new(&node, "a");
    let result = pod.add(&node.address);
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        succeeded(&call(&node.address, "CHECK", &pod, version, Some(&result)));
        succeeded(&call(&node.address, "CHECK", &pod, version, None));
    }

    let mut other = result.clone();
    other["ips"][0]["address"] = "10.0.0.77/32".into();
    let error = failed(&call(&node.address, "CHECK", &pod, "1.0.0", Some(&other)));
    assert!(error["details"].as_str().unwrap().starts_with("prevResult does not have 10.0."));

    run(&pod.netns, "ip route del default");
    run(&pod.netns, "ip link set eth0 mtu 1400");
    let error = failed(&call(&node.address, "CHECK", &pod, "1.0.0", Some(&result)));
    assert_eq!(error["code"], 100, "{error}");
    let details = error["details"].as_str().unwrap();
    assert!(details.contains("missing: route default via 169.254.1.1"), "{details}");
    assert!(details.contains("link eth0 mtu 9001 up, is mtu 1400 up"), "{details}");

    // ADD again puts it right.
    pod.add(&node.address);
    succeeded(&call(&node.address, "CHECK", &pod, "1.0.0", Some(&result)));
    node.stop().unwrap();
}

#[test]
fn check_of_what_cannot_be_checked_is_an_error_of_its_own() {
    let node = start(&spec("m5.large"));
    let pod = Pod::new(&node, "a");
    let unknown = failed(&call(&node.address, "CHECK", &pod, "1.0.0", None));
    assert_eq!(unknown["code"], 3, "{unknown}");

    pod.add(&node.address);
    let before_check = failed(&call(&node.address, "CHECK", &pod, "0.3.1", None));
    assert_eq!(before_check["code"], 1, "{before_check}");
    pod.del(&node.address);
    let gone = failed(&call(&node.address, "CHECK", &pod, "1.0.0", None));
    assert_eq!(gone["code"], 3, "{gone}");
    node.stop().unwrap();
}
