//! Executors that are wrong in one way each, and the check that has to see it.

use core::net::Ipv4Addr;

use ipnet::IpNet;
use vpc_ipam_core::sim::Ipv4Request;
use vpc_ipam_core::{
    AttachmentId, AttachmentStatus, Card, CreateNetworkInterface, DeviceIndex, Ec2Action, Effect,
    EniAttribute, FailureKind, IncompleteEni, InterfaceType, Ipv4Amount, Mac, Metadata,
    Observation, ObservedEni, ObservedSubnet, Outcome, Scope, Source, Timestamp,
};

use crate::sim::{Sim, Wrong, failed};

/// What is wrong, on an instance of which type, the executor, and the check that fails.
type Planted = (&'static str, &'static str, Wrong, &'static str);

const MADE: &str = "an ENI is made with all that was asked for, and attached to nothing";
const SHOWN: &str = "an ENI that was made is shown as it was made, wherever it belongs";
const WHOLE: &str = "a list of more ENIs than one page holds is read to its end";
const WITHIN: &str = "a list holds nothing but what was asked for";
const ONCE: &str = "a list names each ENI, MAC address, block and subnet once";
const NAMED: &str = "an observation is as old as its question, and names source and scope";
const COMPLETE: &str = "an ENI is shown with its MAC address, VPC, security groups, tags and kind";
const BLOCKS: &str =
    "blocks are whole /32, /28 and /80, and an ENI's own addresses are not among them";
const SUBNETS: &str =
    "a subnet is shown with its ranges, and with no more free addresses than it has";
const OWN_SUBNET: &str = "the node's subnet is among the subnets, with its own addresses";
const EFFECT: &str = "the effect is that of the action";
const PLACE: &str = "an ENI is attached where it was asked for";
const PRIMARY: &str = "the primary ENI is among those attached, at device 0";
const FREE: &str = "the free addresses of a subnet become fewer by those that were taken";
const AGAIN: &str = "the same creation again returns the same ENI";
const GOES: &str = "an ENI is deleted with the instance once that was asked for";
const NO_GROUP: &str = "a security group that does not exist is refused";
const TAGS: &str = "tags are set, and others stay";
const SINGLE: &str = "single addresses are assigned, as many as asked for, and named as /32";
const PREFIX: &str = "a prefix is assigned, and named as a /28";
const PREFIX_MADE: &str = "an ENI is made with a prefix";
const ONE: &str = "one address is released, and no other";
const SINGLES_RELEASED: &str = "single addresses are released";
const PREFIX_RELEASED: &str = "a prefix is released";
const IPV6: &str = "an IPv6 prefix is assigned, and named as a /80";
const IPV6_RELEASED: &str = "an IPv6 prefix is released, and no other";
const NOT_THERE: &str = "what is to be done to an ENI that does not exist fails as NotFound";
const NODE: &str = "metadata describes the node, and shows its primary ENI";
const METADATA_ENI: &str = "metadata tells the same of the primary ENI as EC2";
const METADATA_OWN: &str = "metadata names the primary ENI's own address";
const METADATA_VPC: &str = "metadata tells the ranges of the VPC";
const METADATA_SUBNETS: &str = "metadata tells the ranges of its ENIs' subnets";
const METADATA_ATTACHED: &str = "metadata shows an ENI that was attached as EC2 does";
const PANICS: &str = "the executor does not panic";

#[rustfmt::skip]
pub const FAULTS: &[Planted] = &[
    // Lists of ENIs.
    ("pagination lost", "m5.large", |s, a, n| listed(s, a, n, |seen| seen.enis.truncate(5)), WHOLE),
    ("two pages alone", "m5.large", |s, a, n| listed(s, a, n, |seen| seen.enis.truncate(10)), WHOLE),
    ("every other ENI missing", "m5.large", |s, a, n| listed(s, a, n, |seen| {
        let mut index = 0;
        seen.enis.retain(|_| { index += 1; index % 2 == 1 });
    }), SHOWN),
    ("nothing attached but the primary ENI", "m5.large", |s, a, n| scoped(s, a, n, &Scope::Attached, |s, seen| {
        seen.enis.retain(|eni| eni.id == s.node.primary);
    }), PLACE),
    ("nothing unattached", "m5.large", |s, a, n| scoped(s, a, n, &Scope::Unattached, |_, seen| seen.enis.clear()), SHOWN),
    ("Attached lists unattached ENIs", "m5.large", |s, a, n| scoped(s, a, n, &Scope::Attached, |s, seen| {
        seen.enis = all(s, |eni| eni.attachment.as_ref().is_none_or(|it| it.instance == s.node.instance));
    }), WITHIN),
    ("Attached lists other instances' ENIs", "m5.large", |s, a, n| scoped(s, a, n, &Scope::Attached, |s, seen| {
        seen.enis = all(s, |eni| eni.attachment.is_some());
    }), WITHIN),
    ("Unattached lists other instances' ENIs", "m5.large", |s, a, n| scoped(s, a, n, &Scope::Unattached, |s, seen| {
        seen.enis = all(s, |eni| eni.attachment.is_none());
    }), WITHIN),
    ("Unattached lists attached ENIs", "m5.large", |s, a, n| scoped(s, a, n, &Scope::Unattached, |s, seen| {
        seen.enis = all(s, |eni| tagged_as(eni, s.node.instance.as_str()));
    }), WITHIN),
    ("Only lists everything", "m5.large", |s, a, n| match s.right(a, n) {
        Outcome::Done(Effect::Observed(seen)) if matches!(seen.scope, Scope::Only(_)) => Outcome::Done(Effect::Observed(seen.with_enis(all(s, |_| true)))),
        outcome => outcome,
    }, WITHIN),
    ("the answer comes twice", "m5.large", |s, a, n| listed(s, a, n, |seen| seen.enis.extend(seen.enis.clone())), ONCE),
    ("the answer of the question before", "m5.large", |s, a, n| {
        let one = Ec2Action::DescribeNetworkInterfaces(Scope::Only([s.node.primary].into()));
        match a {
            Ec2Action::DescribeNetworkInterfaces(Scope::Only(_)) => s.right(&one, n),
            _ => s.right(a, n),
        }
    }, NAMED),
    ("an observation is too new", "m5.large", |s, a, n| listed(s, a, n, |seen| {
        seen.as_of = seen.as_of + core::time::Duration::from_secs(1);
    }), NAMED),
    ("an observation is too old", "m5.large", |s, a, n| listed(s, a, n, |seen| seen.as_of = Timestamp::EPOCH), NAMED),
    ("an observation of another source", "m5.large", |s, a, n| listed(s, a, n, |seen| seen.source = Source::Imds), NAMED),
    ("an observation of another scope", "m5.large", |s, a, n| listed(s, a, n, |seen| seen.scope = Scope::Attached), NAMED),
    ("the metadata are too old", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.observation.as_of = Timestamp::EPOCH), NAMED),
    ("EC2 tells half of an ENI", "m5.large", |s, a, n| listed(s, a, n, |seen| {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        seen.incomplete.push(IncompleteEni::new(mac, "device-number"));
    }), COMPLETE),
    ("an ENI that does not exist fails the list", "m5.large", |s, a, n| match a {
        Ec2Action::DescribeNetworkInterfaces(Scope::Only(ids)) if ids.iter().any(|id| s.cloud.interface(id).is_none()) => failed(FailureKind::NotFound),
        _ => s.right(a, n),
    }, "an ENI that does not exist is missing from the answer, and no failure"),

    // What is shown of an ENI.
    ("own address among the blocks", "m5.large", |s, a, n| shown(s, a, n, |_, eni| {
        eni.blocks.extend(eni.primary_ipv4.map(|own| IpNet::from(core::net::IpAddr::V4(own))));
    }), BLOCKS),
    ("blocks with host bits", "m5.large", |s, a, n| shown(s, a, n, |_, eni| {
        for net in &mut eni.blocks {
            if let IpNet::V4(net) = net { if net.prefix_len() == 28 {
                *net = ipnet::Ipv4Net::new((u32::from(net.addr()) + 1).into(), 28).unwrap();
            } }
        }
    }), BLOCKS),
    ("prefixes as single addresses", "m5.large", |s, a, n| shown(s, a, n, |_, eni| {
        for net in &mut eni.blocks {
            *net = IpNet::from(net.network());
        }
    }), PREFIX_MADE),
    ("single addresses are lost", "m5.large", |s, a, n| shown(s, a, n, |_, eni| eni.blocks.retain(|net| net.prefix_len() < 32)), MADE),
    ("a block is lost in lists", "m5.large", |s, a, n| listed(s, a, n, |seen| for eni in &mut seen.enis { eni.blocks.pop(); }), SHOWN),
    ("a block twice", "m5.large", |s, a, n| shown(s, a, n, |_, eni| eni.blocks.extend(eni.blocks.clone())), ONCE),
    ("no own address", "m5.large", |s, a, n| shown(s, a, n, |_, eni| eni.primary_ipv4 = None), COMPLETE),
    ("another own address in lists", "m5.large", |s, a, n| listed(s, a, n, |seen| for eni in &mut seen.enis {
        eni.primary_ipv4 = Some(Ipv4Addr::new(10, 0, 0, 77));
    }), SHOWN),
    ("an IPv6 address of its own that is not there", "m5.large", |s, a, n| listed(s, a, n, |seen| for eni in &mut seen.enis {
        eni.primary_ipv6 = Some("2001:db8::77".parse().unwrap());
    }), SHOWN),
    ("no MAC address", "m5.large", |s, a, n| shown(s, a, n, |_, eni| eni.mac = Mac([0; 6])), COMPLETE),
    ("one MAC address for all", "m5.large", |s, a, n| shown(s, a, n, |_, eni| eni.mac = Mac([2, 0, 0, 0, 0, 7])), ONCE),
    ("no VPC", "m5.large", |s, a, n| shown(s, a, n, |_, eni| eni.vpc = None), COMPLETE),
    ("another VPC", "m5.large", |s, a, n| shown(s, a, n, |_, eni| eni.vpc = Some("vpc-1".parse().unwrap())), COMPLETE),
    ("another subnet", "m5.large", |s, a, n| shown(s, a, n, |s, eni| eni.subnet = s.other_subnet), MADE),
    ("no security groups", "m5.large", |s, a, n| shown(s, a, n, |_, eni| eni.security_groups.clear()), COMPLETE),
    ("one security group too many in lists", "m5.large", |s, a, n| listed(s, a, n, |seen| for eni in &mut seen.enis {
        if eni.attachment.is_none() { eni.security_groups.push("sg-1".parse().unwrap()); }
    }), SHOWN),
    ("no tags", "m5.large", |s, a, n| shown(s, a, n, |_, eni| eni.tags = None), COMPLETE),
    ("tags without values", "m5.large", |s, a, n| listed(s, a, n, |seen| for eni in &mut seen.enis {
        if let Some(tags) = &mut eni.tags {
            tags.iter_mut().filter(|(key, _)| *key != Scope::INSTANCE_TAG).for_each(|(_, value)| value.clear());
        }
    }), SHOWN),
    ("everything is a trunk", "m5.large", |s, a, n| shown(s, a, n, |_, eni| eni.interface_type = InterfaceType::Trunk), MADE),
    ("everything is a branch in lists", "m5.large", |s, a, n| listed(s, a, n, |seen| for eni in &mut seen.enis {
        eni.interface_type = InterfaceType::Branch;
    }), SHOWN),
    ("no attachment id", "m5.large", |s, a, n| attachment(s, a, n, |it| it.id = None), COMPLETE),
    ("another attachment id", "m5.large", |s, a, n| attachment(s, a, n, |it| it.id = Some(attachment_id("eni-attach-1"))), PLACE),
    ("another attachment id in the answer", "m5.large", |s, a, n| match s.right(a, n) {
        Outcome::Done(Effect::Attached(_)) => Outcome::Done(Effect::Attached(attachment_id("eni-attach-1"))),
        outcome => outcome,
    }, PLACE),
    ("delete-on-termination is not told", "m5.large", |s, a, n| attachment(s, a, n, |it| it.delete_on_termination = None), COMPLETE),
    ("delete-on-termination is always true", "m5.large", |s, a, n| attachment(s, a, n, |it| it.delete_on_termination = Some(true)), PLACE),
    ("delete-on-termination is always false", "m5.large", |s, a, n| attachment(s, a, n, |it| it.delete_on_termination = Some(false)), GOES),
    ("a device index off by one", "m5.large", |s, a, n| attachment(s, a, n, |it| it.device.0 += 1), PRIMARY),
    ("device indexes counted down", "m5.large", |s, a, n| attachment(s, a, n, |it| it.device.0 %= 2), PLACE),
    ("another network card", "m5.large", |s, a, n| attachment(s, a, n, |it| it.card = Card(1)), PRIMARY),
    ("no network card but the first", "c6in.32xlarge", |s, a, n| attachment(s, a, n, |it| it.card = Card(0)), "an ENI is attached to another network card where it was asked for"),
    ("another instance", "m5.large", |s, a, n| attachment(s, a, n, |it| it.instance = "i-1".parse().unwrap()), WITHIN),
    ("attaching for ever", "m5.large", |s, a, n| listed(s, a, n, |seen| for eni in &mut seen.enis {
        let secondary = eni.attachment.as_mut().filter(|it| it.device != DeviceIndex(0));
        if let Some(it) = secondary { it.status = AttachmentStatus::Attaching; }
    }), PLACE),

    // Creations.
    ("addresses lost at creation", "m5.large", |s, a, n| making(s, a, n, |_, it| it.ipv4 = Ipv4Amount::Addresses(0)), MADE),
    ("one address too many at creation", "m5.large", |s, a, n| making(s, a, n, |_, it| if let Ipv4Amount::Addresses(count @ 1..) = &mut it.ipv4 { *count += 1 }), MADE),
    ("addresses instead of a prefix", "m5.large", |s, a, n| making(s, a, n, |_, it| if let Ipv4Amount::Prefixes(count) = it.ipv4 { it.ipv4 = Ipv4Amount::Addresses(count) }), PREFIX_MADE),
    ("IPv6 lost at creation", "m5.large", |s, a, n| making(s, a, n, |_, it| it.ipv6_prefixes = 0), MADE),
    ("security groups lost at creation", "m5.large", |s, a, n| making(s, a, n, |_, it| it.security_groups.clear()), "a used client token is refused with other security groups"),
    ("description lost", "m5.large", |s, a, n| making(s, a, n, |_, it| it.description.clear()), "a used client token is refused with another description"),
    ("description constant", "m5.large", |s, a, n| making(s, a, n, |_, it| it.description = "pods".into()), "a used client token is refused with another description"),
    ("tags lost at creation", "m5.large", |s, a, n| making(s, a, n, |_, it| it.tags.clear()), MADE),
    ("one tag lost at creation", "m5.large", |s, a, n| making(s, a, n, |_, it| { it.tags.pop_last(); }), MADE),
    ("a tag too many at creation", "m5.large", |s, a, n| making(s, a, n, |_, it| { it.tags.insert("Name".into(), "eni".into()); }), MADE),
    ("tags on the instance instead of the ENI", "m5.large", |s, a, n| {
        let outcome = making(s, a, n, |_, it| it.tags.clear());
        if let Ec2Action::CreateNetworkInterface(call) = a {
            s.cloud.create_tags(&[s.node.instance.as_str()], &call.tags, n).unwrap();
        }
        outcome
    }, MADE),
    ("client token lost", "m5.large", |s, a, n| making(s, a, n, |s, it| it.client_token = format!("{}", s.calls)), AGAIN),
    ("one client token for all", "m5.large", |s, a, n| making(s, a, n, |_, it| it.client_token = "token".into()), PREFIX_MADE),
    ("made in another subnet", "m5.large", |s, a, n| making(s, a, n, |s, it| it.subnet = s.other_subnet), MADE),
    ("the answer of a creation shows another ENI", "m5.large", |s, a, n| match s.right(a, n) {
        Outcome::Done(Effect::Created(_)) => Outcome::Done(Effect::Created(of(s, s.other))),
        outcome => outcome,
    }, MADE),
    ("the answer of a creation shows the primary ENI", "m5.large", |s, a, n| match s.right(a, n) {
        Outcome::Done(Effect::Created(_)) => Outcome::Done(Effect::Created(of(s, s.node.primary))),
        outcome => outcome,
    }, MADE),
    ("the answer of a creation lacks the blocks", "m5.large", |s, a, n| match s.right(a, n) {
        Outcome::Done(Effect::Created(eni)) => Outcome::Done(Effect::Created(eni.with_blocks(Vec::new()))),
        outcome => outcome,
    }, MADE),
    ("the answers of creations are lost", "m5.large", |s, a, n| match (a, s.right(a, n)) {
        (Ec2Action::CreateNetworkInterface(_), Outcome::Done(_)) => failed(FailureKind::Unanswered),
        (_, outcome) => outcome,
    }, MADE),

    // Attributes and attachments.
    ("attached at the first free index", "m5.large", |s, a, n| changed(s, a, n, |s, a| if let Ec2Action::AttachNetworkInterface(call) = a {
        let taken = |device| s.cloud.interfaces().any(|eni| eni.attachment.as_ref().is_some_and(|it| it.instance == call.instance && it.device == device));
        call.device = (0..15).map(DeviceIndex).find(|device| !taken(*device)).unwrap();
    }), PLACE),
    ("attached to the first network card", "c6in.32xlarge", |s, a, n| changed(s, a, n, |_, a| if let Ec2Action::AttachNetworkInterface(call) = a { if call.card != Card(0) {
        (call.card, call.device) = (Card(0), DeviceIndex(5));
    } }), "an ENI is attached to another network card where it was asked for"),
    ("not attached", "m5.large", |s, a, n| match a {
        Ec2Action::AttachNetworkInterface(_) => Outcome::Done(Effect::Attached(attachment_id("eni-attach-1"))),
        _ => s.right(a, n),
    }, PLACE),
    ("delete-on-termination never set", "m5.large", |s, a, n| match a {
        Ec2Action::ModifyNetworkInterfaceAttribute(call) if matches!(call.attribute, EniAttribute::DeleteOnTermination(_)) => Outcome::Done(Effect::Done),
        _ => s.right(a, n),
    }, GOES),
    ("security groups never set", "m5.large", |s, a, n| match a {
        Ec2Action::ModifyNetworkInterfaceAttribute(call) if matches!(call.attribute, EniAttribute::Groups(_)) => Outcome::Done(Effect::Done),
        _ => s.right(a, n),
    }, NO_GROUP),
    ("no security groups set", "m5.large", |s, a, n| changed(s, a, n, |_, a| if let Ec2Action::ModifyNetworkInterfaceAttribute(call) = a { if let EniAttribute::Groups(groups) = &mut call.attribute {
        groups.clear();
    } }), NO_GROUP),
    ("security groups of the primary ENI set", "m5.large", |s, a, n| changed(s, a, n, |s, a| if let Ec2Action::ModifyNetworkInterfaceAttribute(call) = a { if matches!(call.attribute, EniAttribute::Groups(_)) {
        call.eni = s.node.primary;
    } }), NOT_THERE),
    ("tags never set", "m5.large", |s, a, n| match a {
        Ec2Action::CreateTags(_) => Outcome::Done(Effect::Done),
        _ => s.right(a, n),
    }, TAGS),
    ("tags set on the primary ENI", "m5.large", |s, a, n| changed(s, a, n, |s, a| if let Ec2Action::CreateTags(call) = a { call.eni = s.node.primary; }), TAGS),
    ("one tag set", "m5.large", |s, a, n| changed(s, a, n, |_, a| if let Ec2Action::CreateTags(call) = a { call.tags.pop_first(); }), TAGS),
    // Later it is, so that nothing is left.
    ("detached at the third attempt", "m5.large", |s, a, n| match a {
        Ec2Action::DetachNetworkInterface(call) if s.cloud.interface(&call.eni).is_some() && s.lost < 2 => {
            s.lost += 1;
            Outcome::Done(Effect::Done)
        }
        _ => s.right(a, n),
    }, "an ENI is detached"),
    ("another ENI deleted", "m5.large", |s, a, n| changed(s, a, n, |s, a| if let Ec2Action::DeleteNetworkInterface(call) = a {
        let spare = s.cloud.interfaces().find(|eni| eni.attachment.is_none() && eni.tags.contains_key("vpc-ipam-conformance"));
        call.eni = spare.map_or(call.eni, |eni| eni.id);
    }), "deleting an ENI that is attached fails as InUse"),

    // Addresses.
    ("one address too few", "m5.large", |s, a, n| changed(s, a, n, |_, a| if let Ec2Action::AssignPrivateIpAddresses(call) = a { if let Ipv4Amount::Addresses(count @ 2..) = &mut call.amount { *count -= 1 } }), SINGLE),
    ("assigned twice", "m5.large", |s, a, n| match a {
        Ec2Action::AssignPrivateIpAddresses(_) => { let _ = s.right(a, n); s.right(a, n) }
        _ => s.right(a, n),
    }, SINGLE),
    ("assigned to the primary ENI", "m5.large", |s, a, n| changed(s, a, n, |s, a| if let Ec2Action::AssignPrivateIpAddresses(call) = a { call.eni = s.node.primary; }), SINGLE),
    ("the answer names nothing", "m5.large", |s, a, n| match s.right(a, n) {
        Outcome::Done(Effect::Assigned(_)) => Outcome::Done(Effect::Assigned(Vec::new())),
        outcome => outcome,
    }, SINGLE),
    ("the answer names all that the ENI has", "m5.large", |s, a, n| match (a, s.right(a, n)) {
        (Ec2Action::AssignPrivateIpAddresses(call), Outcome::Done(Effect::Assigned(_))) => Outcome::Done(Effect::Assigned(of(s, call.eni).blocks)),
        (_, outcome) => outcome,
    }, SINGLE),
    ("the answer names another ENI's addresses", "m5.large", |s, a, n| match s.right(a, n) {
        Outcome::Done(Effect::Assigned(mut blocks)) => {
            if let [IpNet::V4(net)] | [IpNet::V4(net), ..] = &mut blocks[..] {
                *net = ipnet::Ipv4Net::new((u32::from(net.addr()) ^ 0x1000).into(), net.prefix_len()).unwrap();
            }
            Outcome::Done(Effect::Assigned(blocks))
        }
        outcome => outcome,
    }, SINGLE),
    ("prefixes assigned as addresses", "m5.large", |s, a, n| changed(s, a, n, |_, a| if let Ec2Action::AssignPrivateIpAddresses(call) = a { if let Ipv4Amount::Prefixes(count) = call.amount { call.amount = Ipv4Amount::Addresses(count) } }), PREFIX),
    ("as many as fit", "m5.large", |s, a, n| match (a, s.right(a, n)) {
        (Ec2Action::AssignPrivateIpAddresses(call), Outcome::Failed(failure)) if failure.kind == FailureKind::AddressLimit => {
            let one = Ipv4Request::Count(Ipv4Amount::Addresses(1));
            let mut added = Vec::new();
            while let Ok(more) = s.cloud.assign_private_ip_addresses(call.eni, &one, n) { added.extend(more.into_iter().map(IpNet::V4)); }
            Outcome::Done(Effect::Assigned(added))
        }
        (_, outcome) => outcome,
    }, "more addresses than an ENI takes fail as AddressLimit, and none is assigned"),
    ("one too many released", "m5.large", |s, a, n| changed(s, a, n, |s, a| if let Ec2Action::UnassignPrivateIpAddresses(call) = a { if let Some(eni) = s.cloud.interface(&call.eni) {
        let more = eni.ipv4.iter().find(|net| !call.blocks.contains(net) && net.prefix_len() == 32);
        if call.blocks.iter().all(|net| eni.ipv4.contains(net)) { call.blocks.extend(more); }
    } }), ONE),
    ("another one released", "m5.large", |s, a, n| changed(s, a, n, |s, a| if let Ec2Action::UnassignPrivateIpAddresses(call) = a { if let Some(eni) = s.cloud.interface(&call.eni) { if eni.ipv4.len() > 1 {
        call.blocks = vec![*eni.ipv4.iter().rfind(|net| !call.blocks.contains(net)).unwrap_or(&call.blocks[0])];
    } } }), ONE),
    ("nothing released", "m5.large", |s, a, n| match a {
        Ec2Action::UnassignPrivateIpAddresses(_) => Outcome::Done(Effect::Done),
        _ => s.right(a, n),
    }, ONE),
    ("the first alone released", "m5.large", |s, a, n| changed(s, a, n, |_, a| if let Ec2Action::UnassignPrivateIpAddresses(call) = a { call.blocks.truncate(1); }), SINGLES_RELEASED),
    ("prefixes never released", "m5.large", |s, a, n| match a {
        Ec2Action::UnassignPrivateIpAddresses(call) if call.blocks[0].prefix_len() == 28 => Outcome::Done(Effect::Done),
        _ => s.right(a, n),
    }, PREFIX_RELEASED),
    ("a release fails where it should not", "m5.large", |s, a, n| match a {
        Ec2Action::UnassignPrivateIpAddresses(_) => failed(FailureKind::Denied),
        _ => s.right(a, n),
    }, ONE),
    ("no IPv6 assigned", "m5.large", |s, a, n| match a {
        Ec2Action::AssignIpv6Addresses(_) => Outcome::Done(Effect::Assigned(Vec::new())),
        _ => s.right(a, n),
    }, IPV6),
    ("two of IPv6 assigned", "m5.large", |s, a, n| changed(s, a, n, |_, a| if let Ec2Action::AssignIpv6Addresses(call) = a { call.prefixes = 2; }), IPV6),
    ("IPv6 lost in lists", "m5.large", |s, a, n| listed(s, a, n, |seen| for eni in &mut seen.enis { eni.blocks.retain(|net| matches!(net, IpNet::V4(_))); }), SHOWN),
    ("IPv6 never released", "m5.large", |s, a, n| match a {
        Ec2Action::UnassignIpv6Addresses(_) => Outcome::Done(Effect::Done),
        _ => s.right(a, n),
    }, IPV6_RELEASED),
    ("all of IPv6 released", "m5.large", |s, a, n| changed(s, a, n, |s, a| if let Ec2Action::UnassignIpv6Addresses(call) = a { if let Some(eni) = s.cloud.interface(&call.eni) {
        call.prefixes.clone_from(&eni.ipv6);
    } }), IPV6_RELEASED),

    // Failures.
    ("NotFound taken for Rejected", "m5.large", |s, a, n| taken_for(s, a, n, FailureKind::NotFound, FailureKind::Rejected), NOT_THERE),
    ("NotFound of attachments taken for Rejected", "m5.large", |s, a, n| match a {
        Ec2Action::DetachNetworkInterface(_) => taken_for(s, a, n, FailureKind::NotFound, FailureKind::Rejected),
        _ => s.right(a, n),
    }, "detaching what is detached fails as NotFound"),
    ("NotFound taken for done", "m5.large", |s, a, n| match s.right(a, n) {
        Outcome::Failed(failure) if failure.kind == FailureKind::NotFound => Outcome::Done(Effect::Done),
        outcome => outcome,
    }, NOT_THERE),
    ("AddressLimit taken for Unanswered", "m5.large", |s, a, n| taken_for(s, a, n, FailureKind::AddressLimit, FailureKind::Unanswered), "more addresses than an ENI takes fail as AddressLimit, and none is assigned"),
    ("AddressLimit taken for Throttled", "m5.large", |s, a, n| taken_for(s, a, n, FailureKind::AddressLimit, FailureKind::Throttled), "more addresses than an ENI takes fail as AddressLimit, and none is assigned"),
    ("AttachmentLimit taken for Rejected", "m5.large", |s, a, n| taken_for(s, a, n, FailureKind::AttachmentLimit, FailureKind::Rejected), "more ENIs than a network card takes fail as AttachmentLimit"),
    ("InUse taken for Rejected", "m5.large", |s, a, n| taken_for(s, a, n, FailureKind::InUse, FailureKind::Rejected), "deleting an ENI that is attached fails as InUse"),
    ("InUse taken for NotFound", "m5.large", |s, a, n| taken_for(s, a, n, FailureKind::InUse, FailureKind::NotFound), "attaching an ENI that is attached fails as InUse"),
    ("Rejected taken for Unanswered", "m5.large", |s, a, n| taken_for(s, a, n, FailureKind::Rejected, FailureKind::Unanswered), "what an ENI does not have is refused, and not counted as lost"),
    ("a group that does not exist taken for Denied", "m5.large", |s, a, n| match a {
        Ec2Action::ModifyNetworkInterfaceAttribute(_) => taken_for(s, a, n, FailureKind::Rejected, FailureKind::Denied),
        _ => s.right(a, n),
    }, NO_GROUP),
    ("failures without a message", "m5.large", |s, a, n| match s.right(a, n) {
        Outcome::Failed(mut failure) => { failure.message.clear(); Outcome::Failed(failure) }
        outcome => outcome,
    }, "a failure says what was refused, and why"),
    ("the effect of another action", "m5.large", |s, a, n| match (a, s.right(a, n)) {
        (Ec2Action::CreateTags(_), Outcome::Done(_)) => Outcome::Done(Effect::Assigned(Vec::new())),
        (_, outcome) => outcome,
    }, EFFECT),

    // Metadata.
    ("metadata without VPC ranges", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.vpc_ipv4_cidrs.clear()), METADATA_VPC),
    ("metadata with the first VPC range alone", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.vpc_ipv4_cidrs.truncate(1)), METADATA_VPC),
    ("metadata without IPv6 ranges", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.vpc_ipv6_cidrs.clear()), METADATA_VPC),
    ("metadata without ranges of subnets", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.subnets.clear()), METADATA_SUBNETS),
    ("metadata without the range of a subnet", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.subnets.values_mut().for_each(|it| it.ipv4 = None)), METADATA_SUBNETS),
    ("metadata without the IPv6 range of a subnet", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.subnets.values_mut().for_each(|it| it.ipv6 = None)), METADATA_SUBNETS),
    ("metadata with the VPC's range for a subnet's", "m5.large", |s, a, n| metadata(s, a, n, |_, it| {
        let vpc = it.vpc_ipv4_cidrs[0];
        it.subnets.values_mut().for_each(|it| it.ipv4 = Some(vpc));
    }), METADATA_SUBNETS),
    ("metadata without the primary ENI's address", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.primary_ipv4 = None), METADATA_OWN),
    ("metadata with a secondary address for the primary", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.primary_ipv4 = Some(Ipv4Addr::new(10, 0, 0, 77))), METADATA_OWN),
    ("metadata of another node", "m5.large", |s, a, n| metadata(s, a, n, |s, it| it.node.primary = s.other), NODE),
    ("metadata with another type", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.node.instance_type = "m5.xlarge".parse().unwrap()), NODE),
    ("metadata with another zone", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.node.zone = "eu-west-1b".parse().unwrap()), NODE),
    ("metadata without the primary ENI", "m5.large", |s, a, n| metadata(s, a, n, |s, it| { let primary = s.node.primary; it.observation.enis.retain(|eni| eni.id != primary); }), NODE),
    ("metadata with a block too many", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.observation.enis.iter_mut().for_each(|eni| eni.blocks.push("10.0.0.77/32".parse().unwrap()))), METADATA_ENI),
    ("metadata with other groups", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.observation.enis.iter_mut().for_each(|eni| eni.security_groups = vec!["sg-1".parse().unwrap()])), METADATA_ENI),
    ("metadata without secondary ENIs", "m5.large", |s, a, n| metadata(s, a, n, |s, it| { let primary = s.node.primary; it.observation.enis.retain(|eni| eni.id == primary); }), METADATA_ATTACHED),
    ("metadata without prefixes", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.observation.enis.iter_mut().for_each(|eni| eni.blocks.clear())), METADATA_ATTACHED),
    ("metadata with one device index", "m5.large", |s, a, n| metadata(s, a, n, |_, it| it.observation.enis.iter_mut().for_each(|eni| if let Some(it) = &mut eni.attachment { it.device = DeviceIndex(0) })), METADATA_ATTACHED),

    // Subnets.
    ("no free addresses", "m5.large", |s, a, n| subnets(s, a, n, |_, it| it.iter_mut().for_each(|it| it.ipv4_addresses_free = 0)), FREE),
    ("always the same free addresses", "m5.large", |s, a, n| subnets(s, a, n, |_, it| it.iter_mut().for_each(|it| it.ipv4_addresses_free = 4000)), FREE),
    ("more free addresses than there are", "m5.large", |s, a, n| subnets(s, a, n, |_, it| it.iter_mut().for_each(|it| it.ipv4_addresses_free = 65_000)), SUBNETS),
    ("the size of a subnet for its free addresses", "m5.large", |s, a, n| subnets(s, a, n, |_, it| it.iter_mut().for_each(|it| it.ipv4_addresses_free = 8187)), FREE),
    ("subnets of all zones", "m5.large", |s, a, n| subnets(s, a, n, |s, it| *it = all_subnets(s, |s, it| it.vpc == s.node.vpc)), WITHIN),
    ("subnets of all VPCs", "m5.large", |s, a, n| subnets(s, a, n, |s, it| *it = all_subnets(s, |s, it| it.zone == s.node.zone)), WITHIN),
    ("subnets twice", "m5.large", |s, a, n| subnets(s, a, n, |_, it| it.extend(it.clone())), ONCE),
    ("the node's subnet missing", "m5.large", |s, a, n| subnets(s, a, n, |s, it| it.retain(|it| it.id != s.node.subnet)), OWN_SUBNET),
    ("no subnets", "m5.large", |s, a, n| subnets(s, a, n, |_, it| it.clear()), OWN_SUBNET),
    ("ranges of subnets mixed up", "m5.large", |s, a, n| subnets(s, a, n, |_, it| {
        let (first, second) = (it[0].ipv4_cidr, it[1].ipv4_cidr);
        (it[0].ipv4_cidr, it[1].ipv4_cidr) = (second, first);
    }), OWN_SUBNET),
    ("no IPv6 range", "m5.large", |s, a, n| subnets(s, a, n, |_, it| it.iter_mut().for_each(|it| it.ipv6_cidr = None)), METADATA_SUBNETS),

    // Panics.
    ("panics at assigning", "m5.large", |s, a, n| match a {
        Ec2Action::AssignPrivateIpAddresses(_) => panic!("not written yet"),
        _ => s.right(a, n),
    }, PANICS),
    ("panics once it has made an ENI", "m5.large", |s, a, n| match (a, s.right(a, n)) {
        (Ec2Action::CreateNetworkInterface(_), Outcome::Done(_)) => panic!("no such field"),
        (_, outcome) => outcome,
    }, PANICS),
    ("panics once it has made an ENI without a token", "m5.large", |s, a, n| match (a, making(s, a, n, |s, it| it.client_token = format!("{}", s.calls))) {
        (Ec2Action::CreateNetworkInterface(_), Outcome::Done(_)) => panic!("no such field"),
        (_, outcome) => outcome,
    }, PANICS),
    ("panics at lists by id", "m5.large", |s, a, n| match a {
        Ec2Action::DescribeNetworkInterfaces(Scope::Only(_)) => panic!("not written yet"),
        _ => s.right(a, n),
    }, PANICS),
    ("panics at attaching", "m5.large", |s, a, n| match a {
        Ec2Action::AttachNetworkInterface(_) => panic!("not written yet"),
        _ => s.right(a, n),
    }, PANICS),
    ("panics once attached", "m5.large", |s, a, n| match (a, s.right(a, n)) {
        (Ec2Action::AttachNetworkInterface(_), Outcome::Done(_)) => panic!("not written yet"),
        (_, outcome) => outcome,
    }, PANICS),
];

/// Changes each list of EC2.
fn listed(
    sim: &mut Sim,
    action: &Ec2Action,
    now: Timestamp,
    change: impl Fn(&mut Observation),
) -> Outcome {
    let mut outcome = sim.right(action, now);
    if let Outcome::Done(Effect::Observed(seen)) = &mut outcome {
        change(seen);
    }
    outcome
}

/// Changes each list of one scope.
fn scoped(
    sim: &mut Sim,
    action: &Ec2Action,
    now: Timestamp,
    scope: &Scope,
    change: impl Fn(&Sim, &mut Observation),
) -> Outcome {
    let mut outcome = sim.right(action, now);
    if let Outcome::Done(Effect::Observed(seen)) = &mut outcome {
        if seen.scope == *scope {
            change(sim, seen);
        }
    }
    outcome
}

/// Changes each ENI that EC2 shows.
fn shown(
    sim: &mut Sim,
    action: &Ec2Action,
    now: Timestamp,
    change: impl Fn(&Sim, &mut ObservedEni),
) -> Outcome {
    let mut outcome = sim.right(action, now);
    match &mut outcome {
        Outcome::Done(Effect::Observed(seen)) => {
            seen.enis.iter_mut().for_each(|eni| change(sim, eni));
        }
        Outcome::Done(Effect::Created(eni)) => change(sim, eni),
        _ => {}
    }
    outcome
}

fn attachment(
    sim: &mut Sim,
    action: &Ec2Action,
    now: Timestamp,
    change: impl Fn(&mut vpc_ipam_core::ObservedAttachment),
) -> Outcome {
    shown(sim, action, now, |_, eni| {
        if let Some(attachment) = &mut eni.attachment {
            change(attachment);
        }
    })
}

/// Changes each action before it is carried out.
fn changed(
    sim: &mut Sim,
    action: &Ec2Action,
    now: Timestamp,
    change: impl Fn(&Sim, &mut Ec2Action),
) -> Outcome {
    let mut action = action.clone();
    change(sim, &mut action);
    sim.right(&action, now)
}

/// Changes each creation before it is carried out.
fn making(
    sim: &mut Sim,
    action: &Ec2Action,
    now: Timestamp,
    change: impl Fn(&Sim, &mut CreateNetworkInterface),
) -> Outcome {
    changed(sim, action, now, |sim, action| {
        if let Ec2Action::CreateNetworkInterface(request) = action {
            change(sim, request);
        }
    })
}

fn metadata(
    sim: &mut Sim,
    action: &Ec2Action,
    now: Timestamp,
    change: impl Fn(&Sim, &mut Metadata),
) -> Outcome {
    let mut outcome = sim.right(action, now);
    if let Outcome::Done(Effect::Metadata(metadata)) = &mut outcome {
        change(sim, metadata);
    }
    outcome
}

fn subnets(
    sim: &mut Sim,
    action: &Ec2Action,
    now: Timestamp,
    change: impl Fn(&mut Sim, &mut Vec<ObservedSubnet>),
) -> Outcome {
    let mut outcome = sim.right(action, now);
    if let Outcome::Done(Effect::Subnets(subnets)) = &mut outcome {
        change(sim, subnets);
    }
    outcome
}

fn taken_for(
    sim: &mut Sim,
    action: &Ec2Action,
    now: Timestamp,
    from: FailureKind,
    to: FailureKind,
) -> Outcome {
    match sim.right(action, now) {
        Outcome::Failed(failure) if failure.kind == from => failed(to),
        outcome => outcome,
    }
}

fn all(sim: &Sim, belongs: impl Fn(&ObservedEni) -> bool) -> Vec<ObservedEni> {
    sim.cloud.interfaces().map(ObservedEni::from).filter(belongs).collect()
}

fn all_subnets(
    sim: &mut Sim,
    belongs: impl Fn(&Sim, &ObservedSubnet) -> bool,
) -> Vec<ObservedSubnet> {
    let subnets = sim.cloud.describe_subnets(&[], sim.now).unwrap();
    subnets.into_iter().filter(|subnet| belongs(sim, subnet)).collect()
}

fn tagged_as(eni: &ObservedEni, owner: &str) -> bool {
    let tags = eni.tags.as_ref().unwrap();
    tags.get(Scope::INSTANCE_TAG).is_some_and(|value| value == owner)
}

fn of(sim: &Sim, eni: vpc_ipam_core::EniId) -> ObservedEni {
    ObservedEni::from(sim.cloud.interface(&eni).unwrap())
}

fn attachment_id(text: &str) -> AttachmentId {
    text.parse().unwrap()
}
