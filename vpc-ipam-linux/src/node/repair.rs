//! Makes a node as it should be, while pods come and go.

use core::net::IpAddr;
use std::collections::BTreeSet;

use super::desired::AbsentLink;
use super::diff::unlisted;
use super::extent::Extent;
use super::network::{NodeNetwork, Seen};
use crate::datapath::conflict::Conflict;
use crate::datapath::pod::{PodInterface, PodNetwork, egress};
use crate::state::actual::Actual;
use crate::state::apply::{ApplyError, carry_out};
use crate::state::diff::{Difference, changes};
use crate::{KernelChange, LinkIndex, Netlink, NetlinkError, Object, Refused, pod};

/// What [`NodeNetwork::repair`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was not as it should be and was put right.
    pub differences: Vec<Difference>,
    /// What was left for now: [`NodeNetwork::spared`].
    pub spared: Vec<Difference>,
    /// Links that are not there.
    pub absent: Vec<AbsentLink>,
    /// Objects of other programs that stand in the way.
    pub conflicts: Vec<Conflict>,
    /// What of amazon-vpc-cni-k8s could not be listed, and why.
    pub unlisted: Vec<String>,
    /// Kernel variables that cannot be written, and a check of sources that the kernel cannot do; the node goes on without.
    pub unwritable: Vec<Refused>,
    /// What there was to be seen: [`NodeNetwork::seen`]. `None` if netlink was not asked.
    pub seen: Option<Seen>,
}

/// How often a repair looks again because pods came or went meanwhile.
const ROUNDS_MAX: usize = 4;

impl NodeNetwork {
    /// Makes the node as it should be.
    ///
    /// `latest` returns what should be at the moment of the call: pods come and go while this reads and writes. What is
    /// read counts only for pods that were there before and after, and when one went meanwhile, all is looked at again.
    ///
    /// What the kernel lists itself is put right first: it does not wait for programs that cannot list the address
    /// translation.
    pub fn repair(
        latest: &dyn Fn() -> Self,
        netlink: &mut dyn Netlink,
        extent: Extent,
    ) -> Result<Repaired, ApplyError> {
        if extent != Extent::All {
            return Self::repair_to(latest, netlink, extent);
        }
        let kernel = Self::repair_to(latest, netlink, Extent::Kernel);
        let translation = Self::repair_to(latest, netlink, Extent::Translation)?;
        let mut repaired = kernel?;
        repaired.differences.extend(translation.differences);
        repaired.conflicts.extend(translation.conflicts);
        repaired.unlisted.extend(translation.unlisted);
        repaired.unwritable.extend(translation.unwritable);
        Ok(repaired)
    }

    fn repair_to(
        latest: &dyn Fn() -> Self,
        netlink: &mut dyn Netlink,
        extent: Extent,
    ) -> Result<Repaired, ApplyError> {
        let mut repaired = Repaired::default();
        let mut before = latest();
        for _ in 0..ROUNDS_MAX {
            let actual = before.read(netlink, extent)?;
            let node = latest().common_with(&before);
            let (differences, absent) = node.compare(&actual, extent);
            let (spared, differences): (Vec<_>, Vec<_>) =
                differences.into_iter().partition(|it| node.spares(it));
            repaired.spared = spared;
            repaired.absent = absent;
            repaired.conflicts = node.all_conflicts(&actual, &differences, extent);
            repaired.unlisted = unlisted(&actual);
            if extent.has_routing() {
                repaired.seen = Some(node.seen_in(&actual, netlink)?);
            }
            if differences.is_empty() {
                break;
            }
            repaired.unwritable = match carry_out(netlink, &changes(&differences, &actual)) {
                Ok(()) => Vec::new(),
                Err(error) => match error.dispensable() {
                    Some(refused) => refused.to_vec(),
                    None => return Err(error),
                },
            };
            node.make_known(netlink, &differences, &actual)?;
            repaired
                .differences
                .extend(differences.into_iter().filter(|it| !is_refused(it, &repaired.unwritable)));
            let after = latest();
            if node.pods.keys().all(|key| after.pods.contains_key(key)) {
                break;
            }
            before = after;
        }
        Ok(repaired)
    }

    fn spares(&self, difference: &Difference) -> bool {
        !self.spared.is_empty() && self.spared.contains(&difference.object().to_string())
    }

    /// Lets the kernel take note of the pods whose links or routes were put right, as an ADD does.
    fn make_known(
        &self,
        netlink: &mut dyn Netlink,
        differences: &[Difference],
        actual: &Actual,
    ) -> Result<(), NetlinkError> {
        let touched: BTreeSet<LinkIndex> = differences
            .iter()
            .filter_map(|difference| match difference.object() {
                Object::Link { link, .. } | Object::Route { link, .. } => Some(link.index),
                _ => None,
            })
            .collect();
        let of_mac = |interface: &PodInterface| {
            let mac = Some(interface.host.mac);
            actual.links.iter().find(|link| link.mac == mac && touched.contains(&link.id.index))
        };
        if touched.is_empty() {
            return Ok(());
        }
        let egress = self.egress_of_pods(actual);
        let pods = self.interfaces().filter_map(|interface| {
            let link = of_mac(interface)?.id.clone();
            let interface = match egress.get(&interface.host.mac) {
                Some(address) => egress::with(interface, *address),
                None => interface.clone(),
            };
            Some((link, interface))
        });
        // What is refused was gone again before it could be made known.
        pod::make_known(netlink, &pods.collect::<Vec<_>>()).map(drop)
    }

    /// Leaves out pods that another description does not have, or not the same: they are busy.
    fn common_with(mut self, other: &Self) -> Self {
        self.busy.extend(&other.busy);
        self.busy_links.extend(&other.busy_links);
        let addresses = |network: &PodNetwork| -> Vec<IpAddr> {
            network.interfaces.iter().flat_map(|it| &it.addresses).map(|it| it.address).collect()
        };
        for (key, network) in &other.pods {
            if self.pods.get(key) != Some(network) {
                self.busy.extend(addresses(network));
            }
        }
        let busy = &mut self.busy;
        self.pods.retain(|key, network| {
            let same = other.pods.get(key) == Some(network);
            if !same {
                busy.extend(addresses(network));
            }
            same
        });
        self
    }
}

/// Returns whether what would put a difference right was refused.
fn is_refused(difference: &Difference, refused: &[Refused]) -> bool {
    let (Difference::Missing(wanted) | Difference::Different { wanted, .. }) = difference else {
        return false;
    };
    refused.iter().any(|refused| matches!(&*refused.change, KernelChange::Set(it) if it == wanted))
}
