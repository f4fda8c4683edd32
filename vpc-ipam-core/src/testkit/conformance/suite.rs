use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::executor::Executor;
use super::guard::{PANICS, guarded};
use super::report::{Check, Verdict};
use crate::{
    CreateNetworkInterface, EniId, FailureKind, Ipv4Amount, Limits, Node, ObservedEni, Scope,
    SecurityGroupId, Timestamp,
};

/// How often what EC2 shows late is asked for again, a second apart at first.
pub(super) const PATIENCE: u32 = 12;

/// The key of the tag by which the ENIs of a run are found.
pub(super) const RUN_TAG: &str = "vpc-ipam-conformance";

/// The key of a tag whose value changes.
pub(super) const STEP_TAG: &str = "vpc-ipam-conformance-step";

/// One run of the suite: the executor under test, what was found so far, and what EC2 should show by now.
pub(super) struct Suite<'a> {
    pub(super) executor: &'a mut dyn Executor,
    pub(super) node: Node,
    pub(super) limits: Limits,
    /// The time when it was last asked for.
    pub(super) last: Timestamp,
    /// The name of this run: client tokens begin with it, and a tag holds it.
    pub(super) run: String,
    pub(super) checks: Vec<Check>,
    /// What holds of every answer, and the first answer of which it did not.
    answers: BTreeMap<&'static str, Option<String>>,
    /// Every ENI that was made and is not known to be deleted.
    pub(super) made: BTreeSet<EniId>,
    /// How the ENIs of the suite, and the primary one, should be shown by now.
    pub(super) expected: BTreeMap<EniId, ObservedEni>,
    /// The ENIs that were attached before.
    pub(super) attached_before: BTreeSet<EniId>,
    /// The ENIs that were attached to nothing before, and carry the instance's tag.
    pub(super) unattached_before: BTreeSet<EniId>,
    /// Differences that a check has reported: no later check fails of them.
    pub(super) reported: BTreeSet<(&'static str, EniId, &'static str)>,
    /// A security group of the VPC that is not its default one, where the tester has one.
    pub(super) other_group: Option<SecurityGroupId>,
    /// The kind of failure of the last call, if it failed.
    pub(super) failed: Option<FailureKind>,
    /// How many client tokens were used.
    tokens: u32,
}

impl<'a> Suite<'a> {
    /// Begins a run; the check that failed, where the executor cannot even say what node it is for.
    pub(super) fn begin(executor: &'a mut dyn Executor) -> Result<Self, Check> {
        let started = guarded(|| {
            (executor.node(), executor.limits(), executor.now(), executor.security_group())
        });
        let (node, limits, now, other_group) = started.map_err(|panic| Check {
            name: PANICS,
            verdict: Verdict::Fails(format!(
                "Executor::node, limits, now or security_group: expected that they return, saw a panic: {panic}"
            )),
        })?;
        Ok(Self {
            executor,
            node,
            limits,
            last: now,
            // No run before has used it.
            run: format!("conformance-{}", now.as_nanos()),
            checks: Vec::new(),
            answers: BTreeMap::from([(PANICS, None)]),
            made: BTreeSet::new(),
            expected: BTreeMap::new(),
            attached_before: BTreeSet::new(),
            unattached_before: BTreeSet::new(),
            reported: BTreeSet::new(),
            other_group,
            failed: None,
            tokens: 0,
        })
    }

    /// Returns the report: check by check, and at its end what holds of every answer.
    pub(super) fn end(mut self) -> Vec<Check> {
        for (name, wrong) in core::mem::take(&mut self.answers) {
            self.check(name, wrong.map_or(Ok(()), Err));
        }
        self.checks
    }

    /// Takes part of the suite: if that panics, what was found before is kept, and the rest goes on.
    pub(super) fn part(&mut self, part: fn(&mut Self)) {
        if let Err(panic) = guarded(|| part(self)) {
            self.unsound(PANICS, format!("expected that the suite goes on, saw a panic: {panic}"));
        }
    }

    /// Takes note that a fact about every answer could be seen.
    pub(super) fn sound(&mut self, name: &'static str) {
        self.answers.entry(name).or_default();
    }

    /// Takes note of an answer of which a fact does not hold.
    pub(super) fn unsound(&mut self, name: &'static str, seen: String) {
        self.answers.entry(name).or_default().get_or_insert(seen);
    }

    pub(super) fn check(&mut self, name: &'static str, result: Result<(), String>) {
        let verdict = match result {
            Ok(()) => Verdict::Holds,
            // A line for each check, whatever an error says.
            Err(seen) => Verdict::Fails(seen.replace('\n', " ")),
        };
        self.checks.push(Check { name, verdict });
    }

    /// Reports a result, and returns what it is about, if it came about.
    pub(super) fn keep<T>(&mut self, name: &'static str, result: Result<T, String>) -> Option<T> {
        let (result, value) = match result {
            Ok(value) => (Ok(()), Some(value)),
            Err(seen) => (Err(seen), None),
        };
        self.check(name, result);
        value
    }

    pub(super) fn not_applicable(&mut self, name: &'static str, why: &'static str) {
        self.checks.push(Check { name, verdict: Verdict::NotApplicable(why) });
    }

    /// Returns a request for an ENI of this run with nothing but its own address.
    pub(super) fn creation(&mut self) -> CreateNetworkInterface {
        self.tokens += 1;
        let owner = (Scope::INSTANCE_TAG.to_string(), self.node.instance.to_string());
        CreateNetworkInterface {
            client_token: format!("{}-{}", self.run, self.tokens),
            subnet: self.node.subnet,
            security_groups: self.groups(),
            description: format!("vpc-ipam {}", self.run),
            tags: BTreeMap::from([
                owner,
                (RUN_TAG.to_string(), self.run.clone()),
                (STEP_TAG.to_string(), "made".to_string()),
            ]),
            ipv4: Ipv4Amount::Addresses(0),
            ipv6_prefixes: 0,
        }
    }

    /// Returns the security groups that ENIs are made with: the tester's, or the primary ENI's, which are there for sure.
    fn groups(&self) -> Vec<SecurityGroupId> {
        match (self.other_group, self.expected.get(&self.node.primary)) {
            (Some(group), _) => [group].into(),
            (None, Some(primary)) => primary.security_groups.clone(),
            (None, None) => Vec::new(),
        }
    }

    /// Returns whether the node's own subnet and its type allow prefixes of IPv6.
    pub(super) fn has_ipv6(&mut self) -> bool {
        let range = self.own_subnet().is_ok_and(|subnet| subnet.ipv6_cidr.is_some());
        range && self.limits.prefixes() && self.limits.ipv6_per_eni > 1
    }
}
