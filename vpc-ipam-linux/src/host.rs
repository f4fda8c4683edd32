//! The node itself: its primary ENI, the mark that leads to the main table, address translation.

use core::net::Ipv4Addr;

use ipnet::Ipv4Net;
use vpc_ipam_core::{Mac, Metadata};

use crate::state::{Applied, ApplyError, Claim, State, apply};
use crate::{
    Family, HostConfig, Link, LinkMissingError, Mark, Nat, Netlink, NetlinkError, Object, Protocol,
    Rule, Sysctl, SysctlKey, Table, link_by_mac,
};

/// What has to be known about a node to set it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The link of the primary ENI.
    pub primary: Link,
    /// Its own IPv4 address, to which the pods' addresses are translated.
    pub primary_ipv4: Ipv4Addr,
    /// The IPv4 ranges of the VPC.
    pub vpc_ipv4_cidrs: Vec<Ipv4Net>,
    /// The MTU of the ENIs in bytes, as the configuration of the pool has it.
    pub mtu: u16,
}

/// The ranges of the VPC are not known, and without them every packet would be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("translate addresses of pods: no IPv4 range of the VPC is known")]
pub struct NoVpcCidrError;

/// The place of the rule that leads marked packets to the main table.
const PRIORITY_MARK: u32 = 1024;

/// Returns what the node should hold whatever ENIs and pods there are.
pub fn desired(config: &HostConfig, facts: &HostFacts) -> Result<State, NoVpcCidrError> {
    if facts.vpc_ipv4_cidrs.is_empty() && !config.external_snat {
        return Err(NoVpcCidrError);
    }
    let HostFacts { primary, primary_ipv4, vpc_ipv4_cidrs, mtu } = facts;
    let mark = Mark { value: config.mark.get(), mask: config.mark.get() };
    let rule = Rule { mark: Some(mark), ..mark_rule() };

    let mut wanted = vec![
        // Loose: what comes in for a pod on another ENI would not be answered by the link it came by.
        Object::Sysctl(Sysctl {
            key: SysctlKey::ipv4_of_link(&primary.id.name, "rp_filter"),
            value: "2".to_owned(),
            optional: false,
        }),
        Object::Sysctl(Sysctl {
            key: SysctlKey::new("net/ipv4/tcp_early_demux"),
            value: u8::from(config.tcp_early_demux).to_string(),
            optional: true,
        }),
        Object::Link { link: primary.id.clone(), mtu: (*mtu).into(), up: true },
    ];
    if config.node_port || !config.external_snat {
        wanted.push(Object::Rule(rule.clone()));
    }
    let name = &primary.id.name;
    wanted.push(Object::Nat(Nat::render(config, name, *primary_ipv4, vpc_ipv4_cidrs)));

    // Rules of ours with another mark are of an earlier configuration. Nobody's rule with ours is the peer's.
    let claims = vec![
        Claim::OurRules(mark_rule()),
        Claim::Rules(Rule { protocol: Protocol::UNSPECIFIED, ..rule }),
    ];
    Ok(State { wanted, claims })
}

fn mark_rule() -> Rule {
    Rule::new(Family::Ipv4, PRIORITY_MARK, Table::MAIN)
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
    /// The ranges of the VPC are not known.
    #[error(transparent)]
    Vpc(#[from] NoVpcCidrError),
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

/// Finds the link of the primary ENI.
pub fn primary(netlink: &mut dyn Netlink, mac: Mac) -> Result<Link, HostError> {
    Ok(link_by_mac(&netlink.links()?, mac)?.clone())
}

/// Puts together what has to be known about a node from what its metadata says and the links that it has.
///
/// `mtu` is that of the ENIs, as the configuration of the pool has it.
pub fn facts(
    netlink: &mut dyn Netlink,
    metadata: &Metadata,
    mtu: u16,
) -> Result<HostFacts, HostError> {
    let id = metadata.node.primary;
    let eni = metadata.observation.enis.iter().find(|eni| eni.id == id);
    let eni = eni.ok_or(HostError::NoAddress { eni: id })?;
    let address = metadata.primary_ipv4.or(eni.primary_ipv4);
    Ok(HostFacts {
        primary: primary(netlink, eni.mac)?,
        primary_ipv4: address.ok_or(HostError::NoAddress { eni: id })?,
        vpc_ipv4_cidrs: metadata.vpc_ipv4_cidrs.clone(),
        mtu,
    })
}
