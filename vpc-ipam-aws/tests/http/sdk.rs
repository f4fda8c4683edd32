//! The AWS SDK against the emulator.

use core::time::Duration;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use vpc_ipam_aws::{
    ConnectError, Credentials, Ec2Api, EmulatedEc2, HttpServer, RequestObserver, SdkEc2,
    SdkOptions, execute,
};
use vpc_ipam_core::sim::CreateSubnet;
use vpc_ipam_core::{
    AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface, AttachmentId, Card,
    CreateNetworkInterface, CreateTags, DeleteNetworkInterface, DetachNetworkInterface,
    DeviceIndex, Ec2Action, Effect, EniAttribute, FailureKind, IncompleteEni, Ipv4Amount, Metadata,
    ModifyNetworkInterfaceAttribute, ObservedEni, Outcome, Scope, SubnetId, UnassignIpv6Addresses,
    UnassignPrivateIpAddresses,
};

use crate::lab::{Lab, NOW, listener};
use crate::sequence::{Ec2, Knows, ipv4, life_of_an_eni, sorted};

#[tokio::test]
async fn an_eni_lives_in_the_emulator() {
    let lab = Lab::new();
    let api = connect(&lab).await;
    let knows = Knows {
        client_tokens: true,
        delete_on_termination: true,
        free_addresses: true,
        assigned_alone: true,
    };
    life_of_an_eni(&api, &lab.node, knows).await;
}

#[tokio::test]
async fn prefixes_come_and_go() {
    let lab = Lab::new();
    let api = connect(&lab).await;
    let ec2 = Ec2 { api: &api, node: &lab.node };
    let create = Ec2Action::CreateNetworkInterface(CreateNetworkInterface {
        ipv4: Ipv4Amount::Prefixes(2),
        ipv6_prefixes: 1,
        ..create(lab.node.subnet)
    });
    let made = match ec2.done(&create).await {
        Effect::Created(eni) => eni,
        other => panic!("create: {other:?}"),
    };
    let mut lengths: Vec<_> = made.blocks.iter().map(IpNet::prefix_len).collect();
    lengths.sort();
    assert_eq!(lengths, [28, 28, 80]);
    assert_eq!(ec2.one(&made).await, made);

    let mut added = Vec::new();
    for assign in [
        Ec2Action::AssignPrivateIpAddresses(AssignPrivateIpAddresses {
            eni: made.id,
            amount: Ipv4Amount::Prefixes(1),
        }),
        Ec2Action::AssignIpv6Addresses(AssignIpv6Addresses { eni: made.id, prefixes: 1 }),
    ] {
        match ec2.done(&assign).await {
            Effect::Assigned(blocks) => added.extend(blocks),
            other => panic!("assign: {other:?}"),
        }
    }
    let [v4, v6] = added[..] else { panic!("expected one prefix of each family, got {added:?}") };
    let all = made.blocks.iter().copied().chain([v4, v6]).collect();
    assert_eq!(ec2.blocks(&made).await, sorted(all));

    let v6 = match v6 {
        IpNet::V6(net) => net,
        IpNet::V4(net) => panic!("{net} is not IPv6"),
    };
    ec2.done(&Ec2Action::UnassignPrivateIpAddresses(UnassignPrivateIpAddresses {
        eni: made.id,
        blocks: vec![ipv4(v4)],
    }))
    .await;
    ec2.done(&Ec2Action::UnassignIpv6Addresses(UnassignIpv6Addresses {
        eni: made.id,
        prefixes: vec![v6],
    }))
    .await;
    assert_eq!(ec2.blocks(&made).await, sorted(made.blocks));
}

#[tokio::test]
async fn dry_run_tells_what_is_permitted_and_changes_nothing() {
    let lab = Lab::new();
    let (api, primary, instance) = (connect(&lab).await, lab.node.primary, lab.instance);
    let in_process = EmulatedEc2::new(lab.cloud.clone(), instance);
    let before = api.describe_network_interfaces(instance, &Scope::Attached).await.unwrap();
    let attachment = before[0].attachment.as_ref().unwrap().id.unwrap();
    let delete_on_termination = EniAttribute::DeleteOnTermination(attachment);
    let actions = [
        Ec2Action::CreateNetworkInterface(create(lab.node.subnet)),
        Ec2Action::AttachNetworkInterface(AttachNetworkInterface {
            eni: primary,
            instance,
            card: Card(0),
            device: DeviceIndex(1),
        }),
        Ec2Action::ModifyNetworkInterfaceAttribute(ModifyNetworkInterfaceAttribute {
            eni: primary,
            attribute: delete_on_termination,
        }),
        Ec2Action::DetachNetworkInterface(DetachNetworkInterface { eni: primary, attachment }),
        Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni: primary }),
        Ec2Action::CreateTags(CreateTags {
            eni: primary,
            tags: [("a".to_owned(), "b".to_owned())].into(),
        }),
        Ec2Action::DescribeNetworkInterfaces(Scope::Attached),
        Ec2Action::DescribeSubnets,
    ];
    for action in &actions {
        let operation = action.operation().unwrap();
        for api in [&api as &dyn Ec2Api, &in_process] {
            lab.cloud.deny([]);
            assert_eq!(api.dry_run(action).await, Ok(()), "{operation}");
            lab.cloud.deny([operation]);
            let error = api.dry_run(action).await.unwrap_err();
            assert_eq!(error.kind, FailureKind::Denied, "{operation}: {error}");
            assert_eq!(error.code.as_deref(), Some("UnauthorizedOperation"), "{operation}");
        }
    }
    lab.cloud.deny([]);
    let without = [
        Ec2Action::AssignIpv6Addresses(AssignIpv6Addresses { eni: primary, prefixes: 1 }),
        Ec2Action::ReadMetadata,
    ];
    for action in &without {
        for api in [&api as &dyn Ec2Api, &in_process] {
            let error = api.dry_run(action).await.unwrap_err();
            assert_eq!(error.kind, FailureKind::Rejected, "{error}");
        }
    }
    let after = api.describe_network_interfaces(instance, &Scope::Attached).await.unwrap();
    let unattached = api.describe_network_interfaces(instance, &Scope::Unattached).await.unwrap();
    assert_eq!((after, unattached), (before, Vec::new()));
}

#[tokio::test]
async fn refusals_are_classified() {
    let lab = Lab::new();
    let api = connect(&lab).await;
    let primary = lab.cloud.with(|cloud, _| cloud.interface(&lab.node.primary).unwrap().clone());
    let own: AttachmentId = primary.attachment.unwrap().id;
    let assign = |amount| {
        Ec2Action::AssignPrivateIpAddresses(AssignPrivateIpAddresses { eni: primary.id, amount })
    };
    let attach = |eni, device| {
        Ec2Action::AttachNetworkInterface(AttachNetworkInterface {
            eni,
            instance: lab.instance,
            card: Card(0),
            device: DeviceIndex(device),
        })
    };
    let create = |subnet, ipv4| {
        Ec2Action::CreateNetworkInterface(CreateNetworkInterface { ipv4, ..create(subnet) })
    };
    let cases = [
        (
            create(lab.tiny, Ipv4Amount::Addresses(11)),
            FailureKind::SubnetFull,
            "InsufficientFreeAddressesInSubnet",
        ),
        (
            create(lab.tiny, Ipv4Amount::Prefixes(1)),
            FailureKind::NoFreePrefix,
            "InsufficientCidrBlocks",
        ),
        (
            create("subnet-1".parse().unwrap(), Ipv4Amount::Addresses(1)),
            FailureKind::Rejected,
            "InvalidSubnetID.NotFound",
        ),
        (
            assign(Ipv4Amount::Addresses(10)),
            FailureKind::AddressLimit,
            "PrivateIpAddressLimitExceeded",
        ),
        (attach(primary.id, 1), FailureKind::InUse, "InvalidNetworkInterface.InUse"),
        (
            attach("eni-1".parse().unwrap(), 1),
            FailureKind::NotFound,
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (
            Ec2Action::DetachNetworkInterface(DetachNetworkInterface {
                eni: primary.id,
                attachment: "eni-attach-1".parse().unwrap(),
            }),
            FailureKind::NotFound,
            "InvalidAttachmentID.NotFound",
        ),
        (
            Ec2Action::DetachNetworkInterface(DetachNetworkInterface {
                eni: primary.id,
                attachment: own,
            }),
            FailureKind::Rejected,
            "OperationNotPermitted",
        ),
        (
            Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni: primary.id }),
            FailureKind::InUse,
            "InvalidParameterValue",
        ),
    ];
    for (action, kind, code) in cases {
        match execute(&api, &lab.node, &action, NOW).await {
            Outcome::Failed(failure) => {
                assert_eq!(failure.kind, kind, "{action:?}: {failure}");
                assert!(failure.message.contains(code), "{action:?}: {failure}");
            }
            Outcome::Done(effect) => panic!("{action:?} was done: {effect:?}"),
        }
    }

    // Two ENIs more fill an m5.large; the third is one too many.
    for device in 1..=3 {
        let request = CreateNetworkInterface {
            client_token: format!("token-{device}"),
            ..self::create(lab.node.subnet)
        };
        let eni = api.create_network_interface(&request).await.unwrap().id;
        let outcome = execute(&api, &lab.node, &attach(eni, device), NOW).await;
        match (device, outcome) {
            (1 | 2, Outcome::Done(Effect::Attached(_))) => {}
            (3, Outcome::Failed(failure)) => {
                assert_eq!(failure.kind, FailureKind::AttachmentLimit, "{failure}");
            }
            (device, other) => panic!("device {device}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn each_request_is_told_with_its_id_and_status() {
    let lab = Lab::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let told = Arc::clone(&told);
        RequestObserver::new(move |request| told.lock().unwrap().push(request))
    };
    let options = options(&lab.ec2.url(), Some(&lab.imds.url()));
    let api = SdkEc2::connect(SdkOptions { observer: Some(observer), ..options }).await.unwrap();
    let eni = api.create_network_interface(&create(lab.node.subnet)).await.unwrap().id;
    let gone = DeleteNetworkInterface { eni };
    api.delete_network_interface(&gone).await.unwrap();
    api.delete_network_interface(&gone).await.unwrap_err();
    drop(lab.ec2);
    api.delete_network_interface(&gone).await.unwrap_err();

    let told = told.lock().unwrap();
    let seen: Vec<_> = told.iter().map(|it| (it.operation.as_str(), it.status)).collect();
    let expected = [
        ("CreateNetworkInterface", Some(200)),
        ("DeleteNetworkInterface", Some(200)),
        ("DeleteNetworkInterface", Some(400)),
        ("DeleteNetworkInterface", None),
    ];
    assert_eq!(seen, expected);
    let ids: BTreeSet<_> = told.iter().filter_map(|it| it.request_id.clone()).collect();
    assert_eq!(ids.len(), 3, "each answer has an id of its own: {told:?}");
    assert_eq!(told[3].request_id, None);
}

#[tokio::test]
async fn metadata_reads_as_the_cloud_has_it() {
    let lab = Lab::new();
    // The region comes from the metadata service.
    let options = SdkOptions { region: None, ..options(&lab.ec2.url(), Some(&lab.imds.url())) };
    let api = SdkEc2::connect(options).await.unwrap();
    let request = CreateNetworkInterface {
        ipv4: Ipv4Amount::Addresses(3),
        ipv6_prefixes: 2,
        ..create(lab.node.subnet)
    };
    let eni = api.create_network_interface(&request).await.unwrap().id;
    let request = AttachNetworkInterface {
        eni,
        instance: lab.instance,
        card: Card(0),
        device: DeviceIndex(2),
    };
    api.attach_network_interface(&request).await.unwrap();
    api.assign_private_ip_addresses(&AssignPrivateIpAddresses {
        eni,
        amount: Ipv4Amount::Prefixes(1),
    })
    .await
    .unwrap();

    let outcome = execute(&api, &lab.node, &Ec2Action::ReadMetadata, NOW).await;

    let expected = lab.cloud.with(|cloud, now| cloud.metadata(lab.instance, now).unwrap());
    match outcome {
        Outcome::Done(Effect::Metadata(read)) => assert_eq!(in_order(read), in_order(expected)),
        other => panic!("read metadata: {other:?}"),
    }
}

#[tokio::test]
async fn eni_that_the_metadata_service_does_not_tell_whole_is_incomplete_and_the_rest_is_read() {
    let lab = Lab::new();
    let api = connect(&lab).await;
    let whole = attached(&lab, &api, lab.node.subnet, 1).await;
    let half = attached(&lab, &api, lab.node.subnet, 2).await;
    for name in [
        "device-number",
        "interface-id",
        "subnet-id",
        "vpc-id",
        "local-ipv4s",
        "security-group-ids",
        "subnet-ipv4-cidr-block",
    ] {
        lab.cloud.with(|cloud, _| cloud.withhold_metadata(half.id, Some(name)));

        let read = api.metadata(NOW).await.unwrap();

        let seen = &read.observation;
        let expected = IncompleteEni::new(half.mac, name);
        assert_eq!(seen.incomplete, [expected], "{name}");
        for eni in [lab.node.primary, whole.id] {
            assert!(seen.enis.iter().any(|seen| seen.id == eni), "{name}: {seen:?}");
        }
        let in_process = EmulatedEc2::new(lab.cloud.clone(), lab.instance);
        let expected = in_process.metadata(NOW).await.unwrap();
        assert_eq!(in_order(read), in_order(expected), "{name}");
    }
    lab.cloud.with(|cloud, _| cloud.withhold_metadata(half.id, None));
    assert_eq!(api.metadata(NOW).await.unwrap().observation.incomplete, []);
}

#[tokio::test]
async fn refusals_of_the_metadata_service_are_classified() {
    let lab = Lab::new();
    let api = connect(&lab).await;
    for (status, kind) in [
        (429, FailureKind::Throttled),
        (503, FailureKind::Throttled),
        (401, FailureKind::Denied),
        (403, FailureKind::Denied),
        (500, FailureKind::Unanswered),
    ] {
        lab.cloud.refuse_metadata(Some(status));
        let error = api.metadata(NOW).await.unwrap_err();
        assert_eq!(error.kind, kind, "{status}: {error}");
        lab.cloud.refuse_metadata(None);
        assert!(api.metadata(NOW).await.is_ok(), "after {status}");
    }
}

#[tokio::test]
async fn eni_of_another_vpc_is_shown_with_it() {
    let lab = Lab::new();
    let api = connect(&lab).await;
    let (vpc, subnet) = lab.cloud.with(|cloud, _| {
        let vpc = cloud.create_vpc(vec!["10.9.0.0/16".parse().unwrap()], Vec::new());
        let subnet = CreateSubnet::new(vpc, lab.node.zone, "10.9.1.0/24".parse().unwrap());
        (vpc, cloud.create_subnet(subnet).unwrap())
    });
    let made = attached(&lab, &api, subnet, 1).await;
    assert_eq!(made.vpc, Some(vpc));
    for action in [Ec2Action::DescribeNetworkInterfaces(Scope::Attached), Ec2Action::ReadMetadata] {
        let enis = match execute(&api, &lab.node, &action, NOW).await {
            Outcome::Done(Effect::Observed(seen)) => seen.enis,
            Outcome::Done(Effect::Metadata(read)) => read.observation.enis,
            other => panic!("{action:?}: {other:?}"),
        };
        let vpc_of = |id| enis.iter().find(|eni| eni.id == id).map(|eni| eni.vpc);
        assert_eq!(vpc_of(made.id), Some(Some(vpc)), "{action:?}: {enis:?}");
        assert_eq!(vpc_of(lab.node.primary), Some(Some(lab.node.vpc)), "{action:?}: {enis:?}");
    }
}

/// Makes an ENI with a secondary address, attaches it, and returns it as it was made.
async fn attached(lab: &Lab, api: &SdkEc2, subnet: SubnetId, device: u8) -> ObservedEni {
    let request = CreateNetworkInterface {
        client_token: format!("token-{device}"),
        ipv4: Ipv4Amount::Addresses(1),
        ..create(subnet)
    };
    let made = api.create_network_interface(&request).await.unwrap();
    let request = AttachNetworkInterface {
        eni: made.id,
        instance: lab.instance,
        card: Card(0),
        device: DeviceIndex(device),
    };
    api.attach_network_interface(&request).await.unwrap();
    made
}

#[tokio::test]
async fn silence_is_no_answer() {
    let lab = Lab::new();
    // It accepts, because the kernel does, and never answers.
    let silent: TcpListener = listener();
    let urls = [
        CLOSED_PORT.to_owned(),
        format!("http://{}", silent.local_addr().unwrap()),
        // HTTPS where HTTP is spoken: the handshake fails, as it would with an unknown certificate.
        format!("https://{}", lab.ec2.addr()),
    ];
    for url in urls {
        let options =
            SdkOptions { timeout: Duration::from_millis(300), ..options(&url, Some(&url)) };
        let api = SdkEc2::connect(options.clone()).await.unwrap();
        for action in
            [Ec2Action::DescribeNetworkInterfaces(Scope::Attached), Ec2Action::ReadMetadata]
        {
            match execute(&api, &lab.node, &action, NOW).await {
                Outcome::Failed(failure) => {
                    assert_eq!(failure.kind, FailureKind::Unanswered, "{url}: {failure}");
                }
                Outcome::Done(effect) => panic!("{url} {action:?}: {effect:?}"),
            }
        }
        // The region, which has to be asked for, is no reason not to start.
        let api = SdkEc2::connect(SdkOptions { region: None, ..options }).await.unwrap();
        let action = Ec2Action::DescribeNetworkInterfaces(Scope::Attached);
        match execute(&api, &lab.node, &action, NOW).await {
            Outcome::Failed(failure) => {
                assert_eq!(failure.kind, FailureKind::Unanswered, "{url}: {failure}");
                assert!(failure.message.contains("placement/region"), "{url}: {failure}");
            }
            Outcome::Done(effect) => panic!("{url} {action:?}: {effect:?}"),
        }
    }
}

#[tokio::test]
async fn region_is_asked_for_until_it_is_known() {
    let lab = Lab::new();
    let imds = listener();
    let imds_url = format!("http://{}", imds.local_addr().unwrap());
    drop(imds);
    let options = SdkOptions { region: None, ..options(&lab.ec2.url(), Some(&imds_url)) };
    let api = SdkEc2::connect(options).await.unwrap();
    let ask = async || api.describe_network_interfaces(lab.instance, &Scope::Attached).await;
    assert_eq!(ask().await.unwrap_err().kind, FailureKind::Unanswered);

    let addr = imds_url.strip_prefix("http://").unwrap();
    let listener = TcpListener::bind(addr).unwrap();
    let _imds = HttpServer::imds(lab.cloud.clone(), lab.instance, listener).unwrap();
    assert_eq!(ask().await.unwrap().len(), 1);
}

#[tokio::test]
async fn endpoint_that_is_no_url_is_refused_before_anything_is_sent() {
    for url in ["no url", "ftp://example.com", "http://", "example.com"] {
        let error = SdkEc2::connect(options(url, None)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Ec2Endpoint { .. }), "{url}: {error:?}");
    }
}

/// A port without a listener: discard's.
const CLOSED_PORT: &str = "http://127.0.0.1:9";

/// Options that lead nowhere but to these endpoints.
pub fn options(ec2: &str, imds: Option<&str>) -> SdkOptions {
    SdkOptions {
        region: Some("eu-west-1".into()),
        ec2_endpoint: Some(ec2.into()),
        imds_endpoint: Some(imds.unwrap_or(CLOSED_PORT).into()),
        credentials: Credentials::Static {
            access_key_id: "test".into(),
            secret_access_key: "test".into(),
        },
        timeout: Duration::from_secs(20),
        observer: None,
    }
}

pub async fn connect(lab: &Lab) -> SdkEc2 {
    let options = options(&lab.ec2.url(), Some(&lab.imds.url()));
    SdkEc2::connect(options).await.unwrap()
}

fn create(subnet: SubnetId) -> CreateNetworkInterface {
    CreateNetworkInterface {
        client_token: "token".into(),
        subnet,
        security_groups: Vec::new(),
        description: String::new(),
        tags: Default::default(),
        ipv4: Ipv4Amount::Addresses(0),
        ipv6_prefixes: 0,
    }
}

/// No server promises the order of ENIs, nor that of an ENI's blocks.
fn in_order(mut metadata: Metadata) -> Metadata {
    metadata.observation.enis.sort_by_key(|eni| eni.id);
    for eni in &mut metadata.observation.enis {
        eni.blocks.sort();
    }
    metadata
}
