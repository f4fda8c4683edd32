use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use crate::model::tags;
use crate::pool::Eni;
use crate::sim::{
    About, Call, CreateInterface, CreateSubnet, Ipv4Request, Lasts, ModifyInterface, Refusal,
    Reservation, RunInstance,
};
use crate::testkit::driver::{Driver, index};
use crate::testkit::setup::{limits_of, net};
use crate::testkit::step::{Meddling, Place};
use crate::{
    Action, AttachNetworkInterface, Card, DeviceIndex, Ec2Action, EniId, FailureKind, Ipam,
    Ipv4Amount, PodKey, Scope, UnassignIpv6Addresses, UnassignPrivateIpAddresses,
};

/// What EC2, the operator and other programs do.
impl Driver {
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
            let net = |eni: &crate::sim::NetworkInterface| {
                let blocks = eni.ipv4.iter().map(|net| IpNet::V4(*net));
                let mut blocks = blocks.chain(eni.ipv6.iter().map(|net| IpNet::V6(*net)));
                blocks.any(|net| net.contains(&address))
            };
            self.cloud.interfaces().any(net)
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
            let untracked = PodKey::new("unknown", "owner", "x").expect("no part is empty");
            self.model.released.insert(address, (untracked, self.now, self.real));
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
            Meddling::Unassign => {
                if let Some(block) = found.ipv4.first() {
                    let request = UnassignPrivateIpAddresses { eni, blocks: [*block].into() };
                    let done = self.cloud.unassign_private_ip_addresses(&request, now);
                    self.model.meddled |= done.is_ok();
                } else if let Some(block) = found.ipv6.first() {
                    let request = UnassignIpv6Addresses { eni, prefixes: [*block].into() };
                    let done = self.cloud.unassign_ipv6_addresses(&request, now);
                    self.model.meddled |= done.is_ok();
                }
            }
            Meddling::Assign => {
                self.on_space_taken();
                let one = Ipv4Request::Count(Ipv4Amount::Addresses(1));
                let _ = self.cloud.assign_private_ip_addresses(eni, &one, now);
            }
            Meddling::Attach => {
                let tags = [(tags::NO_MANAGE.to_string(), "true".to_string())].into();
                let request = CreateInterface { tags, ..CreateInterface::new(self.node.subnet) };
                self.on_space_taken();
                self.unseen_eni = true;
                let free = self.free_device();
                let Some(device) = free else { return };
                let Ok(made) = self.cloud.create_network_interface(&request, now) else { return };
                let instance = self.node.instance;
                let attach =
                    AttachNetworkInterface { eni: made.id, instance, card: Card(0), device };
                let attached = self.cloud.attach_network_interface(&attach, now).is_ok();
                if attached && self.config.ec2_reads {
                    self.model.foreign.insert(made.id);
                }
            }
            Meddling::Steal => {
                let owner = Some(self.node.instance.as_str());
                let made = self.cloud.interfaces().find(|eni| {
                    eni.attachment.is_none()
                        && eni.tags.get(Scope::INSTANCE_TAG).map(String::as_str) == owner
                });
                let Some(eni) = made.map(|eni| eni.id) else { return };
                let run = RunInstance::new(self.setup.limits.clone(), self.node.subnet);
                let Ok(instance) = self.cloud.run_instance(run, now) else { return };
                let (card, device) = (Card(0), DeviceIndex(1));
                let attach = AttachNetworkInterface { eni, instance, card, device };
                let stolen = self.cloud.attach_network_interface(&attach, now).is_ok();
                self.model.meddled |= stolen;
            }
            Meddling::Groups => {
                if let Ok(group) = self.cloud.create_security_group(self.node.vpc) {
                    let groups = ModifyInterface::Groups([group].into());
                    let primary = self.node.primary;
                    let _ = self.cloud.modify_network_interface_attribute(primary, &groups, now);
                }
            }
        }
    }

    /// Returns the ENIs that are attached in truth.
    pub(super) fn attached(&self) -> Vec<EniId> {
        let instance = self.cloud.instance(&self.node.instance);
        instance.into_iter().flat_map(|instance| instance.enis.iter().copied()).collect()
    }
}
