//! Pods of another program, which have their addresses already.

use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::block::Block;
use super::{HeldLease, Pool, take_serial};
use crate::{Card, Eni, EniId, Import, Lease, LeasedInterface, PodKey, Timestamp};

/// Why a pod of another program gets no lease of its addresses. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ImportError {
    /// No source has shown the node's ENIs yet: what they hold is not known.
    #[error("no ENI of the node was seen yet")]
    NotSeen,
    /// The pod has no interface.
    #[error("the pod has no address")]
    NoInterface,
    /// The pod's interfaces are not one for each of several network cards, in their order.
    #[error(
        "{address} is on {card}, and so is an interface of the pod before it, or on a later card"
    )]
    CardOrder {
        /// The address of the interface that is out of order.
        address: IpAddr,
        /// The network card of its ENI.
        card: Card,
    },
    /// No ENI of the node holds an address.
    #[error("no ENI of the node holds {address}")]
    NotHeld {
        /// The address that the pod has.
        address: IpAddr,
    },
    /// The ENI that holds an address is not managed.
    #[error("{eni}, which holds {address}, is not managed")]
    Unmanaged {
        /// The address that the pod has.
        address: IpAddr,
        /// The ENI that holds it.
        eni: EniId,
    },
    /// The ENI that holds an address, or the address's block, is being released.
    #[error("{address} is being released with {eni} or a block of it")]
    Leaving {
        /// The address that the pod has.
        address: IpAddr,
        /// The ENI that holds it.
        eni: EniId,
    },
    /// Another pod's lease names an address.
    #[error("{address} is held by {by}")]
    AddressTaken {
        /// The address that both pods have.
        address: IpAddr,
        /// The pod whose lease names it.
        by: PodKey,
    },
    /// The key has a lease of other addresses.
    #[error("a pod of the same key holds {}", in_words(addresses))]
    KeyTaken {
        /// What that lease holds.
        addresses: Vec<IpAddr>,
    },
    /// The key waits for an address.
    #[error("a pod of the same key waits for an address")]
    KeyWaits,
}

impl ImportError {
    /// Returns whether trying again may help, without anything else being done: what an ENI got lately, the metadata service shows
    /// some seconds later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::NotSeen | Self::NotHeld { .. })
    }
}

fn in_words(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

impl Pool {
    /// Takes the addresses that a pod of another program has for it. Returns its lease, the same one if it has one already.
    pub(crate) fn import(&mut self, import: &Import, now: Timestamp) -> Result<Lease, ImportError> {
        let addresses = || import.interfaces.iter().map(|found| found.address);
        if import.interfaces.is_empty() {
            return Err(ImportError::NoInterface);
        }
        if let Some(held) = self.leases.get_mut(&import.key) {
            let own: Vec<IpAddr> = held.lease.addresses().collect();
            if !addresses().all(|address| own.contains(&address)) {
                return Err(ImportError::KeyTaken { addresses: own });
            }
            held.uncommitted += 1;
            return Ok(held.lease.clone());
        }
        if self.enis.is_empty() {
            return Err(ImportError::NotSeen);
        }
        let mut interfaces: Vec<LeasedInterface> = Vec::new();
        for address in addresses() {
            let interface = self.interface_to_import(address)?;
            if interfaces.last().is_some_and(|before| before.card >= interface.card) {
                return Err(ImportError::CardOrder { address, card: interface.card });
            }
            interfaces.push(interface);
        }
        for address in addresses() {
            self.enis
                .iter_mut()
                .find_map(|eni| eni.edit_block_of(address, |block| block.on_imported(address)));
            // Until its lease is durable.
            self.unknown.insert(address);
        }
        let first = interfaces.remove(0);
        let lease = Lease {
            key: import.key.clone(),
            pod: Arc::clone(&import.pod),
            // What lies ahead would outlive its release.
            since: import.since.min(now),
            serial: take_serial(&mut self.next_serial),
            first,
            more: interfaces,
            addresses_only: false,
            found: import.interfaces.iter().map(|found| found.link.clone()).collect(),
        };
        let held = HeldLease { lease: lease.clone(), durable: false, uncommitted: 1 };
        self.leases.insert(lease.key.clone(), held);
        Ok(lease)
    }

    /// Returns the interface of a pod that has an address which no lease names.
    fn interface_to_import(&self, address: IpAddr) -> Result<LeasedInterface, ImportError> {
        let named = |lease: &&Lease| lease.addresses().any(|it| it == address);
        if let Some(Lease { key, .. }) = self.leases().find(named) {
            return Err(ImportError::AddressTaken { address, by: key.clone() });
        }
        let holds = |eni: &&Eni| eni.block(address).is_some();
        let eni = self.enis.iter().find(holds).ok_or(ImportError::NotHeld { address })?;
        if !eni.is_managed() {
            return Err(ImportError::Unmanaged { address, eni: eni.id });
        }
        let is_leaving = eni.is_removing() || eni.block(address).is_some_and(Block::is_releasing);
        if is_leaving || !eni.has_slot() {
            return Err(ImportError::Leaving { address, eni: eni.id });
        }
        let interface = eni.interface();
        Ok(match address {
            IpAddr::V4(address) => LeasedInterface { ipv4: Some(address), ..interface },
            IpAddr::V6(address) => LeasedInterface { ipv6: Some(address), ..interface },
        })
    }
}
