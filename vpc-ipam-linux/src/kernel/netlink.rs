//! How this crate reads and changes a network namespace.

mod attribute;
mod decode;
mod encode;
#[cfg(feature = "watch")]
mod event;
mod exchange;
mod kernel;
mod nftables;
mod port;
mod request;
mod settings;
mod socket;
#[cfg(feature = "testkit")]
pub(crate) mod testkit;

use core::net::IpAddr;
use std::io;

use crate::{
    Address, AwsCniNat, Family, KernelChange, KernelEffect, Leads, Link, LinkIndex, NamespaceError,
    NatActual, Neighbour, Refusal, Route, RouteEntry, Rule, SysctlKey,
};

#[cfg(feature = "watch")]
pub(crate) use event::{nft_events, routing_event, setting_events};
pub(crate) use exchange::{Framed, frames};
pub use kernel::KernelNetlink;
pub use port::{PortOwner, port_owner};

/// One network namespace, to be read and changed.
///
/// [`KernelNetlink`] is the kernel's; another one can record, refuse, or pretend.
#[cfg_attr(test, mockall::automock)]
pub trait Netlink {
    /// Returns every link of the namespace.
    fn links(&mut self) -> Result<Vec<Link>, NetlinkError>;

    /// Returns the link of that name, if there is one.
    fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError>;

    /// Returns the addresses of a link; a link that is gone has none.
    fn addresses(&mut self, link: LinkIndex) -> Result<Vec<Address>, NetlinkError>;

    /// Returns the unicast routes over a link alone, in whichever table; a link that is gone has none.
    fn routes(&mut self, link: LinkIndex) -> Result<Vec<Route>, NetlinkError>;

    /// Returns the addresses of every link.
    fn all_addresses(&mut self) -> Result<Vec<(LinkIndex, Address)>, NetlinkError> {
        let mut all = Vec::new();
        for Link { id, .. } in self.links()? {
            all.extend(self.addresses(id.index)?.into_iter().map(|address| (id.index, address)));
        }
        Ok(all)
    }

    /// Returns the addresses of the other end of a veth, in whichever namespace it is, as far as the kernel knows.
    fn addresses_of_other_end(&mut self, link: LinkIndex) -> Result<Vec<Address>, NetlinkError> {
        let _ = link;
        Ok(Vec::new())
    }

    /// Returns the entries of every route table of a family, wherever they lead, each table's in the order in which it has them.
    fn all_routes(&mut self, family: Family) -> Result<Vec<RouteEntry>, NetlinkError> {
        let mut all = Vec::new();
        for Link { id, .. } in self.links()? {
            let of_family = |route: &Route| Family::of(route.destination.addr()) == family;
            let routes = self.routes(id.index)?.into_iter().filter(of_family);
            all.extend(routes.map(|route| RouteEntry { route, leads: Leads::Over(id.index) }));
        }
        Ok(all)
    }

    /// Returns the route that the node itself takes to an address, as the table holds it, and its link.
    fn route_to(&mut self, address: IpAddr) -> Result<Option<(LinkIndex, Route)>, NetlinkError>;

    /// Returns the rules of a family in the order in which they are tried.
    fn rules(&mut self, family: Family) -> Result<Vec<Rule>, NetlinkError>;

    /// Returns the permanent neighbours on a link; a link that is gone has none.
    fn neighbours(&mut self, link: LinkIndex) -> Result<Vec<Neighbour>, NetlinkError>;

    /// Returns the values of kernel variables, `None` for those that the kernel does not have.
    fn sysctls(&mut self, keys: &[SysctlKey]) -> Result<Vec<Option<String>>, NetlinkError>;

    /// Returns what is there of our address translation.
    fn nat(&mut self) -> Result<NatActual, NetlinkError>;

    /// Returns what is there of our check of the sources of what pods send.
    fn source_check(&mut self) -> Result<NatActual, NetlinkError>;

    /// Returns how many packets of pods were dropped for their sources since the check was made; 0 where there is none.
    fn spoofed_packets(&mut self) -> Result<u64, NetlinkError>;

    /// Returns what another program, amazon-vpc-cni-k8s, left of its address translation. What is there and cannot be listed is
    /// no error, but part of the answer.
    fn aws_cni_nat(&mut self) -> Result<AwsCniNat, NetlinkError> {
        Ok(AwsCniNat::default())
    }

    /// Makes changes in order, and returns what came of each.
    ///
    /// All are tried: one that is refused does not stop the rest. Neighbouring changes travel together.
    fn change(
        &mut self,
        changes: &[KernelChange],
    ) -> Result<Vec<Result<KernelEffect, Refusal>>, NetlinkError>;
}

/// A [`Netlink`] over another one. It overrides a few of the calls; the inner one answers the rest.
pub trait NetlinkLayer {
    /// Returns the [`Netlink`] beneath.
    fn inner(&mut self) -> &mut dyn Netlink;

    /// See [`Netlink::rules`].
    fn rules(&mut self, family: Family) -> Result<Vec<Rule>, NetlinkError> {
        self.inner().rules(family)
    }

    /// See [`Netlink::aws_cni_nat`].
    fn aws_cni_nat(&mut self) -> Result<AwsCniNat, NetlinkError> {
        self.inner().aws_cni_nat()
    }

    /// See [`Netlink::change`].
    fn change(
        &mut self,
        changes: &[KernelChange],
    ) -> Result<Vec<Result<KernelEffect, Refusal>>, NetlinkError> {
        self.inner().change(changes)
    }
}

impl<L: NetlinkLayer> Netlink for L {
    fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        self.inner().links()
    }

    fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        self.inner().link(name)
    }

    fn addresses(&mut self, link: LinkIndex) -> Result<Vec<Address>, NetlinkError> {
        self.inner().addresses(link)
    }

    fn routes(&mut self, link: LinkIndex) -> Result<Vec<Route>, NetlinkError> {
        self.inner().routes(link)
    }

    fn all_addresses(&mut self) -> Result<Vec<(LinkIndex, Address)>, NetlinkError> {
        self.inner().all_addresses()
    }

    fn addresses_of_other_end(&mut self, link: LinkIndex) -> Result<Vec<Address>, NetlinkError> {
        self.inner().addresses_of_other_end(link)
    }

    fn all_routes(&mut self, family: Family) -> Result<Vec<RouteEntry>, NetlinkError> {
        self.inner().all_routes(family)
    }

    fn route_to(&mut self, address: IpAddr) -> Result<Option<(LinkIndex, Route)>, NetlinkError> {
        self.inner().route_to(address)
    }

    fn rules(&mut self, family: Family) -> Result<Vec<Rule>, NetlinkError> {
        NetlinkLayer::rules(self, family)
    }

    fn neighbours(&mut self, link: LinkIndex) -> Result<Vec<Neighbour>, NetlinkError> {
        self.inner().neighbours(link)
    }

    fn sysctls(&mut self, keys: &[SysctlKey]) -> Result<Vec<Option<String>>, NetlinkError> {
        self.inner().sysctls(keys)
    }

    fn nat(&mut self) -> Result<NatActual, NetlinkError> {
        self.inner().nat()
    }

    fn source_check(&mut self) -> Result<NatActual, NetlinkError> {
        self.inner().source_check()
    }

    fn spoofed_packets(&mut self) -> Result<u64, NetlinkError> {
        self.inner().spoofed_packets()
    }

    fn aws_cni_nat(&mut self) -> Result<AwsCniNat, NetlinkError> {
        NetlinkLayer::aws_cni_nat(self)
    }

    fn change(
        &mut self,
        changes: &[KernelChange],
    ) -> Result<Vec<Result<KernelEffect, Refusal>>, NetlinkError> {
        NetlinkLayer::change(self, changes)
    }
}

/// A failure to talk to the kernel, or its refusal to answer a question.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// No socket could be opened.
    #[error("open a netlink socket")]
    Open {
        /// The error of the operating system.
        source: io::Error,
    },
    /// A request could not be sent.
    #[error("send a netlink request")]
    Send {
        /// The error of the operating system.
        source: io::Error,
    },
    /// No answer was received: what was asked may or may not have been done.
    #[error("receive the answer to a netlink request")]
    Receive {
        /// The error of the operating system.
        source: io::Error,
    },
    /// An answer makes no sense.
    #[error("understand the kernel's answer: {what}")]
    Decode {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A list changed each time while it was read.
    #[error("list {what}: they changed during each of {tries} tries")]
    Interrupted {
        /// What was to be listed.
        what: &'static str,
        /// How many times it was read.
        tries: usize,
    },
    /// The kernel refused to answer.
    #[error("list {what}")]
    Refused {
        /// What was to be listed.
        what: &'static str,
        /// The kernel's refusal.
        #[source]
        refusal: Refusal,
    },
    /// A kernel variable could not be read.
    #[error("read {key}")]
    Sysctl {
        /// The variable that could not be read.
        key: SysctlKey,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Neither nft nor iptables could be run, or what was run failed.
    #[error("list the rules of address translation")]
    Nat {
        /// The error of the program, or of the operating system.
        source: io::Error,
    },
    /// The same, of the check of sources.
    #[error("list the rules that check the sources of what pods send")]
    SourceCheck {
        /// The error of the program, or of the operating system.
        source: io::Error,
    },
    /// What amazon-vpc-cni-k8s left could not be listed.
    #[error("list the rules that amazon-vpc-cni-k8s left")]
    AwsCniNat {
        /// The error of the program, or of the operating system.
        source: io::Error,
    },
}
