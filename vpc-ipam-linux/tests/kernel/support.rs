//! Namespaces of our own, and the answers of tools that we did not write.

use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use vpc_ipam_core::testkit;
use vpc_ipam_core::{
    Card, DeviceIndex, EniLink, Lease, LeasedInterface, Mac, Metadata, Node, Observation,
    ObservedEni, PodKey, Scope, Source, Timestamp,
};
use vpc_ipam_linux::pod::{PodNetwork, PodSettings};
use vpc_ipam_linux::{
    HostConfig, KernelChange, KernelEffect, KernelNetlink, Namespace, Netlink, NetlinkError,
    NetlinkLayer, Refusal, VethPrefix, eni as enis, host, pod,
};

pub use vpc_ipam_core::error_chain as chain;

/// A network namespace that goes with this value.
pub struct Netns {
    pub name: String,
    pub namespace: Namespace,
}

impl Netns {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vit-{}-{count}", std::process::id());
        run("ip", &["netns", "add", &name]).unwrap_or_else(|says| {
            panic!(
                "the kernel tests make network namespaces of their own, and could not: {says}\n\
                 They need iproute2, nftables, CAP_SYS_ADMIN and CAP_NET_ADMIN, and a /run/netns to write to: \
                 run them with scripts/test.sh instead of cargo test"
            )
        });
        let namespace = Namespace::named(&name).unwrap();
        let netns = Self { name, namespace };
        // What a new namespace inherits differs from machine to machine.
        netns.exec("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0");
        netns.ip("link set lo up");
        netns
    }

    pub fn netlink(&self) -> KernelNetlink {
        self.namespace.netlink().unwrap()
    }

    /// Runs a command inside, and returns what it prints.
    pub fn exec(&self, command: &str) -> String {
        self.try_exec(command).unwrap_or_else(|says| panic!("{command}: {says}"))
    }

    pub fn try_exec(&self, command: &str) -> Result<String, String> {
        let mut arguments = vec!["netns", "exec", &self.name];
        arguments.extend(command.split(' '));
        run("ip", &arguments)
    }

    /// Runs a program inside with arguments that may contain blanks.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut all = vec!["netns", "exec", &self.name, program];
        all.extend(arguments);
        run("ip", &all).unwrap_or_else(|says| panic!("{program} {arguments:?}: {says}"))
    }

    /// Runs a line of shell inside.
    pub fn shell(&self, line: &str) -> String {
        let arguments = ["netns", "exec", &self.name, "sh", "-ec", line];
        run("ip", &arguments).unwrap_or_else(|says| panic!("{line}: {says}"))
    }

    /// Runs an nft script inside.
    pub fn nft(&self, script: &str) {
        run("ip", &["netns", "exec", &self.name, "nft", script]).unwrap();
    }

    pub fn ip(&self, arguments: &str) -> String {
        self.try_ip(arguments).unwrap_or_else(|says| panic!("ip {arguments}: {says}"))
    }

    pub fn try_ip(&self, arguments: &str) -> Result<String, String> {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split(' '));
        run("ip", &all)
    }

    /// Asks iproute2 for a list.
    pub fn json(&self, arguments: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j {arguments}"));
        match serde_json::from_str(&text) {
            Ok(Value::Array(values)) => values,
            _ if text.trim().is_empty() => Vec::new(),
            other => panic!("ip -j {arguments}: {other:?}: {text}"),
        }
    }

    /// Returns the routes of a table; iproute2 fails for one that never was.
    pub fn routes(&self, table: u32) -> Vec<Value> {
        let text = self.try_ip(&format!("-j route show table {table}")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Returns the rules of a priority as `from to table`, each as iproute2 writes it; it leaves `to all` out.
    pub fn rules(&self, priority: u32) -> Vec<String> {
        let rules = self.json("rule").into_iter().filter(|rule| rule["priority"] == priority);
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        rules
            .map(|rule| {
                let parts = [&rule["src"], &rule["dst"], &rule["table"]].map(text);
                parts.join(" ")
            })
            .collect()
    }

    pub fn sysctl(&self, key: &str) -> String {
        self.exec(&format!("cat /proc/sys/{key}")).trim().to_owned()
    }

    /// Returns all that iproute2 has to tell, one thing a line, but for what the kernel sees to in its own time: the
    /// addresses that IPv6 gives itself, and whether a link that is up has a carrier.
    pub fn snapshot(&self) -> Vec<String> {
        let lists = [
            "-4 -o addr",
            "-4 rule",
            "-6 rule",
            "-6 -o addr show scope global",
            "-4 route show table all",
            "-6 route show table all proto 86",
            "neigh show nud permanent",
        ];
        let links = self.json("link").into_iter().map(|link| {
            let up =
                link["flags"].as_array().is_some_and(|flags| flags.contains(&Value::from("UP")));
            format!("{} {} {} {up}", link["ifname"], link["mtu"], link["address"])
        });
        let listed = lists.map(|list| self.ip(list));
        links.chain(listed.iter().flat_map(|list| list.lines()).map(str::to_owned)).collect()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

pub const PRIMARY_MAC: Mac = Mac([2, 0, 10, 0, 0, 10]);

/// A node in a VPC of two subnets: 10.0.0.0/19 with the primary ENI, 10.0.32.0/19. The other end of every cable is in the
/// fabric, which is the router of both, another host (10.0.0.30), and the internet (203.0.113.10).
pub struct Vpc {
    pub node: Netns,
    pub fabric: Netns,
}

impl Vpc {
    /// Builds a node with a primary ENI, as the operating system leaves it.
    pub fn new() -> Self {
        let vpc = Self { node: Netns::new(), fabric: Netns::new() };
        vpc.fabric.exec("sysctl -qw net.ipv4.conf.all.send_redirects=0");
        // A bridge takes over the lowest MAC address of its ports unless it has one.
        for (bridge, mac, address) in [
            ("subnet1", "02:00:0a:00:00:01", "10.0.0.1/19"),
            ("subnet2", "02:00:0a:00:20:01", "10.0.32.1/19"),
        ] {
            vpc.fabric.ip(&format!("link add {bridge} address {mac} type bridge"));
            vpc.fabric.ip(&format!("addr add {address} dev {bridge}"));
            vpc.fabric.ip(&format!("link set {bridge} up"));
            // The VPC's router answers for every address, at once, and does not tell that there is a shorter way: there is none.
            for setting in [
                format!("conf.{bridge}.send_redirects=0"),
                format!("conf.{bridge}.proxy_arp=1"),
                format!("conf.{bridge}.proxy_arp_pvlan=1"),
                format!("neigh.{bridge}.proxy_delay=0"),
            ] {
                vpc.fabric.exec(&format!("sysctl -qw net.ipv4.{setting}"));
            }
        }
        vpc.fabric.ip("addr add 10.0.0.30/32 dev subnet1");
        vpc.fabric.ip("addr add 203.0.113.10/32 dev lo");
        vpc.plug("eth0", PRIMARY_MAC, "subnet1", &["10.0.0.10", "10.0.0.100"]);
        vpc.node.ip("addr add 10.0.0.10/19 dev eth0");
        vpc.node.ip("link set eth0 up");
        vpc.node.ip("route add default via 10.0.0.1 dev eth0");
        vpc
    }

    /// Gives everything an IPv6 half: 2001:db8:a::/64 and 2001:db8:b::/64 are the subnets, 2001:db8:f::10 the internet.
    pub fn with_ipv6() -> Self {
        let vpc = Self::new();
        // The links of a real node are older than its pods; here nothing should wait until the kernel trusts the addresses
        // that it gave them.
        for netns in [&vpc.node, &vpc.fabric] {
            netns.exec("sysctl -qw net.ipv6.conf.default.accept_dad=0");
            for link in link_names(&mut netns.netlink()) {
                for setting in ["accept_dad=0", "disable_ipv6=1", "disable_ipv6=0"] {
                    netns.exec(&format!("sysctl -qw net.ipv6.conf.{link}.{setting}"));
                }
            }
        }
        vpc.fabric.exec("sysctl -qw net.ipv6.conf.all.forwarding=1");
        for (bridge, address) in [("subnet1", "2001:db8:a::1/64"), ("subnet2", "2001:db8:b::1/64")]
        {
            for address in [address, "fe80:ec2::1/64"] {
                vpc.fabric.ip(&format!("addr add {address} dev {bridge} nodad"));
            }
        }
        vpc.fabric.ip("addr add 2001:db8:a::30/128 dev subnet1 nodad");
        vpc.fabric.ip("addr add 2001:db8:f::10/128 dev lo");
        let addresses = ["2001:db8:a::10", "2001:db8:a:0:1::2", "2001:db8:a:0:1::3"];
        vpc.deliver("eth0", PRIMARY_MAC, "subnet1", &addresses);
        vpc.node.ip("addr add 2001:db8:a::10/64 dev eth0 nodad");
        vpc.node.ip("route add default via fe80:ec2::1 dev eth0");
        vpc
    }

    /// Plugs an ENI in: a link with its MAC address appears in the node, down and bare. The fabric delivers the addresses
    /// to it, and drops what comes from it with any other source.
    pub fn plug(&self, name: &str, mac: Mac, subnet: &str, addresses: &[&str]) {
        let (node, fabric) = (&self.node.name, &self.fabric.name);
        self.fabric.ip(&format!(
            "link add {name} netns {fabric} mtu 9001 type veth peer name {name} netns {node} address {mac} mtu 9001"
        ));
        self.fabric.ip(&format!("link set {name} master {subnet} up"));
        self.fabric.ip(&format!("link set dev {name} type bridge_slave isolated on"));
        let table = check_of(name);
        self.fabric.nft(&format!(
            "table netdev {table} {{ set ipv4 {{ type ipv4_addr; }}; set ipv6 {{ type ipv6_addr; }}; \
             chain c {{ type filter hook ingress device \"{name}\" priority 0; \
             ip saddr != @ipv4 counter drop; ip6 saddr fe80::/10 accept; ip6 saddr :: accept; \
             ip6 saddr != @ipv6 counter drop; }}; }}"
        ));
        self.deliver(name, mac, subnet, addresses);
    }

    /// Gives addresses to an ENI.
    pub fn deliver(&self, name: &str, mac: Mac, subnet: &str, addresses: &[&str]) {
        for address in addresses {
            let set = if address.contains(':') { "ipv6" } else { "ipv4" };
            self.fabric
                .ip(&format!("neigh replace {address} lladdr {mac} dev {subnet} nud permanent"));
            self.fabric
                .nft(&format!("add element netdev {} {set} {{ {address} }}", check_of(name)));
        }
    }

    /// Returns how many packets the check of the source dropped.
    pub fn drops(&self, name: &str) -> u64 {
        let table = self.fabric.exec(&format!("nft list table netdev {}", check_of(name)));
        let counts = table.split("packets ").skip(1);
        counts.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    pub fn host_facts(&self) -> host::HostFacts {
        let primary = host::primary(&mut self.node.netlink(), PRIMARY_MAC).unwrap();
        let cidrs = vec!["10.0.0.0/16".parse().unwrap()];
        host::HostFacts::ipv4(primary, "10.0.0.10".parse().unwrap(), cidrs, 9001)
    }

    pub fn set_up_host(&self, config: &HostConfig) -> usize {
        let applied = host::set_up(&mut self.node.netlink(), config, &self.host_facts());
        applied.unwrap_or_else(|error| panic!("{}", chain(&error))).len()
    }

    /// Reads the table of address translation as nft shows it.
    pub fn nat(&self) -> Option<String> {
        self.node.try_exec("nft list table ip vpc-ipam").ok()
    }
}

fn check_of(name: &str) -> String {
    format!("check_{}", name.replace('.', "_"))
}

/// Returns the ENI of device 1 in the first subnet, or of device 2 in the second.
pub fn eni(device: u8) -> EniLink {
    let (address, subnet) = match device {
        1 => ("10.0.0.20", "10.0.0.0/19"),
        2 => ("10.0.32.20", "10.0.32.0/19"),
        other => panic!("no ENI {other}"),
    };
    EniLink {
        eni: format!("eni-{device}").parse().unwrap(),
        mac: eni_mac(device),
        card: Card(0),
        device: DeviceIndex(device),
        trunk: false,
        primary_ipv4: Some(address.parse().unwrap()),
        primary_ipv6: None,
        subnet_ipv4: Some(subnet.parse().unwrap()),
        subnet_ipv6: None,
        mtu: 9001,
    }
}

pub fn eni_mac(device: u8) -> Mac {
    Mac([2, 0, 10, 0, 0, 20 + device])
}

/// Returns the lease of the pod `default/NAME`.
pub fn lease(name: &str, container: &str, card: u8, device: u8, address: &str) -> Lease {
    let key = PodKey::new("aws-cni", container, "eth0").unwrap();
    (testkit::lease(name, [leased(card, device, address)])).with_key(key)
}

pub fn leased(card: u8, device: u8, address: &str) -> LeasedInterface {
    let eni = format!("eni-{device}").parse().unwrap();
    (testkit::leased(card, device, [address])).with_eni(eni).with_mac(eni_mac(device))
}

/// Returns the lease of the pod `default/NAME` with an address of either family, or both.
pub fn lease_with(name: &str, device: u8, ipv4: Option<&str>, ipv6: Option<&str>) -> Lease {
    let first = (leased(0, device, "0.0.0.0"))
        .with_ipv4(ipv4.map(|address| address.parse().unwrap()))
        .with_ipv6(ipv6.map(|address| address.parse().unwrap()));
    (lease(name, name, 0, device, "0.0.0.0")).with_first(first)
}

/// Returns the network of the pod `default/NAME` whose container has the same name.
pub fn network(name: &str, device: u8, address: &str) -> PodNetwork {
    network_of(&lease(name, name, 0, device, address))
}

pub fn network_of(lease: &Lease) -> PodNetwork {
    pod::desired(lease, &settings()).unwrap()
}

pub fn settings() -> PodSettings {
    PodSettings::new(VethPrefix::default(), 9001)
}

/// Adds a pod to a node in a namespace of its own.
pub fn add(node: &Netns, network: &PodNetwork) -> Netns {
    let pod = Netns::new();
    add_to(node, &pod, network);
    pod
}

pub fn add_to(node: &Netns, pod: &Netns, network: &PodNetwork) {
    pod::add(&mut node.netlink(), &mut pod.netlink(), &pod.namespace, network)
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
}

pub fn remove(node: &Netns, network: &PodNetwork) -> Vec<IpAddr> {
    pod::remove(&mut node.netlink(), network).unwrap()
}

/// A server outside of the VPC.
pub const INTERNET: &str = "203.0.113.10:80";

/// The port of the node that [`Vpc`]'s users lead to a pod.
pub const NODE_PORT: &str = "10.0.0.10:30080";

/// The pods of [`node_with_pods`]: name, device of the ENI, address.
pub const PODS: [(&str, u8, &str); 3] =
    [("a", 0, "10.0.0.100"), ("b", 1, "10.0.0.101"), ("c", 2, "10.0.32.102")];

/// Builds a node with a pod on each of three ENIs, of which the third is in another subnet.
pub fn node_with_pods(config: &HostConfig) -> (Vpc, [Netns; 3]) {
    let vpc = Vpc::new();
    let mut netlink = vpc.node.netlink();
    vpc.set_up_host(config);
    let pods = add_pods(&vpc, &mut netlink);
    (vpc, pods)
}

/// Adds the pods, and the ENIs that they are on.
pub fn add_pods(vpc: &Vpc, netlink: &mut dyn Netlink) -> [Netns; 3] {
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20", "10.0.0.101"]);
    vpc.plug("eth2", eni_mac(2), "subnet2", &["10.0.32.20", "10.0.32.102"]);
    for device in [1, 2] {
        enis::set_up(netlink, &eni(device)).unwrap();
    }
    PODS.map(|(name, device, address)| add(&vpc.node, &network(name, device, address)))
}

/// Connects, and returns the address that the server sees.
pub fn source_seen(client: &Namespace, server: &Namespace, to: &str) -> Option<String> {
    source_seen_by(client, server, to, to)
}

/// Connects to one address where the server listens on another.
pub fn source_seen_by(
    client: &Namespace,
    server: &Namespace,
    to: &str,
    listens_on: &str,
) -> Option<String> {
    for netns in [client, server] {
        note_links(netns);
    }
    let listener = server.run(|| listen(listens_on)).unwrap();
    let to: SocketAddr = to.parse().unwrap();
    // A link that has just come up may lose what is sent first, and TCP sends again only after a second.
    let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(300));
    let stream = client.run(|| (0..3).find_map(|_| connect().ok())).unwrap();
    let _stream = stream?;
    accept(&listener).map(|peer| peer.ip().to_string())
}

/// Sends from an address of the client's, and returns the address that the server sees, if anything arrives.
pub fn source_seen_from(
    client: &Namespace,
    from: &str,
    server: &Namespace,
    to: &str,
) -> Option<String> {
    for netns in [client, server] {
        note_links(netns);
    }
    let receiver = server.run(|| receive(to)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let sender = client.run(|| UdpSocket::bind((from, 0))).unwrap().unwrap();
    (0..3).find_map(|_| {
        sender.send_to(b"x", to).unwrap();
        receiver.recv_from(&mut [0]).ok().map(|(_, source)| source.ip().to_string())
    })
}

/// Returns who connected. A client may take itself for connected while its last packet does not arrive: that is no connection,
/// and nothing to wait for any longer than the server takes to ask for it again.
pub fn accept(listener: &TcpListener) -> Option<SocketAddr> {
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    let mut ready = [PollFd::new(listener, PollFlags::IN)];
    let any = poll(&mut ready, Some(&patience)).unwrap() > 0;
    any.then(|| listener.accept().unwrap().1)
}

/// Lets the kernel take note of which links are up, as it does when it is asked about one.
pub fn note_links(netns: &Namespace) {
    let mut netlink = netns.netlink().unwrap();
    for name in link_names(&mut netlink) {
        netlink.link(&name).unwrap();
    }
}

fn listen(on: &str) -> TcpListener {
    once_free(on, || TcpListener::bind(on))
}

/// Returns a socket that receives what is sent to an address.
pub fn receive(on: &str) -> UdpSocket {
    once_free(on, || UdpSocket::bind(on))
}

/// Waits for an earlier socket to go: a program that another thread starts holds it until it runs.
fn once_free<S>(on: &str, bind: impl Fn() -> io::Result<S>) -> S {
    for _ in 0..100_000 {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::yield_now(),
            result => return result.unwrap_or_else(|error| panic!("listen on {on}: {error}")),
        }
    }
    panic!("{on} stays in use");
}

/// Returns the names of the links of a namespace.
pub fn link_names(netlink: &mut dyn Netlink) -> Vec<String> {
    netlink.links().unwrap().into_iter().map(|link| link.id.name.to_string()).collect()
}

/// A kernel that gets changes by way of a function.
pub struct Altered<F> {
    pub inner: KernelNetlink,
    pub change: F,
}

impl<F> NetlinkLayer for Altered<F>
where
    F: FnMut(&mut KernelNetlink, &KernelChange) -> Result<KernelEffect, Refusal>,
{
    fn inner(&mut self) -> &mut dyn Netlink {
        &mut self.inner
    }

    fn change(
        &mut self,
        changes: &[KernelChange],
    ) -> Result<Vec<Result<KernelEffect, Refusal>>, NetlinkError> {
        Ok(changes.iter().map(|change| (self.change)(&mut self.inner, change)).collect())
    }
}

/// Makes one change as the kernel does.
pub fn really(netlink: &mut KernelNetlink, change: &KernelChange) -> Result<KernelEffect, Refusal> {
    netlink.change(core::slice::from_ref(change)).unwrap().remove(0)
}

/// Returns what the instance's metadata would say of [`Vpc`]'s node.
pub fn metadata() -> Metadata {
    let primary = "eni-0".parse().unwrap();
    let eni = ObservedEni::new(primary, PRIMARY_MAC, "subnet-1".parse().unwrap())
        .with_primary_ipv4(Some("10.0.0.10".parse().unwrap()));
    Metadata::new(
        Node::new(
            "i-1".parse().unwrap(),
            "m5.large".parse().unwrap(),
            "lab-1a".parse().unwrap(),
            "vpc-1".parse().unwrap(),
            primary,
            "subnet-1".parse().unwrap(),
        ),
        Observation::new(Timestamp::EPOCH, Source::Imds, Scope::Attached).with_enis(vec![eni]),
    )
    .with_primary_ipv4(Some("10.0.0.10".parse().unwrap()))
    .with_vpc_ipv4_cidrs(vec!["10.0.0.0/16".parse().unwrap()])
    .with_vpc_ipv6_cidrs(Vec::new())
    .with_subnets(Default::default())
}
