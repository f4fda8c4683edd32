//! What is learned of how much a subnet and an ENI have left.

use ipnet::IpNet;

use crate::ipam::Ipam;
use crate::model::action::PREFIX_SIZE;
use crate::plan::backoff::{about, asks_for_prefixes};
use crate::plan::learned::AskedOf;
use crate::{Ec2Action, Eni, EniId, FailureKind, Ipv4Amount, SubnetId, Timestamp};

impl Ipam {
    /// Counts what a subnet gave off what it has free, and lets more be asked for at a time.
    pub(super) fn on_ipv4_had(&mut self, subnet: SubnetId, amount: Ipv4Amount, own: u32) {
        let (addresses, of, blocks) = match amount {
            Ipv4Amount::Addresses(n) => (u32::from(n), AskedOf::Addresses(subnet), n),
            Ipv4Amount::Prefixes(n) => (u32::from(n) * PREFIX_SIZE, AskedOf::Prefixes(subnet), n),
        };
        self.learned.on_had(of, blocks);
        if matches!(amount, Ipv4Amount::Prefixes(_)) {
            self.surroundings.subnets.fragmented.remove(&subnet);
        }
        if let Some(subnet) = self.surroundings.subnets.list.iter_mut().find(|it| it.id == subnet) {
            let taken = addresses.saturating_add(own);
            subnet.ipv4_addresses_free = subnet.ipv4_addresses_free.saturating_sub(taken);
        }
    }

    pub(super) fn on_ipv4_freed(&mut self, subnet: SubnetId, nets: &[IpNet]) {
        let sizes = nets.iter().map(|net| match net {
            IpNet::V4(net) if net.prefix_len() < 32 => PREFIX_SIZE,
            IpNet::V4(_) => 1,
            IpNet::V6(_) => 0,
        });
        let freed: u32 = sizes.sum();
        if let Some(subnet) = self.surroundings.subnets.list.iter_mut().find(|it| it.id == subnet) {
            subnet.ipv4_addresses_free = subnet.ipv4_addresses_free.saturating_add(freed);
        }
    }

    /// Where there is too little for all that was asked for, there may be enough for less. Returns whether that can be asked for
    /// at once: not for another ENI, which takes an address of its own besides.
    pub(super) fn can_ask_for_less(
        &mut self,
        action: &Ec2Action,
        subnet: Option<SubnetId>,
        kind: FailureKind,
        now: Timestamp,
    ) -> bool {
        let until = now + self.config.timing.subnet_backoff.saturating_mul(4);
        let amount = match action {
            Ec2Action::CreateNetworkInterface(request) => request.ipv4,
            Ec2Action::AssignPrivateIpAddresses(request) => request.amount,
            _ => return false,
        };
        let (Ipv4Amount::Addresses(blocks) | Ipv4Amount::Prefixes(blocks)) = amount;
        match (kind, subnet, about(action)) {
            (FailureKind::SubnetFull | FailureKind::NoFreePrefix, Some(subnet), _) => {
                let of = if asks_for_prefixes(action) {
                    AskedOf::Prefixes(subnet)
                } else {
                    AskedOf::Addresses(subnet)
                };
                let fewer = self.learned.on_too_many(of, blocks, until);
                if asks_for_prefixes(action) && !fewer {
                    self.surroundings.subnets.on_no_prefix(subnet);
                }
                fewer && about(action).is_some()
            }
            (FailureKind::AddressLimit, _, Some(eni)) if self.learn_slots(eni, blocks, now) => {
                self.learned.on_too_many(AskedOf::Eni(eni), blocks, until);
                true
            }
            _ => false,
        }
    }

    /// An ENI refused so many further blocks. If EC2 showed lately what it has, its limit is lower than its type's. Returns
    /// whether that was learned.
    pub(super) fn learn_slots(&mut self, id: EniId, refused: u16, now: Timestamp) -> bool {
        let eventual_consistency = self.config.timing.eventual_consistency;
        let Some(eni) = self.pool.eni(id) else { return false };
        if now.since(eni.confirmed_at) > eventual_consistency {
            // It may have blocks that are not known.
            return false;
        }
        let most = blocks_of(eni).saturating_add(u32::from(refused)).saturating_sub(1);
        let most = u16::try_from(most).unwrap_or(u16::MAX);
        let learned = &mut self.learned;
        let lower = learned.eni_slots(id, now).unwrap_or(self.limits.ipv4_slots()) > most;
        if lower {
            learned.on_eni_slots(id, most, now);
        }
        lower
    }
}

/// Returns how many IPv4 blocks an ENI has.
pub(super) fn blocks_of(eni: &Eni) -> u32 {
    eni.tallies().addresses.held + eni.tallies().prefixes.held
}
