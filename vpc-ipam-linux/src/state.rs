//! What a namespace should hold, how it differs from that, and the changes that make it so.

pub(crate) mod actual;
pub(crate) mod apply;
pub(crate) mod change;
pub(crate) mod commands;
pub(crate) mod diff;
pub(crate) mod object;
pub(crate) mod refusal;

use crate::{Family, LinkId, Object, Route, Rule, SysctlKey};

/// What a namespace should hold: the objects that should be there, and the ones that should not unless they are among
/// them. Whatever is neither belongs to another program, and is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What should be there, in the order in which it is made.
    pub wanted: Vec<Object>,
    /// Which objects are ours to remove where they are not wanted.
    pub claims: Vec<Claim>,
}

impl State {
    /// Adds what another state says.
    pub fn append(&mut self, other: Self) {
        self.wanted.extend(other.wanted);
        self.claims.extend(other.claims);
    }

    /// Returns whether an object is wanted; of a route its maker does not count.
    fn wants(&self, object: &Object) -> bool {
        self.wanted.iter().any(|wanted| match (wanted, object) {
            (Object::Route { link, route }, Object::Route { link: other_link, route: other }) => {
                link.index == other_link.index && route.is_twin_of(other)
            }
            _ => wanted == object,
        })
    }

    /// Lists the kernel variables that are wanted.
    pub(crate) fn sysctls(&self) -> impl Iterator<Item = &SysctlKey> {
        self.wanted.iter().filter_map(|object| match object {
            Object::Sysctl(sysctl) => Some(&sysctl.key),
            _ => None,
        })
    }
}

/// Objects that are ours to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The global addresses of a link.
    Addresses {
        /// The link whose addresses or routes these are.
        link: LinkId,
        /// The family of the addresses.
        family: Family,
    },
    /// The routes over a link that carry our protocol.
    OurRoutes {
        /// The link whose addresses or routes these are.
        link: LinkId,
    },
    /// The routes over a link that are like this one, whichever program made them: its metric and protocol do not count. One of which the kernel
    /// makes no use, since a route over another link has a lower metric, is left.
    Routes {
        /// The link whose addresses or routes these are.
        link: LinkId,
        /// The route that those claimed are like.
        like: Route,
    },
    /// The rules that this one, taken as a pattern, would remove and that carry our protocol.
    OurRules(Rule),
    /// Besides ours, those that carry no protocol at all, as amazon-vpc-cni-k8s makes them.
    Rules(Rule),
    /// This very rule, although it is the kernel's.
    KernelRule(Rule),
    /// The address translation that amazon-vpc-cni-k8s left.
    AwsCniNat,
}
