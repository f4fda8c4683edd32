//! The messages that make a change.

use super::encode;
use super::exchange::Request;
use crate::{KernelChange, Object};

/// Returns the messages that make a change; none where it takes something else.
pub(super) fn requests_of(change: &KernelChange) -> Vec<Request> {
    match change {
        KernelChange::AddVeth(veth) => vec![encode::add_veth(veth), encode::get_link(&veth.name)],
        KernelChange::AddVlan(vlan) => vec![encode::add_vlan(vlan)],
        KernelChange::AddRoute { link, route } => vec![encode::add_route(link.index, route)],
        KernelChange::AddNeighbour { link, neighbour } => {
            vec![encode::add_neighbour(link.index, *neighbour)]
        }
        KernelChange::AddBridge(bridge) => vec![encode::add_bridge(bridge)],
        KernelChange::Join { port, bridge } => {
            vec![encode::join(port.index, bridge.index), encode::isolate(port.index)]
        }
        KernelChange::RemoveLink { name } => vec![encode::remove_link(name)],
        KernelChange::RemoveLinkByIndex(link) => vec![encode::remove_link_by_index(link.index)],
        KernelChange::Set(object) => set(object).into_iter().collect(),
        KernelChange::Remove(object) => remove(object).into_iter().collect(),
    }
}

fn set(object: &Object) -> Option<Request> {
    match object {
        Object::Address { link, address } => Some(encode::set_address(link.index, *address)),
        Object::Route { link, route } => Some(encode::set_route(link.index, route)),
        Object::Neighbour { link, neighbour } => {
            Some(encode::set_neighbour(link.index, *neighbour))
        }
        Object::Rule(rule) => Some(encode::set_rule(rule)),
        // The first two by the settings of their links.
        Object::Link { .. }
        | Object::Alias { .. }
        | Object::Sysctl(_)
        | Object::Nat(_)
        | Object::SourceCheck(_)
        | Object::AwsCniNat(_) => None,
    }
}

fn remove(object: &Object) -> Option<Request> {
    match object {
        Object::Address { link, address } => Some(encode::remove_address(link.index, *address)),
        Object::Route { link, route } => Some(encode::remove_route(link.index, route)),
        Object::Neighbour { link, neighbour } => {
            Some(encode::remove_neighbour(link.index, *neighbour))
        }
        Object::Rule(rule) => Some(encode::remove_rule(rule)),
        Object::Link { .. }
        | Object::Alias { .. }
        | Object::Sysctl(_)
        | Object::Nat(_)
        | Object::SourceCheck(_)
        | Object::AwsCniNat(_) => None,
    }
}
