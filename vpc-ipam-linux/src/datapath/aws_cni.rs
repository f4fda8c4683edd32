//! What amazon-vpc-cni-k8s leaves of its address translation on a node that it used to look after.

mod listing;
mod settings;
#[cfg(feature = "testkit")]
mod testkit;

use core::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::datapath::nat::{Iptables, Kind, NatPrograms};
use crate::kernel::process::{WAIT_FOR_LOCK, run};
use crate::{Conflict, Family};

pub(crate) use self::listing::TABLES;
use self::listing::{SavedTable, incompatible, recognise};
#[cfg(feature = "watch")]
pub(crate) use self::listing::{has_comment, is_chain};
pub use self::settings::{AwsCniListing, AwsCniSettings, Evident};
#[cfg(feature = "testkit")]
pub(crate) use self::testkit::check_listing;

/// The rules and chains of amazon-vpc-cni-k8s, in whichever of nftables and the two kinds of iptables they are.
///
/// Next to ours they do no harm: of two translations of a packet the first counts, and both mark the same connections.
/// So they are removed after ours are there, and no packet finds neither. They go together or not at all: while a rule of another
/// program leads to one of the chains, or while something cannot be listed, they all stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsCniNat {
    /// Whether there is the table `ip aws-cni`.
    nft_table: bool,
    /// By the program that lists them.
    iptables: Vec<Saved>,
    /// What else could not be listed, and why.
    unlisted: Vec<String>,
}

/// What there is in one kind of iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Saved {
    programs: Iptables,
    tables: Vec<SavedTable>,
}

/// The table of nftables in which it marks connections.
pub(crate) const TABLE: &str = "aws-cni";

impl AwsCniNat {
    /// Returns whether there is something that can be removed.
    pub(crate) fn is_removable(&self) -> bool {
        let any = self.nft_table || self.iptables.iter().any(|it| !it.tables.is_empty());
        any && self.unlisted.is_empty() && self.users().next().is_none()
    }

    /// Returns whether packets of pods to elsewhere than the VPC get the address of the primary ENI by it.
    pub fn translates(&self) -> bool {
        self.iptables.iter().any(|it| it.tables.iter().any(SavedTable::translates))
    }

    /// Returns whether there is what a node needs: the translation, and the marks of connections to NodePorts. The marks of what pods send
    /// are not asked for: versions up to 1.7 make none.
    pub fn has(&self, translation: bool, node_port: bool) -> bool {
        let mut tables = self.iptables.iter().flat_map(|it| &it.tables);
        let marks = tables.any(|it| it.name == "mangle" && !it.rules.is_empty());
        (!translation || self.translates()) && (!node_port || marks)
    }

    /// Returns whether there is nothing of it.
    pub fn is_absent(&self) -> bool {
        !self.nft_table && self.iptables.iter().all(|it| it.tables.is_empty())
    }

    /// Writes what `iptables-restore --noflush` is to do so that there is again what `iptables-save` printed of it (`then`), given what that
    /// prints now; nothing of other programs is in it. It is empty where there was nothing of it.
    pub fn restoration(then: &str, now: &str) -> String {
        listing::restoration(then, now)
    }

    /// Returns what could not be listed, and why.
    pub fn unlisted(&self) -> &[String] {
        &self.unlisted
    }

    /// Returns the rules of other programs that lead to its chains.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let conflict = |(kind, table, rule): (Kind, &str, &str)| {
            let chain = listing::target(rule).unwrap_or_default();
            Conflict {
                object: format!("rule of {kind} in table {table}: -A {rule}"),
                effect: format!(
                    "leads to the chain {chain} of amazon-vpc-cni-k8s, all of whose rules and chains stay until it is gone"
                ),
                likely_author: likely_author(rule).to_owned(),
            }
        };
        self.users().map(conflict).collect()
    }

    fn users(&self) -> impl Iterator<Item = (Kind, &str, &str)> {
        self.iptables.iter().flat_map(|Saved { programs, tables }| {
            tables.iter().flat_map(|table| {
                let user = |rule| (programs.kind(), table.name.as_str(), rule);
                table.users.iter().map(String::as_str).map(user)
            })
        })
    }

    /// Returns the commands that remove it, each with the text for its standard input.
    pub(crate) fn removal(&self, nft: &Path) -> Vec<(PathBuf, &'static [&'static str], String)> {
        let mut commands = Vec::new();
        if self.nft_table {
            let script = format!("delete table ip {TABLE}\n");
            commands.push((nft.to_path_buf(), ["--file", "-"].as_slice(), script));
        }
        for Saved { programs, tables } in &self.iptables {
            let script: String = tables.iter().map(SavedTable::removal).collect();
            let arguments = [WAIT_FOR_LOCK, "--noflush"].as_slice();
            commands.push((programs.restore(Family::Ipv4), arguments, script));
        }
        commands
    }
}

impl fmt::Display for AwsCniNat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rules of amazon-vpc-cni-k8s")?;
        if self.nft_table {
            write!(f, ", nftables table ip {TABLE}")?;
        }
        for Saved { programs, tables } in &self.iptables {
            let kind = programs.kind();
            for SavedTable { name, rules, chains, .. } in tables {
                let (rules, chains) = (rules.len(), chains.len());
                write!(f, ", {kind} table {name}: {rules} rules, {chains} chains")?;
            }
        }
        Ok(())
    }
}

/// Returns who is known to write such rules.
fn likely_author(rule: &str) -> &'static str {
    let known =
        [("Antrea:", "Antrea"), ("cali", "Calico"), ("CILIUM", "Cilium"), ("KUBE-", "kube-proxy")];
    let found = known.iter().find(|(sign, _)| rule.contains(sign));
    found.map_or("an administrator, or another network program", |(_, author)| author)
}

/// Lists what there is in the calling thread's namespace, where nftables has these tables. The answer names what cannot be listed.
pub(crate) fn list(programs: &NatPrograms, nftables: &[String]) -> io::Result<AwsCniNat> {
    Ok(list_whole(programs, nftables)?.0)
}

/// As [`list`], and returns the listings themselves.
pub(crate) fn listing(
    programs: &NatPrograms,
    nftables: &[String],
) -> io::Result<(AwsCniNat, AwsCniListing)> {
    let (nat, iptables) = list_whole(programs, nftables)?;
    let arguments = ["--stateless", "--numeric", "list", "table", "ip", TABLE];
    let nft = nat.nft_table.then(|| run(&programs.nft, &arguments, "")).transpose()?;
    let unlisted = nat.unlisted.clone();
    Ok((nat, AwsCniListing { iptables, nft, unlisted }))
}

/// Returns what there is, and what the kinds of iptables print, each with its name.
fn list_whole(
    programs: &NatPrograms,
    nftables: &[String],
) -> io::Result<(AwsCniNat, Vec<(String, String)>)> {
    let of_iptables = |names: &[String]| -> Vec<&'static str> {
        TABLES.into_iter().filter(|table| names.iter().any(|name| name == table)).collect()
    };
    let there = [
        (Kind::Nftables, of_iptables(nftables)),
        // To list tables of this kind makes the kernel make them, so it is asked first which there are.
        (Kind::Legacy, of_iptables(&legacy_tables()?)),
    ];
    let mut found = AwsCniNat::default();
    if nftables.iter().any(|name| name == TABLE) {
        match run(&programs.nft, &["--version"], "") {
            Ok(_) => found.nft_table = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => found.unlisted.push(format!(
                "its table ip {TABLE} is in nftables, and nft is not installed, which removes it"
            )),
            Err(error) => return Err(error),
        }
    }
    let mut texts = Vec::new();
    if there.iter().all(|(_, tables)| tables.is_empty()) {
        return Ok((found, texts));
    }
    let iptables = Iptables::all(programs);
    for (kind, tables) in there {
        match iptables.iter().find(|it| it.kind() == kind) {
            _ if tables.is_empty() => {}
            Some(of_kind) => {
                let text = run(&of_kind.save(Family::Ipv4), &[], "")?;
                let unlisted = incompatible(&text);
                let unlisted: Vec<_> =
                    tables.into_iter().filter(|table| unlisted.contains(table)).collect();
                found.unlisted.extend(seen_by_nft(&programs.nft, &unlisted, "iptables cannot list it"));
                let tables = recognise(&text);
                if !tables.is_empty() {
                    found.iptables.push(Saved { programs: of_kind.clone(), tables });
                }
                texts.push((kind.to_string(), text));
            }
            None if kind == Kind::Nftables => {
                let missing = "iptables-nft is not installed, which lists and removes them";
                found.unlisted.extend(seen_by_nft(&programs.nft, &tables, missing));
            }
            None => found.unlisted.push(format!(
                "{kind} has rules in the tables {}, and iptables-legacy is not installed, which lists them",
                tables.join(", ")
            )),
        }
    }
    Ok((found, texts))
}

/// Returns the tables of the legacy kind that there are, whatever is in them.
fn legacy_tables() -> io::Result<Vec<String>> {
    match fs::read_to_string("/proc/thread-self/net/ip_tables_names") {
        Ok(names) => Ok(names.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Looks at tables of iptables by way of nft, which shows the names of chains and no comments, and returns why it is not known
/// what of them belongs to amazon-vpc-cni-k8s.
fn seen_by_nft(nft: &Path, tables: &[&str], why: &str) -> Vec<String> {
    let unlisted = |table: &&str| {
        let arguments = ["--stateless", "--numeric", "list", "table", "ip", table];
        let seen = match run(nft, &arguments, "") {
            Ok(text) => listing::signs_in_nft(&text)?,
            Err(error) => error.to_string(),
        };
        Some(format!("table {table} of iptables-nft: {seen}; {why}"))
    };
    tables.iter().filter_map(unlisted).collect()
}

/// Removes it from the calling thread's namespace; what one program cannot do stops no other program.
pub(crate) fn remove(nft: &Path, left: &AwsCniNat) -> io::Result<()> {
    let mut result = Ok(());
    for (program, arguments, script) in left.removal(nft) {
        result = result.and(run(&program, arguments, &script).map(drop));
    }
    result
}
