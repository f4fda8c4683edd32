//! A node on which amazon-vpc-cni-k8s keeps what it made.

use core::net::IpAddr;

use crate::{
    Address, Family, KernelChange, KernelEffect, Link, LinkIndex, NatActual, Neighbour, Netlink,
    NetlinkError, Protocol, Refusal, Route, RouteEntry, Rule, SysctlKey,
};

/// A namespace in which what amazon-vpc-cni-k8s made is somebody else's, where it would be taken over otherwise.
///
/// Rules that say of nobody that he made them, as all of the peer's, are shown as such that nobody claims; its address
/// translation is not shown.
pub struct BesideAwsCni<N>(
    /// The namespace.
    pub N,
);

impl<N: Netlink> Netlink for BesideAwsCni<N> {
    fn rules(&mut self, family: Family) -> Result<Vec<Rule>, NetlinkError> {
        let mut rules = self.0.rules(family)?;
        for rule in &mut rules {
            rule.more |= rule.protocol == Protocol::UNSPECIFIED;
        }
        Ok(rules)
    }

    fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        self.0.links()
    }

    fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        self.0.link(name)
    }

    fn addresses(&mut self, link: LinkIndex) -> Result<Vec<Address>, NetlinkError> {
        self.0.addresses(link)
    }

    fn all_addresses(&mut self) -> Result<Vec<(LinkIndex, Address)>, NetlinkError> {
        self.0.all_addresses()
    }

    fn addresses_of_other_end(&mut self, link: LinkIndex) -> Result<Vec<Address>, NetlinkError> {
        self.0.addresses_of_other_end(link)
    }

    fn routes(&mut self, link: LinkIndex) -> Result<Vec<Route>, NetlinkError> {
        self.0.routes(link)
    }

    fn all_routes(&mut self, family: Family) -> Result<Vec<RouteEntry>, NetlinkError> {
        self.0.all_routes(family)
    }

    fn route_to(&mut self, address: IpAddr) -> Result<Option<(LinkIndex, Route)>, NetlinkError> {
        self.0.route_to(address)
    }

    fn neighbours(&mut self, link: LinkIndex) -> Result<Vec<Neighbour>, NetlinkError> {
        self.0.neighbours(link)
    }

    fn sysctls(&mut self, keys: &[SysctlKey]) -> Result<Vec<Option<String>>, NetlinkError> {
        self.0.sysctls(keys)
    }

    fn nat(&mut self) -> Result<NatActual, NetlinkError> {
        self.0.nat()
    }

    fn source_check(&mut self) -> Result<NatActual, NetlinkError> {
        self.0.source_check()
    }

    fn spoofed_packets(&mut self) -> Result<u64, NetlinkError> {
        self.0.spoofed_packets()
    }

    fn change(
        &mut self,
        changes: &[KernelChange],
    ) -> Result<Vec<Result<KernelEffect, Refusal>>, NetlinkError> {
        self.0.change(changes)
    }
}
