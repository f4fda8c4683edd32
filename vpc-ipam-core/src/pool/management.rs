//! Which ENIs are managed.

use crate::model::tags;
use crate::pool::{Eni, Management, Pool};
use crate::{Card, Config, InterfaceType, Node};

impl Pool {
    /// Decides anew which ENIs are managed, as another configuration has it.
    pub(crate) fn manage(&mut self, config: &Config, node: &Node) {
        for eni in &mut self.enis {
            eni.management = management(eni, config, node);
        }
    }
}

/// Returns whether we manage an ENI, by its card, its kind and its tags.
pub(crate) fn management(eni: &Eni, config: &Config, node: &Node) -> Management {
    if eni.id == node.primary {
        return Management::Managed;
    }
    if eni.vpc.is_some_and(|vpc| vpc != node.vpc) {
        return Management::OtherVpc;
    }
    match eni.interface_type {
        InterfaceType::EfaOnly | InterfaceType::Branch | InterfaceType::Other => {
            return Management::InterfaceType;
        }
        InterfaceType::Interface | InterfaceType::Efa | InterfaceType::Trunk => {}
    }
    if eni.card != Card(0) && !config.multi_nic {
        return Management::Card;
    }
    match eni.tag(tags::NO_MANAGE) {
        Some("true") => Management::NoManageTag,
        Some(_) => Management::Managed,
        None if config.manage_untagged => Management::Managed,
        None if eni.is_made_for(node.instance) => Management::Managed,
        None => Management::Untagged,
    }
}
