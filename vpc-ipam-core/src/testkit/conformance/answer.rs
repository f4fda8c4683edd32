//! What holds of every answer, whatever was asked.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString as _};

use ipnet::IpNet;

use super::suite::{RUN_TAG, Suite};
use crate::{
    CreateNetworkInterface, Ec2Action, Effect, EniId, InterfaceType, Mac, Observation, ObservedEni,
    ObservedSubnet, Scope, Source, Timestamp,
};

const EFFECT: &str = "the effect is that of the action";
const NAMED: &str = "an observation is as old as its question, and names source and scope";
const WITHIN: &str = "a list holds nothing but what was asked for";
const ONCE: &str = "a list names each ENI, MAC address, block and subnet once";
const BLOCKS: &str =
    "blocks are whole /32, /28 and /80, and an ENI's own addresses are not among them";
const COMPLETE: &str = "an ENI is shown with its MAC address, VPC, security groups, tags and kind";
const SUBNETS: &str =
    "a subnet is shown with its ranges, and with no more free addresses than it has";

impl Suite<'_> {
    /// Checks an answer, and takes note of an ENI that was made.
    pub(super) fn judge(&mut self, action: &Ec2Action, effect: &Effect, asked: Timestamp) {
        match (action, effect) {
            (Ec2Action::CreateNetworkInterface(request), Effect::Created(eni))
                if self.is_ours(request, eni) =>
            {
                self.made.insert(eni.id);
            }
            _ => {}
        }
        self.note(EFFECT, fits(action, effect));
        match (action, effect) {
            (Ec2Action::CreateNetworkInterface(_), Effect::Created(eni)) => {
                self.judge_eni(eni, Source::Ec2);
            }
            (Ec2Action::DescribeNetworkInterfaces(scope), Effect::Observed(seen)) => {
                self.judge_observation(seen, Source::Ec2, scope, asked);
            }
            (Ec2Action::ReadMetadata, Effect::Metadata(metadata)) => {
                let seen = &metadata.observation;
                self.judge_observation(seen, Source::Imds, &Scope::Attached, asked);
            }
            (Ec2Action::DescribeSubnets, Effect::Subnets(subnets)) => self.judge_subnets(subnets),
            _ => {}
        }
    }

    /// Returns whether an ENI may be the answer to a creation. One that another program made is never changed, whatever an
    /// executor says: it was there before, is attached, or carries tags that were not asked for.
    fn is_ours(&self, request: &CreateNetworkInterface, eni: &ObservedEni) -> bool {
        let tags = || eni.tags.iter().flatten();
        let of_this_run = tags().any(|(key, value)| key == RUN_TAG && *value == self.run);
        let asked_for = tags().all(|(key, value)| request.tags.get(key) == Some(value));
        !self.was_there(eni.id) && eni.attachment.is_none() && (of_this_run || asked_for)
    }

    /// Returns whether an ENI was there before the run, so that it is none of the suite's.
    pub(super) fn was_there(&self, eni: EniId) -> bool {
        self.attached_before.contains(&eni)
            || self.unattached_before.contains(&eni)
            || eni == self.node.primary
    }

    fn note(&mut self, name: &'static str, result: Result<(), String>) {
        match result {
            Ok(()) => self.sound(name),
            Err(seen) => self.unsound(name, seen),
        }
    }

    fn judge_observation(
        &mut self,
        seen: &Observation,
        source: Source,
        scope: &Scope,
        asked: Timestamp,
    ) {
        // Reading the metadata takes a while; a list of EC2 is as old as its question, and no older.
        let age = match source {
            Source::Ec2 => seen.as_of == asked,
            Source::Imds => seen.as_of >= asked,
        };
        let named = age && seen.source == source && seen.scope == *scope;
        let expected = || format!("expected {source:?}, {scope:?}, as of {asked}");
        self.note(
            NAMED,
            holds(named, || {
                format!(
                    "{}, saw {:?}, {:?}, as of {}",
                    expected(),
                    seen.source,
                    seen.scope,
                    seen.as_of
                )
            }),
        );
        let mut ids = BTreeSet::new();
        let mut macs = BTreeSet::new();
        for eni in &seen.enis {
            let twice = !ids.insert(eni.id) || !macs.insert(eni.mac);
            self.note(
                ONCE,
                holds(!twice, || {
                    let (id, mac) = (eni.id, eni.mac);
                    format!("{scope:?}: expected {id} and {mac} once, saw one of them twice")
                }),
            );
            let within = self.is_within(eni, scope);
            self.note(WITHIN, within);
            self.judge_eni(eni, source);
        }
        if source == Source::Ec2 {
            let whole = seen.incomplete.is_empty();
            self.note(
                COMPLETE,
                holds(whole, || {
                    format!("expected no ENI that EC2 tells half of, saw {:?}", seen.incomplete)
                }),
            );
        }
    }

    /// Checks that an ENI belongs into a list of a scope.
    fn is_within(&self, eni: &ObservedEni, scope: &Scope) -> Result<(), String> {
        let (id, own) = (eni.id, self.node.instance);
        let instance = eni.attachment.as_ref().map(|attachment| attachment.instance);
        match scope {
            Scope::Attached => holds(instance == Some(own), || {
                let to = instance.map_or("nothing".to_string(), |it| it.to_string());
                format!("Attached: expected ENIs attached to {own}, saw {id}, attached to {to}")
            }),
            Scope::Unattached => {
                let owner = eni.tags.as_ref().and_then(|tags| tags.get(Scope::INSTANCE_TAG));
                let ours = owner.map(String::as_str) == Some(own.as_str());
                holds(instance.is_none() && ours, || {
                    format!(
                        "Unattached: expected ENIs tagged {own} and attached to nothing, saw {id}, tagged \
                         {owner:?} and attached to {instance:?}"
                    )
                })
            }
            Scope::Only(ids) => {
                holds(ids.contains(&id), || format!("Only: expected some of {ids:?}, saw {id}"))
            }
        }
    }

    fn judge_eni(&mut self, eni: &ObservedEni, source: Source) {
        let id = eni.id;
        let mut blocks = BTreeSet::new();
        for block in &eni.blocks {
            let twice = !blocks.insert(*block);
            self.note(ONCE, holds(!twice, || format!("{id}: expected {block} once, saw it twice")));
            let whole = match block {
                IpNet::V4(net) => matches!(net.prefix_len(), 28 | 32),
                IpNet::V6(net) => net.prefix_len() == 80,
            };
            self.note(
                BLOCKS,
                holds(whole && *block == block.trunc(), || {
                    format!("{id}: expected whole /32, /28 and /80 among its blocks, saw {block}")
                }),
            );
            let v4 = eni
                .primary_ipv4
                .is_some_and(|own| block.contains(&IpNet::from(core::net::IpAddr::V4(own))));
            let v6 = eni
                .primary_ipv6
                .is_some_and(|own| block.contains(&IpNet::from(core::net::IpAddr::V6(own))));
            self.note(
                BLOCKS,
                holds(!v4 && !v6, || {
                    format!("{id}: expected no address of its own among its blocks, saw {block}")
                }),
            );
        }
        let complete = self.is_complete(eni, source);
        self.note(COMPLETE, complete);
    }

    fn is_complete(&self, eni: &ObservedEni, source: Source) -> Result<(), String> {
        let (id, node) = (eni.id, &self.node);
        let Mac(mac) = eni.mac;
        let unicast = mac[0] & 1 == 0 && mac != [0; 6];
        holds(unicast, || format!("{id}: expected the MAC address of a link, saw {}", eni.mac))?;
        let ordinary = eni.interface_type != InterfaceType::EfaOnly;
        holds(!ordinary || eni.primary_ipv4.is_some() || eni.primary_ipv6.is_some(), || {
            format!("{id}: expected an address of its own, saw none")
        })?;
        let groups = !eni.security_groups.is_empty();
        holds(groups, || format!("{id}: expected its security groups, saw none"))?;
        if source == Source::Ec2 {
            holds(eni.tags.is_some(), || {
                format!("{id}: expected its tags, saw that they are not told")
            })?;
            holds(eni.vpc.is_some(), || {
                format!("{id}: expected its VPC, saw that it is not told")
            })?;
            let told = eni.attachment.as_ref().is_none_or(|attachment| {
                attachment.id.is_some() && attachment.delete_on_termination.is_some()
            });
            holds(told, || {
                format!("{id}: expected an id and delete-on-termination, saw {:?}", eni.attachment)
            })?;
        }
        // An instance is in one VPC; some have ENIs of a second one, but no ENI in the node's own subnet is such.
        let strange = eni.subnet == node.subnet && eni.vpc.is_some_and(|vpc| vpc != node.vpc);
        holds(!strange, || format!("{id}: expected {}, saw {:?}", node.vpc, eni.vpc))
    }

    fn judge_subnets(&mut self, subnets: &[ObservedSubnet]) {
        let mut ids = BTreeSet::new();
        for subnet in subnets {
            let id = subnet.id;
            let twice = !ids.insert(id);
            self.note(ONCE, holds(!twice, || format!("expected {id} once, saw it twice")));
            let near = (subnet.vpc, subnet.zone) == (self.node.vpc, self.node.zone);
            self.note(
                WITHIN,
                holds(near, || {
                    let (vpc, zone) = (self.node.vpc, self.node.zone);
                    format!(
                        "expected subnets of {vpc} in {zone}, saw {id} of {} in {}",
                        subnet.vpc, subnet.zone
                    )
                }),
            );
            let legal = subnet.ipv4_cidr == subnet.ipv4_cidr.trunc()
                && (16..=28).contains(&subnet.ipv4_cidr.prefix_len());
            self.note(
                SUBNETS,
                holds(legal, || {
                    format!("{id}: expected a range from /16 to /28, saw {}", subnet.ipv4_cidr)
                }),
            );
            let ipv6 =
                subnet.ipv6_cidr.is_none_or(|net| net == net.trunc() && net.prefix_len() >= 44);
            self.note(
                SUBNETS,
                holds(ipv6, || {
                    format!("{id}: expected a whole range of IPv6, saw {:?}", subnet.ipv6_cidr)
                }),
            );
            // Four addresses at the beginning and the last one are EC2's.
            let most = (1_u32 << (32 - subnet.ipv4_cidr.prefix_len().clamp(16, 28))) - 5;
            let free = subnet.ipv4_addresses_free;
            self.note(
                SUBNETS,
                holds(free <= most, || {
                    format!("{id}: expected {most} free addresses at most, saw {free}")
                }),
            );
        }
    }
}

/// Checks that an effect is one of those that an action has.
fn fits(action: &Ec2Action, effect: &Effect) -> Result<(), String> {
    let (fits, expected) = match action {
        Ec2Action::CreateNetworkInterface(_) => (matches!(effect, Effect::Created(_)), "Created"),
        Ec2Action::AttachNetworkInterface(_) => (matches!(effect, Effect::Attached(_)), "Attached"),
        Ec2Action::AssignPrivateIpAddresses(_) | Ec2Action::AssignIpv6Addresses(_) => {
            (matches!(effect, Effect::Assigned(_)), "Assigned")
        }
        Ec2Action::DescribeNetworkInterfaces(_) => {
            (matches!(effect, Effect::Observed(_)), "Observed")
        }
        Ec2Action::DescribeSubnets => (matches!(effect, Effect::Subnets(_)), "Subnets"),
        Ec2Action::ReadMetadata => (matches!(effect, Effect::Metadata(_)), "Metadata"),
        Ec2Action::ModifyNetworkInterfaceAttribute(_)
        | Ec2Action::UnassignPrivateIpAddresses(_)
        | Ec2Action::UnassignIpv6Addresses(_)
        | Ec2Action::DetachNetworkInterface(_)
        | Ec2Action::DeleteNetworkInterface(_)
        | Ec2Action::CreateTags(_) => (*effect == Effect::Done, "Done"),
    };
    holds(fits, || format!("{action}: expected {expected}, saw {effect:?}"))
}

pub(super) fn holds(holds: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen()) }
}
