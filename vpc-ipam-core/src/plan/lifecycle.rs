//! The next step of each ENI's life, whatever the pool wants.

use alloc::collections::BTreeMap;

use ipnet::IpNet;

use super::{Because, EniLimit, Planner, WaitingOn, Wanted, is_ready};
use crate::pool::{Eni, Leaving, Stage};
use crate::{
    AssignIpv6Addresses, AttachNetworkInterface, Card, CreateTags, DeleteNetworkInterface,
    DetachNetworkInterface, DeviceIndex, Ec2Action, EniAttribute, Families, HostAction,
    InterfaceType, ModifyNetworkInterfaceAttribute, tags,
};

impl Planner<'_> {
    pub(super) fn lifecycle(&mut self) {
        self.repeat_creations();
        let tags = tags::wanted(self.config);
        for eni in self.pool.enis() {
            if eni.is_managed() {
                self.on_host_side(eni);
                self.on_ec2_side(eni, &tags);
            }
        }
    }

    /// A creation whose call got no answer is asked for again with its token, which yields the same ENI.
    fn repeat_creations(&mut self) {
        for creation in self.pool.creations().values().filter(|creation| !creation.called) {
            let wanted = Wanted::Eni { card: creation.card };
            match creation.repeat_at {
                Some(until) if until > self.now => self.hold(wanted, WaitingOn::Time { until }),
                _ => {
                    let action = Ec2Action::CreateNetworkInterface(creation.request.clone());
                    self.call(action, None, wanted, Because::Unanswered);
                }
            }
        }
    }

    fn on_host_side(&mut self, eni: &Eni) {
        let wanted = Wanted::NextStep(eni.id);
        let because = match eni.stage {
            Stage::Attached => Because::NotSetUp,
            Stage::Leaving(Leaving::Host) => Because::Leaving,
            Stage::Leaving(Leaving::Vanished) => Because::Vanished,
            Stage::Available
            | Stage::Ready
            | Stage::Leaving(Leaving::Detach | Leaving::Delete { .. }) => return,
        };
        // What is under way for an ENI that seems to be gone may show that it is not.
        let under_way = eni.ec2_call.as_ref().filter(|_| because == Because::Vanished);
        if let Some(id) = eni.host_call.or(under_way.map(|call| call.id)) {
            self.hold(wanted, WaitingOn::Outcome(id));
            return;
        }
        let Some(link) = self.link(eni) else {
            self.hold(wanted, WaitingOn::Subnets);
            return;
        };
        let action = match because {
            Because::NotSetUp => HostAction::SetUpEni(link),
            _ => HostAction::RemoveEni(link),
        };
        self.on_host(eni.id, action, wanted, because);
    }

    fn on_ec2_side(
        &mut self,
        eni: &Eni,
        tags: &BTreeMap<alloc::string::String, alloc::string::String>,
    ) {
        if !self.config.provisioning {
            return;
        }
        let Some((action, because)) = self.next_ec2_step(eni, tags) else {
            return;
        };
        let wanted = Wanted::NextStep(eni.id);
        match self.waits_for(eni) {
            Some(waiting_on) => self.hold(wanted, waiting_on),
            None => {
                self.call(action, Some(eni.id), wanted, because);
            }
        }
    }

    fn next_ec2_step(
        &mut self,
        eni: &Eni,
        tags: &BTreeMap<alloc::string::String, alloc::string::String>,
    ) -> Option<(Ec2Action, Because)> {
        let id = eni.id;
        if matches!(eni.stage, Stage::Leaving(Leaving::Detach | Leaving::Delete { .. }))
            && let Some(waiting_on) = self.user_of(eni)
        {
            self.hold(Wanted::NextStep(id), waiting_on);
            return None;
        }
        match eni.stage {
            Stage::Available => return self.attach_or_wait(eni),
            Stage::Attached | Stage::Ready => {}
            Stage::Leaving(Leaving::Host | Leaving::Vanished) => return None,
            Stage::Leaving(Leaving::Detach) => {
                // Without the attachment's id EC2 cannot be told; the doubt about it brings the id.
                let attachment = eni.attachment?;
                let action = Ec2Action::DetachNetworkInterface(DetachNetworkInterface {
                    eni: id,
                    attachment,
                });
                return Some((action, Because::Leaving));
            }
            Stage::Leaving(Leaving::Delete { not_before }) => {
                if not_before > self.now {
                    self.hold(Wanted::NextStep(id), WaitingOn::Time { until: not_before });
                    return None;
                }
                let action = Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni: id });
                return Some((action, Because::Leaving));
            }
        }

        let ours = eni.tag(tags::INSTANCE) == Some(self.constraints.node.instance.as_str());
        if ours
            && !eni.delete_on_termination
            && let Some(attachment) = eni.attachment
        {
            let attribute = EniAttribute::DeleteOnTermination(attachment);
            let modify = ModifyNetworkInterfaceAttribute { eni: id, attribute };
            let action = Ec2Action::ModifyNetworkInterfaceAttribute(modify);
            return Some((action, Because::NotDeletedOnTermination));
        }
        if self.needs_ipv6_prefix(eni) {
            let action =
                Ec2Action::AssignIpv6Addresses(AssignIpv6Addresses { eni: id, prefixes: 1 });
            return Some((action, Because::NoIpv6Prefix));
        }
        let groups = &self.constraints.security_groups;
        let follows = !self.config.custom_networking && !eni.is_primary();
        let theirs = &eni.security_groups;
        let differ =
            || theirs.len() != groups.len() || theirs.iter().any(|it| !groups.contains(it));
        if follows && !groups.is_empty() && differ() {
            let attribute = EniAttribute::Groups(groups.clone());
            let modify = ModifyNetworkInterfaceAttribute { eni: id, attribute };
            let action = Ec2Action::ModifyNetworkInterfaceAttribute(modify);
            return Some((action, Because::GroupsDiffer));
        }
        let missing: BTreeMap<_, _> = tags
            .iter()
            .filter(|(key, value)| eni.tag(key) != Some(value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !missing.is_empty() && eni.interface_type != InterfaceType::Trunk {
            let action = Ec2Action::CreateTags(CreateTags { eni: id, tags: missing });
            return Some((action, Because::TagsDiffer));
        }
        None
    }

    /// Returns what has to be over before an ENI can go, if it came up after the decision to give it back.
    fn user_of(&self, eni: &Eni) -> Option<WaitingOn> {
        match self.cooled_at(eni) {
            Some(until) => Some(WaitingOn::Cooling { until }),
            None if eni.is_idle(self.now, self.serving.cooldown) => None,
            None => Some(WaitingOn::UnknownOwner(eni.id)),
        }
    }

    /// An ENI that was made is attached. One that was left from before a restart has no place yet: it gets one if there
    /// is room, and goes if not.
    fn attach_or_wait(&mut self, eni: &Eni) -> Option<(Ec2Action, Because)> {
        if let Some(gate) = self.growth_gate() {
            self.hold(Wanted::NextStep(eni.id), gate);
            return None;
        }
        let device = if eni.is_placed() {
            eni.device
        } else if let Some((id, _)) = self.pool.creations().iter().find(|(_, c)| c.called) {
            // It may be what that call makes.
            self.hold(Wanted::NextStep(eni.id), WaitingOn::Outcome(*id));
            return None;
        } else if self.eni_room(eni.card).is_ok()
            && let Some(device) = self.place_for_eni(eni.card)
        {
            device
        } else if !eni.is_idle(self.now, self.serving.cooldown) {
            // It was detached with its pods: it waits for a place, or for the pods to go.
            let limit = EniLimit::InstanceType(self.limits.enis(eni.card));
            let limit = self.eni_room(eni.card).err().unwrap_or(limit);
            self.hold(Wanted::NextStep(eni.id), WaitingOn::EniLimit(limit));
            return None;
        } else {
            let action = Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni: eni.id });
            return Some((action, Because::NoPlace));
        };
        let attach = AttachNetworkInterface {
            eni: eni.id,
            instance: self.constraints.node.instance,
            card: eni.card,
            device,
        };
        Some((Ec2Action::AttachNetworkInterface(attach), Because::NotAttached))
    }

    fn needs_ipv6_prefix(&self, eni: &Eni) -> bool {
        let wanted = match self.config.families {
            Families::Ipv4(_) => false,
            // One prefix serves every pod of a card, so the first ENI is enough.
            Families::Ipv6 => {
                let earlier = |other: &&Eni| {
                    other.card == eni.card
                        && (other.device, other.id) < (eni.device, eni.id)
                        && self.serving.takes_pods(other)
                };
                eni.card != Card(0) && self.pool.enis().iter().find(earlier).is_none()
                    || eni.is_primary()
            }
            Families::Dual(_) => true,
        };
        wanted
            && is_ready(eni)
            && self.serving.takes_pods(eni)
            && !eni.blocks().iter().any(|block| matches!(block.net(), IpNet::V6(_)))
    }

    /// Returns the lowest free device index of a card that this plan does not fill already, and remembers it as filled.
    pub(super) fn place_for_eni(&mut self, card: Card) -> Option<DeviceIndex> {
        // The instance may have unmanaged ENIs at any index below EC2's own limit.
        let limit = self.limits.enis(card);
        let taken = |device| {
            self.created.contains(&(card, device)) || !self.pool.is_device_free(card, device)
        };
        let device = (0..limit).map(DeviceIndex).find(|device| !taken(*device))?;
        self.created.push((card, device));
        Some(device)
    }
}
