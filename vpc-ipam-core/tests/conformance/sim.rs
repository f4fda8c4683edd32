use core::time::Duration;
use std::collections::BTreeSet;

use vpc_ipam_core::sim::{Cloud, CreateInterface, CreateSubnet, Ipv4Request, RunInstance};
use vpc_ipam_core::testkit::Executor;
use vpc_ipam_core::{
    AttachNetworkInterface, Card, DeviceIndex, Ec2Action, Effect, EniId, Failure, FailureKind,
    HostAction, Ipv4Amount, Limits, Node, Outcome, Scope, SecurityGroupId, SubnetId, Timestamp,
};

/// The executor of the model, or one that is wrong in one way: on an instance that is not alone.
pub struct Sim {
    pub cloud: Cloud,
    pub node: Node,
    pub limits: Limits,
    pub now: Timestamp,
    /// How the executor carries actions out.
    pub wrong: Wrong,
    /// A group of the VPC that the primary ENI does not have.
    pub group: Option<SecurityGroupId>,
    /// Another instance's ENI.
    pub other: EniId,
    /// A subnet in the node's zone that is not its own.
    pub other_subnet: SubnetId,
    /// How many detachments were not carried out.
    pub lost: u32,
    /// How many calls were made.
    pub calls: u64,
}

pub type Wrong = fn(&mut Sim, &Ec2Action, Timestamp) -> Outcome;

impl Sim {
    pub fn new(instance_type: &str) -> Self {
        let now = Timestamp::from_secs(1_700_000_000);
        let mut cloud = Cloud::new(1);
        let ranges = vec!["10.0.0.0/16".parse().unwrap(), "100.64.0.0/16".parse().unwrap()];
        let vpc = cloud.create_vpc(ranges, vec!["2001:db8::/56".parse().unwrap()]);
        let subnet = |vpc, zone: &str, cidr: &str| {
            CreateSubnet::new(vpc, zone.parse().unwrap(), cidr.parse().unwrap())
        };
        let own = CreateSubnet {
            ipv6_cidr: Some("2001:db8::/64".parse().unwrap()),
            ..subnet(vpc, "eu-west-1a", "10.0.0.0/19")
        };
        let own = cloud.create_subnet(own).unwrap();
        let near = subnet(vpc, "eu-west-1a", "100.64.0.0/19");
        let other_subnet = cloud.create_subnet(near).unwrap();
        cloud.create_subnet(subnet(vpc, "eu-west-1b", "10.0.32.0/19")).unwrap();
        let far = cloud.create_vpc(vec!["172.16.0.0/16".parse().unwrap()], Vec::new());
        cloud.create_subnet(subnet(far, "eu-west-1a", "172.16.0.0/19")).unwrap();

        let limits = Limits::lookup(instance_type.parse().unwrap()).unwrap();
        let run = RunInstance::new(limits.clone(), own);
        let instance = cloud.run_instance(run.clone(), now).unwrap();
        let neighbour = cloud.run_instance(run, now).unwrap();
        let other = cloud.instance(&neighbour).unwrap().node.primary;
        let tagged = |owner: &str| CreateInterface {
            tags: [(Scope::INSTANCE_TAG.to_string(), owner.to_string())].into(),
            ..CreateInterface::new(own)
        };
        // One that an earlier run of each left unattached, and one that is attached already where there is room.
        cloud.create_network_interface(&tagged(instance.as_str()), now).unwrap();
        cloud.create_network_interface(&tagged(neighbour.as_str()), now).unwrap();
        if limits.enis(Card(0)) > 3 {
            let eni = cloud.create_network_interface(&tagged(instance.as_str()), now).unwrap().id;
            let (card, device) = (Card(0), DeviceIndex(1));
            let attach = AttachNetworkInterface { eni, instance, card, device };
            cloud.attach_network_interface(&attach, now).unwrap();
        }
        let group = Some(cloud.create_security_group(vpc).unwrap());
        let node = cloud.instance(&instance).unwrap().node.clone();
        let wrong: Wrong = Self::right;
        Self { cloud, node, limits, now, wrong, group, other, other_subnet, lost: 0, calls: 0 }
    }

    /// Carries an action out as it should be.
    pub fn right(&mut self, action: &Ec2Action, now: Timestamp) -> Outcome {
        self.cloud.execute(&self.node, action, now)
    }

    pub fn interfaces(&self) -> BTreeSet<EniId> {
        self.cloud.interfaces().map(|eni| eni.id).collect()
    }

    /// Takes all but so many addresses of the node's subnet.
    pub fn fill_subnet(&mut self, leave: u32) {
        loop {
            let subnet = self.cloud.subnet(&self.node.subnet).unwrap();
            let Some(more) = subnet.ipv4_addresses_free.checked_sub(leave + 1) else { return };
            let count = Ipv4Amount::Addresses(more.min(2000) as u16);
            let ipv4 = Ipv4Request::Count(count);
            let request = CreateInterface { ipv4, ..CreateInterface::new(self.node.subnet) };
            self.cloud.create_network_interface(&request, self.now).unwrap();
        }
    }
}

impl Executor for Sim {
    fn node(&self) -> Node {
        self.node.clone()
    }

    fn limits(&self) -> Limits {
        self.limits.clone()
    }

    fn execute(&mut self, action: &Ec2Action, now: Timestamp) -> Outcome {
        self.calls += 1;
        (self.wrong)(self, action, now)
    }

    fn execute_host(&mut self, action: &HostAction) -> Option<Outcome> {
        let (HostAction::SetUpEni(link) | HostAction::RemoveEni(link)) = action;
        let there = self.cloud.interfaces().any(|eni| eni.mac == link.mac);
        match action {
            HostAction::SetUpEni(_) if !there => Some(failed(FailureKind::LinkMissing)),
            _ => Some(Outcome::Done(Effect::Done)),
        }
    }

    fn security_group(&self) -> Option<SecurityGroupId> {
        self.group
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }
}

pub fn failed(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure::new(kind, "planted"))
}
