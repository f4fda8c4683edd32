//! What the plugin and the command line ask for, and how they are answered.

use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{info, warn};
use vpc_ipam_core::{Assigned, CardChoice, EniId, Lease, PodKey, Record, Released, Timestamp};
use vpc_ipam_protocol::{Answer, Assign, EniOf, PodSandbox, Request};

use super::answers::{Caller, gone, no_such_eni, refused};
use super::commit::Write;
use super::{Loop, pod_lines};
use crate::fronts::status;
use crate::probe;
use crate::threads::net_report;

impl Loop {
    pub(super) fn on_request(
        &mut self,
        request: Request,
        hears: oneshot::Sender<Answer>,
        now: Timestamp,
    ) {
        let caller = Caller::new(hears, now);
        match request {
            Request::Assign(assign) => {
                let caller = caller.timed(self.metrics.add_asked());
                self.on_assign(assign, caller, now);
            }
            Request::Find(key) => {
                let found = self.ipam.pool().lease(&key).cloned();
                caller.answer(found.map_or(Answer::Unknown, |lease| self.lease(lease)));
            }
            Request::Leave(key) => {
                self.keeper.leaving(&key);
                let found = self.ipam.pool().lease(&key).cloned();
                caller.answer(found.map_or(Answer::Unknown, |lease| self.lease(lease)));
            }
            Request::Release(key) => {
                self.metrics.del_asked("PodDeleted");
                self.release(&key, Some(caller), now);
            }
            Request::Leases { network } => {
                let asked_for = |lease: &&Lease| {
                    network.as_deref().is_none_or(|network| lease.key.network() == network)
                };
                let leases = self.ipam.pool().leases().filter(asked_for).cloned().collect();
                caller.answer(Answer::Leases(leases));
            }
            Request::Status => {
                let problems = self.keeper.problems(now);
                let status =
                    status::of(&self.ipam, &self.sources, self.keeper.counts(), problems, now);
                caller.answer(Answer::Status(status));
            }
            Request::Explain => {
                caller.answer(Answer::Explanation(Box::new(self.ipam.explain(now))));
            }
            Request::Plan => caller.answer(Answer::Plan(self.ipam.plan(now))),
            Request::Events { after, wait } => self.history.ask(caller, after, wait, now),
            Request::Inventory => {
                caller.answer(Answer::Inventory(Box::new(self.inventory(now))));
            }
            Request::Probe => {
                let told = probe::probe(self.known_for_probe(now));
                tokio::spawn(async move { caller.answer(Answer::Probe(Box::new(told.await))) });
            }
            Request::NetDiff => {
                let kernel = self.host.diff(self.keeper.node());
                let translation = self.translation.diff(self.keeper.node());
                let told = net_report::answer("compare the node's network", kernel, translation);
                tokio::spawn(async move { caller.answer(told.await) });
            }
            Request::NetRepair => {
                let kernel = self.host.repair_now(self.keeper.node());
                let translation = self.translation.repair_now(self.keeper.node());
                let told = net_report::answer("put the node's network right", kernel, translation);
                tokio::spawn(async move { caller.answer(told.await) });
            }
        }
    }

    fn on_assign(&mut self, assign: Assign, caller: Caller, now: Timestamp) {
        match assign {
            // Its addresses were durable before this start, and its links are there or are made anew: nothing is waited for
            // that the sources may take long to say.
            Assign { request, .. }
                if !self.sources.answered() && self.ipam.pool().lease(&request.key).is_some() =>
            {
                let said = match self.ipam.pool().lease(&request.key).cloned() {
                    Some(lease) => {
                        self.keeper.leased(&lease, now);
                        pod_lines::added(&lease, 0);
                        self.lease(lease)
                    }
                    None => gone(),
                };
                caller.answer(said);
            }
            Assign { request, .. }
                if !request.addresses_only
                    && let Some(taken) = self.names.taken(&request.pod, 1) =>
            {
                let refused = taken.answer(&request.pod);
                warn!(pod = %request.key, ?taken, "no address");
                self.refused(&request.key, taken.to_string());
                caller.answer(refused);
            }
            Assign { mut request, sandbox, of } => {
                match of.map(|of| self.eni_of(of)) {
                    Some(Some(eni)) => request.cards = CardChoice::On(eni),
                    Some(None) => {
                        caller.answer(no_such_eni());
                        return;
                    }
                    None => {}
                }
                if let Some(sandbox) = sandbox {
                    self.sandboxes.insert(request.key.clone(), sandbox);
                }
                match self.ipam.assign(&request, now) {
                    Ok(Assigned::Now(uncommitted)) => self.granted(uncommitted, vec![caller]),
                    Ok(Assigned::Later { .. }) => {
                        self.callers.entry(request.key).or_default().push(caller);
                    }
                    Err(error) => {
                        warn!(pod = %request.key, error = %error, "no address");
                        self.refused(&request.key, error.to_string());
                        caller.answer(refused(&error));
                    }
                }
            }
        }
    }

    fn eni_of(&self, of: EniOf) -> Option<EniId> {
        match of {
            EniOf::Primary => Some(self.ipam.node().primary),
            EniOf::Link(mac) => {
                let mut enis = self.ipam.pool().enis().iter();
                enis.find(|eni| eni.mac == mac).map(|eni| eni.id)
            }
        }
    }

    /// Releases the addresses of a pod that is gone, and answers who asked for it once that is durable.
    pub(super) fn release(&mut self, key: &PodKey, caller: Option<Caller>, now: Timestamp) {
        self.sandboxes.remove(key);
        if let Some(left) = self.keeper.released(key) {
            self.departed.push(key, left, now);
        }
        for waiting in self.callers.remove(key).unwrap_or_default() {
            waiting.answer(gone());
        }
        match self.ipam.release(key, now) {
            Released::Lease { lease, at } => {
                self.names.remove(&lease);
                let record = Record::released(&lease, at);
                self.flush.released(lease.addresses(), now);
                self.keep_untracked(lease.addresses(), now);
                let lease = self.lease(lease);
                let callers = caller.into_iter().collect();
                self.commit_later([Write::Release(record, lease, callers)]);
            }
            Released::WasWaiting | Released::Unknown => {
                let Some(caller) = caller else { return };
                match self.release_of(key) {
                    // Asked again: the pod is gone for good once that is durable.
                    Some(callers) => callers.push(caller),
                    None => {
                        info!(pod = %key, "DEL of a pod that holds nothing");
                        caller.answer(Answer::Unknown);
                    }
                }
            }
        }
    }

    /// Returns what is known when EC2 is asked what it permits.
    fn known_for_probe(&self, now: Timestamp) -> probe::Known {
        let sandbox = |lease: &Lease| PodSandbox {
            key: lease.key.clone(),
            pod: (*lease.pod).clone(),
            path: self.sandboxes.get(&lease.key).cloned(),
        };
        probe::Known {
            api: Arc::clone(&self.api),
            node: self.ipam.node().clone(),
            config: self.ipam.config().clone(),
            limits: self.ipam.limits().clone(),
            limits_source: self.limits_source,
            state: self.state.clone(),
            sandboxes: self.ipam.pool().leases().map(sandbox).collect(),
            now,
        }
    }

    pub(super) fn lease(&self, lease: Lease) -> Answer {
        Answer::Lease { lease, links: self.links.clone() }
    }
}
