//! The check of the sources of what pods send: a pod sends from its own addresses alone, and from no other pod's, nor the node's.
//!
//! Without it a pod that may make packets as it likes (CAP_NET_RAW) sends IPv6 from any address, and IPv4 where `rp_filter` is off.
//! For each packet that comes in by the link of a pod the kernel looks up the way back to its source, which has to lead by that
//! very link. Links of ENIs are not checked: what comes in by one may well leave by another.

use core::fmt;

use crate::datapath::facts::HostFacts;
use crate::datapath::nat::iptables::chain::{Chain, Table};
use crate::datapath::nat::{NatActual, RuleSet, Set, nftables};
use crate::{BranchMode, Family, HostConfig, VethPrefix};

/// The rules that check the sources of what pods send, or that there should be none.
///
/// Where pods on branch ENIs in strict mode cannot be checked (before Linux 5.19, and with iptables), all other pods are. What those send
/// crosses the VPC, which checks sources itself. The match `rpfilter` cannot do it: it works before the route is chosen, takes no
/// account of the link by which a packet came in, and finds no way back to a pod to which only rules for that link lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceCheck(pub(crate) RuleSet);

/// Counts what is dropped, in each family's table of nftables.
pub(crate) const COUNTER: &str = "spoofed";

/// The chain of iptables that drops it.
pub(crate) const IPTABLES_CHAIN: &str = "VPC-SOURCE-CHECK";

/// Before connections are tracked and destinations chosen (`raw`).
const FIRST: i32 = -300;

/// How the names of links begin that belong to branch ENIs: of pods in strict mode, and with a point and a number of VLANs.
const OF_BRANCHES: &str = "vlan";
const OF_VLANS: &str = "vlan.eth.";

impl SourceCheck {
    /// Returns what is left of the rules when there should be none.
    pub fn none() -> Self {
        Self(RuleSet::none(Set::Sources))
    }

    /// Writes the rules for a node.
    pub fn render(config: &HostConfig, facts: &HostFacts) -> Self {
        let prefixes: Vec<_> = checked(config, facts).collect();
        if !config.source_check || prefixes.is_empty() {
            return Self::none();
        }
        let families: &[Family] =
            if facts.ipv6 { &[Family::Ipv4, Family::Ipv6] } else { &[Family::Ipv4] };
        let strict = facts.branch_enis && config.branch_mode == BranchMode::Strict;
        let tables = |strict| families.iter().map(|it| table(*it, &prefixes, strict)).collect();
        let or = strict.then(|| tables(false));
        let chains = families.iter().map(|family| iptables(*family, &prefixes)).collect();
        Self(RuleSet::new(Set::Sources, tables(strict), or, chains, facts.ipv6))
    }

    /// Returns the tables as text for nft, if there should be any.
    pub fn tables(&self) -> Option<&str> {
        self.0.tables()
    }

    /// Returns whether what is there is what there should be.
    pub fn is(&self, actual: &NatActual) -> bool {
        self.0.is(actual)
    }

    /// Returns the script for nft that makes it so in one transaction, whatever was there of the families that it is about.
    pub fn script(&self) -> String {
        nftables::script_of(&self.0)
    }
}

impl fmt::Display for SourceCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tables() {
            Some(_) => write!(f, "check of the sources of pods {}", self.0),
            None => write!(f, "no check of the sources of pods"),
        }
    }
}

/// Returns how the names of links begin that are checked. Where those of ENIs begin so too, which no rule distinguishes, they are not.
fn checked<'a>(
    config: &'a HostConfig,
    facts: &'a HostFacts,
) -> impl Iterator<Item = &'a VethPrefix> {
    let all = core::iter::once(&config.veth_prefix).chain(&facts.other_prefixes);
    all.filter(|prefix| !facts.primary.id.name.starts_with(prefix.as_str()))
}

/// Returns whether a prefix takes in the links of branch ENIs, which other rules are for.
fn takes_in_branches(prefix: &&VethPrefix) -> bool {
    OF_BRANCHES.starts_with(prefix.as_str())
}

fn table(family: Family, prefixes: &[&VethPrefix], strict: bool) -> String {
    let elsewhere = format!("fib saddr . iif oif missing counter name {COUNTER} drop");
    // A pod asks for its gateway, and whether an address is in use, from addresses that lead nowhere; they are not passed on.
    let routed = match family {
        Family::Ipv4 => "",
        Family::Ipv6 => "ip6 saddr != { ::, fe80::/10 } ",
    };
    let spared = prefixes.iter().any(takes_in_branches);
    let mut rules = Vec::from_iter(spared.then(|| format!(r#"iifname "{OF_BRANCHES}*" return"#)));
    rules.extend(prefixes.iter().map(|it| format!(r#"iifname "{it}*" {routed}{elsewhere}"#)));
    let counter = format!("\tcounter {COUNTER} {{\n\t}}\n");
    let hook = format!("filter hook prerouting priority {FIRST}");
    let mut contents = vec![counter, nftables::chain("check", &hook, &rules)];
    if strict {
        // Only a rule for what comes in by the VLAN leads to the pod, so the kernel has to know where the packet goes.
        let of_pods = format!(r#"iifname "{OF_BRANCHES}*" iifname != "{OF_VLANS}*""#);
        let hook = format!("filter hook forward priority {FIRST}");
        let rules = [format!("{of_pods} {elsewhere}")];
        contents.push(nftables::chain("check-branches", &hook, &rules));
    }
    nftables::table(Set::Sources, family, &contents)
}

fn iptables(family: Family, prefixes: &[&VethPrefix]) -> Table {
    let mut rules = Vec::new();
    if prefixes.iter().any(takes_in_branches) {
        rules.push(format!("-i {OF_BRANCHES}+ -j RETURN"));
    }
    if family == Family::Ipv6 {
        rules.extend(["::/128", "fe80::/10"].map(|it| format!("-s {it} -j RETURN")));
    }
    rules.extend(prefixes.iter().map(|it| format!("-i {it}+ -m rpfilter --invert -j DROP")));
    // First of all: another program may accept what comes after.
    let jumps = vec!["-I PREROUTING".to_owned()];
    let chain = Chain { name: IPTABLES_CHAIN, rules, jumps };
    Table { family, name: "raw", chains: vec![chain] }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::{Link, LinkId, LinkIndex};

    #[test]
    fn rules_follow_the_configuration() {
        let config = HostConfig::default();
        let (off, standard) = (
            HostConfig { source_check: false, ..config.clone() },
            HostConfig { branch_mode: BranchMode::Standard, ..config.clone() },
        );
        let with =
            |prefix: &str| HostConfig { veth_prefix: prefix.parse().unwrap(), ..config.clone() };
        let branches = HostFacts { branch_enis: true, ..facts() };
        let old = HostFacts { other_prefixes: vec!["pod".parse().unwrap()], ..facts() };
        let no_ipv6 = HostFacts { ipv6: false, ..facts() };
        let parts = [
            r#"iifname "eni*" fib saddr"#,
            r#"iifname "eni*" ip6 saddr != { ::, fe80::/10 } fib saddr"#,
            r#"iifname "pod*" fib saddr"#,
            "hook forward",
            r#"iifname "vlan*" return"#,
        ];
        let cases = [
            ("default", &config, &facts(), [true, true, false, false, false]),
            ("off", &off, &facts(), [false; 5]),
            ("no IPv6", &config, &no_ipv6, [true, false, false, false, false]),
            ("pods of an earlier prefix", &config, &old, [true, true, true, false, false]),
            ("branches", &config, &branches, [true, true, false, true, false]),
            ("standard branches", &standard, &branches, [true, true, false, false, false]),
            ("prefix of VLANs too", &with("v"), &facts(), [false, false, false, false, true]),
            ("prefix of ENIs too", &with("e"), &facts(), [false; 5]),
        ];
        for (case, config, facts, expected) in cases {
            let check = SourceCheck::render(config, facts);
            let text = check.tables().unwrap_or_default();
            assert_eq!(parts.map(|part| text.contains(part)), expected, "{case}:\n{text}");
        }
    }

    fn facts() -> HostFacts {
        let primary = Link {
            id: LinkId::new(LinkIndex(2), "eth0"),
            mac: None,
            mtu: 9001,
            up: true,
            kind: None,
            lower: None,
            alias: None,
        };
        let cidrs = vec!["10.0.0.0/16".parse().unwrap()];
        HostFacts::ipv4(primary, Ipv4Addr::new(10, 0, 0, 10), cidrs, 9001)
    }
}
