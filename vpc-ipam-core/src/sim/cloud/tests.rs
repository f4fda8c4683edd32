use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use core::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use super::*;
use crate::sim::error::CloudError;
use crate::{
    AttachNetworkInterface, AttachmentId, Card, DeviceIndex, EniAttribute, InterfaceType,
    Ipv4Amount, Limits, Node, ObservedSubnet, Scope, Source, Timestamp, UnassignPrivateIpAddresses,
};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

#[test]
fn what_was_made_can_be_read_back() {
    let mut lab = Lab::new("m5.large");
    let request = CreateInterface {
        description: "secondary".into(),
        tags: tags(&[("a", "1")]),
        ipv4: addresses(4),
        ipv6: Ipv6Request::PrefixCount(1),
        ..CreateInterface::new(lab.subnet)
    };

    let free = lab.free();

    let made = lab.cloud.create_network_interface(&request, NOW).unwrap();

    assert_eq!(made.ipv4.len(), 4);
    assert_eq!(made.ipv6.len(), 1);
    assert_eq!(made.zone, lab.node().zone);
    assert_eq!(made.security_groups.len(), 1, "the default group");
    assert_eq!(lab.describe(made.id), Ok(made.clone()));
    assert_eq!(lab.free(), free - 5, "its own and four more");

    lab.cloud.delete_network_interface(made.id, NOW).unwrap();
    assert_eq!(lab.free(), free);
    assert_eq!(code(lab.describe(made.id)), "InvalidNetworkInterfaceID.NotFound");
}

#[test]
fn refused_creations_carry_ec2s_codes_and_change_nothing() {
    assert_refused(&[
        (
            "create in an unknown subnet",
            |lab| lab.create(CreateInterface::new(id("subnet-0"))),
            "InvalidSubnetID.NotFound",
        ),
        (
            "create with an unknown security group",
            |lab| {
                lab.create(CreateInterface {
                    security_groups: vec![id("sg-0")],
                    ..CreateInterface::new(lab.subnet)
                })
            },
            "InvalidGroup.NotFound",
        ),
        (
            "create with more addresses than are free",
            |lab| lab.create_with(addresses(250)),
            "InsufficientFreeAddressesInSubnet",
        ),
        (
            "create with more prefixes than are whole",
            |lab| lab.create_with(prefixes(15)),
            "InsufficientCidrBlocks",
        ),
        (
            "create with an address that is taken",
            |lab| {
                let taken = lab.cloud.interface(&lab.node().primary).unwrap().primary_ipv4;
                lab.create(CreateInterface {
                    primary_ipv4: taken,
                    ..CreateInterface::new(lab.subnet)
                })
            },
            "InvalidIPAddress.InUse",
        ),
        (
            "create with IPv6 where there is none",
            |lab| {
                let subnet = lab.ipv4_only;
                lab.create(CreateInterface {
                    ipv6: Ipv6Request::PrefixCount(1),
                    ..CreateInterface::new(subnet)
                })
            },
            "InvalidParameterValue",
        ),
        (
            "create a fabric adapter with addresses",
            |lab| {
                lab.create(CreateInterface {
                    interface_type: InterfaceType::EfaOnly,
                    ipv4: addresses(1),
                    ..CreateInterface::new(lab.subnet)
                })
            },
            "UnsupportedOperation",
        ),
    ]);
}

#[test]
fn refused_attachments_carry_ec2s_codes_and_change_nothing() {
    assert_refused(&[
        (
            "attach an unknown ENI",
            |lab| lab.attach(id("eni-0"), 0, 1),
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (
            "attach to an unknown instance",
            |lab| {
                let request = AttachNetworkInterface {
                    eni: lab.spare,
                    instance: id("i-0"),
                    card: Card(0),
                    device: DeviceIndex(1),
                };
                lab.cloud.attach_network_interface(&request, NOW).map(drop)
            },
            "InvalidInstanceID.NotFound",
        ),
        ("attach twice", |lab| lab.attach(lab.secondary, 0, 2), "InvalidNetworkInterface.InUse"),
        ("attach where another is", |lab| lab.attach(lab.spare, 0, 1), "InvalidParameterValue"),
        (
            "attach to a card that is not there",
            |lab| lab.attach(lab.spare, 1, 1),
            "InvalidParameterValue",
        ),
        (
            "attach from another zone",
            |lab| lab.attach(lab.elsewhere, 0, 2),
            "InvalidParameterCombination",
        ),
        (
            "attach with more addresses than the type allows",
            |lab| lab.attach(lab.crowded, 0, 2),
            "PrivateIpAddressLimitExceeded",
        ),
    ]);
}

#[test]
fn refused_addresses_carry_ec2s_codes_and_change_nothing() {
    assert_refused(&[
        (
            "assign one too many",
            |lab| lab.assign(lab.secondary, addresses(10)),
            "PrivateIpAddressLimitExceeded",
        ),
        (
            "assign to an unknown ENI",
            |lab| lab.assign(id("eni-0"), addresses(1)),
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (
            "assign an address of EC2's own",
            |lab| lab.assign(lab.secondary, Ipv4Request::Blocks(nets(&["10.0.1.1/32"]))),
            "InvalidIPAddress.InUse",
        ),
        (
            "unassign the ENI's own address",
            |lab| {
                let own = lab.cloud.interface(&lab.secondary).unwrap().primary_ipv4.unwrap();
                lab.unassign(lab.secondary, vec![own.into()])
            },
            "InvalidParameterValue",
        ),
        (
            "unassign what another has",
            |lab| lab.unassign(lab.secondary, nets(&["10.0.1.77/32"])),
            "InvalidParameterValue",
        ),
    ]);
}

#[test]
fn refused_detachments_deletions_tags_and_attributes_carry_ec2s_codes_and_change_nothing() {
    assert_refused(&[
        ("detach the primary ENI", |lab| lab.detach(lab.node().primary), "OperationNotPermitted"),
        (
            "detach what is not attached",
            |lab| lab.cloud.detach_network_interface(id("eni-attach-0"), NOW),
            "InvalidAttachmentID.NotFound",
        ),
        (
            "delete what is attached",
            |lab| lab.cloud.delete_network_interface(lab.secondary, NOW),
            "InvalidParameterValue",
        ),
        (
            "tag what is not there",
            |lab| lab.cloud.create_tags(&["eni-0"], &tags(&[("a", "1")]), NOW),
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (
            "modify with another ENI's attachment",
            |lab| {
                let attachment = lab.attachment(lab.node().primary);
                let request = ModifyInterface::DeleteOnTermination { attachment, value: true };
                lab.cloud.modify_network_interface_attribute(lab.secondary, &request, NOW)
            },
            "InvalidParameterValue",
        ),
    ]);
}

#[test]
fn enis_are_limited_per_card() {
    // p4d.24xlarge has four cards of 15 ENIs, m5.large one of 3.
    for (instance_type, cards, per_card) in [("m5.large", 1, 3), ("p4d.24xlarge", 4, 15)] {
        let mut lab = Lab::new(instance_type);
        lab.detach(lab.secondary).unwrap();
        for card in 0..cards {
            let first = u8::from(card == 0);
            for device in first..per_card {
                let eni = lab.make(CreateInterface::new(lab.subnet));
                assert_eq!(
                    lab.attach(eni, card, device),
                    Ok(()),
                    "{instance_type} {card} {device}"
                );
            }
            let error = lab.attach(lab.spare, card, per_card).unwrap_err();
            assert_eq!(error.code, "AttachmentLimitExceeded");
            let text =
                format!("Interface count {} exceeds the limit for {instance_type}", per_card + 1);
            assert_eq!(error.message, text);
        }
        assert_eq!(lab.attach(lab.spare, cards, 1).unwrap_err().code, "InvalidParameterValue");
    }
}

#[test]
fn a_prefix_takes_one_place_of_an_eni_and_sixteen_addresses_of_the_subnet() {
    let mut lab = Lab::new("m5.large");
    let free = lab.free();
    lab.assign(lab.secondary, prefixes(2)).unwrap();
    assert_eq!(lab.free(), free - 32);
    assert_eq!(code(lab.assign(lab.secondary, addresses(8))), "PrivateIpAddressLimitExceeded");
    lab.assign(lab.secondary, addresses(7)).unwrap();

    let mut xen = Lab::new("m4.4xlarge");
    assert_eq!(code(xen.assign(xen.secondary, prefixes(1))), "UnsupportedOperation");
    assert_eq!(xen.assign(xen.secondary, addresses(29)), Ok(()));
}

#[test]
fn scattered_addresses_leave_no_prefix_long_before_the_subnet_is_full() {
    let mut lab = Lab::new("m5.large");
    lab.create_with(addresses(90)).unwrap();
    assert!(lab.free() > 100);
    assert_eq!(code(lab.create_with(prefixes(1))), "InsufficientCidrBlocks");
}

#[test]
fn a_client_token_makes_a_repeated_call_harmless() {
    let mut lab = Lab::new("m5.large");
    let request = CreateInterface {
        client_token: Some("once".into()),
        ipv4: addresses(2),
        ..CreateInterface::new(lab.subnet)
    };
    let first = lab.cloud.create_network_interface(&request, NOW).unwrap();
    let count = lab.cloud.interfaces().count();

    assert_eq!(lab.cloud.create_network_interface(&request, NOW), Ok(first.clone()));
    let other = CreateInterface { ipv4: addresses(3), ..request.clone() };
    assert_eq!(code(lab.create(other)), "IdempotentParameterMismatch");
    assert_eq!(lab.cloud.interfaces().count(), count);

    lab.cloud.delete_network_interface(first.id, NOW).unwrap();
    let again = lab.cloud.create_network_interface(&request, NOW).unwrap();
    assert_ne!(again.id, first.id, "the token goes with its ENI");
}

#[test]
fn the_fabric_tells_what_went_before_what_came() {
    let mut lab = Lab::new("m5.large");
    let told = lab.changes();
    assert_eq!(told.len(), 2, "primary and secondary: {told:?}");
    assert!(told.iter().all(|change| matches!(change, Change::Attached(_))));

    lab.assign(lab.secondary, addresses(2)).unwrap();
    let blocks = match lab.changes().as_slice() {
        [Change::Assigned { port, blocks }] if port.eni == lab.secondary => blocks.clone(),
        other => panic!("expected one assignment, got {other:?}"),
    };

    // One address moves to an ENI that is plugged in at the same time.
    let moved = match blocks[0] {
        IpNet::V4(net) => net,
        IpNet::V6(_) => unreachable!("IPv4 was asked for"),
    };
    lab.unassign(lab.secondary, vec![moved]).unwrap();
    lab.assign(lab.spare, Ipv4Request::Blocks(vec![moved])).unwrap();
    lab.attach(lab.spare, 0, 2).unwrap();
    match lab.changes().as_slice() {
        [Change::Unassigned { port, blocks }, Change::Attached(plugged)] => {
            assert_eq!(
                (port.eni, blocks.as_slice()),
                (lab.secondary, [IpNet::V4(moved)].as_slice())
            );
            assert_eq!(plugged.eni, lab.spare);
            assert!(plugged.blocks.contains(&IpNet::V4(moved)));
            assert!(!port.blocks.contains(&IpNet::V4(moved)));
        }
        other => panic!("expected one to go and one to come, got {other:?}"),
    }

    // Detached and attached anew: another attachment, so another link.
    lab.detach(lab.spare).unwrap();
    lab.attach(lab.spare, 0, 2).unwrap();
    match lab.changes().as_slice() {
        [Change::Detached(before), Change::Attached(after)] => {
            assert_eq!((before.eni, after.eni), (lab.spare, lab.spare));
            assert_ne!(before.attachment, after.attachment);
        }
        other => panic!("expected the same ENI twice, got {other:?}"),
    }

    // What was undone unseen is left out.
    lab.detach(lab.spare).unwrap();
    lab.attach(lab.elsewhere, 0, 2).unwrap_err();
    let gone = lab.changes();
    assert!(matches!(gone.as_slice(), [Change::Detached(Port { eni, .. })] if *eni == lab.spare));
    assert_eq!(lab.cloud.poll_change(), None);
}

#[test]
fn observations_tell_what_their_source_knows() {
    let mut lab = Lab::new("m5.large");
    let instance = lab.instance;
    let tags = tags(&[(Scope::INSTANCE_TAG, instance.as_str())]);
    lab.cloud.create_tags(&[lab.spare.as_str()], &tags, NOW).unwrap();
    let (primary, secondary, spare) = (lab.node().primary, lab.secondary, lab.spare);
    let both = BTreeSet::from([primary, secondary]);

    let cases = [
        (Source::Ec2, Scope::Attached, both.clone()),
        (Source::Ec2, Scope::Unattached, BTreeSet::from([spare])),
        (Source::Ec2, Scope::Only(vec![spare, id("eni-0")]), BTreeSet::from([spare])),
        (Source::Imds, Scope::Attached, both),
        (Source::Imds, Scope::Unattached, BTreeSet::new()),
        (Source::Imds, Scope::Only(vec![spare]), BTreeSet::new()),
    ];
    for (source, scope, expected) in cases {
        let seen = lab.cloud.observe(instance, source, &scope, NOW).unwrap();
        let ids: BTreeSet<_> = seen.enis.iter().map(|eni| eni.id).collect();
        assert_eq!(ids, expected, "{source:?} {scope:?}");
        for eni in &seen.enis {
            let attached = eni.attachment.as_ref();
            let from_ec2 = source == Source::Ec2;
            assert_eq!(eni.tags.is_some(), from_ec2, "{eni:?}");
            assert!(attached.is_none_or(|a| a.id.is_some() == from_ec2), "{eni:?}");
        }
    }

    let metadata = lab.cloud.metadata(instance, NOW).unwrap();
    assert_eq!(metadata.node, lab.node());
    assert_eq!(metadata.primary_ipv4, lab.cloud.interface(&primary).unwrap().primary_ipv4);
    assert_eq!(metadata.vpc_ipv4_cidrs, nets(&["10.0.0.0/16"]));
}

#[test]
fn termination_takes_what_was_marked() {
    let mut lab = Lab::new("m5.large");
    let attachment = lab.attachment(lab.secondary);
    let (primary, kept) = (lab.node().primary, lab.make(CreateInterface::new(lab.subnet)));
    lab.attach(kept, 0, 2).unwrap();
    let mark = ModifyInterface::from(&EniAttribute::DeleteOnTermination(attachment));
    lab.cloud.modify_network_interface_attribute(lab.secondary, &mark, NOW).unwrap();

    lab.cloud.terminate_instance(lab.instance).unwrap();

    for (eni, expected) in [(primary, false), (lab.secondary, false), (kept, true)] {
        assert_eq!(lab.cloud.interface(&eni).is_some(), expected, "{eni}");
    }
    assert_eq!(lab.cloud.interface(&kept).and_then(|eni| eni.attachment.clone()), None);
    let again = lab.cloud.terminate_instance(lab.instance);
    assert_eq!(code(again), "InvalidInstanceID.NotFound");
}

#[test]
fn subnets_stay_within_their_vpc_and_apart() {
    let cases = [
        ("10.0.9.0/24", None),
        ("10.0.1.128/25", Some("InvalidSubnet.Conflict")),
        ("10.0.0.0/16", Some("InvalidSubnet.Conflict")),
        ("10.1.0.0/24", Some("InvalidSubnet.Range")),
        ("10.0.9.0/29", Some("InvalidSubnet.Range")),
    ];
    for (cidr, expected) in cases {
        let mut lab = Lab::new("m5.large");
        let node = lab.node();
        let request = CreateSubnet::new(node.vpc, node.zone, cidr.parse().unwrap());
        let actual = lab.cloud.create_subnet(request).err().map(|error| error.code);
        assert_eq!(actual, expected, "{cidr}");
    }
}

#[test]
fn instance_types_come_from_the_table_and_from_what_runs() {
    let mut lab = Lab::new("m5.large");
    let odd = Limits {
        instance_type: id("x99.odd"),
        ipv4_per_eni: 5,
        ..Limits::lookup(id("m5.large")).unwrap()
    };
    assert_eq!(
        code(lab.cloud.describe_instance_types(&[odd.instance_type], NOW)),
        "InvalidInstanceType"
    );
    let request = RunInstance::new(odd.clone(), lab.subnet);
    lab.cloud.run_instance(request, NOW).unwrap();
    let found = lab.cloud.describe_instance_types(&[odd.instance_type, id("m5.large")], NOW);
    assert_eq!(found, Ok(vec![odd, Limits::lookup(id("m5.large")).unwrap()]));
}

#[test]
fn the_same_seed_gives_the_same_cloud() {
    let [a, b] = [(); 2].map(|()| Lab::new("m5.large").state());
    assert_eq!(a, b);
}

/// A VPC with one instance that has a secondary ENI, and ENIs that are attached to nothing.
struct Lab {
    cloud: Cloud,
    instance: InstanceId,
    subnet: SubnetId,
    ipv4_only: SubnetId,
    secondary: EniId,
    spare: EniId,
    elsewhere: EniId,
    crowded: EniId,
}

impl Lab {
    fn new(instance_type: &str) -> Self {
        let mut cloud = Cloud::new(1);
        let vpc = cloud.create_vpc(nets(&["10.0.0.0/16"]), vec!["2001:db8::/56".parse().unwrap()]);
        let [here, there] = ["eu-west-1a", "eu-west-1b"].map(|zone| zone.parse().unwrap());
        let subnet = |zone, cidr: &str| CreateSubnet::new(vpc, zone, cidr.parse().unwrap());
        let main = cloud
            .create_subnet(CreateSubnet {
                ipv6_cidr: Some("2001:db8:0:1::/64".parse().unwrap()),
                ..subnet(here, "10.0.1.0/24")
            })
            .unwrap();
        let ipv4_only = cloud.create_subnet(subnet(here, "10.0.2.0/24")).unwrap();
        let other_zone = cloud.create_subnet(subnet(there, "10.0.3.0/24")).unwrap();
        let limits = Limits::lookup(id(instance_type)).unwrap();
        let instance = cloud.run_instance(RunInstance::new(limits, main), NOW).unwrap();
        let make =
            |cloud: &mut Cloud, request| cloud.create_network_interface(&request, NOW).unwrap().id;

        let secondary = make(&mut cloud, CreateInterface::new(main));
        let spare = make(&mut cloud, CreateInterface::new(main));
        let elsewhere = make(&mut cloud, CreateInterface::new(other_zone));
        let crowded = make(
            &mut cloud,
            CreateInterface { ipv4: addresses(60), ..CreateInterface::new(ipv4_only) },
        );
        let mut lab =
            Self { cloud, instance, subnet: main, ipv4_only, secondary, spare, elsewhere, crowded };
        lab.attach(secondary, 0, 1).unwrap();
        lab
    }

    fn node(&self) -> Node {
        self.cloud.instance(&self.instance).unwrap().node.clone()
    }

    fn free(&self) -> u32 {
        self.cloud.subnet(&self.subnet).unwrap().ipv4_addresses_free
    }

    fn describe(&mut self, eni: EniId) -> Result<NetworkInterface, CloudError> {
        let mut found = self.cloud.describe_network_interfaces(&[eni], NOW)?;
        Ok(found.remove(0))
    }

    fn make(&mut self, request: CreateInterface) -> EniId {
        self.cloud.create_network_interface(&request, NOW).unwrap().id
    }

    fn create(&mut self, request: CreateInterface) -> Result<(), CloudError> {
        self.cloud.create_network_interface(&request, NOW).map(drop)
    }

    fn create_with(&mut self, ipv4: Ipv4Request) -> Result<(), CloudError> {
        self.create(CreateInterface { ipv4, ..CreateInterface::new(self.subnet) })
    }

    fn attach(&mut self, eni: EniId, card: u8, device: u8) -> Result<(), CloudError> {
        let request = AttachNetworkInterface {
            eni,
            instance: self.instance,
            card: Card(card),
            device: DeviceIndex(device),
        };
        self.cloud.attach_network_interface(&request, NOW).map(drop)
    }

    fn attachment(&self, eni: EniId) -> AttachmentId {
        self.cloud.interface(&eni).unwrap().attachment.as_ref().unwrap().id
    }

    fn detach(&mut self, eni: EniId) -> Result<(), CloudError> {
        let attachment = self.attachment(eni);
        self.cloud.detach_network_interface(attachment, NOW)
    }

    fn assign(&mut self, eni: EniId, request: Ipv4Request) -> Result<(), CloudError> {
        self.cloud.assign_private_ip_addresses(eni, &request, NOW).map(drop)
    }

    fn unassign(&mut self, eni: EniId, blocks: Vec<Ipv4Net>) -> Result<(), CloudError> {
        let request = UnassignPrivateIpAddresses { eni, blocks };
        self.cloud.unassign_private_ip_addresses(&request, NOW)
    }

    fn changes(&mut self) -> Vec<Change> {
        core::iter::from_fn(|| self.cloud.poll_change()).collect()
    }

    /// All that can be seen of the cloud.
    fn state(&mut self) -> (Vec<NetworkInterface>, Vec<ObservedSubnet>, String) {
        (
            self.cloud.describe_network_interfaces(&[], NOW).unwrap(),
            self.cloud.describe_subnets(&[], NOW).unwrap(),
            format!("{:?}", self.cloud.describe_instances(&[], NOW).unwrap()),
        )
    }
}

/// What is refused, the call, and the code of EC2's answer.
type Refused = (&'static str, fn(&mut Lab) -> Result<(), CloudError>, &'static str);

fn assert_refused(cases: &[Refused]) {
    for (what, call, expected) in cases {
        let mut lab = Lab::new("m5.large");
        let before = lab.state();
        assert_eq!(code(call(&mut lab)), *expected, "{what}");
        assert_eq!(lab.state(), before, "{what}");
    }
}

fn addresses(count: u16) -> Ipv4Request {
    Ipv4Request::Count(Ipv4Amount::Addresses(count))
}

fn prefixes(count: u16) -> Ipv4Request {
    Ipv4Request::Count(Ipv4Amount::Prefixes(count))
}

fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn id<I: FromStr<Err: core::fmt::Debug>>(text: &str) -> I {
    text.parse().unwrap()
}

fn code<T: core::fmt::Debug>(result: Result<T, CloudError>) -> &'static str {
    result.unwrap_err().code
}
