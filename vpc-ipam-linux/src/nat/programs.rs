//! Which program writes the rules.

use std::io;
use std::path::PathBuf;

use super::{Nat, NatActual, iptables, nftables};
use crate::Family;
use crate::nft::run;

/// The programs that can write the rules of address translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatPrograms {
    /// nft, which is taken wherever it works.
    pub nft: PathBuf,
    /// What comes before `-save` and `-restore` in the names of iptables' programs. Of those that are there, the one is taken
    /// by which most of the node's rules were made: kube-proxy's and kubelet's, whose rules have to be in one place with ours.
    pub iptables: Vec<PathBuf>,
}

impl Default for NatPrograms {
    fn default() -> Self {
        let iptables = ["iptables-nft", "iptables-legacy", "iptables"];
        Self { nft: "nft".into(), iptables: iptables.map(PathBuf::from).into() }
    }
}

/// The programs of one kind of iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Iptables {
    /// What comes before `-save` and `-restore` in their names.
    name: PathBuf,
    kind: Kind,
}

/// Which of the kernel's two lists of rules a program knows; to each the other's are invisible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Legacy,
    Nftables,
}

impl Iptables {
    /// Returns what there is, one of a kind.
    fn all(programs: &NatPrograms) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for name in &programs.iptables {
            let mut found = Self { name: name.clone(), kind: Kind::Legacy };
            let Ok(version) = run(&found.save(Family::Ipv4), &["--version"], "") else {
                continue;
            };
            if version.contains("nf_tables") {
                found.kind = Kind::Nftables;
            }
            if !all.iter().any(|other| other.kind == found.kind) {
                all.push(found);
            }
        }
        all
    }

    pub(super) fn save(&self, family: Family) -> PathBuf {
        self.program(family, "-save")
    }

    pub(super) fn restore(&self, family: Family) -> PathBuf {
        self.program(family, "-restore")
    }

    fn program(&self, family: Family, what: &str) -> PathBuf {
        let name = self.name.file_name().unwrap_or_default().to_string_lossy();
        let name = match family {
            Family::Ipv4 => name.into_owned(),
            Family::Ipv6 => name.replacen("ip", "ip6", 1),
        };
        self.name.with_file_name(name + what)
    }

    /// Returns the families whose rules can be listed.
    pub(super) fn families(&self) -> Vec<Family> {
        let mut families = vec![Family::Ipv4, Family::Ipv6];
        families
            .retain(|&family| family == Family::Ipv4 || run(&self.save(family), &[], "").is_ok());
        families
    }
}

/// Where the rules are on this node.
#[derive(Debug)]
pub(crate) struct Place {
    backend: Backend,
    /// Where else there are some, left from when other programs could be used.
    elsewhere: Vec<Backend>,
}

impl Place {
    /// Finds out what there is in the calling thread's namespace.
    pub(crate) fn find(programs: &NatPrograms) -> io::Result<Self> {
        let backend = Backend::find(programs)?;
        Ok(Self { elsewhere: backend.left_elsewhere(programs), backend })
    }

    /// Returns what is there of our rules.
    pub(crate) fn list(&self) -> io::Result<NatActual> {
        if self.elsewhere.is_empty() { self.backend.list() } else { Ok(NatActual::Altered) }
    }

    /// Replaces our rules, and removes those that are elsewhere.
    pub(crate) fn replace(&mut self, nat: &Nat) -> io::Result<()> {
        self.backend.replace(nat)?;
        for other in core::mem::take(&mut self.elsewhere) {
            other.replace(&Nat::none())?;
        }
        Ok(())
    }
}

/// What writes rules.
#[derive(Debug)]
enum Backend {
    Nftables(PathBuf),
    Iptables(Iptables),
}

impl Backend {
    /// Finds out what there is in the calling thread's namespace.
    fn find(programs: &NatPrograms) -> io::Result<Self> {
        let Err(why) = run(&programs.nft, &["list", "tables", "ip"], "") else {
            return Ok(Self::Nftables(programs.nft.clone()));
        };
        let there = Iptables::all(programs).into_iter().filter_map(|iptables| {
            let saved = run(&iptables.save(Family::Ipv4), &[], "").ok()?;
            Some((weight(&saved), iptables))
        });
        // Of equals the first.
        let best = there.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map(|(_, iptables)| Self::Iptables(iptables)).ok_or(why)
    }

    /// Returns what is there of our rules.
    fn list(&self) -> io::Result<NatActual> {
        match self {
            Self::Nftables(nft) => nftables::list(nft),
            Self::Iptables(programs) => iptables::list(programs),
        }
    }

    /// Replaces our rules.
    fn replace(&self, nat: &Nat) -> io::Result<()> {
        match self {
            Self::Nftables(nft) => nftables::replace(nft, nat),
            Self::Iptables(programs) => iptables::replace(programs, nat),
        }
    }

    /// Returns the other places that hold rules of ours, left from when this one could not be used.
    fn left_elsewhere(&self, programs: &NatPrograms) -> Vec<Self> {
        let others = Iptables::all(programs).into_iter().filter(|other| match self {
            Self::Nftables(_) => true,
            Self::Iptables(own) => own.kind != other.kind,
        });
        let others = others.map(Self::Iptables);
        others.filter(|other| !matches!(other.list(), Ok(NatActual::Absent) | Err(_))).collect()
    }
}

/// Tells in which kind of iptables a node's rules are: kubelet leaves a chain as a hint, else the number counts.
fn weight(saved: &str) -> (bool, usize) {
    let hints = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];
    let hinted = hints.iter().any(|hint| saved.contains(hint));
    (hinted, saved.lines().filter(|line| line.starts_with("-A ")).count())
}
