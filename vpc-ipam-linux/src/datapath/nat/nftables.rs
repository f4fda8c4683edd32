//! The rules as nftables tables of ours.

#[cfg(feature = "testkit")]
pub(super) mod testkit;

use core::fmt::Write as _;
use std::io;
use std::path::Path;

use super::plan::NatPlan;
use super::programs::run_with_known_ports;
use super::rule_set::{NatActual, NatDigest, RuleSet, Set, digest_of};
use crate::kernel::process::run;
use crate::kernel::quote;
use crate::{Family, SnatPorts};

/// Marks a connection after kube-proxy chose a destination (-100). Not a chain of type nat: the kernel passes a connection to
/// none of those any more once one has chosen.
const AFTER_DNAT: i32 = -90;

/// Lets translations of other programs come first: kube-proxy's and portmap's are at 100.
const AFTER_SNAT: i32 = 110;

const MANGLE: i32 = -150;

/// Writes the tables; that of IPv4 is always there, since it has the chain with the digests.
pub(super) fn render(plans: &[NatPlan<'_>]) -> String {
    let mut ipv4 = table(Set::Translation, Family::Ipv4, &[]);
    let mut ipv6 = String::new();
    for plan in plans {
        let chains = chains(plan);
        match plan.family {
            Family::Ipv4 => ipv4 = table(Set::Translation, Family::Ipv4, &chains),
            Family::Ipv6 => ipv6 = table(Set::Translation, Family::Ipv6, &chains),
        }
    }
    ipv4 + &ipv6
}

pub(crate) fn table(set: Set, family: Family, contents: &[String]) -> String {
    format!("table {} {} {{\n{}}}\n", keyword(family), set.nft_table(), contents.concat())
}

fn keyword(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    }
}

/// Returns the chains of a family.
///
/// In one piece, so that the rules can be read from top to bottom in the order in which packets meet them.
fn chains(plan: &NatPlan<'_>) -> Vec<String> {
    let (ip, mark) = (keyword(plan.family), plan.mark);
    let restore = format!("ct mark & {mark:#x} == {mark:#x} meta mark set meta mark | {mark:#x}");
    let ports = match plan.ports {
        SnatPorts::Random => " random",
        SnatPorts::FullyRandom => " fully-random",
        SnatPorts::Kept => "",
    };
    let mut chains = Vec::new();

    let mut translate = Vec::new();
    if let Some(hidden) = &plan.hidden {
        let (range, to, multicast) = (hidden.range, hidden.to, hidden.multicast);
        translate.push(format!("{ip} saddr {range} {ip} daddr != {multicast} snat to {to}{ports}"));
        let isolate = format!("{ip} daddr {range} ct state new reject");
        chains.push(chain("isolate", "filter hook forward priority 0", &[isolate]));
    }
    if let Some(translated) = &plan.translated {
        // Not one set: for a moment after rules are there, the kernel finds nothing in a set that came with them (seen with 6.18), and
        // what goes to another host of the VPC would be translated.
        let untranslated: Vec<_> =
            translated.not_for.iter().map(|net| format!("{ip} daddr {net} return")).collect();
        translate.extend(untranslated.iter().cloned());
        translate.push(format!(
            "oifname != {} fib saddr . oif type local return",
            quote::nft(plan.primary)
        ));
        translate.push(format!("snat to {}{ports}", translated.to));

        // The virtual addresses of IPVS are local; what is behind them is chosen later.
        let mut rules =
            vec!["ct state != new return".to_owned(), "fib daddr type local return".to_owned()];
        rules.extend(untranslated);
        for pods in &plan.pods {
            rules.push(format!(r#"iifname "{pods}*" ct mark set ct mark | {mark:#x}"#));
            rules.push(format!(r#"iifname "{pods}*" {restore}"#));
        }
        let hook = format!("filter hook prerouting priority {AFTER_DNAT}");
        chains.push(chain("mark-connections", &hook, &rules));
    }
    if !translate.is_empty() {
        let mut rules =
            vec![r#"oifname "vlan*" return"#.to_owned(), "fib daddr type local return".to_owned()];
        rules.append(&mut translate);
        let hook = format!("nat hook postrouting priority {AFTER_SNAT}");
        chains.push(chain("translate", &hook, &rules));
    }
    let mut restores = Vec::new();
    if plan.node_port {
        restores.push(format!(
            "iifname {} fib daddr . iif type local ct mark set ct mark | {mark:#x}",
            quote::nft(plan.primary)
        ));
    }
    if plan.restores_marks() {
        let links = plan.pods.iter().map(|pods| pods.as_str());
        let vlans = plan.node_port.then_some("vlan");
        restores
            .extend(links.chain(vlans).map(|prefix| format!(r#"iifname "{prefix}*" {restore}"#)));
        let hook = format!("filter hook prerouting priority {MANGLE}");
        chains.push(chain("restore-marks", &hook, &restores));
    }
    chains
}

pub(crate) fn chain(name: &str, hook: &str, rules: &[String]) -> String {
    let mut text = format!("\tchain {name} {{\n\t\ttype {hook}; policy accept;\n");
    for rule in rules {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\t\t{rule}");
    }
    text + "\t}\n"
}

/// Returns the script that loads a set of rules.
pub(crate) fn script_of(rules: &RuleSet) -> String {
    let ipv6 = rules.rules.as_ref().is_some_and(|rules| rules.ipv6);
    script(rules.set, rules.tables(), ipv6)
}

/// Returns the script that makes it so in one transaction, whatever was there.
///
/// Kernels without IPv6 know no table of that family, so it is mentioned only where there is or was one.
fn script(set: Set, tables: Option<&str>, ipv6_too: bool) -> String {
    let mut script = String::new();
    let families: &[Family] =
        if ipv6_too { &[Family::Ipv4, Family::Ipv6] } else { &[Family::Ipv4] };
    for family in families {
        let (family, table) = (keyword(*family), set.nft_table());
        // To delete what may not be there, it is added first; the kernel sees the outcome alone.
        script += &format!("add table {family} {table}\ndelete table {family} {table}\n");
    }
    script + tables.unwrap_or_default()
}

/// The name of an empty chain that is added last, to the table of IPv4. It tells from which text the tables were made, and how
/// nft listed them then. A program that alters them makes the two differ, and so does a new version of nft, which costs one
/// replacement.
const DIGEST_CHAIN: &str = "sealed-";

/// The same, where there is a table of IPv6 too.
const DIGEST_CHAIN_BOTH: &str = "sealed6-";

/// Lists tables of ours in the calling thread's namespace.
pub(super) fn list(nft: &Path, set: Set) -> io::Result<NatActual> {
    let ipv4 = match list_table(nft, set, Family::Ipv4) {
        Ok(listing) => listing,
        Err(error) if error.kind() != io::ErrorKind::Other => return Err(error),
        // nft does not say in a way to rely on that a table is not there.
        Err(error) => {
            let there = families_there(nft, set)?;
            return match there.is_empty() {
                true => Ok(NatActual::Absent),
                false if there.contains(&Family::Ipv4) => Err(error),
                false => Ok(NatActual::Altered),
            };
        }
    };
    let ipv6 = match digest_chain_in(&ipv4) {
        Some(digest_chain) if digest_chain.starts_with(DIGEST_CHAIN_BOTH) => {
            match list_table(nft, set, Family::Ipv6) {
                Ok(listing) => listing,
                Err(error) if families_there(nft, set)?.contains(&Family::Ipv6) => {
                    return Err(error);
                }
                Err(_) => return Ok(NatActual::Altered),
            }
        }
        _ => String::new(),
    };
    Ok(recognise(&(ipv4 + &ipv6)))
}

/// Replaces tables of ours in the calling thread's namespace.
pub(super) fn replace(nft: &Path, rules: &RuleSet) -> io::Result<()> {
    let RuleSet { set, rules } = rules;
    let ipv6 = rules.as_ref().is_some_and(|rules| rules.ipv6);
    let ipv6_too = ipv6 || families_there(nft, *set)?.contains(&Family::Ipv6);
    let load = |text: Option<&str>| {
        let script = script(*set, text, ipv6_too);
        run_with_known_ports(nft, &["--file", "-"], &script, ["fully-random", "random"])
    };
    let Some(rules) = rules else { return load(None) };
    let loaded = match (load(Some(&rules.nftables.text)), &rules.nftables_or) {
        (Ok(()), _) => &rules.nftables,
        // The kernel lacks something that not everything needs.
        (Err(error), Some(other)) if error.kind() == io::ErrorKind::Other => {
            load(Some(&other.text)).map_err(|_| error)?;
            other
        }
        (Err(error), _) => return Err(error),
    };
    let mut listing = list_table(nft, *set, Family::Ipv4)?;
    if ipv6 {
        listing += &list_table(nft, *set, Family::Ipv6)?;
    }
    let digest_chain = if ipv6 { DIGEST_CHAIN_BOTH } else { DIGEST_CHAIN };
    let digest_chain =
        format!("{digest_chain}{}-{}", loaded.digest, digest_of(&without_digest(&listing).0));
    let digest_chain = format!("add chain ip {} {digest_chain}\n", set.nft_table());
    run(nft, &["--file", "-"], &digest_chain).map(drop)
}

/// Returns how many packets the counters of that name counted in tables of ours.
pub(super) fn count(nft: &Path, set: Set, counter: &str) -> io::Result<u64> {
    let mut packets = 0;
    for family in families_there(nft, set)? {
        let arguments = ["list", "counter", keyword(family), set.nft_table(), counter];
        let listed = run(nft, &arguments, "")?;
        let count = listed.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next());
        let count = count.and_then(|count| count.parse::<u64>().ok());
        packets += count.ok_or_else(|| io::Error::other(format!("no count in {listed:?}")))?;
    }
    Ok(packets)
}

fn list_table(nft: &Path, set: Set, family: Family) -> io::Result<String> {
    let (family, table) = (keyword(family), set.nft_table());
    run(nft, &["--stateless", "--numeric", "list", "table", family, table], "")
}

/// Returns for which families there is a table of ours.
fn families_there(nft: &Path, set: Set) -> io::Result<Vec<Family>> {
    let tables = run(nft, &["list", "tables"], "")?;
    let mut families = vec![Family::Ipv4, Family::Ipv6];
    families.retain(|family| {
        let ours = format!("table {} {}", keyword(*family), set.nft_table());
        tables.lines().any(|line| line.trim() == ours)
    });
    Ok(families)
}

fn recognise(listing: &str) -> NatActual {
    let (listing, digest_chain) = without_digest(listing);
    let digests = digest_chain
        .and_then(|digest_chain| digest_chain.split_once('-'))
        .map(|(_, digests)| digests);
    match digests.and_then(|digests| digests.split_once('-')) {
        Some((text, listed)) if listed == digest_of(&listing) => {
            NatActual::Intact(NatDigest(text.to_owned()))
        }
        _ => NatActual::Altered,
    }
}

fn digest_chain_in(listing: &str) -> Option<&str> {
    listing.lines().find_map(digest_chain_of_line)
}

fn digest_chain_of_line(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix("chain ")?.strip_suffix(" {")?;
    (name.starts_with(DIGEST_CHAIN) || name.starts_with(DIGEST_CHAIN_BOTH)).then_some(name)
}

/// Returns a listing without the chain of the digests and without empty lines, and the name of that chain.
fn without_digest(listing: &str) -> (String, Option<&str>) {
    let mut digest_chain = None;
    let mut rest = String::with_capacity(listing.len());
    let mut lines = listing.lines().filter(|line| !line.trim().is_empty());
    while let Some(line) = lines.next() {
        match digest_chain_of_line(line) {
            Some(name) => {
                digest_chain = Some(name);
                // An empty chain closes on the next line; a rule in it would be another program's, and is kept.
                if let Some(next) = lines.next().filter(|next| next.trim() != "}") {
                    rest += next;
                }
            }
            None => {
                rest += line;
                rest.push('\n');
            }
        }
    }
    (rest, digest_chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn altered_listing_differs_from_its_digest() {
        let text = digest_of("the text");
        let listing = "table ip vpc-ipam {\n\tchain translate {\n\t\tsnat\n\t}\n}\n".to_owned();
        let close = listing.len() - "}\n".len();
        for digest_chain in [DIGEST_CHAIN, DIGEST_CHAIN_BOTH] {
            let digest_chain = format!("{digest_chain}{text}-{}", digest_of(&listing));
            let with_digest =
                format!("{}\n\tchain {digest_chain} {{\n\t}}\n}}\n", &listing[..close]);

            let cases = [
                ("as it was", &with_digest, true),
                ("no digest", &listing, false),
                ("a rule less", &with_digest.replace("\t\tsnat\n", ""), false),
                (
                    "a rule in the chain of the digests",
                    &with_digest.replace("{\n\t}\n}", "{\n\t\tdrop\n\t}\n}"),
                    false,
                ),
            ];
            for (case, listing, expected) in cases {
                let intact = recognise(listing) == NatActual::Intact(NatDigest(text.clone()));
                assert_eq!(intact, expected, "{case}:\n{listing}");
            }
        }
    }
}
