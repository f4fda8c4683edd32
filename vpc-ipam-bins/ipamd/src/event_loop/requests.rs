//! What the plugin and the command line ask for, and how they are answered.

use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{info, warn};
use vpc_ipam_core::{
    Assigned, CardChoice, EniId, Lease, PodKey, Record, Released, Timestamp, error_chain,
};
use vpc_ipam_protocol::{
    Answer, Assign, EniOf, NodeFacts, PodSandbox, Refusal, RefusalKind, Request,
};

use super::answers::{Caller, gone, no_such_eni, refused};
use super::commit::Write;
use super::{Loop, pod_lines};
use crate::fronts::status;
use crate::network_policy::NetworkPolicies;
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
            Request::Import(pods) => self.on_import(pods, caller, now),
            Request::Wired(key) => self.on_wired(&key, caller),
            Request::Node => caller.answer(Answer::Node(Box::new(self.node_facts()))),
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
            Request::Events { after, wait } => self.event_log.ask(caller, after, wait, now),
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

    /// A pod was set up: its network policies are enforced before the answer.
    fn on_wired(&mut self, key: &PodKey, caller: Caller) {
        let Some(lease) = self.ipam.pool().lease(key).cloned() else {
            return caller.answer(Answer::Unknown);
        };
        let said = self.lease(lease.clone());
        let Some(policies) = &mut self.policies else { return caller.answer(said) };
        let pod = key.clone();
        policies.wired(&lease, move |enforced| match enforced {
            Ok(()) => caller.answer(said),
            Err(error) => {
                let details = error_chain(&error);
                warn!(%pod, error = details, "the pod's network policies are not enforced, so it does not run");
                caller.answer(Answer::Refused(Refusal {
                    kind: RefusalKind::TryAgainLater,
                    message: "have the pod's network policies enforced".to_string(),
                    details,
                }));
            }
        });
    }

    fn node_facts(&self) -> NodeFacts {
        let metadata = &self.known.metadata;
        let node = &metadata.node;
        let primary = metadata.observation.enis.iter().find(|eni| eni.id == node.primary);
        NodeFacts {
            instance: node.instance.to_string(),
            region: region(&node.zone.to_string()).to_string(),
            ipv4: metadata.primary_ipv4,
            ipv6: primary.and_then(|eni| eni.primary_ipv6),
            vpc_ipv4_cidrs: metadata.vpc_ipv4_cidrs.clone(),
            excluded_cidrs: self.host_config.excluded_cidrs.clone(),
            vpc_ipv6_cidrs: metadata.vpc_ipv6_cidrs.clone(),
            external_snat: self.host_config.external_snat,
            multi_nic: self.ipam.config().multi_nic,
            network_policy: self.policies.as_ref().map(NetworkPolicies::mode),
        }
    }

    fn on_assign(&mut self, assign: Assign, caller: Caller, now: Timestamp) {
        let has_address = self.ipam.pool().lease(&assign.request.key).is_some();
        let caller = caller.of(&assign.request.pod, has_address);
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
                self.refused(&request.key, Some(Arc::clone(&request.pod)), taken.to_string());
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
                        self.refused(
                            &request.key,
                            Some(Arc::clone(&request.pod)),
                            error.to_string(),
                        );
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
                if let Some(policies) = &mut self.policies {
                    let replaced = self.ipam.pool().leases().any(|other| other.pod == lease.pod);
                    policies.gone(&lease, replaced);
                }
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
        Answer::Lease { lease, links: self.links.clone(), again: false }
    }
}

/// Returns the region of a zone: `us-west-2` of `us-west-2b`, and of the local zone `us-west-2-lax-1a`.
fn region(zone: &str) -> &str {
    let mut number = zone.match_indices('-').map(|(at, _)| at + 1);
    let number = number.find(|at| zone[*at..].starts_with(|c: char| c.is_ascii_digit()));
    let Some(number) = number else { return zone };
    let rest = zone[number..].find(|c: char| !c.is_ascii_digit());
    rest.map_or(zone, |rest| &zone[..number + rest])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_is_the_part_of_a_zone_up_to_its_first_number() {
        let cases = [
            ("eu-west-1a", "eu-west-1"),
            ("us-gov-east-1b", "us-gov-east-1"),
            ("us-west-2-lax-1a", "us-west-2"),
            ("us-east-1-wl1-bos-wlz-1", "us-east-1"),
            ("eu-west-12", "eu-west-12"),
            ("zone", "zone"),
            ("", ""),
        ];
        for (zone, expected) in cases {
            assert_eq!(region(zone), expected, "{zone}");
        }
    }
}
