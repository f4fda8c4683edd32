//! Pods on branch ENIs: an ENI of the pod's own, with security groups of its own, behind a VLAN of the node's trunk ENI.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use vpc_ipam_core::{EniId, Mac};

use super::name::parts_of_host_name;
use super::variables::{self, SourceFilter};
use crate::datapath::link::link_by_mac;
use crate::datapath::numbering::PRIORITY_BRANCH;
use crate::state::{Claim, State};
use crate::{
    BranchMode, Family, KernelChange, Link, LinkId, LinkIndex, LinkMissingError, Netlink,
    NetlinkError, Object, Protocol, Route, Rule, Table, VethPrefix, Vlan,
};

/// A branch ENI and the pod's addresses on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchEni {
    /// The ENI.
    pub eni: EniId,
    /// Its MAC address.
    pub mac: Mac,
    /// Its VLAN.
    pub vlan: VlanId,
    /// The MAC address of the trunk ENI.
    pub trunk: Mac,
    /// The IPv4 address and the range of its subnet.
    pub ipv4: Option<(Ipv4Addr, Ipv4Net)>,
    /// The IPv6 address and the range of its subnet.
    pub ipv6: Option<(Ipv6Addr, Ipv6Net)>,
}

/// The number of a VLAN: 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VlanId(u16);

/// A number that no VLAN has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no VLAN has the number {0}: expected 1 to 4094")]
pub struct VlanIdError(u16);

impl TryFrom<u16> for VlanId {
    type Error = VlanIdError;

    fn try_from(number: u16) -> Result<Self, VlanIdError> {
        if (1..=4094).contains(&number) { Ok(Self(number)) } else { Err(VlanIdError(number)) }
    }
}

impl VlanId {
    /// Returns the number, 1 to 4094.
    pub fn number(self) -> u16 {
        self.0
    }

    /// Returns the name of the VLAN's link on the node, as amazon-vpc-cni-k8s names it too.
    pub fn link_name(self) -> String {
        format!("{VLAN_LINK}{}", self.0)
    }

    /// Returns the route table of the branch ENI.
    pub fn table(self) -> Table {
        Table(100 + u32::from(self.0))
    }
}

/// How the name of a VLAN's link begins; its number follows.
const VLAN_LINK: &str = "vlan.eth.";

/// Returns whether the name of a link has the form of one that pods on branch ENIs have on the node.
pub(crate) fn is_of_pods(link: &str) -> bool {
    vlan_of(link).is_some() || parts_of_host_name(link).is_some()
}

/// Returns whether the name of a link has the form of that of a pod's end on the node in strict mode.
pub(crate) fn is_of_strict_pod(link: &str) -> bool {
    let strict = VethPrefix::for_strict_branches();
    parts_of_host_name(link).is_some_and(|(prefix, _)| prefix == strict.as_str())
}

/// Returns whether a route table may be that of a branch ENI.
pub(crate) fn is_table(table: Table) -> bool {
    let number = table.0.checked_sub(100).and_then(|number| u16::try_from(number).ok());
    number.is_some_and(|number| VlanId::try_from(number).is_ok())
}

/// Returns the VLAN whose link has this name.
pub(crate) fn vlan_of(link: &str) -> Option<VlanId> {
    VlanId::try_from(link.strip_prefix(VLAN_LINK)?.parse::<u16>().ok()?).ok()
}

/// Returns whether the name of a link has the form of that of a pod's end on the node, under whichever prefix.
pub(crate) fn is_of_pod(link: &str) -> bool {
    let of_prefix = |(prefix, _): (&str, &str)| prefix.parse::<VethPrefix>().is_ok();
    is_of_strict_pod(link) || parts_of_host_name(link).is_some_and(of_prefix)
}

/// What an interface on a branch ENI has besides the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The VLAN.
    pub vlan: VlanId,
    /// The MAC address of its link: the branch ENI's.
    pub mac: Mac,
    /// The MAC address of the trunk ENI.
    pub trunk: Mac,
    /// The router of the subnet, for each family.
    pub gateways: Vec<IpAddr>,
    /// How the pod's packets find their way.
    pub mode: BranchMode,
}

impl Branch {
    /// Returns what the host should hold for the VLAN, once it has a link.
    pub fn on_host(&self, link: LinkIndex, mtu: u16) -> State {
        let link = LinkId::new(link, &self.vlan.link_name());
        let table = self.vlan.table();
        let variables = variables::of_host_end(&link.name, SourceFilter::Loose);
        let mut wanted: Vec<_> = variables.into_iter().map(Object::Sysctl).collect();
        wanted.push(Object::Link { link: link.clone(), mtu: mtu.into(), up: true });
        let mut claims = vec![Claim::OurRoutes { link: link.clone() }];
        for &gateway in &self.gateways {
            let route = |route| Object::Route { link: link.clone(), route };
            wanted.push(route(Route::on_link(table, gateway)));
            wanted.push(route(Route::default_by(table, gateway)));
            claims.extend(self.rules_by(Family::of(gateway), &link.name).1);
            wanted.extend(self.rules_by(Family::of(gateway), &link.name).0.map(Object::Rule));
        }
        State { wanted, claims }
    }

    /// Returns the rule that leads what comes in by a link to the branch ENI, and a claim to any other for that link: the pod
    /// that had a link of that name before may have left one.
    pub(super) fn rules_by(&self, family: Family, link: &str) -> (Option<Rule>, [Claim; 1]) {
        let by = |table| Rule {
            input: Some(link.to_owned()),
            ..Rule::new(family, PRIORITY_BRANCH, table)
        };
        let rule = (self.mode == BranchMode::Strict).then(|| by(self.vlan.table()));
        let any = Rule { protocol: Protocol::UNSPECIFIED, ..by(Table::UNSPECIFIED) };
        (rule, [Claim::Rules(any)])
    }

    /// Returns patterns of our rules that lead to the branch ENI.
    pub(super) fn our_rules(&self) -> Vec<Rule> {
        let any =
            |gateway: &IpAddr| Rule::new(Family::of(*gateway), PRIORITY_BRANCH, self.vlan.table());
        self.gateways.iter().map(any).collect()
    }

    /// Returns the link of the VLAN, if it is there and is this ENI's.
    pub(super) fn link(&self, host: &mut dyn Netlink) -> Result<VlanOwner, NetlinkError> {
        Ok(match host.link(&self.vlan.link_name())? {
            Some(link) if link.mac == Some(self.mac) => VlanOwner::ThisEni(link),
            Some(_) => VlanOwner::LaterEni,
            None => VlanOwner::NoLink,
        })
    }

    /// Returns the changes after which the VLAN has a link.
    pub(super) fn make(
        &self,
        host: &mut dyn Netlink,
        mtu: u16,
    ) -> Result<Vec<KernelChange>, MakeError> {
        let links = host.links()?;
        let trunk = link_by_mac(&links, self.trunk)?.id.clone();
        let name = self.vlan.link_name();
        let there = links.iter().find(|link| *link.id.name == *name);
        if there.is_some_and(|link| link.mac == Some(self.mac)) {
            return Ok(Vec::new());
        }
        let old = there.map(|link| KernelChange::RemoveLinkByIndex(link.id.clone()));
        let id = self.vlan.number();
        let add = KernelChange::AddVlan(Vlan { name, mac: self.mac, mtu: mtu.into(), id, trunk });
        Ok(old.into_iter().chain([add]).collect())
    }
}

/// Whose the link of a VLAN is.
pub(super) enum VlanOwner {
    /// The branch ENI of this pod.
    ThisEni(Link),
    /// A later branch ENI that got the same VLAN.
    LaterEni,
    /// The VLAN has no link.
    NoLink,
}

/// Why a VLAN cannot get a link.
pub(super) enum MakeError {
    Netlink(NetlinkError),
    Trunk(LinkMissingError),
}

impl From<NetlinkError> for MakeError {
    fn from(error: NetlinkError) -> Self {
        Self::Netlink(error)
    }
}

impl From<LinkMissingError> for MakeError {
    fn from(error: LinkMissingError) -> Self {
        Self::Trunk(error)
    }
}
