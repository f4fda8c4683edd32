use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::answer::holds;
use super::shown::fields;
use super::suite::Suite;
use crate::{
    AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface, AttachmentStatus, Card,
    CreateTags, DeleteNetworkInterface, DetachNetworkInterface, DeviceIndex, Ec2Action, Effect,
    EniAttribute, EniId, FailureKind, Ipv4Amount, Metadata, ModifyNetworkInterfaceAttribute,
    ObservedEni, ObservedSubnet, Scope, UnassignIpv6Addresses, UnassignPrivateIpAddresses,
};

/// An ENI that no account has.
pub(super) const MISSING: &str = "eni-00000000000000000";

/// What is asked before anything is made: what the node is, and what is there.
impl Suite<'_> {
    pub(super) fn questions(&mut self) {
        let attached = self.list(&Scope::Attached);
        if let Ok(enis) = &attached {
            self.attached_before.extend(enis.iter().map(|eni| eni.id));
        }
        if let Ok(enis) = self.list(&Scope::Unattached) {
            self.unattached_before.extend(enis.iter().map(|eni| eni.id));
        }
        let primary = attached.and_then(|enis| self.primary_among(&enis));
        const PRIMARY: &str = "the primary ENI is among those attached, at device 0";
        let primary = self.keep(PRIMARY, primary);
        if let Some(primary) = &primary {
            self.expected.insert(primary.id, primary.clone());
        }
        let subnets = self.subnets();
        self.check("the node's subnet is among the subnets, with its own addresses", {
            subnets.clone().and_then(|subnets| self.has_own_subnet(&subnets, primary.as_ref()))
        });
        self.metadata(primary.as_ref(), &subnets.unwrap_or_default());
        self.absent(primary.as_ref());
    }

    fn primary_among(&self, enis: &[ObservedEni]) -> Result<ObservedEni, String> {
        let node = &self.node;
        let primary = enis.iter().find(|eni| eni.id == node.primary);
        let missing = || format!("expected {} among them, saw it missing", node.primary);
        let primary = primary.ok_or_else(missing)?;
        let seen = primary.attachment.as_ref().ok_or("expected an attachment, saw none")?;
        let place = (self.limits.default_card, DeviceIndex(0), AttachmentStatus::Attached);
        holds(
            (seen.card, seen.device, seen.status) == place && seen.instance == node.instance,
            || format!("expected {} at {place:?}, saw {seen:?}", node.instance),
        )?;
        Ok(primary.clone())
    }

    fn has_own_subnet(
        &self,
        subnets: &[ObservedSubnet],
        primary: Option<&ObservedEni>,
    ) -> Result<(), String> {
        let id = self.node.subnet;
        let own = subnets.iter().find(|subnet| subnet.id == id);
        let own = own.ok_or_else(|| format!("expected {id} among them, saw it missing"))?;
        let Some(address) = primary.and_then(|eni| eni.primary_ipv4) else { return Ok(()) };
        holds(own.ipv4_cidr.contains(&address), || {
            format!("{id}: expected a range with {address}, saw {}", own.ipv4_cidr)
        })
    }

    fn metadata(&mut self, primary: Option<&ObservedEni>, subnets: &[ObservedSubnet]) {
        const NODE: &str = "metadata describes the node, and shows its primary ENI";
        let metadata = self.read_metadata();
        let node = &self.node;
        let seen = metadata.and_then(|metadata| {
            holds(metadata.node == *node, || {
                format!("expected {node:?}, saw {:?}", metadata.node)
            })?;
            let shown = self.primary_among(&metadata.observation.enis)?;
            Ok((metadata, shown))
        });
        let Some((metadata, shown)) = self.keep(NODE, seen) else { return };
        self.check("metadata tells the same of the primary ENI as EC2", {
            primary.map_or(Ok(()), |primary| alike(primary, &shown))
        });
        let (own, told) = (shown.primary_ipv4, metadata.primary_ipv4);
        self.check("metadata names the primary ENI's own address", {
            holds(own == told, || format!("expected {own:?}, saw {told:?}"))
        });
        self.check("metadata tells the ranges of the VPC", covers(&metadata, subnets));
        self.check("metadata tells the ranges of its ENIs' subnets", ranges(&metadata, subnets));
    }

    pub(super) fn read_metadata(&mut self) -> Result<Metadata, String> {
        match self.done(&Ec2Action::ReadMetadata)? {
            Effect::Metadata(metadata) => Ok(metadata),
            effect => Err(format!("expected the metadata, saw {effect:?}")),
        }
    }

    /// ENIs that do not exist, or no longer.
    fn absent(&mut self, primary: Option<&ObservedEni>) {
        let eni: EniId = MISSING.parse().expect("the text is an id");
        let shown = self.list(&Scope::Only(vec![eni, self.node.primary]));
        self.check("an ENI that does not exist is missing from the answer, and no failure", {
            shown.and_then(|shown| {
                let others = shown.iter().filter(|shown| shown.id != self.node.primary).count();
                let right = others == 0 && shown.len() == usize::from(primary.is_some());
                let expected = format!("expected {} alone", self.node.primary);
                let seen: Vec<_> = shown.iter().map(|eni| eni.id).collect();
                holds(right || primary.is_none(), || format!("{expected}, saw {seen:?}"))
            })
        });
        const REFUSED: &str = "what is to be done to an ENI that does not exist fails as NotFound";
        let wrong: Vec<String> = self
            .on_missing(eni)
            .iter()
            .filter_map(|action| self.refused(action, &[FailureKind::NotFound]).err())
            .collect();
        self.check(REFUSED, if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) });
    }

    /// Returns one action of each kind on an ENI that does not exist.
    fn on_missing(&self, eni: EniId) -> Vec<Ec2Action> {
        let attachment = "eni-attach-00000000000000000".parse().expect("the text is an id");
        let attach = AttachNetworkInterface {
            eni,
            instance: self.node.instance,
            card: Card(0),
            device: DeviceIndex(1),
        };
        let groups = self.expected.values().next().map(|eni| eni.security_groups.clone());
        let attribute = EniAttribute::Groups(groups.unwrap_or_default());
        let address = "192.0.2.1/32".parse().expect("the text is an address");
        let prefix = "2001:db8:0:0:1::/80".parse().expect("the text is a prefix");
        let tags = [("vpc-ipam-conformance".into(), self.run.clone())].into();
        vec![
            Ec2Action::AttachNetworkInterface(attach),
            Ec2Action::ModifyNetworkInterfaceAttribute(ModifyNetworkInterfaceAttribute {
                eni,
                attribute,
            }),
            Ec2Action::AssignPrivateIpAddresses(AssignPrivateIpAddresses {
                eni,
                amount: Ipv4Amount::Addresses(1),
            }),
            Ec2Action::AssignIpv6Addresses(AssignIpv6Addresses { eni, prefixes: 1 }),
            Ec2Action::UnassignPrivateIpAddresses(UnassignPrivateIpAddresses {
                eni,
                blocks: vec![address],
            }),
            Ec2Action::UnassignIpv6Addresses(UnassignIpv6Addresses { eni, prefixes: vec![prefix] }),
            Ec2Action::DetachNetworkInterface(DetachNetworkInterface { eni, attachment }),
            Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni }),
            Ec2Action::CreateTags(CreateTags { eni, tags }),
        ]
    }
}

/// Checks that the metadata service tells of an ENI what EC2 does, as far as it has it: no tags, no kind, no attachment id.
pub(super) fn alike(ec2: &ObservedEni, imds: &ObservedEni) -> Result<(), String> {
    let mut told = ec2.clone();
    told.tags.clone_from(&imds.tags);
    told.interface_type = imds.interface_type;
    told.vpc = imds.vpc.and(told.vpc);
    if let (Some(told), Some(seen)) = (&mut told.attachment, &imds.attachment) {
        told.id = seen.id;
        told.delete_on_termination = seen.delete_on_termination;
    }
    let different = fields(&told, imds);
    let texts: Vec<_> = different.iter().map(|(field, text)| format!("{field}: {text}")).collect();
    holds(texts.is_empty(), || format!("{}: {}", ec2.id, texts.join("; ")))
}

/// Checks that the ranges of the VPC cover its subnets.
fn covers(metadata: &Metadata, subnets: &[ObservedSubnet]) -> Result<(), String> {
    let (ipv4, ipv6) = (&metadata.vpc_ipv4_cidrs, &metadata.vpc_ipv6_cidrs);
    holds(!ipv4.is_empty(), || "expected a range of IPv4, saw none".into())?;
    for subnet in subnets {
        let (id, cidr) = (subnet.id, subnet.ipv4_cidr);
        let inside = ipv4.iter().any(|range| range.contains(&cidr));
        holds(inside, || format!("expected a range with {cidr} of {id}, saw {ipv4:?}"))?;
        let Some(cidr) = subnet.ipv6_cidr else { continue };
        let inside = ipv6.iter().any(|range| range.contains(&cidr));
        holds(inside, || format!("expected a range with {cidr} of {id}, saw {ipv6:?}"))?;
    }
    Ok(())
}

/// Checks that the subnets of the metadata are as EC2 lists them, the node's own among them.
fn ranges(metadata: &Metadata, subnets: &[ObservedSubnet]) -> Result<(), String> {
    for eni in &metadata.observation.enis {
        let (id, told) = (eni.subnet, metadata.subnets.get(&eni.subnet));
        let told = told.ok_or_else(|| format!("expected the ranges of {id}, saw none"))?;
        let Some(subnet) = subnets.iter().find(|subnet| subnet.id == id) else { continue };
        let expected = (Some(subnet.ipv4_cidr), subnet.ipv6_cidr);
        holds((told.ipv4, told.ipv6) == expected, || {
            format!("{id}: expected {expected:?}, saw {:?}", (told.ipv4, told.ipv6))
        })?;
    }
    Ok(())
}
