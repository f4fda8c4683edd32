//! What the node holds, for metrics and introspection.

use core::net::IpAddr;
use std::collections::BTreeMap;

use vpc_ipam_core::{Block, Card, Eni, Ipv4Kind, Lease, Timestamp};
use vpc_ipam_linux::eni;
use vpc_ipam_protocol::{AddressHolder, AddressInUse, BlockInventory, EniInventory, Inventory};

use super::Loop;
use crate::fronts::status;
use crate::settings::in_force;

/// How many addresses a /28 has.
const PREFIX_ADDRESSES: u32 = 16;

impl Loop {
    /// Returns what the node holds, address by address. Changes nothing.
    pub(super) fn inventory(&self, now: Timestamp) -> Inventory {
        let (ipam, node) = (&self.ipam, self.ipam.node());
        let explanation = ipam.explain(now);
        let mut problems = self.sources.problems(node);
        problems.extend(self.keeper.problems(now));
        let (ready, reason) = status::readiness(&explanation.readiness, &self.sources);
        let holders = self.holders();
        let enis = ipam.pool().enis().iter();
        let (enis_max, addresses_max) = self.most();
        let (repairs, repaired) = self.keeper.counts();
        Inventory {
            ready,
            reason,
            problems,
            zone: node.zone,
            enis: enis.map(|eni| self.eni_inventory(eni, &holders, now)).collect(),
            enis_max,
            addresses_max,
            calls_left: ipam.calls_left(now).collect(),
            repairs,
            repaired,
            settings: in_force(ipam.config(), &self.keeper.node_config()),
            explanation,
        }
    }

    fn holders(&self) -> BTreeMap<IpAddr, &Lease> {
        let leases = self.ipam.pool().leases();
        leases.flat_map(|lease| lease.addresses().map(move |address| (address, lease))).collect()
    }

    fn eni_inventory(
        &self,
        eni: &Eni,
        holders: &BTreeMap<IpAddr, &Lease>,
        now: Timestamp,
    ) -> EniInventory {
        let place = || eni::table(eni.card, eni.device).0;
        EniInventory {
            id: eni.id,
            card: eni.card,
            device: eni.device,
            primary: eni.is_primary(),
            interface_type: eni.interface_type,
            stage: eni.stage,
            management: eni.management,
            excluded: eni.excluded,
            subnet: eni.subnet,
            route_table: self.links.tables.get(&eni.id).copied().unwrap_or_else(place),
            blocks: eni.blocks().iter().map(|it| self.block_inventory(it, holders, now)).collect(),
        }
    }

    fn block_inventory(
        &self,
        block: &Block,
        holders: &BTreeMap<IpAddr, &Lease>,
        now: Timestamp,
    ) -> BlockInventory {
        let in_use = block.in_use(now, self.ipam.config().cooldown);
        let in_use = in_use.map(|(address, used)| AddressInUse {
            address,
            used,
            pod: holders.get(&address).map(|lease| AddressHolder {
                key: lease.key.clone(),
                pod: (*lease.pod).clone(),
                since: lease.since,
                interfaces: lease.interfaces().count(),
            }),
        });
        BlockInventory {
            net: block.net(),
            state: block.state(),
            capacity: block.capacity(),
            in_use: in_use.collect(),
        }
    }

    /// Returns the most ENIs that the node may have for pods, and the most addresses that they carry.
    fn most(&self) -> (u32, u32) {
        let (config, limits) = (self.ipam.config(), self.ipam.limits());
        let cards = limits.cards().into_iter();
        let used: Vec<Card> =
            cards.filter(|card| config.multi_nic || *card == limits.default_card).collect();
        let of_card = |card: &Card| {
            let most = config.enis_max.filter(|most| *most > 0);
            u32::from(limits.enis(*card).min(most.unwrap_or(u8::MAX)))
        };
        let allowed: u32 = used.iter().map(of_card).sum();
        let unmanaged = |eni: &&Eni| used.contains(&eni.card) && !eni.is_managed();
        let unmanaged = self.ipam.pool().enis().iter().filter(unmanaged).count() as u32;
        let enis = allowed.saturating_sub(unmanaged);
        let of_slot = match config.families.ipv4() {
            Some(Ipv4Kind::Prefixes) if limits.prefixes() => PREFIX_ADDRESSES,
            _ => 1,
        };
        (enis, enis * u32::from(limits.ipv4_slots()) * of_slot)
    }
}
