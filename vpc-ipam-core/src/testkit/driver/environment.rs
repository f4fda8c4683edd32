use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use crate::model::tags;
use crate::pool::Eni;
use crate::sim::{
    About, Call, CreateInterface, CreateSubnet, Ipv4Request, Lasts, ModifyInterface,
    NetworkInterface, Refusal, Reservation, RunInstance,
};
use crate::testkit::driver::pods::untracked_key;
use crate::testkit::driver::{Driver, index};
use crate::testkit::setup::{config_of, limits_of, net};
use crate::testkit::step::{Meddling, Place};
use crate::{
    Action, AttachNetworkInterface, Card, Config, DeviceIndex, Ec2Action, EniId, FailureKind, Ipam,
    Ipv4Amount, PodKey, Scope, UnassignIpv6Addresses, UnassignPrivateIpAddresses,
};

/// What EC2, the operator and other programs do.
impl Driver {
    /// The operator wants another target, and other families where the setup allows them.
    pub(super) fn configure(&mut self, [target, families]: [u8; 2]) {
        let was = &self.setup.config;
        let wanted = config_of(&self.setup.limits, &[target, families]);
        self.config = Config {
            families: if was.custom_networking { was.families } else { wanted.families },
            target: wanted.target,
            ..was.clone()
        };
        let usable = self.ipam.handle_config(self.config.clone(), self.now);
        usable.expect("a setup's configurations are usable");
    }

    pub(super) fn cordon(&mut self, cordoned: bool) {
        self.schedulable = !cordoned;
        self.ipam.handle_schedulable(!cordoned, self.now);
    }

    pub(super) fn terminate(&mut self) {
        self.terminating = true;
        self.ipam.handle_terminating(self.now);
    }

    /// Other nodes take addresses of the primary subnet, if it has as many.
    pub(super) fn crowd(&mut self, addresses: u8) {
        let request = CreateInterface {
            ipv4: Ipv4Request::Count(Ipv4Amount::Addresses(u16::from(addresses))),
            ..CreateInterface::new(self.node.subnet)
        };
        if let Ok(eni) = self.cloud.create_network_interface(&request, self.now) {
            self.crowds.push(eni.id);
            self.on_space_taken();
        }
    }

    /// Other nodes release what they took last.
    pub(super) fn disperse(&mut self) {
        if let Some(eni) = self.crowds.pop() {
            let _ = self.cloud.delete_network_interface(eni, self.now);
        }
    }

    pub(super) fn refuse(&mut self, call: Call, about: Place, kind: FailureKind, lasts: Duration) {
        let about = match about {
            Place::Anywhere => None,
            Place::Eni(which) => {
                let attached = self.attached();
                let eni = index(which, attached.len()).map(|index| About::Eni(attached[index]));
                if eni.is_none() {
                    return;
                }
                eni
            }
            Place::PrimarySubnet => Some(About::Subnet(self.node.subnet)),
            Place::Card(card) => Some(About::Card(Card(card))),
        };
        let lasts = match lasts {
            Duration::ZERO => Lasts::Calls(1),
            lasts if lasts.as_secs() == u64::MAX => Lasts::ForEver,
            lasts => Lasts::Until(self.now + lasts),
        };
        self.refusals.refuse(Refusal { call, about, kind, lasts });
    }

    /// Other nodes took addresses of a subnet, which no list showed core yet.
    pub(super) fn on_space_taken(&mut self) {
        self.unseen_shortage = true;
        self.unseen_fragments = true;
    }

    /// Other nodes take all but so many addresses of the primary subnet, unless it is too large for that.
    pub(super) fn fill(&mut self, leave: u8) {
        for _ in 0..8 {
            let free = self.cloud.subnet(&self.node.subnet).map_or(0, |it| it.ipv4_addresses_free);
            let Some(more) = free.checked_sub(u32::from(leave) + 1) else { return };
            let addresses = u16::try_from(more.min(2000)).unwrap_or(0);
            let request = CreateInterface {
                ipv4: Ipv4Request::Count(Ipv4Amount::Addresses(addresses)),
                ..CreateInterface::new(self.node.subnet)
            };
            let Ok(eni) = self.cloud.create_network_interface(&request, self.now) else { return };
            self.crowds.push(eni.id);
            self.on_space_taken();
        }
    }

    pub(super) fn reserve(&mut self, which: u8, explicit: bool) {
        let Some(subnet) = self.cloud.subnet(&self.node.subnet) else { return };
        let blocks: Vec<Ipv4Net> = match subnet.ipv4_cidr.subnets(28) {
            Ok(blocks) => blocks.take(256).collect(),
            Err(_) => return,
        };
        let reservation = if explicit { Reservation::Explicit } else { Reservation::Prefix };
        if let Some(index) = index(which, blocks.len()) {
            let _ = self.cloud.reserve(subnet.id, blocks[index], reservation);
            self.on_space_taken();
        }
    }

    pub(super) fn attach_other_vpc(&mut self) {
        let vpc = self.cloud.create_vpc(alloc::vec![net("172.20.0.0/16")], Vec::new());
        let request = CreateSubnet::new(vpc, self.node.zone, net("172.20.0.0/20"));
        let subnet = self.cloud.create_subnet(request).expect("the VPC is empty");
        let two = Ipv4Request::Count(Ipv4Amount::Addresses(2));
        let Some(device) = self.free_device() else { return };
        self.unseen_eni = true;
        let request = CreateInterface { ipv4: two, ..CreateInterface::new(subnet) };
        let Ok(made) = self.cloud.create_network_interface(&request, self.now) else { return };
        self.on_space_taken();
        let instance = self.node.instance;
        let attach = AttachNetworkInterface { eni: made.id, instance, card: Card(0), device };
        if self.cloud.attach_network_interface(&attach, self.now).is_ok() {
            self.model.foreign.insert(made.id);
        }
    }

    /// The instance is stopped, becomes one of another size, and starts: as another boot, without pods.
    pub(super) fn resize(&mut self, slots: u8, enis: u8) {
        let limits = limits_of(slots, enis, self.setup.shape());
        if self.cloud.resize_instance(self.node.instance, limits.clone()).is_err() {
            return;
        }
        self.setup.limits = limits;
        self.resized = true;
        self.model.leases.clear();
        self.model.undead.clear();
        self.model.released.clear();
        self.model.links = [self.node.primary].into();
        self.crash();
    }

    /// Returns a device index of card 0 at which nothing is attached.
    pub(super) fn free_device(&self) -> Option<DeviceIndex> {
        let taken: Vec<DeviceIndex> = self
            .attached()
            .iter()
            .filter_map(|id| self.cloud.interface(id)?.attachment.as_ref())
            .filter(|attachment| attachment.card == Card(0))
            .map(|attachment| attachment.device)
            .collect();
        let most = self.setup.limits.enis(Card(0));
        (0..most).map(DeviceIndex).find(|device| !taken.contains(device))
    }

    pub(super) fn crash(&mut self) {
        self.issued.clear();
        self.lost.clear();
        self.given_up.clear();
        self.void.clear();
        self.posted.clear();
        self.unwritten.clear();
        self.photographs.clear();
        self.started = self.real;
        // This process has no list of subnets yet.
        self.unseen_shortage = true;
        self.unseen_fragments = true;
        let has = |address: IpAddr| {
            let carries = |eni: &NetworkInterface| {
                let blocks = eni.ipv4.iter().map(|net| IpNet::V4(*net));
                let mut blocks = blocks.chain(eni.ipv6.iter().map(|net| IpNet::V6(*net)));
                blocks.any(|net| net.contains(&address))
            };
            self.cloud.interfaces().any(carries)
        };
        let undead = self.model.undead.values();
        let lost = undead.filter(|lease| !lease.addresses().all(has));
        let lost: Vec<PodKey> = lost.map(|lease| lease.key.clone()).collect();
        self.model.lost.extend(lost);
        self.model.on_restart();
        self.refusals.on_restart();
        let seed = self.setup.seed + 65_536 * self.starts;
        self.starts += 1;
        let (limits, budget) = (self.setup.limits.clone(), self.setup.budget.clone());
        self.ipam =
            Ipam::new(self.node.clone(), limits, self.config.clone(), budget, seed, self.now)
                .expect("the configuration was usable before");
        self.ipam.restore(self.model.records(), self.now);
        self.ipam.handle_eni_config(self.eni_config.clone(), self.now);
        self.ipam.handle_schedulable(self.schedulable, self.now);
        if self.terminating {
            self.ipam.handle_terminating(self.now);
        }
    }

    pub(super) fn untracked(&mut self, which: u8, in_use: bool) {
        let address = if in_use {
            // No pod has an address of an ENI that is not attached, nor of one that a call under way detaches.
            let attached = self.attached();
            let going = |id: EniId| {
                self.issued.iter().any(|issued| {
                    matches!(&issued.action, Action::Ec2(Ec2Action::DetachNetworkInterface(call)) if call.eni == id)
                })
            };
            let enis = self.ipam.pool().enis().iter();
            let enis = enis.filter(|eni| attached.contains(&eni.id) && !going(eni.id));
            let free: Vec<IpAddr> = enis
                .flat_map(Eni::blocks)
                .map(|block| block.net().network())
                .filter(|address| self.model.owner(*address).is_none())
                .collect();
            index(which, free.len()).map(|index| free[index])
        } else {
            let unknown: Vec<IpAddr> = self.model.unknown.iter().copied().collect();
            index(which, unknown.len()).map(|index| unknown[index])
        };
        let Some(address) = address else { return };
        self.ipam.handle_untracked(address, in_use, self.now);
        if in_use {
            self.model.unknown.insert(address);
        } else {
            self.model.unknown.remove(&address);
            self.model.released.insert(address, (untracked_key(), self.now, self.real));
        }
    }

    pub(super) fn meddle(&mut self, how: Meddling, which: u8) {
        let now = self.now;
        let attached = self.attached();
        let Some(eni) = index(which, attached.len()).map(|index| attached[index]) else {
            return;
        };
        let found = self.cloud.interface(&eni).expect("it is attached").clone();
        match how {
            Meddling::Detach => {
                let attachment = found.attachment.expect("it is attached").id;
                if self.cloud.detach_network_interface(attachment, now).is_ok() {
                    self.model.meddled = true;
                    self.model.links.remove(&eni);
                }
            }
            Meddling::Unassign => self.unassign_a_block(&found),
            Meddling::Assign => {
                self.on_space_taken();
                let one = Ipv4Request::Count(Ipv4Amount::Addresses(1));
                let _ = self.cloud.assign_private_ip_addresses(eni, &one, now);
            }
            Meddling::Attach => self.attach_unmanaged(),
            Meddling::Steal => self.steal_unattached(),
            Meddling::Groups => {
                if let Ok(group) = self.cloud.create_security_group(self.node.vpc) {
                    let groups = ModifyInterface::Groups([group].into());
                    let primary = self.node.primary;
                    let _ = self.cloud.modify_network_interface_attribute(primary, &groups, now);
                }
            }
        }
    }

    /// Another program takes the first block of an ENI away.
    fn unassign_a_block(&mut self, eni: &NetworkInterface) {
        let id = eni.id;
        if let Some(block) = eni.ipv4.first() {
            let request = UnassignPrivateIpAddresses { eni: id, blocks: [*block].into() };
            let done = self.cloud.unassign_private_ip_addresses(&request, self.now);
            self.model.meddled |= done.is_ok();
        } else if let Some(block) = eni.ipv6.first() {
            let request = UnassignIpv6Addresses { eni: id, prefixes: [*block].into() };
            let done = self.cloud.unassign_ipv6_addresses(&request, self.now);
            self.model.meddled |= done.is_ok();
        }
    }

    /// Another program attaches an ENI of its own, tagged as one that the node must not manage.
    fn attach_unmanaged(&mut self) {
        let tags = [(tags::NO_MANAGE.to_string(), "true".to_string())].into();
        let request = CreateInterface { tags, ..CreateInterface::new(self.node.subnet) };
        self.on_space_taken();
        self.unseen_eni = true;
        let Some(device) = self.free_device() else { return };
        let Ok(made) = self.cloud.create_network_interface(&request, self.now) else { return };
        let instance = self.node.instance;
        let attach = AttachNetworkInterface { eni: made.id, instance, card: Card(0), device };
        let attached = self.cloud.attach_network_interface(&attach, self.now).is_ok();
        if attached && self.config.ec2_reads {
            self.model.foreign.insert(made.id);
        }
    }

    /// Another program attaches an ENI that was made for the node to an instance of its own.
    fn steal_unattached(&mut self) {
        let owner = Some(self.node.instance.as_str());
        let made = self.cloud.interfaces().find(|eni| {
            eni.attachment.is_none()
                && eni.tags.get(Scope::INSTANCE_TAG).map(String::as_str) == owner
        });
        let Some(eni) = made.map(|eni| eni.id) else { return };
        let run = RunInstance::new(self.setup.limits.clone(), self.node.subnet);
        let Ok(instance) = self.cloud.run_instance(run, self.now) else { return };
        let attach =
            AttachNetworkInterface { eni, instance, card: Card(0), device: DeviceIndex(1) };
        let stolen = self.cloud.attach_network_interface(&attach, self.now).is_ok();
        self.model.meddled |= stolen;
    }

    /// Returns the ENIs that are attached in truth.
    pub(super) fn attached(&self) -> Vec<EniId> {
        let instance = self.cloud.instance(&self.node.instance);
        instance.into_iter().flat_map(|instance| instance.enis.iter().copied()).collect()
    }
}
