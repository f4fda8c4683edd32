//! Endpoints that lie: answers without an end, and numbers that cannot be meant.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;

use vpc_ipam_aws::{Ec2Api as _, Ec2Error, SdkEc2, SdkOptions};
use vpc_ipam_core::{FailureKind, Mac, Scope};

use crate::lab::{Lab, NOW};
use crate::liar::{Asked, Liar};
use crate::sdk::options;

/// What the documentation promises, with what is in buffers on the way.
const READ_MAX: u64 = (16 << 20) + (16 << 20);

#[tokio::test]
async fn answer_of_any_length_is_read_up_to_a_bound() {
    const LENGTH: u64 = 1_500_000_000;
    let ec2 = Liar::new(|asked| asked.long(LENGTH));
    let imds = Liar::imds(|asked| asked.long(LENGTH));
    let token = Liar::new(|asked| asked.long(LENGTH));
    let api = connect(&ec2, &imds).await;

    for error in
        [list(&api).await, metadata(&api).await, metadata(&connect(&ec2, &token).await).await]
    {
        assert_eq!(error.kind, FailureKind::Unanswered, "{error}");
    }
    for liar in [ec2, imds, token] {
        assert!(liar.sent() < READ_MAX, "{} bytes were read", liar.sent());
    }
}

/// An error is read whole before it is known to be one.
#[tokio::test]
async fn message_of_any_length_is_cut() {
    let ec2 = Liar::new(|asked| {
        let message = "m".repeat(10 << 20);
        let body = format!(
            "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>{message}</Message></Error></Errors></Response>"
        );
        asked.status("403 Forbidden", "", &body)
    });
    let error = list(&connect(&ec2, &ec2).await).await;
    assert_eq!(error.kind, FailureKind::Denied);
    let said = error.to_string();
    assert!(said.len() < 5000 && said.contains("(10485760 bytes)"), "{} bytes", said.len());
}

#[tokio::test]
async fn headers_without_an_end_are_no_answer() {
    let ec2 = Liar::new(|asked| {
        asked.write(b"HTTP/1.1 200 OK\r\n")?;
        for number in 0..10_000_000 {
            asked.write(format!("x-header-{number}: {number}\r\n").as_bytes())?;
        }
        Ok(())
    });
    let error = list(&connect(&ec2, &ec2).await).await;
    assert_eq!(error.kind, FailureKind::Unanswered, "{error}");
    assert!(ec2.sent() < READ_MAX, "{} bytes were read", ec2.sent());
}

#[tokio::test]
async fn list_without_an_end_is_asked_for_a_bounded_number_of_pages() {
    let page = |asked: Asked<'_>| {
        let operation = match asked.body.contains("Action=DescribeSubnets") {
            true => "DescribeSubnets",
            false => "DescribeNetworkInterfaces",
        };
        let next = format!("page-{}", asked.before);
        asked.ok(
            "",
            &format!("<{operation}Response><nextToken>{next}</nextToken></{operation}Response>"),
        )
    };
    let lab = Lab::new();
    for subnets in [true, false] {
        let ec2 = Liar::new(page);
        let api = connect(&ec2, &ec2).await;
        let error = match subnets {
            true => api.describe_subnets(lab.node.vpc, lab.node.zone).await.unwrap_err(),
            false => list(&api).await,
        };
        assert_eq!(error.kind, FailureKind::Unanswered, "{error}");
        assert!(error.message.contains("more than the 50 pages"), "{error}");
        assert_eq!(ec2.asked(), 50);
    }
}

#[tokio::test]
async fn list_with_more_than_any_instance_has_is_no_answer() {
    let ec2 = Liar::new(|asked| {
        let mut body = String::from(
            "<DescribeNetworkInterfacesResponse><networkInterfaceSet><item>\
            <networkInterfaceId>eni-1</networkInterfaceId><macAddress>02:00:00:00:00:01</macAddress>\
            <subnetId>subnet-1</subnetId><privateIpAddressesSet>",
        );
        for _ in 0..60_000 {
            body.push_str("<item><privateIpAddress>10.0.0.1</privateIpAddress></item>");
        }
        body.push_str("</privateIpAddressesSet></item></networkInterfaceSet></DescribeNetworkInterfacesResponse>");
        asked.ok("", &body)
    });
    let error = list(&connect(&ec2, &ec2).await).await;
    assert_eq!(error.kind, FailureKind::Unanswered, "{error}");
    assert!(error.message.contains("more than the 50000 items"), "{error}");
}

#[tokio::test]
async fn no_caller_is_asked_to_wait_longer_than_five_minutes() {
    let five_minutes = Some(Duration::from_secs(300));
    let cases = [
        ("retry-after", "18446744073709551615", five_minutes),
        ("x-amz-retry-after", "18446744073709551615", five_minutes),
        ("retry-after", "301", five_minutes),
        ("retry-after", "7", Some(Duration::from_secs(7))),
        ("x-amz-retry-after", "1500", Some(Duration::from_millis(1500))),
        // Beyond any number, or none: as if nothing were said.
        ("retry-after", "18446744073709551616", None),
        ("retry-after", "-1", None),
        ("retry-after", "Wed, 21 Oct 2550 07:28:00 GMT", None),
    ];
    for (name, value, expected) in cases {
        let refuse = move |asked: Asked<'_>| {
            asked.status("503 Service Unavailable", &format!("{name}: {value}\r\n"), "")
        };
        let (ec2, imds) = (Liar::new(refuse), Liar::imds(refuse));
        let api = connect(&ec2, &imds).await;
        assert_eq!(list(&api).await.retry_after, expected, "{name}: {value}");
        assert_eq!(metadata(&api).await.retry_after, expected, "metadata: {name}: {value}");
    }
}

#[tokio::test]
async fn more_enis_than_any_instance_has_are_not_asked_about() {
    let imds = Liar::imds(|asked| {
        let macs = || {
            (0..100_000).map(|n| {
                format!("02:00:00:{:02x}:{:02x}:{:02x}/\n", n >> 16, n >> 8 & 255, n & 255)
            })
        };
        match asked.path() {
            "network/interfaces/macs/" => asked.ok("", &macs().collect::<String>()),
            path => asked.ok("", value(path)),
        }
    });
    let error = metadata(&connect(&imds, &imds).await).await;
    assert!(error.message.contains("more than the 512 lines"), "{error}");
    assert!(imds.asked() < 20, "{} requests", imds.asked());
}

#[tokio::test]
async fn more_addresses_than_any_eni_has_are_not_read() {
    let imds = Liar::imds(|asked| match asked.path() {
        "network/interfaces/macs/" => asked.ok("", "02:00:00:00:00:01/\n"),
        "network/interfaces/macs/02:00:00:00:00:01/" => asked.ok("", "local-ipv4s\n"),
        path if path.ends_with("/local-ipv4s") => asked.ok("", &"10.0.0.1\n".repeat(100_000)),
        path => asked.ok("", value(path)),
    });
    let error = metadata(&connect(&imds, &imds).await).await;
    assert!(error.message.contains("more than the 4096 lines"), "{error}");
}

/// What is listed and not there, what is not listed, and what cannot be read.
#[tokio::test]
async fn eni_that_is_told_in_part_is_incomplete_and_the_others_are_read() {
    const HALF: &str = "network/interfaces/macs/02:00:00:00:00:02/";
    // The path, its answer, and what is missing then.
    let cases = [
        ("", None, "all of it"),
        ("device-number", None, "device-number"),
        ("device-number", Some(""), "device-number (read \"\": "),
        ("device-number", Some("first"), "device-number (read \"first\": "),
        ("interface-id", Some("eni 1"), "interface-id (read \"eni 1\": "),
        ("local-ipv4s", None, "local-ipv4s"),
        ("local-ipv4s", Some("10.0.0.300"), "local-ipv4s (read \"10.0.0.300\": "),
    ];
    for (name, answer, missing) in cases {
        let imds = Liar::imds(move |asked| match asked.path() {
            "network/interfaces/macs/" => asked.ok("", "02:00:00:00:00:01/\n02:00:00:00:00:02/\n"),
            path if path.strip_prefix(HALF) == Some(name) => match answer {
                Some(text) => asked.ok("", text),
                None => asked.status("404 Not Found", "", ""),
            },
            path if path.ends_with(":02/") || path.ends_with(":01/") => asked.ok("", "local-ipv4s"),
            path => asked.ok("", value(path)),
        });
        let api = connect(&imds, &imds).await;
        let read = api.metadata(NOW).await.unwrap().observation;
        assert_eq!(read.enis.len(), 1, "{name} {answer:?}: {read:?}");
        let [half] = &read.incomplete[..] else { panic!("{name} {answer:?}: {read:?}") };
        assert_eq!(half.mac, Mac([2, 0, 0, 0, 0, 2]), "{name} {answer:?}");
        assert!(half.missing.starts_with(missing), "{name} {answer:?}: {half:?}");
    }
}

#[tokio::test]
async fn value_of_any_length_makes_a_short_message() {
    let imds = Liar::imds(|asked| asked.ok("", &"i".repeat(1 << 20)));
    let error = metadata(&connect(&imds, &imds).await).await;
    assert!(error.to_string().len() < 5000, "{} bytes", error.to_string().len());
}

/// Every single answer may be in time: the whole has to be.
#[tokio::test]
async fn what_comes_drop_by_drop_ends_with_the_time_that_a_call_may_take() {
    let page = |asked: Asked<'_>| {
        std::thread::sleep(Duration::from_millis(60));
        let next = asked.before;
        asked.ok("", &format!("<DescribeNetworkInterfacesResponse><nextToken>{next}</nextToken></DescribeNetworkInterfacesResponse>"))
    };
    let path = |asked: Asked<'_>| {
        std::thread::sleep(Duration::from_millis(60));
        match asked.path() {
            "network/interfaces/macs/" => {
                let macs = (0..200).map(|n| format!("02:00:00:00:00:{n:02x}/\n"));
                asked.ok("", &macs.collect::<String>())
            }
            path => asked.ok("", value(path)),
        }
    };
    let slowly = |asked: Asked<'_>| asked.slowly();
    let cases = [
        ("slow pages and values", Liar::new(page), Liar::imds(path)),
        ("slow bytes", Liar::new(slowly), Liar::imds(slowly)),
        ("slow bytes of a token", Liar::new(slowly), Liar::new(slowly)),
    ];
    for (case, ec2, imds) in cases {
        let timeout = Duration::from_millis(400);
        let options = SdkOptions { timeout, ..options(&ec2.url(), Some(&imds.url())) };
        let api = SdkEc2::connect(options).await.unwrap();
        for error in [list(&api).await, metadata(&api).await] {
            assert_eq!(error.kind, FailureKind::Unanswered, "{case}: {error}");
        }
        assert!(ec2.asked() < 20 && imds.asked() < 20, "{case}: {} {}", ec2.asked(), imds.asked());
    }
}

/// The SDK keeps a token for six hours; the service may forget it before.
#[tokio::test]
async fn token_that_is_refused_is_replaced_once() {
    let hours = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&hours);
    let lab = Lab::at(move || NOW + Duration::from_secs(3600 * clock.load(Ordering::Relaxed)));
    let options = options(&lab.ec2.url(), Some(&lab.imds.url()));
    let api = SdkEc2::connect(options).await.unwrap();
    for passed in [0, 7, 7, 14] {
        hours.store(passed, Ordering::Relaxed);
        let read = api.metadata(NOW).await;
        assert_eq!(
            read.map(|metadata| metadata.node).as_ref(),
            Ok(&lab.node),
            "after {passed} hours"
        );
    }
}

#[tokio::test]
async fn token_after_token_is_asked_for_only_as_often_as_values_are() {
    let imds = Liar::imds(|asked| asked.status("401 Unauthorized", "", ""));
    let api = connect(&imds, &imds).await;
    let error = metadata(&api).await;
    assert_eq!(error.kind, FailureKind::Denied, "{error}");
    // A token and a value, and once more.
    assert_eq!(imds.asked(), 4);
    metadata(&api).await;
    assert_eq!(imds.asked(), 4 + 3, "the second time a token is there");
}

async fn connect(ec2: &Liar, imds: &Liar) -> SdkEc2 {
    SdkEc2::connect(options(&ec2.url(), Some(&imds.url()))).await.unwrap()
}

async fn list(api: &SdkEc2) -> Ec2Error {
    let instance = "i-1".parse().unwrap();
    api.describe_network_interfaces(instance, &Scope::Attached).await.unwrap_err()
}

async fn metadata(api: &SdkEc2) -> Ec2Error {
    api.metadata(NOW).await.unwrap_err()
}

/// Returns what an honest metadata service would say.
fn value(path: &str) -> &str {
    match path {
        "mac" => "02:00:00:00:00:01",
        "instance-id" => "i-1",
        "instance-type" => "m5.large",
        "placement/availability-zone" => "eu-west-1a",
        path if path.ends_with("/vpc-id") => "vpc-1",
        path if path.ends_with("/subnet-id") => "subnet-1",
        path if path.ends_with("/interface-id") => "eni-1",
        path if path.ends_with("/device-number") => "0",
        _ => "",
    }
}
