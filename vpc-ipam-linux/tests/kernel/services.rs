//! Services as kube-proxy makes them, in both of its modes, with pods on every ENI.

use vpc_ipam_linux::HostConfig;

use crate::support::{
    INTERNET, NODE_PORT, Netns, PODS, node_with_pods, source_seen, source_seen_by,
};

/// How kube-proxy writes its rules.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Nftables,
    Iptables,
    IptablesLegacy,
}

const MODES: [Mode; 3] = [Mode::Nftables, Mode::Iptables, Mode::IptablesLegacy];

const SERVICE: &str = "172.20.0.10:80";

#[test]
fn cluster_ip_leads_any_pod_to_any_pod_with_its_own_address() {
    for mode in MODES {
        let (vpc, pods) = node_with_pods(&HostConfig::default());
        for ((name, _, behind), server) in PODS.iter().zip(&pods) {
            serve(&vpc.node, mode, behind);
            for ((client, _, address), pod) in PODS.iter().zip(&pods) {
                if client == name {
                    // A pod that is its own endpoint is masqueraded by kube-proxy.
                    continue;
                }
                let listens = format!("{behind}:80");
                let seen = source_seen_by(&pod.namespace, &server.namespace, SERVICE, &listens);
                assert_eq!(seen.as_deref(), Some(*address), "{mode:?}: {client} to {name}");
            }
        }
    }
}

#[test]
fn cluster_ip_with_an_endpoint_in_the_vpc_keeps_the_pods_address() {
    for mode in MODES {
        let (vpc, pods) = node_with_pods(&HostConfig::default());
        serve(&vpc.node, mode, "10.0.0.30");
        for ((name, _, address), pod) in PODS.iter().zip(&pods) {
            let server = &vpc.fabric.namespace;
            let seen = source_seen_by(&pod.namespace, server, SERVICE, "10.0.0.30:80");
            assert_eq!(seen.as_deref(), Some(*address), "{mode:?}: {name}");
        }
    }
}

/// An API server in a peered VPC, a database at home: translated after kube-proxy chose it, so it must leave by the primary
/// ENI.
#[test]
fn cluster_ip_with_an_endpoint_outside_of_the_vpc_leaves_by_the_primary_eni() {
    for mode in MODES {
        let (vpc, pods) = node_with_pods(&HostConfig::default());
        serve(&vpc.node, mode, "203.0.113.10");
        for ((name, ..), pod) in PODS.iter().zip(&pods) {
            let server = &vpc.fabric.namespace;
            let seen = source_seen_by(&pod.namespace, server, SERVICE, INTERNET);
            assert_eq!(seen.as_deref(), Some("10.0.0.10"), "{mode:?}: {name}");
        }
        assert_eq!(vpc.drops("eth1") + vpc.drops("eth2"), 0, "{mode:?}");
    }
}

#[test]
fn node_port_reaches_pods_on_every_eni_and_keeps_the_client() {
    for mode in MODES {
        for external_snat in [false, true] {
            let config = HostConfig { external_snat, ..HostConfig::default() };
            let (vpc, pods) = node_with_pods(&config);
            for ((name, _, address), pod) in PODS.iter().zip(&pods) {
                serve(&vpc.node, mode, address);
                let (fabric, listens) = (&vpc.fabric.namespace, format!("{address}:80"));
                let seen = source_seen_by(fabric, &pod.namespace, NODE_PORT, &listens);
                assert_eq!(seen.as_deref(), Some("10.0.0.1"), "{mode:?}: to {name}");
            }
            let drops = ["eth0", "eth1", "eth2"].map(|link| vpc.drops(link));
            assert_eq!(drops, [0, 0, 0], "{mode:?}: replies left by another ENI");
        }
    }
}

#[test]
fn rules_of_kube_proxy_stay_as_they_are() {
    for mode in MODES {
        let (vpc, pods) = node_with_pods(&HostConfig::default());
        serve(&vpc.node, mode, "10.0.0.101");
        let read = || match mode {
            Mode::Nftables => vpc.node.exec("nft --stateless list table ip kube-proxy"),
            Mode::Iptables => without_counters(&vpc.node.exec("iptables-nft-save")),
            Mode::IptablesLegacy => without_counters(&vpc.node.exec("iptables-legacy-save")),
        };
        let before = read();

        let narrower = HostConfig {
            excluded_cidrs: vec!["203.0.113.0/24".parse().unwrap()],
            ..HostConfig::default()
        };
        for config in [&narrower, &HostConfig::default()] {
            assert_eq!(vpc.set_up_host(config), 1, "{mode:?}");
        }

        assert_eq!(read(), before, "{mode:?}");
        let seen = source_seen(&pods[1].namespace, &vpc.fabric.namespace, INTERNET);
        assert_eq!(seen.as_deref(), Some("10.0.0.10"), "{mode:?}");
    }
}

/// Leads a Service's address and a NodePort to an endpoint, as kube-proxy does where the client's address is to be kept.
fn serve(node: &Netns, mode: Mode, endpoint: &str) {
    let legacy = match mode {
        Mode::Nftables => {
            node.nft("add table ip kube-proxy; delete table ip kube-proxy");
            node.nft(&format!(
                "table ip kube-proxy {{ chain nat-prerouting {{ type nat hook prerouting priority -100; \
                 ip daddr 172.20.0.10 tcp dport 80 dnat to {endpoint}:80; \
                 fib daddr type local tcp dport 30080 dnat to {endpoint}:80; }}; }}"
            ));
            return;
        }
        Mode::Iptables => "nft",
        Mode::IptablesLegacy => "legacy",
    };
    let script = format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n\
         -A KUBE-SERVICES -d 172.20.0.10/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {endpoint}:80\n\
         -A KUBE-SERVICES -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j DNAT --to-destination {endpoint}:80\n\
         COMMIT\n"
    );
    node.run("sh", &["-c", &format!("printf '{script}' | iptables-{legacy}-restore --noflush")]);
    let jump = format!("iptables-{legacy} -w -t nat -C PREROUTING -j KUBE-SERVICES");
    if node.try_exec(&jump).is_err() {
        node.exec(&jump.replace("-C", "-I"));
    }
}

/// Drops the counters and the time from what iptables-save prints.
pub fn without_counters(saved: &str) -> String {
    let lines = saved.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.map(|line| match line.strip_prefix(':') {
        Some(chain) => chain.split(" [").next().unwrap_or(chain),
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}
