//! How a node differs from what it should hold.

use super::conflict;
use super::desired::AbsentLink;
use super::extent::Extent;
use super::network::NodeNetwork;
use crate::datapath::conflict::Conflict;
use crate::state::actual::Actual;
use crate::state::diff::{Difference, changes, diff};
use crate::{Family, KernelChange, Netlink, NetlinkError, Object, SysctlKey};

/// How a node differs from what it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDifferences {
    /// In the order in which they are to be put right.
    pub differences: Vec<Difference>,
    /// Links that are not there, which is not for this crate to put right.
    pub absent: Vec<AbsentLink>,
    /// Objects of other programs that stand in the way, which is not for this crate to put right either.
    pub conflicts: Vec<Conflict>,
    /// What of amazon-vpc-cni-k8s could not be listed, and why.
    pub unlisted: Vec<String>,
    /// The changes that put the differences right.
    pub changes: Vec<KernelChange>,
}

impl NodeDifferences {
    /// Returns whether everything is as it should be.
    pub fn is_empty(&self) -> bool {
        let Self { differences, absent, conflicts, unlisted, changes: _ } = self;
        differences.is_empty() && absent.is_empty() && conflicts.is_empty() && unlisted.is_empty()
    }
}

impl NodeNetwork {
    /// Returns how the kernel differs from what the node should hold, without changing anything.
    pub fn diff(
        &self,
        netlink: &mut dyn Netlink,
        extent: Extent,
    ) -> Result<NodeDifferences, NetlinkError> {
        let actual = self.read(netlink, extent)?;
        Ok(self.differences(&actual, extent))
    }

    /// Reads what a comparison needs. Rules come first: a rule of a pod is made after its link.
    pub(super) fn read(
        &self,
        netlink: &mut dyn Netlink,
        extent: Extent,
    ) -> Result<Actual, NetlinkError> {
        let mut actual = Actual::default();
        if extent.has_routing() {
            for family in [Family::Ipv4, Family::Ipv6] {
                actual.rules.extend(netlink.rules(family)?);
            }
            actual.links = netlink.links()?;
            actual.addresses = netlink.all_addresses()?;
            for family in [Family::Ipv4, Family::Ipv6] {
                actual.add_routes(netlink.all_routes(family)?);
            }
            let (desired, _) = self.desired(&actual, extent);
            let keys = desired.sysctls().cloned().chain(conflict::variables());
            let keys: Vec<SysctlKey> = keys.collect();
            let values = netlink.sysctls(&keys)?;
            actual.sysctls = keys.into_iter().zip(values).collect();
        } else {
            actual.links = netlink.links()?;
        }
        if extent.has_translation() {
            actual.nat = Some(netlink.nat()?);
            actual.source_check = Some(netlink.source_check()?);
            actual.aws_cni_nat = netlink.aws_cni_nat()?;
        }
        Ok(actual)
    }

    fn differences(&self, actual: &Actual, extent: Extent) -> NodeDifferences {
        let (differences, absent) = self.compare(actual, extent);
        let conflicts = self.all_conflicts(actual, &differences, extent);
        let changes = changes(&differences, actual);
        NodeDifferences { differences, absent, conflicts, unlisted: unlisted(actual), changes }
    }

    /// Returns what other programs have that stands in the way of routing, and of address translation.
    pub(super) fn all_conflicts(
        &self,
        actual: &Actual,
        differences: &[Difference],
        extent: Extent,
    ) -> Vec<Conflict> {
        let routing = extent.has_routing().then(|| self.conflicts(actual, differences));
        let mut conflicts = routing.unwrap_or_default();
        conflicts.extend(actual.aws_cni_nat.conflicts());
        conflicts
    }

    pub(super) fn compare(
        &self,
        actual: &Actual,
        extent: Extent,
    ) -> (Vec<Difference>, Vec<AbsentLink>) {
        let (mut desired, absent) = self.desired(actual, extent);
        // Of a pod that came while they were read.
        desired.wanted.retain(|object| match object {
            Object::Sysctl(sysctl) => actual.sysctls.contains_key(&sysctl.key),
            _ => true,
        });
        let mut differences = diff(&desired, actual);
        let strays =
            self.strays(&desired, actual).filter(|_| extent.has_routing() && !self.beside_aws_cni);
        for rule in self.orphans(actual).into_iter().chain(strays) {
            let unwanted = Difference::Unwanted(Object::Rule(rule.clone()));
            if !differences.contains(&unwanted) {
                differences.push(unwanted);
            }
        }
        (differences, absent)
    }
}

/// Returns what of amazon-vpc-cni-k8s cannot be listed.
pub(super) fn unlisted(actual: &Actual) -> Vec<String> {
    let why = actual.aws_cni_nat.unlisted().iter();
    why.map(|why| format!("cannot tell what amazon-vpc-cni-k8s left: {why}")).collect()
}
