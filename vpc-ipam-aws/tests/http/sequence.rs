//! The life of an ENI, every step read back. It runs against any EC2.

use core::slice;
use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net};
use vpc_ipam_aws::{Ec2Api, execute};
use vpc_ipam_core::{
    AssignPrivateIpAddresses, AttachNetworkInterface, AttachmentStatus, Card,
    CreateNetworkInterface, CreateTags, DeleteNetworkInterface, DetachNetworkInterface,
    DeviceIndex, Ec2Action, Effect, EniAttribute, Ipv4Amount, Limits,
    ModifyNetworkInterfaceAttribute, Node, Observation, ObservedEni, Outcome, Scope,
    UnassignPrivateIpAddresses,
};

use crate::lab::NOW;

/// What a double of EC2 leaves out.
#[derive(Clone, Copy)]
pub struct Knows {
    /// A repeated client token brings the same ENI.
    pub client_tokens: bool,
    /// DeleteOnTermination can be changed and is shown.
    pub delete_on_termination: bool,
    /// Taken addresses are missing from a subnet's free ones.
    pub free_addresses: bool,
    /// The answer to assigning holds what was added, and not all that the ENI has.
    pub assigned_alone: bool,
}

pub async fn life_of_an_eni(api: &dyn Ec2Api, node: &Node, knows: Knows) {
    let ec2 = Ec2 { api, node };

    // What there is to start from.
    assert_eq!(api.describe_instances(&[node.instance]).await.unwrap(), slice::from_ref(node));
    let mut limits = api.describe_instance_types(&[node.instance_type]).await.unwrap();
    // EC2 does not tell how many branch ENIs a type takes; within the process the model may.
    limits.iter_mut().for_each(|limits| limits.branch_enis = None);
    let expected = Limits::lookup(node.instance_type).unwrap().with_branch_enis(None);
    assert_eq!(limits, [expected]);
    let free = ec2.free().await;
    let at_start = ec2.seen(Scope::Attached).await;
    assert_eq!(at_start.len(), 1, "{at_start:?}");
    assert_eq!(at_start[0].id, node.primary);

    // Create.
    let tags = BTreeMap::from([
        (Scope::INSTANCE_TAG.to_owned(), node.instance.to_string()),
        ("note".to_owned(), "<&> \"quoted\"".to_owned()),
    ]);
    let request = CreateNetworkInterface {
        client_token: "token-1".into(),
        subnet: node.subnet,
        security_groups: at_start[0].security_groups.clone(),
        description: "aws-K8S-test".into(),
        tags: tags.clone(),
        ipv4: Ipv4Amount::Addresses(3),
        ipv6_prefixes: 0,
    };
    let create = Ec2Action::CreateNetworkInterface(request);
    let made = match ec2.done(&create).await {
        Effect::Created(eni) => eni,
        other => panic!("create: {other:?}"),
    };
    assert_eq!(made.blocks.len(), 3, "{made:?}");
    assert_eq!(made.tags.as_ref(), Some(&tags));
    assert_eq!(made.attachment, None);
    assert_eq!(ec2.seen(Scope::Unattached).await, slice::from_ref(&made));
    assert_eq!(ec2.seen(Scope::Attached).await, at_start);
    if knows.client_tokens {
        assert_eq!(ec2.done(&create).await, Effect::Created(made.clone()));
        assert_eq!(ec2.seen(Scope::Unattached).await, slice::from_ref(&made));
    }
    if knows.free_addresses {
        assert_eq!(ec2.free().await, free - 4);
    }

    // Attach.
    let attach = Ec2Action::AttachNetworkInterface(AttachNetworkInterface {
        eni: made.id,
        instance: node.instance,
        card: Card(0),
        device: DeviceIndex(1),
    });
    let attachment = match ec2.done(&attach).await {
        Effect::Attached(id) => id,
        other => panic!("attach: {other:?}"),
    };
    let attached = ec2.one(&made).await;
    let shown = attached.attachment.clone().unwrap();
    assert_eq!(shown.id, Some(attachment));
    assert_eq!(shown.instance, node.instance);
    assert_eq!((shown.card, shown.device), (Card(0), DeviceIndex(1)));
    assert_eq!(shown.status, AttachmentStatus::Attached);
    assert_eq!(ec2.seen(Scope::Unattached).await, []);
    let both = ec2.seen(Scope::Attached).await;
    assert!(both.len() == 2 && both.contains(&attached), "{both:?}");

    if knows.delete_on_termination {
        assert_eq!(shown.delete_on_termination, Some(false));
        let modify = ModifyNetworkInterfaceAttribute {
            eni: made.id,
            attribute: EniAttribute::DeleteOnTermination(attachment),
        };
        ec2.done(&Ec2Action::ModifyNetworkInterfaceAttribute(modify)).await;
        let shown = ec2.one(&made).await.attachment.unwrap();
        assert_eq!(shown.delete_on_termination, Some(true));
    }
    let modify = ModifyNetworkInterfaceAttribute {
        eni: made.id,
        attribute: EniAttribute::Groups(made.security_groups.clone()),
    };
    ec2.done(&Ec2Action::ModifyNetworkInterfaceAttribute(modify)).await;
    assert_eq!(ec2.one(&made).await.security_groups, made.security_groups);

    // Assign.
    let assign = Ec2Action::AssignPrivateIpAddresses(AssignPrivateIpAddresses {
        eni: made.id,
        amount: Ipv4Amount::Addresses(2),
    });
    let mut added = match ec2.done(&assign).await {
        Effect::Assigned(blocks) => blocks,
        other => panic!("assign: {other:?}"),
    };
    if !knows.assigned_alone {
        let own = made.primary_ipv4.map(Ipv4Net::from).map(IpNet::V4);
        added.retain(|block| !made.blocks.contains(block) && Some(*block) != own);
    }
    assert_eq!(added.len(), 2, "{added:?}");
    let all: Vec<_> = made.blocks.iter().chain(&added).copied().collect();
    assert_eq!(ec2.blocks(&made).await, sorted(all));

    // Tag.
    let note = BTreeMap::from([("note".to_owned(), "changed".to_owned())]);
    let tag = CreateTags { eni: made.id, tags: note.clone() };
    ec2.done(&Ec2Action::CreateTags(tag)).await;
    let expected: BTreeMap<_, _> = tags.into_iter().chain(note).collect();
    assert_eq!(ec2.one(&made).await.tags, Some(expected));

    // Unassign.
    let blocks: Vec<Ipv4Net> = added.iter().map(|block| ipv4(*block)).collect();
    let unassign = UnassignPrivateIpAddresses { eni: made.id, blocks };
    ec2.done(&Ec2Action::UnassignPrivateIpAddresses(unassign)).await;
    assert_eq!(ec2.blocks(&made).await, sorted(made.blocks.clone()));

    // Detach.
    let detach = DetachNetworkInterface { eni: made.id, attachment };
    ec2.done(&Ec2Action::DetachNetworkInterface(detach)).await;
    assert_eq!(ec2.one(&made).await.attachment, None);
    assert_eq!(ec2.seen(Scope::Attached).await, at_start);

    // Delete. Asking for it together with one that exists must not fail.
    let delete = DeleteNetworkInterface { eni: made.id };
    ec2.done(&Ec2Action::DeleteNetworkInterface(delete)).await;
    let left = ec2.seen(Scope::Only(vec![made.id, node.primary])).await;
    assert_eq!(left, at_start);
    assert_eq!(ec2.free().await, free);
}

/// Carries out actions as the daemon does.
pub struct Ec2<'a> {
    pub api: &'a dyn Ec2Api,
    pub node: &'a Node,
}

impl Ec2<'_> {
    pub async fn done(&self, action: &Ec2Action) -> Effect {
        match execute(self.api, self.node, action, NOW).await {
            Outcome::Done(effect) => effect,
            Outcome::Failed(failure) => panic!("{action:?}: {failure}"),
        }
    }

    pub async fn seen(&self, scope: Scope) -> Vec<ObservedEni> {
        match self.done(&Ec2Action::DescribeNetworkInterfaces(scope)).await {
            Effect::Observed(Observation { enis, .. }) => enis,
            other => panic!("describe: {other:?}"),
        }
    }

    pub async fn one(&self, eni: &ObservedEni) -> ObservedEni {
        let mut seen = self.seen(Scope::Only(vec![eni.id])).await;
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    pub async fn blocks(&self, eni: &ObservedEni) -> Vec<IpNet> {
        sorted(self.one(eni).await.blocks)
    }

    /// Returns how many addresses the node's subnet has left.
    async fn free(&self) -> u32 {
        match self.done(&Ec2Action::DescribeSubnets).await {
            Effect::Subnets(subnets) => {
                let own = subnets.iter().find(|subnet| subnet.id == self.node.subnet);
                own.unwrap().ipv4_addresses_free
            }
            other => panic!("describe subnets: {other:?}"),
        }
    }
}

pub fn sorted(mut blocks: Vec<IpNet>) -> Vec<IpNet> {
    blocks.sort();
    blocks
}

pub fn ipv4(block: IpNet) -> Ipv4Net {
    match block {
        IpNet::V4(net) => net,
        IpNet::V6(net) => panic!("{net} is not IPv4"),
    }
}
