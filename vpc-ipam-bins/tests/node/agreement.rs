//! Whether a node's daemon, its kernel and EC2 say the same of it.

use std::collections::BTreeSet;

use ipnet::IpNet;
use vpc_ipam::lab::LabAddress;
use vpc_ipam_aws::SharedCloud;
use vpc_ipam_core::{Lease, error_chain};
use vpc_ipam_protocol::{Answer, Request, ask};

/// What EC2 has of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// How many ENIs are attached to it.
    pub(crate) enis: usize,
    /// Secondary addresses and prefixes on them.
    pub(crate) blocks: BTreeSet<IpNet>,
}

/// Returns what the daemon says that pods have.
pub(crate) fn leases(address: &LabAddress) -> Result<Vec<Lease>, String> {
    match asked(address, &Request::Leases { network: None })? {
        Answer::Leases(leases) => Ok(leases),
        other => Err(format!("{other:?}")),
    }
}

/// Returns what EC2 has of the node, if the daemon holds that and nothing else, and the kernel is as it should be.
pub(crate) fn agreed(address: &LabAddress, cloud: &SharedCloud) -> Result<Assigned, String> {
    match asked(address, &Request::NetDiff)? {
        Answer::Net(net) if net.differences.is_empty() && net.not_told.is_empty() => {}
        other => return Err(format!("{other:?}")),
    }
    let held: BTreeSet<IpNet> = match asked(address, &Request::Inventory)? {
        Answer::Inventory(held) => {
            held.enis.iter().flat_map(|eni| eni.blocks.iter().map(|block| block.net)).collect()
        }
        other => return Err(format!("{other:?}")),
    };
    let mut assigned = Assigned::default();
    let mut unattached = Vec::new();
    cloud.with(|cloud, _| {
        for eni in cloud.interfaces() {
            match &eni.attachment {
                Some(attachment) if attachment.instance == address.instance_id => {
                    assigned.enis += 1;
                    assigned.blocks.extend(eni.ipv4.iter().copied().map(IpNet::V4));
                }
                Some(_) => {}
                None => unattached.push(eni.id),
            }
        }
    });
    if held != assigned.blocks || !unattached.is_empty() {
        return Err(format!(
            "the daemon holds {held:?}, EC2 has {assigned:?}, and attached to nothing {unattached:?}"
        ));
    }
    Ok(assigned)
}

fn asked(address: &LabAddress, request: &Request) -> Result<Answer, String> {
    ask(&address.socket, request).map_err(|error| error_chain(&error))
}
