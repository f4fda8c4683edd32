//! What EC2 no longer has, remembered so that no late answer brings it back.

use alloc::vec::Vec;
use core::time::Duration;

use ipnet::IpNet;

use crate::pool::Pool;
use crate::pool::finding::Finding;
use crate::{Config, EniId, Event, PodKey, Timestamp};

impl Pool {
    /// EC2 no longer has an ENI on this instance. Pods on it keep their leases; the node removes what it set up.
    pub(crate) fn on_eni_gone(&mut self, id: EniId, now: Timestamp, finding: &mut Finding) {
        let pods: Vec<PodKey> = self
            .leases()
            .filter(|lease| lease.interfaces().any(|interface| interface.eni == id))
            .map(|lease| lease.key.clone())
            .collect();
        let Some(eni) = self.eni_mut(id) else {
            return;
        };
        let by_us = eni.is_removing();
        eni.on_vanished();
        if !eni.is_managed() && eni.ec2_call.is_none() {
            // Nothing was set up for it.
            self.remove(id, now);
        }
        if !by_us {
            finding.events.push(Event::EniVanished { eni: id, pods });
        }
    }

    /// What was found out later than now, by a clock that was set back since, counts as found out now.
    pub(crate) fn on_clock_set_back(&mut self, now: Timestamp) {
        for eni in &mut self.enis {
            eni.on_clock_set_back(now);
        }
        let gone = self.blocks_gone.values_mut().chain(self.enis_gone.values_mut());
        for at in gone.chain(&mut self.forgotten) {
            *at = (*at).min(now);
        }
    }

    /// Forgets what was remembered only to recognise late answers and late packets. `asked_at` is when the oldest question
    /// was asked that has no answer yet: what it needs is kept.
    pub(crate) fn prune(&mut self, config: &Config, asked_at: Option<Timestamp>, now: Timestamp) {
        // Twice the time, since an answer may be asked for just before the limit and take a while.
        let late = config.timing.eventual_consistency.saturating_mul(2);
        let needed_at = asked_at.map_or(now, |at| at.min(now));
        let mut forgotten = self.forgotten;
        let mut keep = |gone: Timestamp| {
            let keep = is_recent(needed_at, gone, late);
            if !keep {
                forgotten = forgotten.max(Some(gone));
            }
            keep
        };
        self.blocks_gone.retain(|_, gone| keep(*gone));
        self.enis_gone.retain(|_, gone| keep(*gone));
        self.forgotten = forgotten;
        self.released_before.retain(|_, at| is_recent(now, *at, config.cooldown));
    }

    /// Returns whether everything is still remembered that an answer of this age could wrongly show.
    pub(crate) fn remembers(&self, as_of: Timestamp, eventual_consistency: Duration) -> bool {
        self.forgotten.is_none_or(|gone| !is_recent(as_of, gone, eventual_consistency))
    }

    /// Remembers that EC2 took a block back, so that a late answer does not bring it back.
    pub(crate) fn remember_block_gone(&mut self, net: IpNet, now: Timestamp) {
        self.blocks_gone.insert(net, now);
    }
}

/// Returns whether an answer asked for at `as_of` may still show what was before a change.
pub(crate) fn is_recent(
    as_of: Timestamp,
    changed: Timestamp,
    eventual_consistency: Duration,
) -> bool {
    as_of <= changed + eventual_consistency
}
