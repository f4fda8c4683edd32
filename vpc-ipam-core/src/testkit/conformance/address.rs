use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::answer::holds;
use super::suite::Suite;
use crate::{
    AssignIpv6Addresses, AssignPrivateIpAddresses, Ec2Action, Effect, EniId, FailureKind,
    Ipv4Amount, UnassignIpv6Addresses, UnassignPrivateIpAddresses,
};

/// Assigning addresses and prefixes to an ENI, and releasing them: those alone, and all of them.
impl Suite<'_> {
    pub(super) fn addresses(&mut self, eni: EniId) {
        const ONE: &str = "one address is released, and no other";
        const SINGLE: &str =
            "single addresses are assigned, as many as asked for, and named as /32";
        const RELEASED: &str = "single addresses are released";
        const PREFIX: &str = "a prefix is assigned, and named as a /28";
        let first = self.addresses_of(eni).first().copied();
        match first {
            Some(first) => {
                self.unassign(ONE, eni, &[first]);
                let kinds = [FailureKind::Rejected, FailureKind::NotFound];
                let again = self.refused(&unassignment(eni, &[first]), &kinds);
                let name = "what an ENI does not have is refused, and not counted as lost";
                self.check_shown(name, again);
            }
            None => self.not_applicable(ONE, "the ENI has no address"),
        }
        if self.room(eni) == 0 {
            self.not_applicable(SINGLE, "the type has no slot for a further block");
        } else {
            let count = self.room(eni).min(3);
            self.assign(SINGLE, eni, Ipv4Amount::Addresses(count));
        }
        self.one_too_many(eni);
        let single = self.addresses_of(eni);
        if single.is_empty() {
            self.not_applicable(RELEASED, "the ENI has no address");
        } else {
            self.unassign(RELEASED, eni, &single);
        }
        if !self.limits.prefixes() || self.room(eni) == 0 {
            self.not_applicable(PREFIX, "the type takes no prefix");
        } else {
            let prefix = self.assign(PREFIX, eni, Ipv4Amount::Prefixes(1));
            if !prefix.is_empty() {
                self.unassign("a prefix is released", eni, &prefix);
            }
        }
        self.ipv6(eni);
    }

    /// Returns the single addresses that an ENI should have.
    fn addresses_of(&self, eni: EniId) -> Vec<Ipv4Net> {
        let blocks = self.expected.get(&eni).map_or(&[][..], |eni| &eni.blocks);
        let single = |net: &IpNet| match net {
            IpNet::V4(net) if net.prefix_len() == 32 => Some(*net),
            IpNet::V4(_) | IpNet::V6(_) => None,
        };
        blocks.iter().filter_map(single).collect()
    }

    /// Returns how many blocks of IPv4 more an ENI takes.
    fn room(&self, eni: EniId) -> u16 {
        let has = self
            .expected
            .get(&eni)
            .map_or(0, |eni| eni.blocks.iter().filter(|net| matches!(net, IpNet::V4(_))).count());
        self.limits.ipv4_slots().saturating_sub(u16::try_from(has).unwrap_or(u16::MAX))
    }

    fn assign(&mut self, name: &'static str, eni: EniId, amount: Ipv4Amount) -> Vec<Ipv4Net> {
        let call = AssignPrivateIpAddresses { eni, amount };
        let (count, length) = match amount {
            Ipv4Amount::Addresses(count) => (count, 32),
            Ipv4Amount::Prefixes(count) => (count, 28),
        };
        let assigned = self.assigned(&Ec2Action::AssignPrivateIpAddresses(call));
        let assigned = assigned.and_then(|blocks| {
            let ipv4 = blocks.iter().filter_map(|net| match net {
                IpNet::V4(net) if net.prefix_len() == length => Some(*net),
                IpNet::V4(_) | IpNet::V6(_) => None,
            });
            let ipv4: Vec<Ipv4Net> = ipv4.collect();
            let right = ipv4.len() == usize::from(count) && ipv4.len() == blocks.len();
            holds(right, || format!("{eni}: expected {count} of /{length}, saw {blocks:?}"))?;
            Ok(ipv4)
        });
        match assigned {
            Ok(blocks) => {
                if let Some(expected) = self.expected.get_mut(&eni) {
                    expected.blocks.extend(blocks.iter().copied().map(IpNet::V4));
                }
                self.check_shown(name, Ok(()));
                blocks
            }
            Err(seen) => {
                self.not_done(name, seen);
                Vec::new()
            }
        }
    }

    fn assigned(&mut self, action: &Ec2Action) -> Result<Vec<IpNet>, String> {
        match self.done(action)? {
            Effect::Assigned(blocks) => Ok(blocks),
            effect => Err(format!("{action}: expected the blocks, saw {effect:?}")),
        }
    }

    fn one_too_many(&mut self, eni: EniId) {
        const LIMIT: &str =
            "more addresses than an ENI takes fail as AddressLimit, and none is assigned";
        let attached = self.expected.get(&eni).is_some_and(|eni| eni.attachment.is_some());
        if !attached {
            self.not_applicable(LIMIT, "the ENI could not be attached: it has no limit");
            return;
        }
        let amount = Ipv4Amount::Addresses(self.room(eni).saturating_add(1));
        let call = AssignPrivateIpAddresses { eni, amount };
        let refused =
            self.refused(&Ec2Action::AssignPrivateIpAddresses(call), &[FailureKind::AddressLimit]);
        self.check_shown(LIMIT, refused);
    }

    fn ipv6(&mut self, eni: EniId) {
        const ASSIGNED: &str = "an IPv6 prefix is assigned, and named as a /80";
        const RELEASED: &str = "an IPv6 prefix is released, and no other";
        if !self.has_ipv6() {
            for name in [ASSIGNED, RELEASED] {
                self.not_applicable(name, "the subnet has no IPv6, or the type no prefixes");
            }
            return;
        }
        let call = AssignIpv6Addresses { eni, prefixes: 1 };
        let assigned = self.assigned(&Ec2Action::AssignIpv6Addresses(call));
        let assigned = assigned.and_then(|blocks| match blocks[..] {
            [IpNet::V6(prefix)] if prefix.prefix_len() == 80 => Ok(prefix),
            _ => Err(format!("{eni}: expected one /80, saw {blocks:?}")),
        });
        let prefix = match assigned {
            Ok(prefix) => prefix,
            Err(seen) => {
                self.not_done(ASSIGNED, seen);
                self.not_applicable(RELEASED, "none was assigned");
                return;
            }
        };
        if let Some(expected) = self.expected.get_mut(&eni) {
            expected.blocks.push(IpNet::V6(prefix));
        }
        self.check_shown(ASSIGNED, Ok(()));
        let done = self.just_done(&Ec2Action::UnassignIpv6Addresses(UnassignIpv6Addresses {
            eni,
            prefixes: vec![prefix],
        }));
        self.forget(eni, &[prefix].map(Ipv6Net::into), &done);
        self.check_shown(RELEASED, done);
    }

    fn unassign(&mut self, name: &'static str, eni: EniId, blocks: &[Ipv4Net]) {
        let done = self.just_done(&unassignment(eni, blocks));
        let blocks: Vec<IpNet> = blocks.iter().copied().map(IpNet::V4).collect();
        self.forget(eni, &blocks, &done);
        self.check_shown(name, done);
    }

    /// Expects blocks no longer, if they were released.
    fn forget(&mut self, eni: EniId, blocks: &[IpNet], done: &Result<(), String>) {
        if let (Ok(()), Some(expected)) = (done, self.expected.get_mut(&eni)) {
            expected.blocks.retain(|net| !blocks.contains(net));
        }
    }
}

fn unassignment(eni: EniId, blocks: &[Ipv4Net]) -> Ec2Action {
    let blocks = blocks.to_vec();
    Ec2Action::UnassignPrivateIpAddresses(UnassignPrivateIpAddresses { eni, blocks })
}
