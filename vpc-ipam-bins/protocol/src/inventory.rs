//! What a node holds, address by address, and the settings in force on it.

use core::net::IpAddr;
use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vpc_ipam_core::{
    AddressUse, BlockState, Card, DeviceIndex, Ec2Operation, EniId, Explanation, InterfaceType,
    Management, Pod, PodKey, Stage, SubnetId, Timestamp, Zone,
};

/// What a node holds, address by address, what it is doing, and the settings in force on it: the source of metrics, of
/// introspection and of its page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Whether the next pod would get an address, at once or within the time that an ADD may wait.
    pub ready: bool,
    /// Why, in words.
    pub reason: String,
    /// What an operator should look at, and what it may come from.
    pub problems: Vec<String>,
    /// The availability zone of the instance.
    pub zone: Zone,
    /// What is wanted, being done and blocked, and why.
    pub explanation: Explanation,
    /// The ENIs with their addresses.
    pub enis: Vec<EniInventory>,
    /// The most ENIs that the node may have for pods, over all network cards in use: those of the instance type or `MAX_ENI`, less
    /// the ones that the daemon does not manage.
    pub enis_max: u32,
    /// The most addresses for pods that those ENIs carry.
    pub addresses_max: u32,
    /// How many calls of each EC2 operation may be made at once.
    pub calls_left: BTreeMap<Ec2Operation, u32>,
    /// How often the node's network was found damaged and put right.
    pub repairs: u64,
    /// How many objects that were.
    pub repaired: u64,
    /// The settings in force by the names of their variables.
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// What an ENI holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EniInventory {
    /// The id of the ENI.
    pub id: EniId,
    /// The network card that it is on, or will be attached to.
    pub card: Card,
    /// Its index on that card.
    pub device: DeviceIndex,
    /// Whether it is the instance's primary ENI.
    pub primary: bool,
    /// What kind of interface it is.
    pub interface_type: InterfaceType,
    /// How far it is.
    pub stage: Stage,
    /// Whether the daemon manages it, and if not, why.
    pub management: Management,
    /// Whether its subnet was taken out of use.
    pub excluded: bool,
    /// Its subnet.
    pub subnet: SubnetId,
    /// The route table of its pods.
    pub route_table: u32,
    /// What EC2 assigned to it.
    pub blocks: Vec<BlockInventory>,
}

/// What EC2 assigned as a whole: a secondary address, a /28 or a /80.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockInventory {
    /// Its range.
    pub net: IpNet,
    /// How far it can be relied on.
    pub state: BlockState,
    /// How many addresses it has for pods: 1, 16, or 65,536 of a /80.
    pub capacity: u32,
    /// The addresses that are not free.
    pub in_use: Vec<AddressInUse>,
}

/// An address that no other pod can get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressInUse {
    /// The address.
    pub address: IpAddr,
    /// What it is used for.
    #[serde(rename = "use")]
    pub used: AddressUse,
    /// The pod that has it, if any that is known.
    pub pod: Option<AddressHolder>,
}

/// The pod that has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressHolder {
    /// Its container and interface.
    pub key: PodKey,
    /// Its name.
    #[serde(flatten)]
    pub pod: Pod,
    /// Since when it has it.
    pub since: Timestamp,
    /// How many interfaces it has.
    pub interfaces: usize,
}

/// How many addresses are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressStates {
    /// Pods have them.
    pub assigned: u32,
    /// They cool down.
    pub cooling: u32,
    /// Untracked owners use them.
    pub untracked: u32,
    /// No pod gets them: a source did not show their block, or it is being released.
    pub withheld: u32,
    /// The next pods get them.
    pub free: u32,
}

impl BlockInventory {
    /// Counts its addresses by state; each is in one.
    pub fn states(&self) -> AddressStates {
        let mut states = AddressStates::default();
        for AddressInUse { used, .. } in &self.in_use {
            match used {
                AddressUse::Assigned => states.assigned += 1,
                AddressUse::Cooling { .. } => states.cooling += 1,
                AddressUse::Untracked => states.untracked += 1,
            }
        }
        let used = states.assigned + states.cooling + states.untracked;
        let left = self.capacity.saturating_sub(used);
        match self.state {
            BlockState::Confirmed => states.free = left,
            _ => states.withheld = left,
        }
        states
    }
}
