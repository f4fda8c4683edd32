//! The traffic of a node with pods on several ENIs, of every kind that goes another way through the kernel.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab::{INTERNET, INTERNET_IPV6};

use super::{OldNode, Pod, PortMapping};
use crate::flows::{Flow, Transport};

/// The port of the node by which a Service leads to a pod.
const NODE_PORT: u16 = 30_080;
/// The port of the node that is a pod's own.
const HOST_PORT: u16 = 8_080;
/// Where the pod with a port of the node listens.
const CONTAINER_PORT: u16 = 7_000;

impl OldNode {
    /// Returns the ports that one pod of the traffic is to be added with.
    pub fn host_ports() -> [PortMapping; 2] {
        ["tcp", "udp"].map(|protocol| PortMapping {
            host: HOST_PORT,
            container: CONTAINER_PORT,
            protocol,
        })
    }

    /// Describes traffic of pods, one of which has [`OldNode::host_ports`], and makes the rules by which kube-proxy leads a NodePort to one of
    /// them.
    ///
    /// # Panics
    /// Panics if there are fewer than two pods on one ENI.
    pub fn traffic(&self, pods: &[Pod]) -> Vec<Flow> {
        let hosts = self.hosts();
        let mut by_table: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
        for pod in pods {
            by_table.entry(pod.table().to_string()).or_default().push(pod);
        }
        let neighbours = by_table.values().find(|pods| pods.len() > 1).expect("two on one ENI");
        // The last is on a secondary ENI, if there is any.
        let [near, far] = [by_table.values().next_back(), by_table.values().next()]
            .map(|pods| pods.expect("there is a pod")[0]);
        let ported = pods.iter().find(|pod| !pod.ports.is_empty()).expect("one has a port");
        self.make_node_port(near);

        let mut flows = Vec::new();
        let mut port = CONTAINER_PORT;
        let mut add = |kind, transports: &[Transport], from: Place, to: &Place| {
            for transport in transports {
                port += 1;
                let at = SocketAddr::new(to.address, port);
                flows.push(Flow {
                    kind,
                    transport: *transport,
                    from: from.netns.clone(),
                    to: at,
                    server: (to.netns.clone(), at),
                    seen_as: Some(from.address),
                });
            }
        };
        let all = &[Transport::Udp, Transport::Tcp, Transport::New];
        let place = |pod: &Pod| Place { netns: pod.netns.clone(), address: pod.address };
        let translated = !self.mode.external_snat() && !self.mode.ipv6();
        // What leaves the VPC is seen as the node.
        let outside = |pod: &Pod| {
            let address = if translated { hosts.node.address } else { pod.address };
            Place { address, ..place(pod) }
        };
        add("pod-pod, same ENI", all, place(neighbours[0]), &place(neighbours[1]));
        if by_table.len() > 1 {
            add("pod-pod, across ENIs", all, place(near), &place(far));
        }
        add("pod-host", all, place(near), &hosts.node);
        add("host-pod", all, hosts.node.clone(), &place(near));
        add("pod-other host", all, place(near), &hosts.other);
        add("other host-pod", all, hosts.other.clone(), &place(near));
        add("pod-internet", all, outside(near), &hosts.internet);
        if by_table.len() > 1 {
            add("pod of other ENI-internet", all, outside(far), &hosts.internet);
        }
        for (kind, host_port, pod, port) in [
            ("internet-NodePort", NODE_PORT, near, NODE_PORT - 1),
            ("internet-hostPort", HOST_PORT, ported, CONTAINER_PORT),
        ] {
            flows.extend(all.iter().map(|transport| Flow {
                kind,
                transport: *transport,
                from: hosts.internet.netns.clone(),
                to: (hosts.node.address, host_port).into(),
                server: (pod.netns.clone(), (pod.address, port).into()),
                seen_as: Some(hosts.internet.address),
            }));
        }
        flows
    }

    fn hosts(&self) -> Hosts {
        let ipv6 = self.mode.ipv6();
        self.lab.with_lab(|lab| {
            let of = |host: &vpc_ipam_linux::lab::Host| match (ipv6, host.primary_ipv6) {
                (true, Some(address)) => IpAddr::V6(address),
                _ => IpAddr::V4(host.primary_ipv4),
            };
            let layout = lab.layout();
            let internet = if ipv6 { INTERNET_IPV6.into() } else { INTERNET.into() };
            Hosts {
                node: Place { netns: lab.node().clone(), address: of(&layout.node) },
                other: Place { netns: lab.other_host().clone(), address: of(&layout.other_host) },
                internet: Place { netns: lab.internet().clone(), address: internet },
            }
        })
    }

    /// Makes the rules of kube-proxy for a Service of type NodePort with the external traffic policy Local, whose endpoint is a pod.
    fn make_node_port(&self, pod: &Pod) {
        let iptables = if self.mode.ipv6() { "ip6tables" } else { "iptables" };
        let to = SocketAddr::new(pod.address, NODE_PORT - 1);
        let rules: String = ["tcp", "udp"]
            .map(|protocol| {
                let chain = format!("KUBE-EXT-{}", protocol.to_uppercase());
                format!(
                    ":{chain} - [0:0]\n\
                     -A KUBE-NODEPORTS -p {protocol} -m comment --comment default/probe -m {protocol} --dport {NODE_PORT} -j {chain}\n\
                     -A {chain} -p {protocol} -m comment --comment default/probe -m {protocol} -j DNAT --to-destination {to}\n"
                )
            })
            .concat();
        self.shell(&format!(
            "{iptables}-restore -w --noflush <<'END'\n\
             *nat\n\
             :KUBE-SERVICES - [0:0]\n\
             :KUBE-NODEPORTS - [0:0]\n\
             -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
             {rules}COMMIT\n\
             END"
        ));
    }
}

/// Where a host or a pod is, and its address.
#[derive(Clone)]
struct Place {
    netns: Namespace,
    address: IpAddr,
}

struct Hosts {
    node: Place,
    other: Place,
    internet: Place,
}
