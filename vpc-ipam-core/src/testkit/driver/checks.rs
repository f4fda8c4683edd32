mod converged;
mod state;

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use crate::plan::backoff;
use crate::pool::Eni;
use crate::testkit::driver::{Driver, blocks_of};
use crate::testkit::rule::{Breach, Rule, hold};
use crate::{
    Action, AssignPrivateIpAddresses, Because, Card, CreateNetworkInterface, Ec2Action, EniId,
    HostAction, InterfaceType, Issued, Lease, LeasedInterface, Scope, UnassignPrivateIpAddresses,
};

/// The rules of what is granted, asked for and given up.
impl Driver {
    pub(super) fn check_grant(&self, lease: &Lease) -> Result<(), Breach> {
        let held = self.model.leases.get(&lease.key).or(self.model.granted.get(&lease.key));
        if let Some(held) = held {
            let same = held.addresses().eq(lease.addresses());
            hold!(same, OneOwner, "{} asked again: {held:?}, then {lease:?}", lease.key);
            return Ok(());
        }
        let mut cards: Vec<Card> = lease.interfaces().map(|interface| interface.card).collect();
        cards.sort_unstable();
        cards.dedup();
        hold!(cards.len() == lease.interfaces().count(), OneOwner, "two on one card: {lease:?}");
        for interface in lease.interfaces() {
            self.check_granted_interface(lease, interface)?;
        }
        Ok(())
    }

    pub(super) fn check_granted_interface(
        &self,
        lease: &Lease,
        on: &LeasedInterface,
    ) -> Result<(), Breach> {
        let model = &self.model;
        let families = self.config.families;
        let complete =
            on.ipv4.is_some() == families.ipv4().is_some() && on.ipv6.is_some() == families.ipv6();
        hold!(complete, Confirmed, "{families:?} and {on:?}");
        let linked = model.links.contains(&on.eni) || model.meddled;
        hold!(linked, Confirmed, "{} is not set up: {lease:?}", on.eni);
        hold!(!model.foreign.contains(&on.eni), HandsOff, "{} is not ours: {lease:?}", on.eni);
        for address in on.addresses() {
            if let Some(owner) = model.owner(address) {
                hold!(
                    *owner == lease.key,
                    OneOwner,
                    "{address} of {owner} granted to {}",
                    lease.key
                );
            }
            let cooling = model.is_cooling(address, self.config.cooldown, self.real);
            hold!(!cooling, Cooldown, "{address} granted to {} in its cooldown", lease.key);
            hold!(!model.unknown.contains(&address), OneOwner, "{address} is an untracked owner's");
            hold!(model.was_shown(on.eni, address), Confirmed, "{address} was never confirmed");
            let own = self
                .cloud
                .interfaces()
                .any(|eni| eni.primary_ipv4.map(IpAddr::V4) == Some(address));
            hold!(!own || model.meddled, PrimaryAddress, "{address} granted to {}", lease.key);
            if !model.meddled {
                let eni = self.cloud.interface(&on.eni);
                let attached = eni.is_some_and(|eni| {
                    eni.attachment.as_ref().is_some_and(|a| a.instance == self.node.instance)
                });
                let carried = eni.is_some_and(|eni| {
                    eni.ipv4.iter().any(|net| IpNet::V4(*net).contains(&address))
                        || eni.ipv6.iter().any(|net| IpNet::V6(*net).contains(&address))
                });
                hold!(attached && carried, Confirmed, "{address} is not on {}", on.eni);
            }
        }
        if let Some(eni) = self.ipam.pool().eni(on.eni) {
            hold!(self.serves_pods(eni), HandsOff, "{} serves no pods: {lease:?}", on.eni);
        }
        Ok(())
    }

    pub(super) fn check_action(&mut self, issued: &Issued) -> Result<(), Breach> {
        match &issued.action {
            Action::Ec2(action) => {
                if let Some(operation) = action.operation() {
                    self.model.on_call(operation, &self.setup.budget, self.real)?;
                    hold!(
                        self.config.provisioning || operation.reads(),
                        HandsOff,
                        "{action} without leave"
                    );
                    let lists_enis = matches!(action, Ec2Action::DescribeNetworkInterfaces(_));
                    hold!(self.config.ec2_reads || !lists_enis, HandsOff, "{action} without leave");
                }
                self.check_ec2_action(action, issued.because.clone())
            }
            Action::Host(HostAction::SetUpEni(link)) => {
                hold!(!self.model.foreign.contains(&link.eni), HandsOff, "{} set up", link.eni);
                Ok(())
            }
            Action::Host(HostAction::RemoveEni(link)) => {
                self.check_removal(link.eni, issued.because.clone())
            }
        }
    }

    pub(super) fn check_removal(&self, id: EniId, because: Because) -> Result<(), Breach> {
        hold!(id != self.node.primary, HandsOff, "the primary ENI is removed: {because}");
        hold!(!self.model.foreign.contains(&id), HandsOff, "{id} removed: {because}");
        let pods: Vec<_> =
            self.model.held().filter(|(address, lease)| self.is_on(id, *address, lease)).collect();
        if because == Because::Vanished {
            if !self.model.meddled && !pods.is_empty() {
                let denied = self.model.is_denied(id, self.authority());
                hold!(denied, Evidence, "{id} was given up with {} pods", pods.len());
            }
            return Ok(());
        }
        hold!(pods.is_empty(), InUseStays, "{id} goes with {pods:?}: {because}");
        let Some(eni) = self.ipam.pool().eni(id) else { return Ok(()) };
        let fixed = matches!(eni.interface_type, InterfaceType::Trunk | InterfaceType::Efa);
        hold!(!fixed, HandsOff, "{id} is a {:?} and goes: {because}", eni.interface_type);
        for block in eni.blocks() {
            self.check_unused(id, block.net())?;
        }
        if matches!(because, Because::NotNeeded { .. } | Because::Excluded) {
            let age = self.now.since(self.model.known_since.get(&id).copied().unwrap_or(self.now));
            hold!(age >= self.config.timing.eni_life_min, FreedInTime, "{id} goes after {age:?}");
            hold!(!self.terminating, FreedInTime, "{id} goes while the node does");
            let gate = self.schedulable || self.config.manage_unschedulable;
            hold!(gate, FreedInTime, "{id} goes while the node is cordoned");
        }
        Ok(())
    }

    /// Checks that an ENI that was given up for gone carried no address in use, or that enough spoke against it.
    pub(super) fn check_vanished(&self, id: EniId) -> Result<(), Breach> {
        let blocks = || self.ipam.pool().eni(id).into_iter().flat_map(Eni::blocks);
        let cooling = |address: &&IpAddr| {
            blocks().any(|block| block.net().contains(*address))
                && self.model.is_cooling(**address, self.config.cooldown, self.real)
        };
        let cooling = self.model.released.keys().find(cooling);
        if !self.model.meddled && (self.is_used(id) || cooling.is_some()) {
            let denied = self.model.is_denied(id, self.authority());
            hold!(denied, Evidence, "{id} was given up in use, {cooling:?} cools");
        }
        Ok(())
    }

    /// Returns whether a lease's address is on an ENI: where it was granted, or, if another program moved it or took it away, where
    /// core has it.
    pub(super) fn is_on(&self, eni: EniId, address: IpAddr, lease: &Lease) -> bool {
        if self.model.meddled {
            let known = self.ipam.pool().eni(eni);
            return known.is_some_and(|eni| eni.block(address).is_some());
        }
        lease
            .interfaces()
            .any(|interface| interface.eni == eni && interface.addresses().any(|a| a == address))
    }

    /// Returns whether a pod or an untracked owner uses an address of an ENI.
    pub(super) fn is_used(&self, eni: EniId) -> bool {
        let blocks = || self.ipam.pool().eni(eni).into_iter().flat_map(Eni::blocks);
        self.model.held().any(|(address, lease)| self.is_on(eni, address, lease))
            || self.model.unknown.iter().any(|a| blocks().any(|block| block.net().contains(a)))
    }

    /// Returns whether a durable lease names an ENI, whatever became of its addresses: one that was detached with its pods
    /// waits for them to go.
    pub(super) fn is_named(&self, eni: EniId) -> bool {
        self.model.leases.values().flat_map(Lease::interfaces).any(|on| on.eni == eni)
    }

    /// Checks that no address of a block is in use, and that none cools.
    pub(super) fn check_unused(&self, eni: EniId, net: IpNet) -> Result<(), Breach> {
        for (address, lease) in self.model.held().filter(|(address, _)| net.contains(address)) {
            hold!(false, InUseStays, "{net} of {eni} goes with {address} of {}", lease.key);
        }
        for address in self.model.unknown.iter().filter(|address| net.contains(*address)) {
            hold!(
                false,
                InUseStays,
                "{net} of {eni} goes with {address}, in use by an untracked owner"
            );
        }
        for address in self.model.released.keys().filter(|address| net.contains(*address)) {
            let cooling = self.model.is_cooling(*address, self.config.cooldown, self.real);
            hold!(!cooling, Cooldown, "{net} of {eni} goes while {address} cools");
        }
        Ok(())
    }

    /// Returns why the node may not grow, if it may not.
    fn gate(&self) -> Option<&'static str> {
        if self.terminating {
            Some("terminating")
        } else if !self.schedulable && !self.config.manage_unschedulable {
            Some("cordoned")
        } else {
            None
        }
    }

    fn check_ec2_action(&mut self, action: &Ec2Action, because: Because) -> Result<(), Breach> {
        self.check_ours(action)?;
        match action {
            Ec2Action::CreateNetworkInterface(request) => {
                self.check_creation(action, request, because)
            }
            Ec2Action::AttachNetworkInterface(request) => {
                let gate = self.gate();
                hold!(gate.is_none(), HandsOff, "{action} while {gate:?}");
                let most = self.setup.limits.enis(request.card);
                hold!(request.device.0 < most, Limits, "{action} of {most}");
                Ok(())
            }
            Ec2Action::AssignPrivateIpAddresses(request) => self.check_assignment(action, request),
            Ec2Action::AssignIpv6Addresses(request) => {
                hold!(!self.terminating, HandsOff, "{action} while terminating");
                hold!(request.prefixes > 0, WellFormed, "{action}");
                Ok(())
            }
            Ec2Action::UnassignPrivateIpAddresses(request) => {
                self.check_unassignment(action, request)
            }
            Ec2Action::UnassignIpv6Addresses(request) => {
                hold!(!request.prefixes.is_empty(), WellFormed, "{action}");
                let mut prefixes = request.prefixes.iter();
                prefixes.try_for_each(|net| self.check_unused(request.eni, IpNet::V6(*net)))
            }
            Ec2Action::DetachNetworkInterface(request) => {
                hold!(request.eni != self.node.primary, HandsOff, "{action}");
                let link = self.model.links.contains(&request.eni) && !self.model.meddled;
                hold!(!link, FreedInTime, "{action} before its link is removed");
                self.check_removal(request.eni, because)
            }
            Ec2Action::DeleteNetworkInterface(request) => {
                hold!(request.eni != self.node.primary, HandsOff, "{action}");
                self.check_removal(request.eni, because)
            }
            Ec2Action::ModifyNetworkInterfaceAttribute(_)
            | Ec2Action::CreateTags(_)
            | Ec2Action::DescribeNetworkInterfaces(_)
            | Ec2Action::DescribeSubnets
            | Ec2Action::ReadMetadata => Ok(()),
        }
    }

    /// Checks that an action is about no ENI of another program.
    fn check_ours(&self, action: &Ec2Action) -> Result<(), Breach> {
        let Some(id) = backoff::about(action) else { return Ok(()) };
        hold!(!self.model.foreign.contains(&id), HandsOff, "{action} is not ours to do");
        let removes = matches!(
            action,
            Ec2Action::DetachNetworkInterface(_) | Ec2Action::DeleteNetworkInterface(_)
        );
        let tags = matches!(action, Ec2Action::CreateTags(_)) && id != self.node.primary;
        hold!(!removes && !tags || self.is_made_for_us(id), HandsOff, "{action}: not ours");
        Ok(())
    }

    fn check_creation(
        &mut self,
        action: &Ec2Action,
        request: &CreateNetworkInterface,
        because: Because,
    ) -> Result<(), Breach> {
        // One that may have been made is asked for again, unless the node is going away.
        let (gate, again) = (self.gate(), because == Because::Unanswered);
        hold!(gate.is_none() || again && !self.terminating, HandsOff, "{action} while {gate:?}");
        let new = self.model.tokens.insert(request.client_token.clone());
        hold!(new != again, WellFormed, "the token of {action} is new: {new}, {because}");
        let slots = u32::from(self.setup.limits.ipv4_slots());
        let blocks = blocks_of(request.ipv4);
        hold!(blocks <= slots, Limits, "{action} on ENIs of {slots}");
        if let Because::OffTarget { card, .. } | Because::NoEniOnCard { card } = because {
            self.check_room(card, action)?;
        }
        Ok(())
    }

    fn check_assignment(
        &self,
        action: &Ec2Action,
        request: &AssignPrivateIpAddresses,
    ) -> Result<(), Breach> {
        let gate = self.gate();
        hold!(gate.is_none(), HandsOff, "{action} while {gate:?}");
        hold!(blocks_of(request.amount) > 0, WellFormed, "{action}");
        let Some(eni) = self.ipam.pool().eni(request.eni) else { return Ok(()) };
        hold!(self.serves_pods(eni), HandsOff, "{action}, which serves no pods");
        let (slots, used) = (self.setup.limits.ipv4_slots(), eni.ipv4_slots_used());
        hold!(used <= u32::from(slots), Limits, "{action}: {used} slots of {slots}");
        Ok(())
    }

    fn check_unassignment(
        &self,
        action: &Ec2Action,
        request: &UnassignPrivateIpAddresses,
    ) -> Result<(), Breach> {
        hold!(!request.blocks.is_empty(), WellFormed, "{action}");
        let kinds = request.blocks.iter().map(|net| net.prefix_len());
        let one_kind = kinds.clone().min() == kinds.max();
        hold!(one_kind, WellFormed, "two kinds of block: {request:?}");
        let own = self.cloud.interface(&request.eni).and_then(|eni| eni.primary_ipv4);
        for net in &request.blocks {
            hold!(Some(net.addr()) != own, PrimaryAddress, "{action}: {net}");
            self.check_unused(request.eni, IpNet::V4(*net))?;
        }
        Ok(())
    }

    /// Returns whether pods may have addresses of an ENI.
    pub(super) fn serves_pods(&self, eni: &Eni) -> bool {
        eni.is_managed()
            && !eni.excluded
            && eni.interface_type != InterfaceType::Trunk
            && !(self.config.custom_networking && eni.is_primary())
    }

    /// Returns whether the tag of an ENI names this instance, or the ENI is gone.
    pub(super) fn is_made_for_us(&self, id: EniId) -> bool {
        self.cloud.interface(&id).is_none_or(|eni| {
            let owner = eni.tags.get(Scope::INSTANCE_TAG).map(String::as_str);
            owner == Some(self.node.instance.as_str())
        })
    }

    /// Checks that a card has room for an ENI that is about to be made, which core counts already.
    pub(super) fn check_room(&self, card: Card, action: &Ec2Action) -> Result<(), Breach> {
        let of_type = self.setup.limits.enis(card);
        let most = self.config.enis_max.map_or(of_type, |most| most.min(of_type));
        let held = self
            .ipam
            .pool()
            .enis()
            .iter()
            .filter(|eni| eni.card == card && eni.occupies_slot() && eni.has_slot());
        let coming = self.ipam.pool().creations().values().filter(|c| c.card == card).count();
        let enis = held.count() + coming;
        hold!(enis <= usize::from(most), Limits, "{action} makes {enis} of {most} on {card}");
        Ok(())
    }
}
