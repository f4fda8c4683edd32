use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::guard::longer;
use super::questions::alike;
use super::suite::{PATIENCE, Suite};
use crate::{
    AttachNetworkInterface, AttachmentId, AttachmentStatus, Card, DeleteNetworkInterface,
    DetachNetworkInterface, DeviceIndex, Ec2Action, Effect, EniAttribute, EniId, FailureKind,
    ModifyNetworkInterfaceAttribute, ObservedAttachment,
};

/// Attaching and detaching ENIs, and deleting them.
impl Suite<'_> {
    /// Attaches an ENI, and returns its attachment.
    pub(super) fn attach(&mut self, eni: EniId) -> Option<AttachmentId> {
        const PLACE: &str = "an ENI is attached where it was asked for";
        // Not the first free index, which EC2 or an executor might choose by itself.
        let Some(device) = self.free_devices(Card(0)).last().copied() else {
            self.not_applicable(PLACE, "the instance has no room for another ENI");
            return None;
        };
        let attached = self.attach_at(eni, Card(0), device);
        let attachment = attached.as_ref().ok().copied();
        self.check_shown(PLACE, attached.map(drop));
        let attachment = attachment?;
        let elsewhere = self.attachment_of(eni, Card(0), DeviceIndex(device.0.saturating_add(1)));
        let refused = self.refused(&elsewhere, &[FailureKind::InUse]);
        self.check("attaching an ENI that is attached fails as InUse", refused);
        self.metadata_shows(eni);
        self.other_cards();
        self.too_many();
        Some(attachment)
    }

    fn attachment_of(&self, eni: EniId, card: Card, device: DeviceIndex) -> Ec2Action {
        let instance = self.node.instance;
        Ec2Action::AttachNetworkInterface(AttachNetworkInterface { eni, instance, card, device })
    }

    /// Attaches an ENI, and from then on expects it there.
    fn attach_at(
        &mut self,
        eni: EniId,
        card: Card,
        device: DeviceIndex,
    ) -> Result<AttachmentId, String> {
        let id = match self.done(&self.attachment_of(eni, card, device))? {
            Effect::Attached(id) => id,
            effect => return Err(format!("expected the attachment, saw {effect:?}")),
        };
        if let Some(expected) = self.expected.get_mut(&eni) {
            expected.attachment = Some(ObservedAttachment {
                id: Some(id),
                instance: self.node.instance,
                card,
                device,
                status: AttachmentStatus::Attached,
                delete_on_termination: Some(false),
            });
        }
        Ok(id)
    }

    /// Returns the device indexes of a card at which nothing is attached.
    fn free_devices(&mut self, card: Card) -> Vec<DeviceIndex> {
        let attached = self.list(&crate::Scope::Attached).unwrap_or_default();
        let ours = self.expected.values().cloned();
        let taken: BTreeSet<DeviceIndex> = attached
            .into_iter()
            .chain(ours)
            .filter_map(|eni| eni.attachment)
            .filter(|attachment| attachment.card == card)
            .map(|attachment| attachment.device)
            .collect();
        let most = self.limits.enis(card);
        (0..most).map(DeviceIndex).filter(|device| !taken.contains(device)).collect()
    }

    /// Returns an ENI of the run that is attached to nothing, carries the instance's tag, and has no blocks.
    fn spare(&self) -> Option<EniId> {
        let owner = |eni: &&crate::ObservedEni| {
            let tags = eni.tags.as_ref();
            let owner = tags.and_then(|tags| tags.get(crate::Scope::INSTANCE_TAG));
            owner.map(String::as_str) == Some(self.node.instance.as_str())
        };
        let free = self.expected.values().filter(|eni| eni.attachment.is_none());
        free.filter(|eni| eni.blocks.is_empty()).find(owner).map(|eni| eni.id)
    }

    fn metadata_shows(&mut self, eni: EniId) {
        const SHOWN: &str = "metadata shows an ENI that was attached as EC2 does";
        let mut wait = Duration::from_secs(1);
        let mut verdict = Ok(());
        for _ in 0..PATIENCE {
            verdict = self.read_metadata().and_then(|metadata| {
                let shown = metadata.observation.enis.iter().find(|shown| shown.id == eni);
                let shown = shown.ok_or_else(|| format!("expected {eni}, saw it missing"))?;
                self.expected.get(&eni).map_or(Ok(()), |expected| alike(expected, shown))
            });
            if verdict.is_ok() {
                break;
            }
            self.wait(wait);
            wait = longer(wait);
        }
        self.check(SHOWN, verdict);
    }

    fn other_cards(&mut self) {
        const CARD: &str = "an ENI is attached to another network card where it was asked for";
        let Some(card) = self.limits.cards().into_iter().find(|card| *card != Card(0)) else {
            self.not_applicable(CARD, "the type has one network card");
            return;
        };
        let free = self.free_devices(card).first().copied();
        let (Some(device), Some(eni)) = (free, self.spare()) else {
            self.not_applicable(CARD, "the card has no room for another ENI");
            return;
        };
        let attached = self.attach_at(eni, card, device);
        let attachment = attached.as_ref().ok().copied();
        self.check_shown(CARD, attached.map(drop));
        if let Some(attachment) = attachment {
            let detached = self.detach(eni, attachment);
            self.check_shown("an ENI is detached from another network card", detached);
        }
    }

    /// Attaches ENIs to card 0 until it is full, and one more.
    fn too_many(&mut self) {
        const LIMIT: &str = "more ENIs than a network card takes fail as AttachmentLimit";
        let free = self.free_devices(Card(0));
        let mut attached = Vec::new();
        let mut room = Ok(());
        for device in &free {
            let Some(eni) = self.spare() else {
                room = Err("the suite has not as many ENIs as the type takes");
                break;
            };
            match self.attach_at(eni, Card(0), *device) {
                Ok(attachment) => attached.push((eni, attachment)),
                Err(_) => {
                    room = Err("the card could not be filled");
                    break;
                }
            }
        }
        let most = DeviceIndex(self.limits.enis(Card(0)));
        match (room, self.spare()) {
            (Err(why), _) => self.not_applicable(LIMIT, why),
            (Ok(()), None) => self.not_applicable(LIMIT, "the suite has no ENI left"),
            (Ok(()), Some(eni)) => {
                let attach = self.attachment_of(eni, Card(0), most);
                let refused = self.refused(&attach, &[FailureKind::AttachmentLimit]);
                self.check_shown(LIMIT, refused);
            }
        }
        for (eni, attachment) in attached {
            let _ = self.detach(eni, attachment);
        }
        self.check_shown("ENIs that were attached last are detached again", Ok(()));
    }

    /// Detaches an ENI, and from then on expects it attached to nothing.
    fn detach(&mut self, eni: EniId, attachment: AttachmentId) -> Result<(), String> {
        let call = DetachNetworkInterface { eni, attachment };
        self.just_done(&Ec2Action::DetachNetworkInterface(call))?;
        if let Some(expected) = self.expected.get_mut(&eni) {
            expected.attachment = None;
        }
        Ok(())
    }

    pub(super) fn goes_with_the_instance(&mut self, eni: EniId, attachment: AttachmentId) {
        let attribute = EniAttribute::DeleteOnTermination(attachment);
        let modify = ModifyNetworkInterfaceAttribute { eni, attribute };
        let done = self.just_done(&Ec2Action::ModifyNetworkInterfaceAttribute(modify));
        let attachment = self.expected.get_mut(&eni).and_then(|eni| eni.attachment.as_mut());
        if let (Ok(()), Some(attachment)) = (&done, attachment) {
            attachment.delete_on_termination = Some(true);
        }
        self.check_shown("an ENI is deleted with the instance once that was asked for", done);
    }

    /// Detaches and deletes an ENI.
    pub(super) fn end_of_an_eni(&mut self, eni: EniId, attachment: Option<AttachmentId>) {
        let delete = Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni });
        if let Some(attachment) = attachment {
            let refused = self.refused(&delete, &[FailureKind::InUse]);
            self.check_shown("deleting an ENI that is attached fails as InUse", refused);
            let detached = self.detach(eni, attachment);
            self.check_shown("an ENI is detached", detached);
            let call = DetachNetworkInterface { eni, attachment };
            let again = Ec2Action::DetachNetworkInterface(call);
            let refused = self.refused(&again, &[FailureKind::NotFound]);
            self.check("detaching what is detached fails as NotFound", refused);
        }
        let deleted = self.just_done(&delete);
        if deleted.is_ok() {
            self.expected.remove(&eni);
        }
        self.check_shown("an ENI is deleted", deleted);
        let gone = self.eventually_gone(eni);
        let is_gone = gone.is_ok();
        self.check("a deleted ENI is missing from the answer, and no failure", gone);
        let refused = self.refused(&delete, &[FailureKind::NotFound]);
        self.check("deleting what is deleted fails as NotFound", refused);
        if is_gone {
            self.made.remove(&eni);
        }
    }
}
