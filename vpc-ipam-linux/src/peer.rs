//! What amazon-vpc-cni-k8s leaves of its address translation on a node that it used to look after.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::child::{WAIT_FOR_LOCK, run};

/// The rules and chains of amazon-vpc-cni-k8s, in whichever of nftables and the two kinds of iptables they are.
///
/// Next to ours they do no harm: of two translations of a packet the first counts, and both mark the same connections.
/// So they are removed after ours are there, and no packet finds neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNat {
    /// Whether there is the table `ip aws-cni`.
    nft_table: bool,
    /// By the program that lists them.
    iptables: Vec<IptablesRules>,
}

/// What there is in one kind of iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
struct IptablesRules {
    kind: Kind,
    tables: Vec<IptablesTable>,
}

/// What there is in one table of iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
struct IptablesTable {
    name: String,
    /// Rules in chains that are not the peer's, as `iptables-save` prints them behind `-A `.
    rules: Vec<String>,
    /// Chains that are.
    chains: Vec<String>,
}

/// Rules of one kind are invisible to the programs of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nft,
    Legacy,
}

const TABLE: &str = "aws-cni";

/// What the names of the peer's chains begin with; a number follows.
const CHAINS: [&str; 2] = ["AWS-SNAT-CHAIN-", "AWS-CONNMARK-CHAIN-"];

/// The comments of the peer's rules in chains that are not its own.
const COMMENTS: [&str; 4] =
    ["AWS SNAT CHAIN", "AWS, primary ENI", "AWS, outbound connections", "AWS, CONNMARK"];

impl Kind {
    fn program(self, what: &str) -> PathBuf {
        match self {
            Self::Nft => format!("iptables-nft-{what}"),
            Self::Legacy => format!("iptables-legacy-{what}"),
        }
        .into()
    }
}

impl PeerNat {
    /// Returns the commands that remove it, each with the text for its standard input.
    pub(crate) fn removal(&self, nft: &Path) -> Vec<(PathBuf, &'static [&'static str], String)> {
        let mut commands = Vec::new();
        if self.nft_table {
            let script = format!("delete table ip {TABLE}\n");
            commands.push((nft.to_path_buf(), ["--file", "-"].as_slice(), script));
        }
        for IptablesRules { kind, tables } in &self.iptables {
            let script: String = tables.iter().map(IptablesTable::removal).collect();
            let arguments = [WAIT_FOR_LOCK, "--noflush"].as_slice();
            commands.push((kind.program("restore"), arguments, script));
        }
        commands
    }
}

impl IptablesTable {
    /// Writes what `iptables-restore` is to do, in one transaction.
    fn removal(&self) -> String {
        let rules = self.rules.iter().map(|rule| format!("-D {rule}\n"));
        // Of old, one jumped to the next: none can go before all are empty.
        let flush = self.chains.iter().map(|chain| format!("-F {chain}\n"));
        let delete = self.chains.iter().map(|chain| format!("-X {chain}\n"));
        let lines: String = rules.chain(flush).chain(delete).collect();
        format!("*{}\n{lines}COMMIT\n", self.name)
    }
}

impl fmt::Display for PeerNat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rules of amazon-vpc-cni-k8s")?;
        if self.nft_table {
            write!(f, ", nftables table ip {TABLE}")?;
        }
        for IptablesRules { kind, tables } in &self.iptables {
            let kind = if *kind == Kind::Nft { "iptables-nft" } else { "iptables-legacy" };
            for IptablesTable { name, rules, chains } in tables {
                let (rules, chains) = (rules.len(), chains.len());
                write!(f, ", {kind} table {name}: {rules} rules, {chains} chains")?;
            }
        }
        Ok(())
    }
}

/// Lists what there is in the calling thread's namespace, as far as the programs are there to list it.
pub(crate) fn list(nft: &Path) -> io::Result<PeerNat> {
    let tables = or_absent(run(nft, &["list", "tables", "ip"], ""))?;
    let has = |name: &str| tables.lines().any(|line| line.trim() == format!("table ip {name}"));
    let mut found = PeerNat { nft_table: has(TABLE), iptables: Vec::new() };
    let legacy = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names");
    // To list tables of the legacy kind makes the kernel make them.
    let there = [
        (Kind::Nft, has("nat") || has("mangle")),
        (Kind::Legacy, legacy.is_ok_and(|names| !names.is_empty())),
    ];
    for (kind, _) in there.into_iter().filter(|(_, there)| *there) {
        let tables = recognise(&or_absent(run(&kind.program("save"), &[], ""))?);
        if !tables.is_empty() {
            found.iptables.push(IptablesRules { kind, tables });
        }
    }
    Ok(found)
}

/// Removes it from the calling thread's namespace; what one program cannot do keeps none of the others from its part.
pub(crate) fn remove(nft: &Path, peer: &PeerNat) -> io::Result<()> {
    let mut result = Ok(());
    for (program, arguments, script) in peer.removal(nft) {
        result = result.and(run(&program, arguments, &script).map(drop));
    }
    result
}

/// Takes a program that is not there for one that lists nothing.
fn or_absent(listed: io::Result<String>) -> io::Result<String> {
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

fn recognise(saved: &str) -> Vec<IptablesTable> {
    let mut tables: Vec<IptablesTable> = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(IptablesTable {
                name: name.to_owned(),
                rules: Vec::new(),
                chains: Vec::new(),
            });
        }
        let Some(table) = tables.last_mut() else {
            continue;
        };
        if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split(' ').next().unwrap_or_default();
            table.chains.extend(is_peers(name).then(|| name.to_owned()));
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let chain = rule.split(' ').next().unwrap_or_default();
            let target = rule.split_once(" -j ").map(|(_, target)| target);
            let jumps = target.is_some_and(is_peers);
            let comment = |text: &str| rule.contains(&format!("--comment \"{text}\""));
            if !is_peers(chain) && (jumps || COMMENTS.iter().any(|text| comment(text))) {
                table.rules.push(rule.to_owned());
            }
        }
    }
    tables.retain(|table| !table.rules.is_empty() || !table.chains.is_empty());
    tables
}

fn is_peers(chain: &str) -> bool {
    let number = |prefix| chain.strip_prefix(prefix).map(|rest: &str| rest.parse::<u32>());
    CHAINS.into_iter().filter_map(number).any(|number| number.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_the_peer_are_told_from_those_of_others() {
        let cases = [
            (r#"-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0"#, true),
            ("-A POSTROUTING -j AWS-SNAT-CHAIN-7", true),
            (
                r#"-A PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark"#,
                true,
            ),
            (r#"-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK"#, true),
            ("-A AWS-SNAT-CHAIN-0 -d 10.0.0.0/16 -j RETURN", false),
            (r#"-A KUBE-SERVICES -m comment --comment "kubernetes: AWS" -j KUBE-SVC-1"#, false),
            ("-A POSTROUTING -j AWS-SNAT-CHAIN-MINE", false),
        ];
        for (line, expected) in cases {
            let tables = recognise(&format!("*nat\n:POSTROUTING ACCEPT [0:0]\n{line}\nCOMMIT\n"));
            let rule = line.strip_prefix("-A ").unwrap();
            let found = tables.iter().any(|table| table.rules.contains(&rule.to_owned()));
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn removal_names_each_rule_and_then_each_chain() {
        let saved = "*nat\n:POSTROUTING ACCEPT [0:0]\n:AWS-SNAT-CHAIN-0 - [0:0]\n:AWS-SNAT-CHAIN-1 - [0:0]\n\
                     -A POSTROUTING -j AWS-SNAT-CHAIN-0\n-A AWS-SNAT-CHAIN-0 -j AWS-SNAT-CHAIN-1\nCOMMIT\n\
                     *filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n";
        let removals: Vec<_> = recognise(saved).iter().map(IptablesTable::removal).collect();
        assert_eq!(
            removals,
            [
                "*nat\n-D POSTROUTING -j AWS-SNAT-CHAIN-0\n-F AWS-SNAT-CHAIN-0\n-F AWS-SNAT-CHAIN-1\n\
              -X AWS-SNAT-CHAIN-0\n-X AWS-SNAT-CHAIN-1\nCOMMIT\n"
            ]
        );
    }
}
