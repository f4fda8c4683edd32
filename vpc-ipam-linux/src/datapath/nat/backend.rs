//! Where a set of rules is on a node, and which program writes it.

use std::io;
use std::path::PathBuf;

use super::programs::{Iptables, NatPrograms};
use super::rule_set::{NatActual, RuleSet, Set};
use super::{iptables, nftables};
use crate::Family;
use crate::datapath::source_check;
use crate::kernel::process::run;

/// Where a set of rules is on this node.
#[derive(Debug)]
pub(crate) struct RuleSetBackend {
    set: Set,
    backend: Backend,
    /// Where else there are some, left from when other programs could be used.
    elsewhere: Vec<Backend>,
    programs: NatPrograms,
}

impl RuleSetBackend {
    /// Finds out what there is in the calling thread's namespace.
    pub(crate) fn find(set: Set, programs: &NatPrograms) -> io::Result<Self> {
        let backend = Backend::find(programs)?;
        let elsewhere = backend.left_elsewhere(set, programs);
        Ok(Self { set, backend, elsewhere, programs: programs.clone() })
    }

    /// Returns what is there of the rules.
    pub(crate) fn list(&self) -> io::Result<NatActual> {
        if self.elsewhere.is_empty() { self.backend.list(self.set) } else { Ok(NatActual::Altered) }
    }

    /// Returns how many packets were dropped for their sources.
    pub(crate) fn count_dropped(&self) -> io::Result<u64> {
        match &self.backend {
            Backend::Nftables(nft) => nftables::count(nft, self.set, source_check::COUNTER),
            Backend::Iptables(programs) => {
                iptables::count_dropped(programs, source_check::IPTABLES_CHAIN)
            }
        }
    }

    /// Replaces the rules, and removes those that are elsewhere.
    ///
    /// A kernel may let rules be listed and lack what ours need. Only where they are refused are they handed to the next program:
    /// one that did not end in time, or whose lock was held, may load them the next time, and two sets of rules may not be.
    pub(crate) fn replace(&mut self, rules: &RuleSet) -> io::Result<()> {
        if let Err(refused) = self.backend.replace(rules) {
            if refused.kind() != io::ErrorKind::Other {
                return Err(refused);
            }
            self.replace_by_another(rules, refused)?;
        }
        for other in core::mem::take(&mut self.elsewhere) {
            other.replace(&RuleSet::none(self.set))?;
        }
        Ok(())
    }

    fn replace_by_another(&mut self, rules: &RuleSet, refused: io::Error) -> io::Result<()> {
        let mut says = refused.to_string();
        for other in self.backend.alternatives(&self.programs) {
            match other.replace(rules) {
                Ok(()) => {
                    self.elsewhere.retain(|it| !it.is_same(&other));
                    self.elsewhere.push(core::mem::replace(&mut self.backend, other));
                    return Ok(());
                }
                Err(error) => says += &format!("; {error}"),
            }
        }
        Err(io::Error::new(refused.kind(), says))
    }
}

/// A program that writes rules, and with it the list of rules that it writes to.
#[derive(Debug)]
enum Backend {
    Nftables(PathBuf),
    Iptables(Iptables),
}

impl Backend {
    /// Finds out what there is in the calling thread's namespace.
    fn find(programs: &NatPrograms) -> io::Result<Self> {
        let why = match run(&programs.nft, &["list", "tables", "ip"], "") {
            Ok(_) => return Ok(Self::Nftables(programs.nft.clone())),
            // It may hold our rules, and next to them there must be no second set.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
            Err(error) => error,
        };
        let there = Iptables::all(programs).into_iter().filter_map(|iptables| {
            let saved = run(&iptables.save(Family::Ipv4), &[], "").ok()?;
            Some((weight(&saved), iptables))
        });
        // Of equals the first.
        let best = there.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map(|(_, iptables)| Self::Iptables(iptables)).ok_or(why)
    }

    /// Returns what is there of a set of rules.
    fn list(&self, set: Set) -> io::Result<NatActual> {
        match self {
            Self::Nftables(nft) => nftables::list(nft, set),
            Self::Iptables(programs) => iptables::list(programs, set),
        }
    }

    /// Replaces a set of rules.
    fn replace(&self, rules: &RuleSet) -> io::Result<()> {
        match self {
            Self::Nftables(nft) => nftables::replace(nft, rules),
            Self::Iptables(programs) => iptables::replace(programs, rules),
        }
    }

    /// Returns the other backends that hold rules of ours, left from when this one could not be used.
    fn left_elsewhere(&self, set: Set, programs: &NatPrograms) -> Vec<Self> {
        let mut elsewhere = self.alternatives(programs);
        elsewhere.retain(|other| !matches!(other.list(set), Ok(NatActual::Absent) | Err(_)));
        elsewhere
    }

    /// Returns what else could write rules, in the order of preference.
    fn alternatives(&self, programs: &NatPrograms) -> Vec<Self> {
        let mut iptables: Vec<_> = Iptables::all(programs)
            .into_iter()
            .filter_map(|iptables| {
                let saved = run(&iptables.save(Family::Ipv4), &[], "").ok()?;
                Some((weight(&saved), iptables))
            })
            .collect();
        // Of equals the first.
        iptables.sort_by_key(|(weight, _)| core::cmp::Reverse(*weight));
        let nft = Self::Nftables(programs.nft.clone());
        let all = core::iter::once(nft).chain(iptables.into_iter().map(|it| Self::Iptables(it.1)));
        all.filter(|other| !other.is_same(self)).collect()
    }

    /// Returns whether both write into the same list of rules.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nftables(_), Self::Nftables(_)) => true,
            (Self::Iptables(one), Self::Iptables(other)) => one.kind() == other.kind(),
            (Self::Nftables(_), Self::Iptables(_)) | (Self::Iptables(_), Self::Nftables(_)) => {
                false
            }
        }
    }
}

/// Tells in which kind of iptables a node's rules are: kubelet leaves a chain as a hint, else the number counts.
fn weight(saved: &str) -> (bool, usize) {
    let hints = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];
    let hinted = hints.iter().any(|hint| saved.contains(hint));
    (hinted, saved.lines().filter(|line| line.starts_with("-A ")).count())
}
