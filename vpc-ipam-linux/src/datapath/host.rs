//! The node itself: its primary ENI, kernel variables, the mark that leads to the main table, address translation.

use core::net::IpAddr;

use vpc_ipam_core::{Config, Mac, Metadata};

use crate::datapath::facts::own_addresses;
pub use crate::datapath::facts::{HostFacts, egress};
use crate::datapath::numbering::{
    GATEWAY_IPV6, PRIORITY_BRANCH, PRIORITY_LOCAL, PRIORITY_MARK, PRIORITY_SERVICE,
};
use crate::state::apply::{Applied, ApplyError, apply};
use crate::state::{Claim, State};
use crate::{
    BranchMode, Family, HostConfig, Link, LinkMissingError, Mark, Nat, Netlink, NetlinkError,
    Object, Protocol, Rule, SourceCheck, Sysctl, SysctlKey, Table, VethPrefix, link_by_mac,
};

/// Why it cannot be said what a node should hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DesiredError {
    /// The ranges of the VPC are not known, and without them every packet would be translated.
    #[error("translate addresses of pods: no IPv4 range of the VPC is known")]
    NoVpcCidr,
    /// Rules of nft and iptables cannot name the link of the primary ENI, or would name other links with it.
    #[error(
        "write rules for the primary ENI: its link is named {name:?}, with a quotation mark or a plus sign at the end; \
         rename it (ip link set dev NAME name eth0)"
    )]
    LinkName {
        /// The name of the link.
        name: String,
    },
}

/// Returns what the node should hold whatever ENIs and pods there are.
pub fn desired(config: &HostConfig, facts: &HostFacts) -> Result<State, DesiredError> {
    let ipv4 = facts.families.ipv4().is_some();
    if ipv4 && facts.vpc_ipv4_cidrs.is_empty() && !config.external_snat {
        return Err(DesiredError::NoVpcCidr);
    }
    let name = &*facts.primary.id.name;
    if !crate::kernel::quote::rules_can_name(name) {
        return Err(DesiredError::LinkName { name: name.to_owned() });
    }
    let mut state = all_but_translation(config, facts);
    state.wanted.push(Object::Nat(Nat::render(config, facts)));
    Ok(state)
}

/// Returns what the node should hold whatever ENIs and pods there are, address translation aside.
pub(crate) fn all_but_translation(config: &HostConfig, facts: &HostFacts) -> State {
    let (primary, mtu) = (facts.primary.id.clone(), facts.mtu.into());
    let mut state = State::default();
    state.wanted.extend(sysctls(config, facts).map(Object::Sysctl));
    state.wanted.push(Object::Link { link: primary, mtu, up: true });
    let mark = Mark { value: config.mark.get(), mask: config.mark.get() };
    for family in facts.of_pods() {
        let rule = Rule { mark: Some(mark), ..mark_rule(family) };
        if config.node_port || !config.external_snat {
            state.wanted.push(Object::Rule(rule.clone()));
        }
        // Rules of ours with another mark are of an earlier configuration. One with ours and without a protocol is amazon-vpc-cni-k8s's.
        let of_aws_cni = Rule { protocol: Protocol::UNSPECIFIED, ..rule };
        state.claims.extend([any_of_ours(mark_rule(family)), Claim::Rules(of_aws_cni)]);
        state.append(local_rule(family, config, facts));
    }
    if facts.families.ipv4().is_some() {
        let rule = Rule::new(Family::Ipv4, PRIORITY_SERVICE, Table::MAIN);
        let to = config.service_cidrs.iter().map(|cidr| Object::Rule(rule.clone().to(*cidr)));
        state.wanted.extend(to);
        let of_aws_cni = Rule { protocol: Protocol::UNSPECIFIED, ..rule.clone() };
        state.claims.extend([any_of_ours(rule), Claim::Rules(of_aws_cni)]);
    }
    // It names the links of pods alone.
    state.wanted.push(Object::SourceCheck(SourceCheck::render(config, facts)));
    state
}

fn mark_rule(family: Family) -> Rule {
    Rule::new(family, PRIORITY_MARK, Table::MAIN)
}

/// Claims what is ours at the priority of a rule, wherever it leads.
fn any_of_ours(rule: Rule) -> Claim {
    Claim::OurRules(Rule { table: Table::UNSPECIFIED, ..rule })
}

fn sysctls(config: &HostConfig, facts: &HostFacts) -> impl Iterator<Item = Sysctl> {
    let name = &facts.primary.id.name;
    let needed = |key, value: &str| Sysctl { key, value: value.to_owned(), optional: false };
    let demux = u8::from(config.tcp_early_demux).to_string();
    let ipv4 = [
        needed(SysctlKey::new("net/ipv4/ip_forward"), "1"),
        // Loose: what comes in for a pod on another ENI would not be answered by the link it came by.
        needed(SysctlKey::ipv4_of_link(name, "rp_filter"), "2"),
        forwarding(name),
        // Of the links of pods the kernel takes the greater of their own and this. Other links have their own, which is left.
        needed(SysctlKey::new("net/ipv4/conf/all/send_redirects"), "0"),
        // Old kernels have no such variable.
        Sysctl { optional: true, ..needed(SysctlKey::new("net/ipv4/tcp_early_demux"), &demux) },
    ];
    let ipv6 = facts.families.ipv6();
    let enabled = ipv6.then(|| needed(SysctlKey::ipv6_of_link("all", "disable_ipv6"), "0"));
    let routed = facts.routes_ipv6(config).then(|| {
        // In this order: a router forgets the default route that it was advertised unless `accept_ra` is 2.
        [
            needed(SysctlKey::ipv6_of_link(name, "accept_ra"), "2"),
            needed(SysctlKey::ipv6_of_link("all", "forwarding"), "1"),
        ]
    });
    ipv4.into_iter().chain(enabled).chain(routed.into_iter().flatten())
}

/// Lets what comes in by a link be passed on. Set for all at once it holds for each, and each may be set back alone.
pub(crate) fn forwarding(link: &str) -> Sysctl {
    let key = SysctlKey::ipv4_of_link(link, "forwarding");
    // A link that is gone by now takes its variables along.
    Sysctl { key, value: "1".to_owned(), optional: true }
}

/// Returns what concerns the priority of the rule of the host's own addresses.
///
/// What pods on branch ENIs send to the node has to go out by the ENI in strict mode, so the rules that see to it come first.
/// The rule of the new priority is made before that of the old one is removed.
fn local_rule(family: Family, config: &HostConfig, facts: &HostFacts) -> State {
    let first = Rule { protocol: Protocol::KERNEL, ..Rule::new(family, 0, Table::LOCAL) };
    let later = Rule::new(family, PRIORITY_LOCAL, Table::LOCAL);
    if facts.branch_enis && config.branch_mode == BranchMode::Strict {
        let mut wanted = vec![Object::Rule(later.clone())];
        if family == Family::Ipv6 {
            // Branch ENIs find their gateway by its answers, which would be led away from the node too.
            const ICMPV6: u8 = 58;
            let answers = Rule { carries: Some(ICMPV6), ..Rule::new(family, 0, Table::LOCAL) };
            wanted.push(Object::Rule(answers.from(IpAddr::V6(GATEWAY_IPV6))));
        }
        State { wanted, claims: vec![Claim::KernelRule(first), any_of_ours(later)] }
    } else if facts.local_rule_left.contains(&family) {
        let wanted = vec![Object::Rule(first)];
        let later = Rule { protocol: Protocol::UNSPECIFIED, ..later };
        let answers = Rule::new(family, 0, Table::LOCAL);
        State { wanted, claims: vec![Claim::Rules(later), Claim::OurRules(answers)] }
    } else {
        State::default()
    }
}

/// A failure to set up the node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The links could not be listed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The primary ENI has no link.
    #[error(transparent)]
    Link(#[from] LinkMissingError),
    /// The metadata do not say which address the primary ENI has.
    #[error("the metadata have no IPv4 address of the primary ENI {eni}")]
    NoAddress {
        /// The ENI.
        eni: vpc_ipam_core::EniId,
    },
    /// It cannot be said what the node should hold.
    #[error(transparent)]
    Desired(#[from] DesiredError),
    /// The node could not be changed.
    #[error("set up the node")]
    Apply(#[source] ApplyError),
}

/// Sets the node up, and returns what it found that was not as it should be.
pub fn set_up(
    netlink: &mut dyn Netlink,
    config: &HostConfig,
    facts: &HostFacts,
) -> Result<Applied, HostError> {
    apply(netlink, &desired(config, facts)?).map_err(HostError::Apply)
}

/// Sets up all of the node but its address translation and the check of sources, for which other programs are needed, and returns
/// what it found that was not as it should be.
pub fn set_up_routing(
    netlink: &mut dyn Netlink,
    config: &HostConfig,
    facts: &HostFacts,
) -> Result<Applied, HostError> {
    let mut desired = desired(config, facts)?;
    desired.wanted.retain(|object| !object.is_by_programs());
    apply(netlink, &desired).map_err(HostError::Apply)
}

/// Finds the link of the primary ENI.
pub fn primary(netlink: &mut dyn Netlink, mac: Mac) -> Result<Link, HostError> {
    Ok(link_by_mac(&netlink.links()?, mac)?.clone())
}

/// Puts together what has to be known about a node from what its metadata says, what the configuration of its pool says, and
/// what it holds.
pub fn facts(
    netlink: &mut dyn Netlink,
    metadata: &Metadata,
    config: &HostConfig,
    pool: &Config,
) -> Result<HostFacts, HostError> {
    let id = metadata.node.primary;
    let eni = metadata.observation.enis.iter().find(|eni| eni.id == id);
    let eni = eni.ok_or(HostError::NoAddress { eni: id })?;
    let links = netlink.links()?;
    let (primary_ipv4, primary_ipv6) = own_addresses(metadata);
    let facts = HostFacts {
        primary: link_by_mac(&links, eni.mac)?.clone(),
        primary_ipv4,
        primary_ipv6,
        vpc_ipv4_cidrs: metadata.vpc_ipv4_cidrs.clone(),
        vpc_ipv6_cidrs: metadata.vpc_ipv6_cidrs.clone(),
        mtu: pool.eni_mtu,
        families: pool.families,
        branch_enis: pool.trunk,
        ipv6: netlink.sysctls(&[SysctlKey::ipv6_of_link("all", "disable_ipv6")])? != [None],
        other_prefixes: other_prefixes(netlink, &links, &config.veth_prefix)?,
        local_rule_left: Vec::new(),
    };
    if facts.primary_ipv4.is_none() && facts.families.ipv4().is_some() {
        return Err(HostError::NoAddress { eni: id });
    }
    let mut local_rule_left = Vec::new();
    for family in facts.of_pods() {
        let rules = netlink.rules(family)?;
        let at = |priority| rules.iter().filter(move |rule| rule.priority == priority);
        if at(PRIORITY_LOCAL).any(|rule| rule.table == Table::LOCAL)
            && !at(PRIORITY_BRANCH).any(|rule| rule.input.is_some())
        {
            local_rule_left.push(family);
        }
    }
    Ok(HostFacts { local_rule_left, ..facts })
}

/// Finds the links of pods that begin otherwise than configured: the pods are older than the configuration.
fn other_prefixes(
    netlink: &mut dyn Netlink,
    links: &[Link],
    configured: &VethPrefix,
) -> Result<Vec<VethPrefix>, NetlinkError> {
    let mut found = Vec::new();
    for link in links.iter().filter(|link| link.kind.as_deref() == Some("veth")) {
        let Some((prefix, _)) = crate::datapath::pod::parts_of_host_name(&link.id.name) else {
            continue;
        };
        let Ok(prefix) = prefix.parse::<VethPrefix>() else { continue };
        if prefix == *configured || found.contains(&prefix) {
            continue;
        }
        // Others name links in the same way; but only ours carry a route of ours to a pod.
        let routes = netlink.routes(link.id.index)?;
        let to_pod =
            |route: &crate::Route| route.protocol == Protocol::OURS && route.table == Table::MAIN;
        if routes.iter().any(to_pod) {
            found.push(prefix);
        }
    }
    found.sort();
    Ok(found)
}
