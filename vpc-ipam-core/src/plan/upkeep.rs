//! What an ENI should have besides addresses: it is planned last, and each apart from the others, since no pod waits for it.

use alloc::collections::BTreeMap;
use alloc::string::String;

use super::{Because, Planner, Wanted};
use crate::pool::{Eni, Stage};
use crate::{
    CreateTags, Ec2Action, EniAttribute, InterfaceType, ModifyNetworkInterfaceAttribute,
    SecurityGroupId,
};

impl Planner<'_> {
    pub(super) fn upkeep(&mut self) {
        if !self.config.provisioning {
            return;
        }
        let tags = self.config.tags_of_managed_eni();
        for eni in self.pool.enis() {
            let stays = matches!(eni.stage, Stage::Attached | Stage::Ready);
            if eni.is_managed() && stays {
                self.keep_up(eni, &tags);
            }
        }
    }

    /// Plans the first of the changes that an ENI lacks and that nothing holds back.
    fn keep_up(&mut self, eni: &Eni, tags: &BTreeMap<String, String>) {
        let changes =
            [self.deletion_with_instance(eni), self.groups(eni), self.missing_tags(eni, tags)];
        let wanted = Wanted::NextStep(eni.id);
        for (action, because) in changes.into_iter().flatten() {
            if let Some(waiting_on) = self.waits_for(eni) {
                self.block(wanted, waiting_on);
                return;
            }
            if self.call(action, Some(eni.id), wanted.clone(), because) {
                return;
            }
        }
    }

    /// An ENI that was made for the instance goes when the instance goes.
    fn deletion_with_instance(&self, eni: &Eni) -> Option<(Ec2Action, Because)> {
        let attachment = eni.attachment.filter(|_| !eni.delete_on_termination)?;
        if !eni.is_made_for(self.node.instance) {
            return None;
        }
        let attribute = EniAttribute::DeleteOnTermination(attachment);
        let call = ModifyNetworkInterfaceAttribute { eni: eni.id, attribute };
        let action = Ec2Action::ModifyNetworkInterfaceAttribute(call);
        Some((action, Because::NotDeletedOnTermination))
    }

    /// The ENIs that were made for the instance have the security groups of the primary ENI, or those of the ENIConfig.
    fn groups(&self, eni: &Eni) -> Option<(Ec2Action, Because)> {
        let ours = eni.is_made_for(self.node.instance) && !eni.is_primary();
        let wanted = self.wanted_groups()?;
        let theirs = &eni.security_groups;
        let differ = theirs.len() != wanted.len() || theirs.iter().any(|it| !wanted.contains(it));
        if !ours || wanted.is_empty() || !differ {
            return None;
        }
        let attribute = EniAttribute::Groups(wanted.to_vec());
        let call = ModifyNetworkInterfaceAttribute { eni: eni.id, attribute };
        Some((Ec2Action::ModifyNetworkInterfaceAttribute(call), Because::GroupsDiffer))
    }

    /// Returns the security groups of the ENIs that we make; `None` until they are known.
    pub(super) fn wanted_groups(&self) -> Option<&[SecurityGroupId]> {
        if !self.config.custom_networking {
            return Some(&self.surroundings.security_groups);
        }
        let config = self.conditions.eni_config.as_ref()?;
        if config.security_groups.is_empty() {
            Some(&self.surroundings.security_groups)
        } else {
            Some(&config.security_groups)
        }
    }

    /// The operator's tags, on the primary ENI and those that were made for the instance.
    fn missing_tags(
        &self,
        eni: &Eni,
        tags: &BTreeMap<String, String>,
    ) -> Option<(Ec2Action, Because)> {
        let ours = (eni.is_primary() || eni.is_made_for(self.node.instance))
            && eni.interface_type != InterfaceType::Trunk;
        let missing: BTreeMap<_, _> = tags
            .iter()
            .filter(|(key, value)| eni.tag(key) != Some(value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !ours || missing.is_empty() {
            return None;
        }
        let call = CreateTags { eni: eni.id, tags: missing };
        Some((Ec2Action::CreateTags(call), Because::TagsDiffer))
    }
}
