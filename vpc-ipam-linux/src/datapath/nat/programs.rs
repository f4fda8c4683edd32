//! The programs that can write the rules of address translation.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::kernel::network::Family;
use crate::kernel::process::run;

/// The programs that can write the rules of address translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatPrograms {
    /// nft, which is taken wherever it works.
    pub nft: PathBuf,
    /// What comes before `-save` and `-restore` in the names of iptables' programs. Of those that are there, the one is taken
    /// by which most of the node's rules were made: kube-proxy's and kubelet's, which have to be in one list of rules with ours.
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
pub(crate) struct Iptables {
    /// What comes before `-save` and `-restore` in their names.
    name: PathBuf,
    kind: Kind,
}

/// Which of the kernel's two lists of rules a program knows; to each the other's are invisible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Legacy,
    Nftables,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "iptables-legacy",
            Self::Nftables => "iptables-nft",
        })
    }
}

impl Iptables {
    /// Returns what there is, one of a kind.
    pub(crate) fn all(programs: &NatPrograms) -> Vec<Self> {
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

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn save(&self, family: Family) -> PathBuf {
        self.program(family, "-save")
    }

    pub(crate) fn restore(&self, family: Family) -> PathBuf {
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

/// Hands a script to a program. If that says that it does not know how to choose ports fully at random, as some versions and
/// kernels do not, they are chosen less so: that is better than no translation.
///
/// After any other failure the program may well know it the next time.
pub(super) fn run_with_known_ports(
    program: &Path,
    arguments: &[&str],
    script: &str,
    [fully_random, random]: [&str; 2],
) -> io::Result<()> {
    let Err(error) = run(program, arguments, script) else {
        return Ok(());
    };
    if !error.to_string().contains(fully_random) {
        return Err(error);
    }
    let fallback = script.replace(&format!(" {fully_random}\n"), &format!(" {random}\n"));
    run(program, arguments, &fallback).map(drop).map_err(|_| error)
}
