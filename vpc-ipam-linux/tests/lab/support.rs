//! A cloud of two subnets, a node and another host, and the lab that follows it.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use vpc_ipam_core::sim::{
    Cloud, CreateInterface, CreateSubnet, Ipv4Request, Ipv6Request, NetworkInterface, RunInstance,
};
use vpc_ipam_core::testkit;
use vpc_ipam_core::{
    AttachNetworkInterface, AttachmentId, Card, DeviceIndex, EniId, EniLink, Families, InstanceId,
    Ipv4Amount, Ipv4Kind, Limits, SubnetId, Timestamp,
};
use vpc_ipam_linux::lab::{self, AskError, Lab, LabName, Layout, Responder};
use vpc_ipam_linux::pod::{self, PodSettings};
use vpc_ipam_linux::{HostConfig, Link, Namespace, Netlink as _, VethPrefix, eni, host};

pub use vpc_ipam_core::error_chain as chain;

pub const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

pub const PORT: u16 = 7777;

pub struct World {
    pub cloud: Cloud,
    pub lab: Lab,
    pub subnets: [SubnetId; 2],
    pub node: InstanceId,
    pub primary: EniId,
    families: Families,
}

impl World {
    /// Builds a lab with the primary ENIs plugged in.
    pub fn new() -> Self {
        Self::of(Families::Ipv4(Ipv4Kind::Addresses))
    }

    /// Builds a lab whose subnets have IPv6 where pods are to.
    pub fn of(families: Families) -> Self {
        let mut cloud = Cloud::new(1);
        let range = families.ipv6().then(|| "2001:db8:0:a00::/56".parse().unwrap());
        let vpc =
            cloud.create_vpc(vec!["10.0.0.0/16".parse().unwrap()], range.into_iter().collect());
        let ranges =
            [("10.0.0.0/19", "2001:db8:0:a00::/64"), ("10.0.32.0/19", "2001:db8:0:a01::/64")];
        let subnets = ranges.map(|(ipv4, ipv6)| {
            let zone = "eu-west-1a".parse().unwrap();
            let ipv6_cidr = families.ipv6().then(|| ipv6.parse().unwrap());
            let subnet = CreateSubnet::new(vpc, zone, ipv4.parse().unwrap());
            cloud.create_subnet(CreateSubnet { ipv6_cidr, ..subnet }).unwrap()
        });
        let limits = Limits::lookup("m5.large".parse().unwrap()).unwrap();
        let mut run = || {
            let request = RunInstance::new(limits.clone(), subnets[0]);
            let instance = cloud.run_instance(request, NOW).unwrap();
            let primary = cloud.instance(&instance).unwrap().node.primary;
            let own = Ipv6Request::AddressCount(families.ipv6().into());
            cloud.assign_ipv6_addresses(primary, &own, NOW).unwrap();
            instance
        };
        let (node, other_host) = (run(), run());
        let layout = Layout::of(&cloud, subnets, node, other_host).unwrap();
        let primary = layout.node.primary;
        let mut world = Self { cloud, lab: build(layout), subnets, node, primary, families };
        world.converge();
        world
    }

    /// Lets the lab follow what happened in the cloud.
    pub fn converge(&mut self) {
        while let Some(change) = self.cloud.poll_change() {
            self.lab.apply(&change).unwrap_or_else(|error| panic!("{}", chain(&error)));
        }
        self.lab.note_links().unwrap();
    }

    /// Makes an ENI and attaches it to the node; the lab does not follow yet.
    pub fn attach(&mut self, device: u8, subnet: usize, ipv4: Ipv4Amount) -> AttachmentId {
        let request = CreateInterface {
            ipv4: Ipv4Request::Count(ipv4),
            ipv6: Ipv6Request::PrefixCount(self.families.ipv6().into()),
            ..CreateInterface::new(self.subnets[subnet])
        };
        let made = self.cloud.create_network_interface(&request, NOW).unwrap();
        self.attach_again(made.id, device)
    }

    pub fn attach_again(&mut self, eni: EniId, device: u8) -> AttachmentId {
        let request = AttachNetworkInterface {
            eni,
            instance: self.node,
            card: Card(0),
            device: DeviceIndex(device),
        };
        self.cloud.attach_network_interface(&request, NOW).unwrap()
    }

    /// Returns the ENI with the node's device of that index.
    pub fn eni(&self, device: u8) -> NetworkInterface {
        let is_it = |eni: &&NetworkInterface| {
            let attachment = eni.attachment.as_ref();
            attachment.is_some_and(|it| it.instance == self.node && it.device.0 == device)
        };
        self.cloud.interfaces().find(is_it).unwrap().clone()
    }

    /// Sets the node up as the daemon does.
    pub fn set_up_node(&self) {
        let mut netlink = self.lab.node().netlink().unwrap();
        let primary = host::primary(&mut netlink, self.eni(0).mac).unwrap();
        let node = self.lab.layout().node;
        let cidrs = vec!["10.0.0.0/16".parse().unwrap()];
        let facts = host::HostFacts {
            families: self.families,
            primary_ipv6: node.primary_ipv6,
            ..host::HostFacts::ipv4(primary, node.primary_ipv4, cidrs, 9001)
        };
        host::set_up(&mut netlink, &HostConfig::default(), &facts)
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
    }

    /// Sets up the secondary ENI with that device as the daemon does.
    pub fn set_up_eni(&mut self, device: u8) {
        let eni = self.eni(device);
        let link = EniLink {
            eni: eni.id,
            mac: eni.mac,
            card: Card(0),
            device: DeviceIndex(device),
            trunk: false,
            primary_ipv4: eni.primary_ipv4,
            primary_ipv6: eni.ipv6_addresses().next(),
            subnet_ipv4: self.cloud.subnet(&eni.subnet).map(|subnet| subnet.ipv4_cidr),
            subnet_ipv6: self.cloud.subnet(&eni.subnet).and_then(|subnet| subnet.ipv6_cidr),
            mtu: 9001,
        };
        eni::set_up(&mut self.lab.node().netlink().unwrap(), &link)
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        self.lab.note_links().unwrap();
    }

    /// Gives a new pod an address of the ENI with that device, as the plugin does.
    pub fn add_pod(&self, name: &str, device: u8, address: impl Into<IpAddr>) -> Namespace {
        let eni = self.eni(device);
        let address = address.into().to_string();
        let leased = testkit::leased(0, device, [&*address]);
        let leased = leased.with_eni(eni.id).with_mac(eni.mac);
        let lease = (testkit::lease(name, [leased])).with_since(NOW);
        let settings = PodSettings::new(VethPrefix::default(), 9001);
        let network = pod::desired(&lease, &settings).unwrap();
        let namespace = lab::add_pod(self.lab.name(), name).unwrap();
        let (mut node, mut inside) =
            (self.lab.node().netlink().unwrap(), namespace.netlink().unwrap());
        pod::add(&mut node, &mut inside, &namespace, &network)
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        namespace
    }

    /// Returns the links of the node but for the loopback.
    pub fn node_links(&self) -> Vec<Link> {
        let mut links = self.lab.node().netlink().unwrap().links().unwrap();
        links.retain(|link| &*link.id.name != "lo");
        links
    }

    pub fn drops(&self, eni: EniId) -> u64 {
        self.lab.source_check_drops().unwrap()[&eni]
    }
}

pub fn build(layout: Layout) -> Lab {
    lab::requirements().unwrap_or_else(|unmet| {
        panic!("{unmet}\nRun the tests with scripts/test.sh instead of cargo test.")
    });
    Lab::build(unused_name(), layout).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

pub fn unused_name() -> LabName {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("test{}n{count}", std::process::id()).parse().unwrap()
}

/// Returns the names of the namespaces that a lab has.
pub fn namespaces_of(lab: &LabName) -> Vec<String> {
    let mut names = Namespace::names().unwrap();
    names.retain(|name| name.starts_with(&format!("vil-{lab}-")));
    names
}

pub fn respond(namespace: &Namespace) -> Responder {
    Responder::start(namespace, (Ipv6Addr::UNSPECIFIED, PORT).into()).unwrap()
}

pub fn ask(from: &Namespace, to: impl Into<IpAddr>) -> Result<IpAddr, AskError> {
    // Long, for a loaded machine.
    lab::ask(from, SocketAddr::new(to.into(), PORT), Duration::from_secs(10))
}

/// Asks a host that is not reached, and returns why.
pub fn ask_in_vain(from: &Namespace, to: impl Into<IpAddr>) -> AskError {
    lab::ask(from, SocketAddr::new(to.into(), PORT), Duration::from_millis(500)).unwrap_err()
}
