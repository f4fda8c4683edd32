use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use ipnet::IpNet;

use super::interface::NetworkInterface;
use crate::{AttachmentId, Card, DeviceIndex, EniId, InstanceId, Mac, SubnetId};

/// An attached ENI as the network behind it sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The ENI whose port it is.
    pub eni: EniId,
    /// Its attachment, a new one each time.
    pub attachment: AttachmentId,
    /// The instance into which it is plugged.
    pub instance: InstanceId,
    /// The network card of the instance.
    pub card: Card,
    /// The index on that card.
    pub device: DeviceIndex,
    /// The MAC address of its link.
    pub mac: Mac,
    /// The subnet on which its link sits.
    pub subnet: SubnetId,
    /// What the VPC delivers to it: its own addresses and secondary ones in full length, and prefixes.
    pub blocks: BTreeSet<IpNet>,
}

/// One difference of the fabric from what was told before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link is gone, and with it all of the port's blocks.
    Detached(Port),
    /// Blocks are no longer delivered to a port.
    Unassigned {
        /// The port as it is.
        port: Port,
        /// What is no longer delivered to it.
        blocks: Vec<IpNet>,
    },
    /// A link is there, with all of the port's blocks.
    Attached(Port),
    /// More blocks are delivered to a port.
    Assigned {
        /// The port as it is.
        port: Port,
        /// What is delivered to it besides.
        blocks: Vec<IpNet>,
    },
}

/// What was told of the fabric so far.
///
/// Differences are found by comparison on demand, so that nothing grows meanwhile: what came and went
/// in between is not told.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(BTreeMap<EniId, Port>);

impl Told {
    /// Returns one difference, and counts it as told. What goes is listed before what comes, so that a block that moved
    /// is never at two ports; among equals the lowest ENI id is first.
    pub(super) fn next(&mut self, enis: &BTreeMap<EniId, NetworkInterface>) -> Option<Change> {
        let port = |eni: &EniId| enis.get(eni).and_then(port);

        let gone = self
            .0
            .values()
            .find(|told| port(&told.eni).is_none_or(|port| port.attachment != told.attachment));
        if let Some(eni) = gone.map(|told| told.eni) {
            return self.0.remove(&eni).map(Change::Detached);
        }

        for told in self.0.values_mut() {
            let Some(port) = port(&told.eni) else {
                continue;
            };
            let lost: Vec<_> = told.blocks.difference(&port.blocks).copied().collect();
            if !lost.is_empty() {
                lost.iter().for_each(|block| {
                    told.blocks.remove(block);
                });
                return Some(Change::Unassigned { port: told.clone(), blocks: lost });
            }
        }

        let come = enis.values().filter(|eni| !self.0.contains_key(&eni.id)).find_map(self::port);
        if let Some(port) = come {
            self.0.insert(port.eni, port.clone());
            return Some(Change::Attached(port));
        }

        for told in self.0.values_mut() {
            let Some(port) = port(&told.eni) else {
                continue;
            };
            let gained: Vec<_> = port.blocks.difference(&told.blocks).copied().collect();
            if !gained.is_empty() {
                *told = port.clone();
                return Some(Change::Assigned { port, blocks: gained });
            }
        }
        None
    }
}

/// Returns the port of an ENI, if it is attached.
fn port(eni: &NetworkInterface) -> Option<Port> {
    let attachment = eni.attachment.as_ref()?;
    let own = eni.primary_ipv4.map(|address| IpNet::from(core::net::IpAddr::from(address)));
    Some(Port {
        eni: eni.id,
        attachment: attachment.id,
        instance: attachment.instance,
        card: attachment.card,
        device: attachment.device,
        mac: eni.mac,
        subnet: eni.subnet,
        blocks: own
            .into_iter()
            .chain(eni.ipv4.iter().copied().map(IpNet::V4))
            .chain(eni.ipv6.iter().copied().map(IpNet::V6))
            .collect(),
    })
}
