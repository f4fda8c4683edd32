//! What issuing an action changes.

use ipnet::IpNet;

use crate::ipam::{InFlight, Ipam};
use crate::pool::{Creation, Ec2Call, Ec2CallKind};
use crate::{
    Action, ActionId, Because, Card, DeviceIndex, Ec2Action, EniAttribute, EniId, HostAction,
    Ipv4Amount, Issued, Planned, Scope, Stage, Timestamp,
};

impl Ipam {
    /// Marks in the pool what an action is about to change, and hands the action out.
    pub(super) fn issue(&mut self, planned: Planned, now: Timestamp) {
        let id = ActionId(self.next_id);
        self.next_id += 1;
        if let Because::NeverServed { eni } = planned.because {
            self.on_never_served(eni, now);
        }
        match &planned.action {
            Action::Ec2(action) => self.on_ec2_issued(id, action, planned.because.clone(), now),
            Action::Host(action) => self.on_host_issued(id, action),
        }
        let Planned { action, because } = planned.clone();
        let in_flight = InFlight { planned, issued_at: now, before_clock_set_back: false };
        self.in_flight.insert(id, in_flight);
        self.actions.push_back(Issued { id, action, because });
    }

    pub(super) fn on_ec2_issued(
        &mut self,
        id: ActionId,
        action: &Ec2Action,
        because: Because,
        now: Timestamp,
    ) {
        if let Some(operation) = action.operation() {
            self.calls.spent.on_call(&self.calls.budget, operation, now);
        }
        let reads = &mut self.reads;
        match action {
            Ec2Action::CreateNetworkInterface(request) => {
                self.on_creation_issued(id, request, because);
            }
            Ec2Action::AttachNetworkInterface(attach) => {
                self.pool.on_slot_chosen(attach.eni, attach.card, attach.device);
            }
            Ec2Action::UnassignPrivateIpAddresses(_) | Ec2Action::UnassignIpv6Addresses(_) => {
                self.pool.shrunk_at = Some(now);
            }
            Ec2Action::DeleteNetworkInterface(delete) => {
                if let Some(eni) = self.pool.eni_mut(delete.eni) {
                    eni.on_leave();
                }
            }
            Ec2Action::DescribeNetworkInterfaces(Scope::Attached) => reads.attached.call = Some(id),
            Ec2Action::DescribeNetworkInterfaces(Scope::Unattached) => {
                reads.unattached.call = Some(id);
            }
            Ec2Action::DescribeNetworkInterfaces(Scope::Only(_)) => {
                reads.unconfirmed.call = Some(id);
            }
            Ec2Action::DescribeSubnets => reads.subnets.call = Some(id),
            Ec2Action::ReadMetadata => reads.metadata.call = Some(id),
            Ec2Action::ModifyNetworkInterfaceAttribute(_)
            | Ec2Action::AssignPrivateIpAddresses(_)
            | Ec2Action::AssignIpv6Addresses(_)
            | Ec2Action::DetachNetworkInterface(_)
            | Ec2Action::CreateTags(_) => {}
        }
        let called = eni_call(action);
        let called = called.and_then(|(eni, kind)| Some((self.pool.eni_mut(eni)?, kind)));
        if let Some((eni, kind)) = called {
            if let Ec2CallKind::Unassign(nets) = &kind {
                eni.edit_blocks(|block| {
                    if nets.contains(&block.net()) {
                        block.on_release_asked(now);
                    }
                });
            }
            eni.ec2_call = Some(Ec2Call { id, kind });
        }
    }

    pub(super) fn on_creation_issued(
        &mut self,
        id: ActionId,
        request: &crate::CreateNetworkInterface,
        because: Because,
    ) {
        let creations = self.pool.creations_mut();
        let before = creations.iter().find(|(_, c)| c.request.client_token == request.client_token);
        let before = before.map(|(id, _)| *id);
        if let Some(creation) = before.and_then(|before| creations.remove(&before)) {
            creations.insert(id, Creation { called: true, repeat_at: None, ..creation });
            return;
        }
        let card = match because {
            Because::OffTarget { card, .. } | Because::NoEniOnCard { card } => card,
            _ => Card(0),
        };
        self.tokens.on_used();
        // The planner made sure that there is one.
        let mut devices = (0..self.limits.enis(card)).map(DeviceIndex);
        let Some(device) = devices.find(|device| self.pool.is_device_free(card, *device)) else {
            return;
        };
        let request = request.clone();
        let creation =
            Creation { request, card, device, repeat_at: None, attempts: 0, called: true };
        self.pool.creations_mut().insert(id, creation);
    }

    pub(super) fn on_host_issued(&mut self, id: ActionId, action: &HostAction) {
        let (HostAction::SetUpEni(link) | HostAction::RemoveEni(link)) = action;
        if let Some(eni) = self.pool.eni_mut(link.eni) {
            if matches!(action, HostAction::RemoveEni(_))
                && matches!(eni.stage, Stage::Attached | Stage::Ready)
            {
                eni.on_leave();
            }
            eni.host_call = Some(id);
        }
    }
}

/// Returns the ENI that a call is about, and what the call will change of it.
fn eni_call(action: &Ec2Action) -> Option<(EniId, Ec2CallKind)> {
    Some(match action {
        Ec2Action::AttachNetworkInterface(attach) => (attach.eni, Ec2CallKind::Attach),
        Ec2Action::ModifyNetworkInterfaceAttribute(modify) => {
            let kind = match &modify.attribute {
                EniAttribute::DeleteOnTermination(_) => Ec2CallKind::MarkDeleteOnTermination,
                EniAttribute::Groups(groups) => Ec2CallKind::SetGroups(groups.clone()),
            };
            (modify.eni, kind)
        }
        Ec2Action::AssignPrivateIpAddresses(assign) => {
            let (blocks, prefixes) = match assign.amount {
                Ipv4Amount::Addresses(blocks) => (blocks.into(), false),
                Ipv4Amount::Prefixes(blocks) => (blocks.into(), true),
            };
            (assign.eni, Ec2CallKind::AssignIpv4 { blocks, prefixes })
        }
        Ec2Action::AssignIpv6Addresses(assign) => (assign.eni, Ec2CallKind::AssignIpv6),
        Ec2Action::UnassignPrivateIpAddresses(unassign) => {
            let nets = unassign.blocks.iter().copied().map(IpNet::V4).collect();
            (unassign.eni, Ec2CallKind::Unassign(nets))
        }
        Ec2Action::UnassignIpv6Addresses(unassign) => {
            let nets = unassign.prefixes.iter().copied().map(IpNet::V6).collect();
            (unassign.eni, Ec2CallKind::Unassign(nets))
        }
        Ec2Action::DetachNetworkInterface(detach) => (detach.eni, Ec2CallKind::Detach),
        Ec2Action::DeleteNetworkInterface(delete) => (delete.eni, Ec2CallKind::Delete),
        Ec2Action::CreateTags(create) => (create.eni, Ec2CallKind::Tag(create.tags.clone())),
        Ec2Action::CreateNetworkInterface(_)
        | Ec2Action::DescribeNetworkInterfaces(_)
        | Ec2Action::DescribeSubnets
        | Ec2Action::ReadMetadata => return None,
    })
}
