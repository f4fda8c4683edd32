//! A node on which amazon-vpc-cni-k8s keeps what it made.

use crate::{AwsCniNat, Family, Netlink, NetlinkError, NetlinkLayer, Protocol, Rule};

/// A namespace in which what amazon-vpc-cni-k8s made belongs to another program, where it would be taken over otherwise.
///
/// Rules without a protocol, as all of amazon-vpc-cni-k8s are, are shown with a further condition, so that they match none of ours.
/// Its address translation is not shown.
pub struct BesideAwsCni<N>(
    /// The namespace that is read and changed.
    pub N,
);

impl<N: Netlink> NetlinkLayer for BesideAwsCni<N> {
    fn inner(&mut self) -> &mut dyn Netlink {
        &mut self.0
    }

    fn rules(&mut self, family: Family) -> Result<Vec<Rule>, NetlinkError> {
        let mut rules = self.0.rules(family)?;
        for rule in &mut rules {
            rule.more |= rule.protocol == Protocol::UNSPECIFIED;
        }
        Ok(rules)
    }

    fn aws_cni_nat(&mut self) -> Result<AwsCniNat, NetlinkError> {
        Ok(AwsCniNat::default())
    }
}
