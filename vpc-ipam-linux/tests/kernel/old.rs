//! Pods as amazon-vpc-cni-k8s leaves them on a node.

use crate::support::Netns;

/// Makes a pod whose end on the node has a name, with addresses that are led to a table, if they are not on the primary ENI.
pub fn pod(node: &Netns, link: &str, addresses: &[&str], table: Option<u32>) -> Netns {
    let pod = veth(node, link);
    for address in addresses {
        give(node, &pod, link, address);
        let family = family(address);
        let scope = if family == "-4" { " scope link" } else { "" };
        node.ip(&format!("{family} route replace {address} dev {link}{scope}"));
        node.ip(&format!("{family} rule add to {address} lookup main pref 512"));
        if let Some(table) = table {
            node.ip(&format!("{family} rule add from {address} lookup {table} pref 1536"));
        }
    }
    pod
}

/// Makes a pod on a branch ENI in strict mode, with the link of its VLAN, for which a veth stands in.
pub fn strict_pod(node: &Netns, vlan: u16, link: &str, address: &str) -> Netns {
    let pod = veth(node, link);
    give(node, &pod, link, address);
    let (branch, table) = (branch(node, vlan), 100 + vlan);
    node.ip(&format!("route add {address} dev {link} scope link table {table}"));
    for input in [&*branch, link] {
        node.ip(&format!("rule add iif {input} lookup {table} pref 10"));
    }
    node.ip("rule add lookup local pref 20");
    node.ip("rule del lookup local pref 0");
    pod
}

/// Makes the link of the VLAN of a branch ENI, and its routes.
pub fn branch(node: &Netns, vlan: u16) -> String {
    let (name, table) = (format!("vlan.eth.{vlan}"), 100 + vlan);
    node.ip(&format!("link add {name} type veth peer name trunk{vlan}"));
    for link in [&name, &format!("trunk{vlan}")] {
        node.ip(&format!("link set {link} up"));
    }
    node.ip(&format!("route add 10.0.0.1 dev {name} scope link table {table}"));
    node.ip(&format!("route add default via 10.0.0.1 dev {name} table {table}"));
    name
}

/// Joins a namespace to the node.
pub fn veth(node: &Netns, link: &str) -> Netns {
    let pod = Netns::new();
    node.ip(&format!("link add {link} type veth peer name eth0 netns {}", pod.name));
    node.ip(&format!("link set {link} up"));
    pod.ip("link set eth0 up");
    pod
}

/// Gives a pod an address, and the way out.
pub fn give(node: &Netns, pod: &Netns, link: &str, address: &str) {
    let mac = node.json(&format!("link show {link}"))[0]["address"].as_str().unwrap().to_owned();
    let (gateway, nodad) = match family(address) {
        "-4" => ("169.254.1.1", ""),
        _ => ("fe80::1", " nodad"),
    };
    pod.ip(&format!("route add {gateway} dev eth0"));
    pod.ip(&format!("route add default via {gateway} dev eth0"));
    pod.ip(&format!("addr add {address} dev eth0{nodad}"));
    pod.ip(&format!("neigh add {gateway} lladdr {mac} dev eth0 nud permanent"));
}

pub fn family(address: &str) -> &'static str {
    if address.contains(':') { "-6" } else { "-4" }
}
