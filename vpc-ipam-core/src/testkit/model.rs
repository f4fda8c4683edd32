use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use ipnet::IpNet;

use super::rule::{Breach, Rule, hold};
use crate::{
    Budget, Ec2Operation, EniId, Lease, Node, Observation, PodKey, Record, Scope, Source, Timestamp,
};

/// What an attentive bystander knows: who holds what, what EC2 said, what was called when. It knows nothing of plans.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// The durable store: what a restart finds.
    pub(super) leases: BTreeMap<PodKey, Lease>,
    /// When addresses were released, by the clock that core gets and by one that is never set back.
    pub(super) released: BTreeMap<IpAddr, (PodKey, Timestamp, Timestamp)>,
    /// Leases that were granted and are not durable.
    pub(super) granted: BTreeMap<PodKey, Lease>,
    /// Leases whose record was written although the write was said to have failed: the record that undoes it follows.
    pub(super) undead: BTreeMap<PodKey, Lease>,
    /// Leases of these whose address EC2 had taken back already when the node crashed: no pod has it.
    pub(super) lost: BTreeSet<PodKey>,
    /// Addresses that an untracked owner uses.
    pub(super) unknown: BTreeSet<IpAddr>,
    /// Every block that EC2 ever showed on an ENI.
    shown: BTreeSet<(EniId, IpNet)>,
    /// Who did not show an ENI since EC2 last did, and when that was asked.
    denied: BTreeMap<EniId, BTreeSet<(Source, Timestamp)>>,
    /// ENIs whose links the kernel has set up.
    pub(super) links: BTreeSet<EniId>,
    /// ENIs of other programs.
    pub(super) foreign: BTreeSet<EniId>,
    /// Whether another program took something away, so that what EC2 confirmed need not be true any more.
    pub(super) meddled: bool,
    calls: BTreeMap<Ec2Operation, Vec<Timestamp>>,
    pub(super) tokens: BTreeSet<alloc::string::String>,
    /// Since when this process knows of an ENI.
    pub(super) known_since: BTreeMap<EniId, Timestamp>,
}

impl Model {
    /// Returns who holds an address, durably or not.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&PodKey> {
        let held = self.leases.values().chain(self.granted.values());
        held.filter(|lease| lease.addresses().any(|a| a == address)).map(|lease| &lease.key).next()
    }

    /// Returns whether an address cools, in real time.
    pub(super) fn is_cooling(&self, address: IpAddr, cooldown: Duration, real: Timestamp) -> bool {
        self.released.get(&address).is_some_and(|(_, _, at)| real.since(*at) <= cooldown)
    }

    /// Returns whether an address cools, by the clock that core gets.
    pub(super) fn seems_to_cool(
        &self,
        address: IpAddr,
        cooldown: Duration,
        now: Timestamp,
    ) -> bool {
        self.released.get(&address).is_some_and(|(_, at, _)| now.since(*at) <= cooldown)
    }

    /// Returns every address that is held by a pod.
    pub(super) fn held(&self) -> impl Iterator<Item = (IpAddr, &Lease)> {
        let leases = self.leases.values().filter(|lease| !self.lost.contains(&lease.key));
        let held = leases.chain(self.granted.values());
        held.flat_map(|lease| lease.addresses().map(move |address| (address, lease)))
    }

    /// Returns the records of the durable store.
    pub(super) fn records(&self) -> Vec<Record> {
        let leased = self.leases.values().cloned().map(Record::Leased);
        let released = self.released.iter().map(|(address, (key, at, _))| Record::Released {
            key: key.clone(),
            addresses: [*address].into(),
            at: *at,
        });
        leased.chain(released).collect()
    }

    /// Takes in that a lease became durable.
    pub(super) fn on_durable(&mut self, lease: Lease) {
        for address in lease.addresses() {
            self.released.remove(&address);
            if lease.is_imported() {
                self.unknown.remove(&address);
            }
        }
        self.granted.remove(&lease.key);
        self.lost.remove(&lease.key);
        // Records are written in order, so those that undo what was abandoned are there too.
        self.undead.clear();
        self.leases.insert(lease.key.clone(), lease);
    }

    /// Takes in that a pod is gone. What it held cools from now on.
    pub(super) fn on_del(&mut self, key: &PodKey, now: Timestamp, real: Timestamp) {
        let durable = self.leases.remove(key);
        self.lost.remove(key);
        let granted = self.granted.remove(key);
        for lease in durable.iter().chain(&granted) {
            for address in lease.addresses() {
                self.released.insert(address, (key.clone(), now, real));
            }
        }
    }

    /// Takes in blocks that EC2 confirmed.
    pub(super) fn on_shown(&mut self, eni: EniId, blocks: &[IpNet]) {
        self.shown.extend(blocks.iter().map(|block| (eni, block.trunc())));
    }

    /// Takes in an observation before core does; `known` are the ENIs that core knows.
    pub(super) fn on_observation(
        &mut self,
        observation: &Observation,
        known: &[EniId],
        authority: bool,
        node: &Node,
    ) {
        let Observation { as_of, source, scope, enis, incomplete: _ } = observation;
        for eni in enis.iter().filter(|_| authority) {
            self.on_shown(eni.id, &eni.blocks);
            // An answer that was asked for before says nothing of what another source did not show since.
            if let Some(by) = self.denied.get_mut(&eni.id) {
                by.retain(|(_, denied_at)| denied_at > as_of);
            }
        }
        let whole = *scope != Scope::Attached || enis.iter().any(|eni| eni.id == node.primary);
        let asked = |id: &EniId| match scope {
            Scope::Attached => true,
            Scope::Unattached => false,
            Scope::Only(ids) => ids.contains(id),
        };
        for id in known.iter().filter(|id| whole && asked(id)) {
            if !enis.iter().any(|eni| eni.id == *id) {
                self.denied.entry(*id).or_default().insert((*source, *as_of));
            }
        }
    }

    /// Returns whether enough speaks for an ENI's being gone: EC2 twice, or EC2 and IMDS.
    pub(super) fn is_denied(&self, eni: EniId, authority: Source) -> bool {
        self.denied
            .get(&eni)
            .is_some_and(|by| by.len() >= 2 && by.iter().any(|(source, _)| *source == authority))
    }

    /// Returns whether EC2 ever showed an address on an ENI.
    pub(super) fn was_shown(&self, eni: EniId, address: IpAddr) -> bool {
        self.shown.iter().any(|(on, block)| *on == eni && block.contains(&address))
    }

    /// Takes in a call, and checks that it stays within the budget.
    pub(super) fn on_call(
        &mut self,
        operation: Ec2Operation,
        budget: &Budget,
        now: Timestamp,
    ) -> Result<(), Breach> {
        let rate = budget.rates.get(&operation).unwrap_or(&budget.default);
        let calls = self.calls.entry(operation).or_default();
        calls.push(now);
        for (before, first) in calls.iter().rev().enumerate() {
            let window = now.since(*first);
            let refilled = window.as_nanos() / rate.interval.as_nanos().max(1);
            hold!(
                (before as u128) < u128::from(rate.burst) + refilled,
                Budget,
                "{} calls of {operation} within {window:?}",
                before + 1
            );
        }
        // What is older than a full bucket's time cannot bind any more.
        let full = rate.interval.saturating_mul(rate.burst.saturating_add(1));
        calls.retain(|at| now.since(*at) <= full);
        Ok(())
    }

    /// What was seen later than now, by a clock that was set back since, counts as seen now.
    pub(super) fn on_clock_set_back(&mut self, now: Timestamp) {
        for since in self.known_since.values_mut() {
            *since = (*since).min(now);
        }
        for by in self.denied.values_mut() {
            *by = by.iter().map(|(source, at)| (*source, (*at).min(now))).collect();
        }
    }

    /// Forgets what only one process knows.
    pub(super) fn on_restart(&mut self) {
        self.granted.clear();
        self.leases.append(&mut self.undead);
        self.unknown.clear();
        self.calls.clear();
        self.known_since.clear();
        self.denied.clear();
    }
}
