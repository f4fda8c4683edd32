//! What the plugin and the daemon do for a runtime that says which attachments it knows.

use vpc_ipam_core::Lease;
use vpc_ipam_protocol::{Answer, Request, ask};

use crate::call::Call;
use crate::runtime::{Pod, spec, start, succeeded};
use vpc_ipam::lab::LabNode;

fn leases(node: &LabNode, network: Option<&str>) -> Vec<Lease> {
    let network = network.map(str::to_owned);
    match ask(&node.address.socket, &Request::Leases { network }) {
        Ok(Answer::Leases(leases)) => leases,
        other => panic!("{other:?}"),
    }
}

/// Returns which containers have leases.
fn containers(node: &LabNode, network: Option<&str>) -> Vec<String> {
    leases(node, network).iter().map(|lease| lease.key.container().to_owned()).collect()
}

#[test]
fn leases_are_told_of_one_network_or_of_all() {
    let node = start(&spec("m5.large"));
    for (name, network) in [("b", "aws-cni"), ("c", "other"), ("a", "aws-cni")] {
        let pod = Pod::new(&node, name);
        let add = Call::of_pod(&node.address, "ADD", "1.0.0", &pod);
        succeeded(&add.key("name", network).run(&node.address));
    }

    assert_eq!(containers(&node, None), ["a", "b", "c"]);
    assert_eq!(containers(&node, Some("aws-cni")), ["a", "b"]);
    assert_eq!(containers(&node, Some("other")), ["c"]);
    assert_eq!(containers(&node, Some("none")), [""; 0]);
    node.stop().unwrap();
}
