//! The node's address translation, and the marks by which connections keep to the primary ENI.
//!
//! A set of rules has two forms: an nftables table of ours, replaced as a whole or not at all; and where there is no nft, chains of
//! iptables. There are two such sets, this one and the [check of sources](crate::SourceCheck).

mod backend;
pub(crate) mod iptables;
pub(crate) mod nftables;
mod programs;

use core::fmt;
use core::fmt::Write as _;
use core::net::IpAddr;
use core::num::NonZeroU32;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha1::{Digest as _, Sha1};

use crate::datapath::facts::HostFacts;
use crate::datapath::numbering::{EGRESS_IPV4, EGRESS_IPV6};
use crate::kernel::process::run;
use crate::{Family, HostConfig, SnatPorts, VethPrefix};

pub(crate) use backend::RuleSetBackend;
#[cfg(feature = "testkit")]
pub(crate) use nftables::testkit::check_listing;
pub use programs::NatPrograms;
pub(crate) use programs::{Iptables, Kind};

/// The rules that translate and mark, or that there should be none.
///
/// What leaves for elsewhere than the VPC, the ranges that the configuration excludes, or the node itself takes the address of
/// the primary ENI, and so that the answers find back has to leave by that ENI: its connection is marked, and the mark leads
/// to the main table. So does the mark of connections that came in by the primary ENI for a NodePort. What leaves by `vlan*`
/// belongs to a branch ENI and stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat(pub(crate) RuleSet);

/// What is there of a set of rules: those that translate addresses, or those that check sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatActual {
    /// None of ours.
    Absent,
    /// Rules of ours that are not as they were made: made in part, or changed by another program.
    Altered,
    /// Rules of ours that are as they were made, from the text with this digest.
    Intact(NatDigest),
}

/// Tells one set of rules from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatDigest(String);

/// Which set of rules: each is listed, replaced and given a digest by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// Address translation.
    Translation,
    /// The check of sources.
    Sources,
}

impl Set {
    /// Returns the name of the tables of nftables.
    fn nft_table(self) -> &'static str {
        match self {
            Self::Translation => "vpc-ipam",
            Self::Sources => "vpc-ipam-sources",
        }
    }

    /// Returns how the names of the chains of iptables begin.
    fn chains(self) -> &'static str {
        match self {
            Self::Translation => "VPC-IPAM-",
            Self::Sources => "VPC-SOURCE-",
        }
    }
}

/// A set of rules, or that there should be none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleSet {
    set: Set,
    rules: Option<Arc<Rules>>,
}

/// The rules in both forms.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rules {
    nftables: Text,
    /// What is loaded where the kernel refuses the other.
    nftables_or: Option<Text>,
    iptables: Vec<iptables::Table>,
    /// Of the chains of iptables.
    iptables_digest: String,
    /// Whether there are rules for IPv6.
    ipv6: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Text {
    text: String,
    digest: String,
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self { digest: digest_of(&text), text }
    }
}

impl RuleSet {
    pub(crate) fn none(set: Set) -> Self {
        Self { set, rules: None }
    }

    /// Describes rules; those of nftables as they are tried, the others where the kernel refuses the first.
    pub(crate) fn new(
        set: Set,
        nftables: String,
        nftables_or: Option<String>,
        iptables: Vec<iptables::Table>,
        ipv6: bool,
    ) -> Self {
        let rules = Rules {
            nftables: nftables.into(),
            nftables_or: nftables_or.map(Text::from),
            iptables_digest: digest_of(&format!("{iptables:?}")),
            iptables,
            ipv6,
        };
        Self { set, rules: Some(Arc::new(rules)) }
    }

    /// Returns which it is.
    pub(crate) fn set(&self) -> Set {
        self.set
    }

    /// Returns the tables as text for nft, if there should be any.
    pub(crate) fn tables(&self) -> Option<&str> {
        self.rules.as_ref().map(|rules| rules.nftables.text.as_str())
    }

    /// Returns whether what is there is what there should be.
    pub(crate) fn is(&self, actual: &NatActual) -> bool {
        match (&self.rules, actual) {
            (None, NatActual::Absent) => true,
            (Some(rules), NatActual::Intact(digest)) => {
                let texts = core::iter::once(&rules.nftables).chain(&rules.nftables_or);
                let mut digests = texts.map(|text| &text.digest).chain([&rules.iptables_digest]);
                digests.any(|it| digest.is_of(it))
            }
            (None | Some(_), _) => false,
        }
    }

    /// Returns the script for nft that makes it so in one transaction, whatever was there of the families that it is about.
    pub(crate) fn script(&self) -> String {
        let ipv6 = self.rules.as_ref().is_some_and(|rules| rules.ipv6);
        nftables::script(self.set, self.tables(), ipv6)
    }
}

impl fmt::Display for RuleSet {
    /// Tells the digest of the rules.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rules.as_ref().map_or("none", |rules| &rules.nftables.digest))
    }
}

/// What is to be done with the packets of one family.
struct NatPlan<'a> {
    family: Family,
    /// The link of the primary ENI.
    primary: &'a str,
    /// How the links of pods begin.
    pods: Vec<&'a VethPrefix>,
    mark: NonZeroU32,
    ports: SnatPorts,
    /// Packets of pods that take the primary ENI's address.
    translated: Option<Translated>,
    /// A range for pods that only the node knows; it is translated whatever the destination, and no other host gets there.
    hidden: Option<Hidden>,
    /// Whether connections that come in by the primary ENI for the node are marked.
    node_port: bool,
}

/// Packets for anywhere but these ranges take this address. Not those that the node itself sends by another link from an address of
/// that link, by rules or routes for that address: with the primary ENI's address the VPC would drop them.
struct Translated {
    to: IpAddr,
    not_for: Vec<IpNet>,
}

/// Packets from this range take this address.
struct Hidden {
    range: IpNet,
    to: IpAddr,
    multicast: IpNet,
}

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
        self.0.script()
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

impl NatDigest {
    /// Forms with little room for a name keep the beginning of a digest only.
    fn is_of(&self, digest: &str) -> bool {
        !self.0.is_empty() && digest.starts_with(&self.0)
    }
}

impl<'a> NatPlan<'a> {
    fn new(family: Family, config: &'a HostConfig, facts: &'a HostFacts) -> Self {
        let pods_use = match family {
            Family::Ipv4 => facts.families.ipv4().is_some(),
            Family::Ipv6 => facts.families.ipv6(),
        };
        let translated = facts
            .primary_ipv4
            .filter(|_| family == Family::Ipv4 && pods_use && !config.external_snat);
        let translated = translated.and_then(|to| {
            let ranges = facts.vpc_ipv4_cidrs.iter().chain(&config.excluded_cidrs);
            let not_for = Ipv4Net::aggregate(&ranges.copied().collect());
            let everything = not_for.iter().any(|net| net.prefix_len() == 0);
            let not_for = not_for.into_iter().map(IpNet::V4).collect();
            (!everything).then_some(Translated { to: to.into(), not_for })
        });
        let hidden = (facts.egress(config) == Some(family)).then(|| match family {
            Family::Ipv4 => facts.primary_ipv4.map(|to| Hidden {
                range: EGRESS_IPV4.into(),
                to: to.into(),
                multicast: Ipv4Net::new_assert([224, 0, 0, 0].into(), 4).into(),
            }),
            Family::Ipv6 => facts.primary_ipv6.map(|to| Hidden {
                range: EGRESS_IPV6.into(),
                to: to.into(),
                multicast: Ipv6Net::new_assert([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8).into(),
            }),
        });
        Self {
            family,
            primary: &facts.primary.id.name,
            pods: core::iter::once(&config.veth_prefix).chain(&facts.other_prefixes).collect(),
            mark: config.mark,
            ports: config.snat_ports,
            translated,
            hidden: hidden.flatten(),
            node_port: config.node_port && pods_use,
        }
    }

    fn does_anything(&self) -> bool {
        self.translated.is_some() || self.hidden.is_some() || self.node_port
    }

    /// Whether packets of connections that are marked get the mark.
    fn restores_marks(&self) -> bool {
        self.node_port || self.translated.is_some()
    }
}

/// Hands a script to a program. If that says that it does not know how to choose ports fully at random, as some versions and
/// kernels do not, they are chosen less so: that is better than no translation.
///
/// After any other failure the program may well know it the next time.
fn run_with_known_ports(
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

/// 64 bits are plenty to tell versions of one table apart.
fn digest_of(text: &str) -> String {
    Sha1::digest(text.as_bytes())[..8].iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use vpc_ipam_core::{Families, Ipv4Kind};

    use super::*;
    use crate::{Link, LinkId, LinkIndex};

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
            "ip daddr @untranslated return",
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
