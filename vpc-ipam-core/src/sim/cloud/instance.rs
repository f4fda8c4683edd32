use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use super::Cloud;
use super::address::{check_prefixes, check_room};
use super::request::{CreateInterface, RunInstance};
use crate::sim::error::CloudError;
use crate::{DeviceIndex, EniId, InstanceId, InstanceType, Limits, Node, Timestamp};

/// An instance; it runs for as long as it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its type and what that allows.
    pub limits: Limits,
    /// What does not change while it lives.
    pub node: Node,
    /// Tags by key, as [`RunInstance`] or [`Cloud::create_tags`] set them.
    pub tags: BTreeMap<String, String>,
    /// When it was launched.
    pub launched: Timestamp,
    /// The ENIs attached to it, its primary one included.
    pub enis: BTreeSet<EniId>,
}

/// Instances, which other programs than the address management of a node launch and end.
impl Cloud {
    /// Launches an instance with its primary ENI: device 0 of the type's default card.
    pub fn run_instance(
        &mut self,
        request: RunInstance,
        now: Timestamp,
    ) -> Result<InstanceId, CloudError> {
        let primary = self.make_interface(&CreateInterface {
            security_groups: request.security_groups,
            primary_ipv4: request.primary_ipv4,
            ..CreateInterface::new(request.subnet)
        })?;
        let (eni, vpc, zone) = (primary.id, primary.vpc, primary.zone);
        let id = self.new_id("i-");
        let card = request.limits.default_card;
        self.instances.insert(
            id,
            Instance {
                node: Node {
                    instance: id,
                    instance_type: request.limits.instance_type,
                    zone,
                    vpc,
                    primary: eni,
                    subnet: request.subnet,
                },
                limits: request.limits,
                tags: request.tags,
                launched: now,
                enis: BTreeSet::new(),
            },
        );
        self.attach(eni, id, card, DeviceIndex(0), now);
        if let Some(attachment) = self.enis.get_mut(&eni).and_then(|eni| eni.attachment.as_mut()) {
            attachment.delete_on_termination = true;
        }
        Ok(id)
    }

    /// Makes an instance one of another type, as is possible while it is stopped. Its ENIs stay attached, so EC2 starts it
    /// only if the new type can hold them.
    pub fn resize_instance(&mut self, id: InstanceId, limits: Limits) -> Result<(), CloudError> {
        let instance = self.instances.get(&id).ok_or_else(|| CloudError::no_instance(id))?;
        for card in instance.limits.cards() {
            let on_card = instance.enis.iter().filter_map(|id| self.enis[id].attachment.as_ref());
            let count = on_card.filter(|attachment| attachment.card == card).count();
            if count > usize::from(limits.enis(card)) {
                return Err(CloudError::interface_limit(count, limits.instance_type));
            }
        }
        for eni in instance.enis.iter().map(|id| &self.enis[id]) {
            check_room(&limits, eni, 0, 0)?;
            check_prefixes(&limits, eni.ipv4.iter().any(|net| net.prefix_len() < 32))?;
        }
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.node.instance_type = limits.instance_type;
            instance.limits = limits;
        }
        Ok(())
    }

    /// Ends an instance: ENIs that are to go with it go, the others stay unattached.
    pub fn terminate_instance(&mut self, id: InstanceId) -> Result<(), CloudError> {
        let instance = self.instances.remove(&id).ok_or_else(|| CloudError::no_instance(id))?;
        for eni in instance.enis {
            let attachment = self.enis.get_mut(&eni).and_then(|eni| eni.attachment.take());
            let Some(attachment) = attachment else {
                continue;
            };
            self.attachments.remove(&attachment.id);
            if attachment.delete_on_termination {
                self.remove_interface(eni);
            }
        }
        Ok(())
    }
}

impl Cloud {
    /// Returns an instance that runs, by its id.
    pub fn instance(&self, id: &InstanceId) -> Option<&Instance> {
        self.instances.get(id)
    }

    /// Returns these instances, or all if none is named, sorted by id; one that does not exist fails the call.
    pub fn describe_instances(
        &mut self,
        ids: &[InstanceId],
        _now: Timestamp,
    ) -> Result<Vec<Instance>, CloudError> {
        if let Some(id) = ids.iter().find(|id| !self.instances.contains_key(id)) {
            return Err(CloudError::no_instance(*id));
        }
        let named = |id: &InstanceId| ids.is_empty() || ids.contains(id);
        Ok(self
            .instances
            .values()
            .filter(|instance| named(&instance.node.instance))
            .cloned()
            .collect())
    }

    /// Returns the limits of these types, or of all that the built-in table has if none is named; one that does not
    /// exist fails the call. An instance that was launched with limits of its own makes them its type's.
    pub fn describe_instance_types(
        &mut self,
        types: &[InstanceType],
        _now: Timestamp,
    ) -> Result<Vec<Limits>, CloudError> {
        if types.is_empty() {
            return Ok(Limits::all().collect());
        }
        let launched = |name: InstanceType| {
            let mut limits = self.instances.values().map(|instance| &instance.limits);
            limits.find(|limits| limits.instance_type == name).cloned()
        };
        types
            .iter()
            .map(|name| {
                launched(*name)
                    .or_else(|| Limits::lookup(*name).ok())
                    .ok_or_else(|| CloudError::no_instance_type(*name))
            })
            .collect()
    }
}
