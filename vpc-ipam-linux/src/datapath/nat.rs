//! The node's address translation, and the marks by which connections keep to the primary ENI.
//!
//! A set of rules has two forms: an nftables table of ours, replaced as a whole or not at all; and where there is no nft, chains of
//! iptables. There are two such sets, this one and the [check of sources](crate::SourceCheck).

mod backend;
pub(crate) mod iptables;
pub(crate) mod nftables;
mod plan;
mod programs;
mod rule_set;

use core::fmt;

use self::plan::NatPlan;
use crate::datapath::facts::HostFacts;
use crate::{Family, HostConfig};

pub(crate) use backend::RuleSetBackend;
#[cfg(feature = "testkit")]
pub(crate) use nftables::testkit::check_listing;
pub use programs::NatPrograms;
pub(crate) use programs::{Iptables, Kind};
pub use rule_set::{NatActual, NatDigest};
pub(crate) use rule_set::{RuleSet, Set};

/// The rules that translate and mark, or that there should be none.
///
/// What leaves for elsewhere than the VPC, the ranges that the configuration excludes, or the node itself takes the address of
/// the primary ENI, and so that the answers find back has to leave by that ENI: its connection is marked, and the mark leads
/// to the main table. So does the mark of connections that came in by the primary ENI for a NodePort. What leaves by `vlan*`
/// belongs to a branch ENI and stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat(pub(crate) RuleSet);

impl Nat {
    /// Returns what is left of the rules when there should be none.
    pub fn none() -> Self {
        Self(RuleSet::none(Set::Translation))
    }

    /// Writes the rules for a node.
    pub fn render(config: &HostConfig, facts: &HostFacts) -> Self {
        let plans = [Family::Ipv4, Family::Ipv6].map(|family| NatPlan::new(family, config, facts));
        let plans: Vec<_> = plans.into_iter().filter(NatPlan::does_anything).collect();
        if plans.is_empty() {
            return Self::none();
        }
        let nftables = nftables::render(&plans);
        let iptables: Vec<_> = plans.iter().flat_map(iptables::render).collect();
        let ipv6 = plans.iter().any(|plan| plan.family == Family::Ipv6);
        Self(RuleSet::new(Set::Translation, nftables, None, iptables, ipv6))
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

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tables() {
            Some(_) => write!(f, "address translation {}", self.0),
            None => write!(f, "no address translation"),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use vpc_ipam_core::{Families, Ipv4Kind};

    use super::*;
    use crate::{Link, LinkId, LinkIndex, SnatPorts};

    #[test]
    fn rules_follow_the_flags() {
        let chains = ["translate", "mark-connections", "restore-marks"];
        // NodePort, external SNAT; then the chains, and whether each of the three rules of the last is there.
        let cases = [
            (true, false, [true, true, true], [true, true, true]),
            (true, true, [false, false, true], [true, true, true]),
            (false, false, [true, true, true], [false, true, false]),
            (false, true, [false, false, false], [false, false, false]),
        ];
        for (node_port, external_snat, expected_chains, expected_rules) in cases {
            let config = HostConfig { node_port, external_snat, ..HostConfig::default() };
            let nat = Nat::render(&config, &facts(&["10.0.0.0/16"]));
            let text = nat.tables().unwrap_or_default();
            let case = format!("NodePort {node_port} external SNAT {external_snat}:\n{text}");

            let actual = chains.map(|name| text.contains(&format!("chain {name} {{")));
            assert_eq!(actual, expected_chains, "{case}");
            let restore = text.split("chain restore-marks").nth(1).unwrap_or_default();
            let rules = [r#"iifname "eth0" fib"#, r#"iifname "eni*" ct"#, r#"iifname "vlan*" ct"#];
            assert_eq!(rules.map(|rule| restore.contains(rule)), expected_rules, "{case}");
        }
    }

    #[test]
    fn rules_follow_the_families() {
        let kind = Ipv4Kind::Addresses;
        let config = HostConfig { ipv6_egress: true, ..HostConfig::default() };
        let no_ipv6 = HostFacts { primary_ipv6: None, ..facts(&["10.0.0.0/16"]) };
        // The families, whether the node has an IPv6 address; then whether each part is there.
        let parts = [
            "snat to 10.0.0.10",
            "ip daddr 10.0.0.0/16 return",
            "ip saddr 169.254.172.0/22",
            "ip daddr 169.254.172.0/22 ct state new reject",
            "snat to 2001:db8::10",
            "ip6 daddr fd00::ac:0/118 ct state new reject",
            "table ip6",
        ];
        let cases = [
            (Families::Ipv4(kind), true, [true, true, false, false, true, true, true]),
            (Families::Ipv4(kind), false, [true, true, false, false, false, false, false]),
            (Families::Ipv6, true, [true, false, true, true, false, false, true]),
            (Families::Dual(kind), true, [true, true, false, false, false, false, true]),
        ];
        for (families, has_ipv6, expected) in cases {
            let facts = if has_ipv6 { facts(&["10.0.0.0/16"]) } else { no_ipv6.clone() };
            let nat = Nat::render(&config, &HostFacts { families, ..facts });
            let text = nat.tables().unwrap();
            let actual = parts.map(|part| text.contains(part));
            assert_eq!(actual, expected, "{families:?}, IPv6 {has_ipv6}:\n{text}");
        }
    }

    #[test]
    fn ports_are_chosen_as_configured() {
        let cases = [
            (SnatPorts::Random, "snat to 10.0.0.10 random\n"),
            (SnatPorts::FullyRandom, "snat to 10.0.0.10 fully-random\n"),
            (SnatPorts::Kept, "snat to 10.0.0.10\n"),
        ];
        for (snat_ports, expected) in cases {
            let config = HostConfig { snat_ports, ..HostConfig::default() };
            let nat = Nat::render(&config, &facts(&["10.0.0.0/16"]));
            assert!(nat.tables().unwrap().contains(expected), "{snat_ports:?}: {nat:?}");
        }
    }

    #[test]
    fn order_and_overlap_of_ranges_make_no_difference() {
        let render = |cidrs: &[&str]| Nat::render(&HostConfig::default(), &facts(cidrs));
        let nats = [
            render(&["10.0.0.0/16", "100.64.0.0/16"]),
            render(&["100.64.0.0/16", "10.0.0.0/16", "10.0.3.0/24"]),
            render(&["100.64.128.0/17", "10.0.0.0/16", "100.64.0.0/17"]),
        ];
        assert_eq!(nats[0], nats[1]);
        assert_eq!(nats[0], nats[2]);
    }

    #[test]
    fn nothing_is_translated_where_everything_is_excluded() {
        let excluded_cidrs = vec!["0.0.0.0/0".parse().unwrap()];
        let config = HostConfig { excluded_cidrs, ..HostConfig::default() };
        let nat = Nat::render(&config, &facts(&["10.0.0.0/16"]));
        assert!(!nat.tables().unwrap().contains("snat"), "{nat:?}");
    }

    fn facts(cidrs: &[&str]) -> HostFacts {
        let primary = Link {
            id: LinkId::new(LinkIndex(2), "eth0"),
            mac: None,
            mtu: 9001,
            up: true,
            kind: None,
            lower: None,
            alias: None,
        };
        let cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        HostFacts {
            primary_ipv6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10)),
            ..HostFacts::ipv4(primary, Ipv4Addr::new(10, 0, 0, 10), cidrs, 9001)
        }
    }
}
