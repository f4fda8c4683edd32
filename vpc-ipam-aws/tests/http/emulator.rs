//! The emulator in process, and its HTTP fronts byte by byte.

use core::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vpc_ipam_aws::{Ec2Api as _, EmulatedEc2, HttpServer};
use vpc_ipam_core::sim::Change;
use vpc_ipam_core::{
    AttachNetworkInterface, Card, CreateNetworkInterface, DeviceIndex, Ipv4Amount,
};

use crate::lab::Lab;
use crate::sequence::{Knows, life_of_an_eni};

#[tokio::test]
async fn an_eni_lives_in_process() {
    let lab = Lab::new();
    let api = EmulatedEc2::new(lab.cloud.clone(), lab.instance);
    let knows = Knows {
        client_tokens: true,
        delete_on_termination: true,
        free_addresses: true,
        assigned_alone: true,
    };
    life_of_an_eni(&api, &lab.node, knows).await;
}

#[tokio::test]
async fn follower_gets_a_change_before_the_call_is_answered() {
    let lab = Lab::new();
    let (told, changes) = std::sync::mpsc::channel();
    lab.cloud.on_change(move |change| told.send(change).unwrap());
    assert!(matches!(changes.try_recv(), Ok(Change::Attached(_))), "the primary ENI");

    let api = EmulatedEc2::new(lab.cloud.clone(), lab.instance);
    let eni = api.create_network_interface(&create(&lab)).await.unwrap();
    let request = AttachNetworkInterface {
        eni: eni.id,
        instance: lab.instance,
        card: Card(0),
        device: DeviceIndex(1),
    };
    let attachment = api.attach_network_interface(&request).await.unwrap();

    match changes.try_recv() {
        Ok(Change::Attached(port)) => assert_eq!(port.attachment, attachment),
        other => panic!("expected the ENI to be attached, got {other:?}"),
    }
}

#[tokio::test]
async fn ec2_answers_in_xml() {
    let lab = Lab::new();
    let form = "Action=DescribeSubnets&Version=2016-11-15&MaxResults=1";
    let cases = [
        (
            "Action=DescribeSubnets&Version=2016-11-15&Filter.1.Name=cidr&Filter.1.Value.1=10.0.2.*",
            200,
            "<DescribeSubnetsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>",
        ),
        (
            "Action=DeleteNetworkInterface&Version=2016-11-15&NetworkInterfaceId=eni-1",
            400,
            "<Response><Errors><Error><Code>InvalidNetworkInterfaceID.NotFound</Code>\
             <Message>The networkInterface ID 'eni-1' does not exist</Message></Error></Errors><RequestID>",
        ),
        ("Action=Nonsense&Version=2016-11-15", 400, "<Code>InvalidAction</Code>"),
        ("Version=2016-11-15", 400, "<Code>MissingParameter</Code>"),
        (form, 400, "<Code>InvalidParameterValue</Code>"),
        (
            "Action=DescribeSubnets&Version=2016-11-15&Surprise=1",
            400,
            "<Code>UnknownParameter</Code>",
        ),
        (
            "Action=DescribeSubnets&Version=2016-11-15&Filter.1.Name=surprise&Filter.1.Value.1=1",
            400,
            "<Code>InvalidParameterValue</Code>",
        ),
        (
            "Action=DescribeSubnets&Version=2016-11-15&DryRun=true",
            412,
            "<Code>DryRunOperation</Code>",
        ),
        (
            "Action=AssignPrivateIpAddresses&Version=2016-11-15&DryRun=true&NetworkInterfaceId=eni-0123456789abcdef0\
             &SecondaryPrivateIpAddressCount=1",
            400,
            "<Code>UnknownParameter</Code>",
        ),
        (
            "Action=CreateNetworkInterface&Version=2016-11-15&SubnetId=subnet-1&Ipv4PrefixCount=1\
             &SecondaryPrivateIpAddressCount=1",
            400,
            "<Code>InvalidParameterCombination</Code>",
        ),
    ];
    for (form, status, expected) in cases {
        let answer = post(&lab.ec2, form).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{form}: {head}");
        assert!(body.contains(expected), "{form}: {body}");
    }
}

#[tokio::test]
async fn requests_that_a_web_page_makes_a_browser_send_are_refused() {
    let lab = Lab::new();
    let get = "GET /?Action=DescribeSubnets&Version=2016-11-15 HTTP/1.1";
    for (server, head, served) in
        [(&lab.ec2, get, 200), (&lab.imds, "GET /latest/meta-data/instance-id HTTP/1.1", 401)]
    {
        let own = server.addr();
        let cases = [
            (format!("Host: {own}"), served),
            (format!("Host: localhost:{}", own.port()), served),
            (format!("Host: {own}\r\nOrigin: http://{own}"), served),
            (format!("Host: {own}\r\nSec-Fetch-Site: none"), served),
            // The name of the page was made to resolve to loopback.
            (format!("Host: example.com:{}", own.port()), 403),
            (format!("Host: {own}\r\nHost: example.com"), 403),
            (format!("Host: {own}\r\nOrigin: http://example.com"), 403),
            (format!("Host: {own}\r\nOrigin: http://127.0.0.1:1"), 403),
            (format!("Host: {own}\r\nOrigin: null"), 403),
            // Of an image, a browser tells no origin.
            (format!("Host: {own}\r\nSec-Fetch-Site: cross-site"), 403),
            (format!("Host: {own}\r\nSec-Fetch-Site: same-site"), 403),
        ];
        for (headers, status) in cases {
            let answer = exchange(server, &format!("{head}\r\n{headers}"), "").await;
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&expected), "{head}: {headers}: {answer}");
        }
        // HTTP/1.0 needs no Host, and a browser sends one all the same.
        let old = head.replace("HTTP/1.1", "HTTP/1.0");
        let answer = exchange(server, &old, "").await;
        assert!(answer.starts_with("HTTP/1.0 403 "), "{answer}");
        let whole = head.replace(" /", " http://example.com/");
        let answer = exchange(server, &format!("{whole}\r\nHost: {own}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
}

#[tokio::test]
async fn imds_wants_a_token_and_lists_what_there_is() {
    let lab = Lab::new();
    let eni = lab.cloud.with(|cloud, _| cloud.interface(&lab.node.primary).unwrap().clone());
    let get = async |path: &str, token: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}");
        let answer = send(&lab.imds, &head, "").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    };

    let head = "PUT /latest/api/token HTTP/1.1";
    assert!(send(&lab.imds, head, "").await.starts_with("HTTP/1.1 400 "));
    let head = format!("{head}\r\nX-aws-ec2-metadata-token-ttl-seconds: 60");
    let answer = send(&lab.imds, &head, "").await;
    let token = answer.split_once("\r\n\r\n").unwrap().1;

    let macs = "/latest/meta-data/network/interfaces/macs";
    let own = format!("{macs}/{}", eni.mac);
    let listed = (200, format!("{}/", eni.mac));
    let fields = "device-number\ninterface-id\nlocal-ipv4s\nmac\nowner-id\nsecurity-group-ids\nsubnet-id\n\
                  subnet-ipv4-cidr-block\nsubnet-ipv6-cidr-blocks\nvpc-id\nvpc-ipv4-cidr-block\n\
                  vpc-ipv4-cidr-blocks\nvpc-ipv6-cidr-blocks";
    let cases = [
        ("/latest/meta-data/instance-id".to_owned(), (200, lab.instance.to_string())),
        ("/latest/meta-data/placement/region".to_owned(), (200, "eu-west-1".to_owned())),
        (macs.to_owned(), listed.clone()),
        (format!("{macs}/"), listed),
        (format!("{own}/"), (200, fields.to_owned())),
        (format!("{own}/interface-id"), (200, eni.id.to_string())),
        (format!("{own}/device-number"), (200, "0".to_owned())),
        (format!("{own}/ipv4-prefix"), (404, String::new())),
        (format!("{macs}/02:ff:ff:ff:ff:ff/"), (404, String::new())),
    ];
    for (path, expected) in cases {
        assert_eq!(get(&path, token).await, expected, "{path}");
        assert_eq!(get(&path, "wrong").await.0, 401, "{path} without a token");
    }
}

fn create(lab: &Lab) -> CreateNetworkInterface {
    CreateNetworkInterface {
        client_token: "token-1".into(),
        subnet: lab.node.subnet,
        security_groups: Vec::new(),
        description: String::new(),
        tags: Default::default(),
        ipv4: Ipv4Amount::Addresses(0),
        ipv6_prefixes: 0,
    }
}

async fn post(server: &HttpServer, form: &str) -> String {
    let head = "POST / HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded";
    send(server, head, form).await
}

/// Sends a request to the server by its address.
async fn send(server: &HttpServer, head: &str, body: &str) -> String {
    exchange(server, &format!("{head}\r\nHost: {}", server.addr()), body).await
}

/// Sends a request by hand and returns the whole answer.
async fn exchange(server: &HttpServer, head: &str, body: &str) -> String {
    let request =
        format!("{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
    answer
}
