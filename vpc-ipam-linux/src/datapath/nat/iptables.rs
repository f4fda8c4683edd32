//! The rules as chains of iptables, for nodes without nft.
//!
//! One thing is less than with nftables: iptables has no hook between the choice of a Service's endpoint and the choice of a
//! route, so the first packet of a connection to one outside of the VPC goes out by the pod's own ENI and is lost. From the
//! second on, which TCP sends after a second, the connection is known for what it is and marked.

pub(crate) mod chain;

use std::io;
use std::path::Path;

use self::chain::{Chain, Table};
use super::plan::NatPlan;
use super::programs::{Iptables, run_with_known_ports};
use super::rule_set::{NatActual, NatDigest, RuleSet, Set, digest_of};
use crate::kernel::process::{WAIT_FOR_LOCK, run};
use crate::kernel::quote;
use crate::{Family, SnatPorts};

const TRANSLATE: &str = "VPC-IPAM-TRANSLATE";
const MARK: &str = "VPC-IPAM-MARK";
const RESTORE: &str = "VPC-IPAM-RESTORE";
const SERVICES: &str = "VPC-IPAM-SERVICES";
const ISOLATE: &str = "VPC-IPAM-ISOLATE";

/// Returns what should be in each table, in the order in which they are written: marks before what sends by them.
///
/// In one piece, so that the rules can be read from top to bottom in the order in which packets meet them.
pub(super) fn render(plan: &NatPlan<'_>) -> Vec<Table> {
    let mark = plan.mark;
    let restore = format!("-j CONNMARK --restore-mark --nfmask {mark:#x} --ctmask {mark:#x}");
    let set = format!("-j CONNMARK --set-xmark {mark:#x}/{mark:#x}");
    let ports = match plan.ports {
        SnatPorts::Random => " --random",
        SnatPorts::FullyRandom => " --random-fully",
        SnatPorts::Kept => "",
    };
    let local = "-m addrtype --dst-type LOCAL -j RETURN".to_owned();
    let (mut mangle, mut nat, mut filter) = (Vec::new(), Vec::new(), Vec::new());

    if plan.restores_marks() {
        let mut rules = Vec::new();
        if plan.node_port {
            rules.push(format!(
                "-i {} -m addrtype --dst-type LOCAL --limit-iface-in {set}",
                quote::iptables(plan.primary)
            ));
        }
        if let Some(translated) = &plan.translated {
            let endpoint = |net| format!("-m conntrack --ctreplsrc {net} -j RETURN");
            let mut known: Vec<_> = translated.not_for.iter().map(endpoint).collect();
            known.push(set.clone());
            // Before what leads there.
            mangle.push(Chain { name: SERVICES, rules: known, jumps: Vec::new() });
            rules.extend(
                plan.pods
                    .iter()
                    .map(|pods| format!("-i {pods}+ -m conntrack --ctstate DNAT -j {SERVICES}")),
            );
        }
        let links = plan.pods.iter().map(|pods| pods.as_str());
        let vlans = plan.node_port.then_some("vlan");
        rules.extend(links.chain(vlans).map(|prefix| format!("-i {prefix}+ {restore}")));
        mangle.push(Chain { name: RESTORE, rules, jumps: vec!["-A PREROUTING".to_owned()] });
    }
    let mut translate = Vec::new();
    if let Some(hidden) = &plan.hidden {
        let (range, to, multicast) = (hidden.range, hidden.to, hidden.multicast);
        translate.push(format!("-s {range} ! -d {multicast} -j SNAT --to-source {to}{ports}"));
        filter.push(Chain {
            name: ISOLATE,
            rules: vec![format!("-d {range} -m conntrack --ctstate NEW -j REJECT")],
            jumps: vec!["-I FORWARD".to_owned()],
        });
    }
    if let Some(translated) = &plan.translated {
        let returns = translated.not_for.iter().map(|net| format!("-d {net} -j RETURN"));
        let returns: Vec<_> = returns.collect();
        translate.extend(returns.iter().cloned());
        translate.push(format!(
            "! -o {} -m addrtype --src-type LOCAL --limit-iface-out -j RETURN",
            quote::iptables(plan.primary)
        ));
        translate.push(format!("-j SNAT --to-source {}{ports}", translated.to));

        let mut rules = vec![local.clone()];
        rules.extend(returns);
        rules.extend([set, restore]);
        let jumps = plan.pods.iter().map(|pods| format!("-A PREROUTING -i {pods}+")).collect();
        nat.push(Chain { name: MARK, rules, jumps });
    }
    if !translate.is_empty() {
        let mut rules = vec!["-o vlan+ -j RETURN".to_owned(), local];
        rules.append(&mut translate);
        nat.push(Chain { name: TRANSLATE, rules, jumps: vec!["-A POSTROUTING".to_owned()] });
    }
    let tables = [("mangle", mangle), ("nat", nat), ("filter", filter)];
    let tables = tables.into_iter().filter(|(_, chains)| !chains.is_empty());
    tables.map(|(name, chains)| Table { family: plan.family, name, chains }).collect()
}

/// What is there of ours: for each table of a family the lines of iptables-save that speak of our chains.
struct Listing {
    set: Set,
    tables: Vec<(Family, String, Vec<String>)>,
}

impl Listing {
    fn read(programs: &Iptables, set: Set, families: &[Family]) -> io::Result<Self> {
        let mut tables = Vec::new();
        for &family in families {
            let saved = run(&programs.save(family), &[], "")?;
            let mut table = None;
            for line in saved.lines() {
                if let Some(name) = line.strip_prefix('*') {
                    table = Some((family, name.to_owned(), Vec::new()));
                } else if line == "COMMIT" {
                    tables.extend(table.take());
                } else if line.contains(set.chains())
                    && let Some((_, _, lines)) = &mut table
                {
                    // Counters tell nothing.
                    let end = if line.starts_with(':') { line.find(" [") } else { None };
                    lines.push(line[..end.unwrap_or(line.len())].to_owned());
                }
            }
        }
        tables.retain(|(_, _, lines)| !lines.is_empty());
        Ok(Self { set, tables })
    }

    /// Returns the name of the empty chain whose name holds the digests.
    fn digest_chain(&self) -> Option<&str> {
        let lines = self.tables.iter().flat_map(|(_, _, lines)| lines);
        lines.filter_map(|line| chain_of(line)).find(|chain| is_digest_chain(self.set, chain))
    }

    fn digest(&self) -> String {
        let mut text = String::new();
        for (family, name, lines) in &self.tables {
            text += &format!("{family:?} {name}\n");
            let digest_chain =
                |line: &&String| chain_of(line).is_some_and(|it| is_digest_chain(self.set, it));
            for line in lines.iter().filter(|line| !digest_chain(line)) {
                text += line;
                text.push('\n');
            }
        }
        digest_of(&text)[..DIGEST_DIGITS].to_owned()
    }
}

/// A chain has a name of at most 28 characters.
const DIGEST_DIGITS: usize = 8;

fn is_digest_chain(set: Set, chain: &str) -> bool {
    digests(set, chain).is_some()
}

fn digests(set: Set, chain: &str) -> Option<(&str, &str)> {
    let (text, listed) = chain.strip_prefix(set.chains())?.split_once('-')?;
    let digits = |text: &str| {
        text.len() == DIGEST_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    (digits(text) && digits(listed)).then_some((text, listed))
}

/// Returns the chain that a line of iptables-save declares.
fn chain_of(line: &str) -> Option<&str> {
    line.strip_prefix(':')?.split(' ').next()
}

/// Lists our chains in the calling thread's namespace.
pub(super) fn list(programs: &Iptables, set: Set) -> io::Result<NatActual> {
    let listing = Listing::read(programs, set, &programs.families())?;
    if listing.tables.is_empty() {
        return Ok(NatActual::Absent);
    }
    let digests = listing.digest_chain().and_then(|digest_chain| digests(set, digest_chain));
    Ok(match digests {
        Some((text, listed)) if listed == listing.digest() => {
            NatActual::Intact(NatDigest(text.to_owned()))
        }
        _ => NatActual::Altered,
    })
}

/// Replaces our chains in the calling thread's namespace: each table in one transaction, in which our chains are emptied and
/// filled, and the rules that lead there taken away and added.
pub(super) fn replace(programs: &Iptables, rules: &RuleSet) -> io::Result<()> {
    let RuleSet { set, rules } = rules;
    let tables = rules.as_ref().map_or(&[][..], |rules| &rules.iptables);
    let wants_ipv6 = tables.iter().any(|table| table.family == Family::Ipv6);
    let mut families = programs.families();
    if wants_ipv6 && !families.contains(&Family::Ipv6) {
        families.push(Family::Ipv6);
    }
    let listing = Listing::read(programs, *set, &families)?;
    for &family in &families {
        let script = script(family, tables, &listing);
        if !script.is_empty() {
            restore(&programs.restore(family), &script)?;
        }
    }
    let (Some(rules), Some(table)) = (rules, tables.first()) else {
        return Ok(());
    };
    let listed = Listing::read(programs, *set, &families)?.digest();
    let digest_chain =
        format!("{}{}-{listed}", set.chains(), &rules.iptables_digest[..DIGEST_DIGITS]);
    let script = format!("*{}\n:{digest_chain} - [0:0]\nCOMMIT\n", table.name);
    restore(&programs.restore(table.family), &script)
}

/// Returns how many packets a rule of ours dropped, by any chain of that name.
pub(super) fn count_dropped(programs: &Iptables, chain: &str) -> io::Result<u64> {
    let mut packets = 0;
    for family in programs.families() {
        let saved = run(&programs.save(family), &["--counters"], "")?;
        let of_rule = |line: &str| {
            let (count, rule) = line.strip_prefix('[')?.split_once("] ")?;
            let drops = rule.starts_with(&format!("-A {chain} ")) && rule.ends_with("-j DROP");
            let (packets, _) = count.split_once(':')?;
            drops.then(|| packets.parse::<u64>().ok()).flatten()
        };
        packets += saved.lines().filter_map(of_rule).sum::<u64>();
    }
    Ok(packets)
}

fn script(family: Family, tables: &[Table], listing: &Listing) -> String {
    let wanted = tables.iter().filter(|table| table.family == family);
    let there = listing.tables.iter().filter(|(of, ..)| *of == family);
    let mut names: Vec<&str> = wanted.clone().map(|table| table.name).collect();
    for (_, name, _) in there.clone() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut script = String::new();
    for name in names {
        let chains = wanted.clone().find(|table| table.name == name);
        let chains = chains.map_or(&[][..], |table| &table.chains);
        let lines = there.clone().find(|(_, of, _)| of == name).map(|(_, _, lines)| &lines[..]);
        let lines = lines.unwrap_or_default();

        script += &format!("*{name}\n");
        // To declare a chain is to make it, or to empty it.
        let old = lines.iter().filter_map(|line| chain_of(line));
        let old: Vec<_> =
            old.filter(|old| !chains.iter().any(|chain| chain.name == *old)).collect();
        let declared = chains.iter().map(|chain| chain.name).chain(old.iter().copied());
        script.extend(declared.map(|chain| format!(":{chain} - [0:0]\n")));
        let leads_here = lines.iter().filter_map(|line| line.strip_prefix("-A "));
        let leads_here = leads_here.filter(|rule| !rule.starts_with(listing.set.chains()));
        script.extend(leads_here.map(|rule| format!("-D {rule}\n")));
        for chain in chains {
            script.extend(chain.rules.iter().map(|rule| format!("-A {} {rule}\n", chain.name)));
            script.extend(chain.jumps.iter().map(|jump| format!("{jump} -j {}\n", chain.name)));
        }
        script.extend(old.iter().map(|chain| format!("-X {chain}\n")));
        script += "COMMIT\n";
    }
    script
}

fn restore(program: &Path, script: &str) -> io::Result<()> {
    // Shares the lock with the host's own, and waits for it.
    let arguments = [WAIT_FOR_LOCK, "--noflush"];
    run_with_known_ports(program, &arguments, script, ["--random-fully", "--random"])
}
