//! ADD of a pod that runs already: it must not lose what it has, whatever becomes of the second call.

use crate::call::Call;
use crate::daemon::assigned;
use crate::runtime::{Pod, address, failed, run, spec, start, succeeded};

#[test]
fn pod_that_runs_keeps_its_address_when_a_repeated_add_fails() {
    let node = start(&spec("m5.large"));
    let pod = Pod::new(&node, "web");
    let add = || Call::of_pod(&node.address, "ADD", "1.0.0", &pod);
    let added = succeeded(&add().run(&node.address));
    for (key, value) in [("vethPrefix", "abc"), ("mtu", "nine")] {
        let said = failed(&add().key(key, value).run(&node.address));
        assert_eq!(said["code"], 7, "{key}: {said}");
        assert_eq!(assigned(&node), 1, "{key}");
    }
    let of_pod = format!("inet {} ", added["ips"][0]["address"].as_str().unwrap());
    assert!(run(&pod.netns, "ip -o -4 address show eth0").contains(&of_pod), "{of_pod}");
    assert_eq!(address(&succeeded(&add().run(&node.address))), address(&added));
    pod.del(&node.address);
    assert_eq!(assigned(&node), 0);
    node.stop().unwrap();
}

#[test]
fn address_of_a_new_pod_is_free_again_when_its_add_fails() {
    let node = start(&spec("m5.large"));
    let pod = Pod::new(&node, "web");
    let add = Call::of_pod(&node.address, "ADD", "1.0.0", &pod).key("vethPrefix", "abc");
    failed(&add.run(&node.address));
    assert_eq!(assigned(&node), 0);
    node.stop().unwrap();
}
