//! Every state of an ENI, a block, an address and a lease, and what each event makes of it.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Debug;
use core::time::Duration;

use expect_test::expect_file;

use super::*;
use crate::{
    AttachmentStatus, FoundInterface, FoundLink, Import, Mac, ObservedAttachment, ObservedEni, Pod,
    Source,
};

const fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

#[test]
fn every_state_answers_every_event_as_written() {
    let tables = [enis(), blocks(), addresses(), leases()].join("\n");
    expect_file!["lifecycle.txt"].assert_eq(&tables);
}

type Event<T> = (&'static str, fn(&mut T));

/// Prints what becomes of each state by each event, a line for each state.
fn table<T: Clone>(
    title: &str,
    states: &[(String, T)],
    events: &[Event<T>],
    show: impl Fn(&T) -> String,
) -> String {
    let mut text = format!("# {title}\n");
    for (name, state) in states {
        text.push_str(&format!("{name}\n"));
        for (event, apply) in events {
            let mut after = state.clone();
            apply(&mut after);
            let after = show(&after);
            let after = if after == *name { "stays" } else { &after };
            text.push_str(&format!("  {event:<28} {after}\n"));
        }
    }
    text
}

fn enis() -> String {
    let stages = [
        Stage::Available,
        Stage::Attached,
        Stage::Ready,
        Stage::Removing(Removing::Host),
        Stage::Removing(Removing::Detach),
        Stage::Removing(Removing::Delete { not_before: at(5) }),
        Stage::Removing(Removing::Vanished),
    ];
    let states: Vec<(String, Eni)> = stages.map(|stage| (format!("{stage:?}"), eni(stage))).into();
    let events: [Event<Eni>; 11] = [
        ("EC2 shows it attaching", |e| {
            e.on_attachment_seen(None, AttachmentStatus::Attaching, at(9))
        }),
        ("EC2 shows it attached", |e| {
            e.on_attachment_seen(None, AttachmentStatus::Attached, at(9))
        }),
        ("EC2 shows it detaching", |e| {
            e.on_attachment_seen(None, AttachmentStatus::Detaching, at(9))
        }),
        ("EC2 shows it detached", |e| {
            e.on_attachment_seen(None, AttachmentStatus::Detached, at(9))
        }),
        ("the node set its link up", Eni::on_set_up),
        ("it is to go", Eni::on_leave),
        ("it is used after all", Eni::on_stay),
        ("it could not leave", Eni::on_return),
        ("the node removed its rules", |e| {
            if e.on_host_removed() {
                e.id = "eni-forgotten".parse().unwrap();
            }
        }),
        ("EC2 detached it", |e| e.on_detached(at(5))),
        ("EC2 no longer has it", Eni::on_vanished),
    ];
    table("ENI", &states, &events, |eni| match eni.id.as_str() {
        "eni-forgotten" => "is forgotten".into(),
        _ => format!("{:?}", eni.stage),
    })
}

fn blocks() -> String {
    let make = |apply: fn(&mut Block)| {
        let mut block = Block::new("10.0.0.0/28".parse().unwrap(), at(1));
        apply(&mut block);
        (format!("{:?}", block.state()), block)
    };
    let states = [
        make(|_| {}),
        make(|block| block.on_denied(Source::Imds, at(2))),
        make(|block| block.on_denied(Source::Ec2, at(2))),
        make(|block| block.on_release_asked(at(2))),
    ];
    let events: [Event<Block>; 5] = [
        ("EC2 shows it", |b| b.on_confirmed(at(9))),
        ("IMDS does not show it", |b| b.on_denied(Source::Imds, at(9))),
        ("EC2 does not show it", |b| b.on_denied(Source::Ec2, at(9))),
        ("EC2 is asked to take it back", |b| b.on_release_asked(at(9))),
        ("EC2 refuses to take it back", Block::on_release_refused),
    ];
    table("Block", &states, &events, |block| debug(&block.state()))
}

fn addresses() -> String {
    const COOLDOWN: Duration = Duration::from_secs(30);
    fn address() -> IpAddr {
        "10.0.0.7".parse().unwrap()
    }
    fn show(block: &Block) -> String {
        match (
            block.assigned(),
            block.quarantined(),
            block.cooling(at(9), COOLDOWN, Duration::ZERO),
        ) {
            (1, 0, 0) => "assigned".into(),
            (0, 1, 0) => "in use by an untracked owner".into(),
            (0, 0, 1) => "cooling".into(),
            (0, 0, 0) => "free".into(),
            counts => format!("{counts:?}"),
        }
    }
    let make = |apply: fn(&mut Block)| {
        let mut block = Block::new("10.0.0.7/32".parse().unwrap(), at(1));
        apply(&mut block);
        (show(&block), block)
    };
    let states = [
        make(|_| {}),
        make(|block| {
            block.on_assigned(address());
        }),
        make(|block| {
            block.on_assigned(address());
            block.on_released(address(), Some(at(2)));
        }),
        make(|block| block.on_quarantined(address())),
    ];
    let events: [Event<Block>; 7] = [
        ("a pod gets it", |b| {
            b.on_assigned(address());
        }),
        ("its pod gives it up", |b| b.on_released(address(), Some(at(5)))),
        ("it was never handed out", |b| b.on_released(address(), None)),
        ("a restart finds it cooling", |b| b.on_cooling_restored(address(), at(5))),
        ("an untracked owner uses it", |b| b.on_quarantined(address())),
        ("the untracked owner is done", |b| b.on_unquarantined(address(), at(5))),
        ("a pod is imported with it", |b| b.on_imported(address())),
    ];
    table("Address", &states, &events, show)
}

fn leases() -> String {
    const SERVING: Eligibility = Eligibility {
        ipv4: Some(Ipv4Kind::Addresses),
        ipv6: false,
        skip_primary: false,
        multi_nic: false,
        cooldown: Duration::from_secs(30),
    };
    fn request() -> AddressRequest {
        let pod = Pod { namespace: "default".into(), name: "web".into() };
        let key = PodKey::new("net", "container", "eth0").unwrap();
        AddressRequest::new(key, Arc::new(pod))
    }
    fn assign(pool: &mut Pool) -> Option<Lease> {
        pool.assign(&request(), &SERVING, &[Card(0)], at(9)).ok()
    }
    fn import() -> Import {
        let link = FoundLink::new("eni1", Mac([2, 0, 0, 0, 0, 9]));
        let AddressRequest { key, pod, .. } = request();
        let interfaces = [FoundInterface::new([10, 0, 0, 7].into(), link)].into();
        Import::new(key, pod, at(9)).with_interfaces(interfaces)
    }
    fn held(pool: &Pool) -> Option<Lease> {
        pool.lease(&request().key).cloned()
    }
    fn show(pool: &Pool) -> String {
        let Some(lease) = pool.leases.get(&request().key) else {
            let cooling = pool.enis[0].blocks()[0].released().count();
            return if cooling > 0 { "none, its address cools".into() } else { "none".into() };
        };
        let durable = if lease.durable { "durable" } else { "not durable" };
        format!("{durable}, {} to be written", lease.uncommitted)
    }
    let make = |apply: fn(&mut Pool)| {
        let mut pool = Pool::default();
        pool.insert(eni(Stage::Ready), None);
        apply(&mut pool);
        (show(&pool), pool)
    };
    fn durable(pool: &mut Pool) {
        let lease = assign(pool).unwrap();
        pool.on_committed(lease);
    }
    let states = [
        make(|_| {}),
        make(|pool| {
            assign(pool);
        }),
        make(durable),
        make(|pool| {
            durable(pool);
            assign(pool);
        }),
    ];
    let events: [Event<Pool>; 6] = [
        ("ADD", |pool| {
            assign(pool);
        }),
        ("it is imported", |pool| drop(pool.import(&import(), at(9)))),
        ("it is written", |pool| {
            if let Some(lease) = held(pool) {
                pool.on_committed(lease);
            }
        }),
        ("it could not be written", |pool| {
            if let Some(lease) = held(pool) {
                pool.on_abandoned(&lease, at(9));
            }
        }),
        ("DEL", |pool| {
            pool.release(&request().key, at(9));
        }),
        ("its ENI vanishes", |pool| pool.remove("eni-1".parse().unwrap(), at(9))),
    ];
    table("Lease", &states, &events, |pool| {
        if pool.enis.is_empty() { show_without_eni(pool, &request().key) } else { show(pool) }
    })
}

fn show_without_eni(pool: &Pool, key: &PodKey) -> String {
    match pool.lease(key) {
        Some(lease) => format!("{} stays taken", lease.addresses().next().unwrap()),
        None => "none".into(),
    }
}

fn eni(stage: Stage) -> Eni {
    let observed = ObservedEni {
        id: "eni-1".parse().unwrap(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        subnet: "subnet-1".parse().unwrap(),
        vpc: None,
        attachment: Some(ObservedAttachment {
            id: Some("eni-attach-1".parse().unwrap()),
            instance: "i-1".parse().unwrap(),
            card: Card(0),
            device: DeviceIndex(1),
            status: AttachmentStatus::Attached,
            delete_on_termination: Some(true),
        }),
        interface_type: InterfaceType::Interface,
        primary_ipv4: Some([10, 0, 0, 5].into()),
        primary_ipv6: None,
        blocks: ["10.0.0.7/32".parse().unwrap()].into(),
        security_groups: Vec::new(),
        tags: None,
    };
    let mut eni = Eni::new(&observed, Card(0), DeviceIndex(1), at(1), at(1));
    eni.stage = stage;
    eni
}

fn debug(value: &impl Debug) -> String {
    format!("{value:?}")
}
