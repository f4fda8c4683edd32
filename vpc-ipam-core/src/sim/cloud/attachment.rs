use alloc::vec::Vec;

use super::Cloud;
use super::address::{check_prefixes, check_room};
use super::interface::Attachment;
use crate::sim::error::CloudError;
use crate::{
    AttachNetworkInterface, AttachmentId, AttachmentStatus, Card, DeviceIndex, EniId, InstanceId,
    Timestamp,
};

/// Attaching and detaching ENIs.
impl Cloud {
    /// Attaches an ENI to an instance.
    pub fn attach_network_interface(
        &mut self,
        request: &AttachNetworkInterface,
        now: Timestamp,
    ) -> Result<AttachmentId, CloudError> {
        self.past.record(&self.enis, now);
        let eni = self.interface_of(request.eni)?;
        let instance = self
            .instances
            .get(&request.instance)
            .ok_or_else(|| CloudError::no_instance(request.instance))?;
        let limits = &instance.limits;
        let (card, device) = (request.card, request.device);

        if eni.attachment.is_some() {
            return Err(CloudError::attached_already(eni.id));
        }
        if eni.zone != instance.node.zone {
            return Err(CloudError::other_zone());
        }
        if limits.enis(card) == 0 {
            return Err(CloudError::no_card(card.0, limits.instance_type));
        }
        let on_card: Vec<_> = instance
            .enis
            .iter()
            .filter_map(|id| self.enis[id].attachment.as_ref())
            .filter(|attachment| attachment.card == card)
            .collect();
        if on_card.iter().any(|attachment| attachment.device == device) {
            return Err(CloudError::device_taken(request.instance, device.0));
        }
        if on_card.len() >= usize::from(limits.enis(card)) {
            // EC2 counts the interface that it refuses.
            let count = on_card.len() + 1;
            return Err(CloudError::interface_limit(count, limits.instance_type));
        }
        check_room(limits, eni, 0, 0)?;
        check_prefixes(
            limits,
            eni.ipv4.iter().any(|net| net.prefix_len() < 32)
                || eni.ipv6.iter().any(|net| net.prefix_len() < 128),
        )?;

        Ok(self.attach(request.eni, request.instance, card, device, now))
    }

    /// Detaches an ENI from its instance.
    pub fn detach_network_interface(
        &mut self,
        attachment: AttachmentId,
        now: Timestamp,
    ) -> Result<(), CloudError> {
        self.past.record(&self.enis, now);
        let no_attachment = || CloudError::no_attachment(attachment);
        let id = *self.attachments.get(&attachment).ok_or_else(no_attachment)?;
        let eni = self.enis.get_mut(&id).ok_or_else(no_attachment)?;
        let instance = eni
            .attachment
            .as_ref()
            .and_then(|attachment| self.instances.get_mut(&attachment.instance))
            .ok_or_else(no_attachment)?;
        if instance.node.primary == id {
            return Err(CloudError::primary_interface());
        }
        instance.enis.remove(&id);
        eni.attachment = None;
        self.attachments.remove(&attachment);
        Ok(())
    }
}

impl Cloud {
    /// Connects an ENI and an instance, both of which exist.
    pub(super) fn attach(
        &mut self,
        eni: EniId,
        instance: InstanceId,
        card: Card,
        device: DeviceIndex,
        now: Timestamp,
    ) -> AttachmentId {
        let id = self.new_id("eni-attach-");
        let attachment = Attachment {
            id,
            instance,
            card,
            device,
            status: AttachmentStatus::Attached,
            delete_on_termination: false,
            since: now,
        };
        self.attachments.insert(id, eni);
        if let Some(eni) = self.enis.get_mut(&eni) {
            eni.attachment = Some(attachment);
        }
        if let Some(instance) = self.instances.get_mut(&instance) {
            instance.enis.insert(eni);
        }
        id
    }
}
