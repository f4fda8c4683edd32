use alloc::collections::BTreeMap;
use alloc::string::ToString as _;

use super::suite::{STEP_TAG, Suite};
use crate::{
    CreateTags, Ec2Action, EniAttribute, EniId, FailureKind, ModifyNetworkInterfaceAttribute,
    SecurityGroupId,
};

/// Security groups and tags.
impl Suite<'_> {
    pub(super) fn security_groups(&mut self, eni: EniId) {
        const SET: &str = "security groups are set, and no others stay";
        let now = self.expected.get(&eni).map(|eni| eni.security_groups.clone());
        // ENIs are made with the tester's group, so that the primary ENI's are others.
        let primary = self.expected.get(&self.node.primary).map(|eni| eni.security_groups.clone());
        let groups = primary.or(now).unwrap_or_default();
        let set = |groups| {
            let attribute = EniAttribute::Groups(groups);
            let call = ModifyNetworkInterfaceAttribute { eni, attribute };
            Ec2Action::ModifyNetworkInterfaceAttribute(call)
        };
        let done = self.just_done(&set(groups.clone()));
        if let (Ok(()), Some(expected)) = (&done, self.expected.get_mut(&eni)) {
            expected.security_groups = groups;
        }
        self.check_shown(SET, done);
        let missing: SecurityGroupId = "sg-00000000000000000".parse().expect("the text is an id");
        let kinds = [FailureKind::Rejected, FailureKind::NotFound];
        let refused = self.refused(&set([missing].into()), &kinds);
        self.check_shown("a security group that does not exist is refused", refused);
    }

    pub(super) fn tags(&mut self, eni: EniId) {
        let tags = BTreeMap::from([
            (STEP_TAG.to_string(), "changed".to_string()),
            ("vpc-ipam-conformance-new".to_string(), self.run.clone()),
        ]);
        let call = CreateTags { eni, tags: tags.clone() };
        let done = self.just_done(&Ec2Action::CreateTags(call));
        if let (Ok(()), Some(expected)) = (&done, self.expected.get_mut(&eni)) {
            expected.tags.get_or_insert_default().extend(tags);
        }
        self.check_shown("tags are set, and others stay", done);
    }
}
