//! Leases: how pods get them, wait for them and end them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::ipam::answer::Granted;
use crate::ipam::answer::WAITING_MAX;
use crate::ipam::recorder::Input;
use crate::ipam::{Ipam, Waiting};
use crate::pool::NotAssigned;
use crate::{
    AddressRequest, AssignError, Assigned, CardChoice, Event, Lease, PodKey, Record, Released,
    Timestamp, Uncommitted,
};

impl Ipam {
    /// Takes in what was durable before a restart; call it before anything is observed.
    ///
    /// Records may be what a store keeps of them, or all of them in the order in which they were produced: a release ends the lease
    /// of the same key and addresses that stands before it and is no younger.
    ///
    /// A lease whose ENI does not show up keeps its address from every other pod until it is released. An address that was
    /// released later than `now`, since the clock was set back, is cooling from now on.
    pub fn restore(&mut self, records: impl IntoIterator<Item = Record>, now: Timestamp) {
        let records: Vec<Record> = records.into_iter().collect();
        let tape = self.tape(|| Input::Restore(records.clone()));
        let mut leases = Vec::new();
        for record in records {
            match record {
                Record::Leased(lease) => leases.push(lease),
                Record::Released { key, addresses, at } => {
                    leases.retain(|lease: &Lease| !is_ended_by(lease, &key, &addresses, at));
                    if now.since(at) <= self.config.cooldown {
                        for address in addresses {
                            self.pool.restore_released(address, at.min(now));
                        }
                    }
                }
            }
        }
        leases.sort_by(|a, b| (a.since, &a.key).cmp(&(b.since, &b.key)));
        for lease in leases {
            let key = lease.key.clone();
            if !self.pool.restore_lease(lease) {
                self.event(Event::LeaseConflict { key });
            }
        }
        self.changed_at.get_or_insert(now);
        self.record(tape, Some(now));
    }

    /// Asks for an address for a pod.
    ///
    /// The same key asking again gets the same address. If none is free but one can be had in time, the answer comes
    /// through [`poll_grant`](Self::poll_grant), and the pod counts as demand until then.
    pub fn assign(
        &mut self,
        request: &AddressRequest,
        now: Timestamp,
    ) -> Result<Assigned, AssignError> {
        let tape = self.tape(|| Input::Assign(request.clone()));
        let answer = self.on_asked(request, now);
        self.record(tape, Some(now));
        answer
    }

    pub(super) fn on_asked(
        &mut self,
        request: &AddressRequest,
        now: Timestamp,
    ) -> Result<Assigned, AssignError> {
        if let Some(waiting) = self.waiting.iter().find(|w| w.request.key == request.key) {
            return Ok(Assigned::Later { deadline: waiting.deadline });
        }
        if request.cards == CardChoice::Every && !self.config.multi_nic {
            return Err(AssignError::OneCard);
        }
        // Addresses that came free, or cooled down, since the last plan are for those who came first.
        if !self.waiting.is_empty() {
            self.serve_waiting(now);
        }
        let cards = self.cards_of(request);
        let why = match self.pool.assign(request, &self.eligibility(), &cards, now) {
            Ok(lease) => {
                self.changed_at.get_or_insert(now);
                return Ok(Assigned::Now(Uncommitted { lease }));
            }
            Err(why) => why,
        };
        if self.waiting.len() >= WAITING_MAX {
            return Err(AssignError::TooManyWaiting);
        }
        let deadline = now + self.config.timing.add_wait;
        self.waiting.push_back(Waiting { request: request.clone(), deadline });
        if why == NotAssigned::NoneFree {
            self.count_waiting();
            self.calls.hurry_growth();
            if let Err(error) = self.wait_is_worthwhile(request, deadline, now) {
                self.waiting.pop_back();
                self.count_waiting();
                return Err(error);
            }
        }
        self.changed_at.get_or_insert(now);
        Ok(Assigned::Later { deadline })
    }

    /// Takes in that a lease is durable; call it after [`Uncommitted::record`] is on stable storage. Returns the lease,
    /// or `None` if the pod was deleted meanwhile.
    #[must_use = "only a lease that is returned may be told to the pod"]
    pub fn commit(&mut self, uncommitted: Uncommitted) -> Option<Lease> {
        let tape = self.tape(|| Input::Commit(uncommitted.lease.clone()));
        let lease = self.pool.on_committed(uncommitted.lease);
        self.record(tape, None);
        lease
    }

    /// Takes in that a lease could not be made durable, or perhaps was. Its address is free again, unless it was durable before; that
    /// of an import is an untracked owner's again.
    ///
    /// The lease's record may be on stable storage all the same. So there is another one to write, before all later ones and
    /// again until that succeeds; `None` if there is nothing to undo: the lease was durable before, is being written once
    /// more, or ended meanwhile.
    #[must_use = "without this record a restart may find a lease that no pod has"]
    pub fn abandon(&mut self, uncommitted: Uncommitted, now: Timestamp) -> Option<Record> {
        let tape = self.tape(|| Input::Abandon(uncommitted.lease.clone()));
        let undone = self.pool.on_abandoned(&uncommitted.lease, now);
        self.changed_at.get_or_insert(now);
        self.record(tape, Some(now));
        undone.then(|| Record::undone(&uncommitted.lease, now))
    }

    /// Takes in that a pod is gone. Its addresses cool for the cool-down.
    pub fn release(&mut self, key: &PodKey, now: Timestamp) -> Released {
        let tape = self.tape(|| Input::Release(key.clone()));
        let released = self.on_given_up(key, now);
        self.record(tape, Some(now));
        released
    }

    pub(super) fn on_given_up(&mut self, key: &PodKey, now: Timestamp) -> Released {
        self.grants.retain(|grant| grant.key != *key);
        let waiting = self.waiting.len();
        self.waiting.retain(|waiting| waiting.request.key != *key);
        let was_waiting = self.waiting.len() < waiting;
        if was_waiting {
            self.count_waiting();
        }
        match self.pool.release(key, now) {
            Some(lease) => {
                self.changed_at.get_or_insert(now);
                Released::Lease { lease, at: now }
            }
            None if was_waiting => {
                self.changed_at.get_or_insert(now);
                Released::WasWaiting
            }
            None => Released::Unknown,
        }
    }

    /// Gives addresses to those who wait, first come first, and an answer to those who waited long enough.
    pub(super) fn serve_waiting(&mut self, now: Timestamp) {
        let eligibility = self.eligibility();
        let mut waiting = core::mem::take(&mut self.waiting);
        waiting.retain(|Waiting { request, .. }| {
            let cards = self.cards_of(request);
            match self.pool.assign(request, &eligibility, &cards, now) {
                Ok(lease) => {
                    self.grants.push_back(Granted { key: request.key.clone(), result: Ok(lease) });
                    false
                }
                Err(_) => true,
            }
        });
        self.waiting = waiting;
        self.count_waiting();
        if self.waiting.iter().any(|waiting| waiting.deadline <= now) {
            let plan = self.plan(now);
            for waiting in core::mem::take(&mut self.waiting) {
                if waiting.deadline <= now {
                    let result = Err(self.refusal(&waiting.request, &plan, now));
                    self.grants.push_back(Granted { key: waiting.request.key, result });
                } else {
                    self.waiting.push_back(waiting);
                }
            }
            self.count_waiting();
        }
    }

    /// Counts the pods that wait for a free address; those that wait for their own are no demand.
    pub(super) fn count_waiting(&mut self) {
        let (mut any, mut every) = (0, 0);
        let mut on_eni = BTreeMap::new();
        for Waiting { request, .. } in &self.waiting {
            if self.pool.lease(&request.key).is_none() {
                any += 1;
                every += u32::from(request.cards == CardChoice::Every);
                if let CardChoice::On(eni) = request.cards {
                    *on_eni.entry(eni).or_insert(0) += 1;
                }
            }
        }
        self.conditions.waiting = any;
        self.conditions.waiting_every_card = every;
        self.conditions.waiting_on_eni = on_eni;
    }

    /// Returns when the first address that cools is ready, if one cools.
    pub(super) fn cooled_at(&self, now: Timestamp) -> Option<Timestamp> {
        let blocks = self.pool.enis().iter().flat_map(|eni| eni.blocks());
        blocks.filter_map(|block| block.cooled_at(now, self.config.cooldown)).min()
    }
}

/// Returns whether a release that was recorded after a lease is the end of it, and not of an earlier lease of the same pod.
fn is_ended_by(lease: &Lease, key: &PodKey, addresses: &[IpAddr], at: Timestamp) -> bool {
    let holds_them = addresses.is_empty() || lease.addresses().all(|own| addresses.contains(&own));
    lease.key == *key && lease.since <= at && holds_them
}
