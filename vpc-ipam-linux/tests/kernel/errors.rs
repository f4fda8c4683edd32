//! What an operator reads when the kernel refuses.

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use vpc_ipam_linux::host::{self, HostError};
use vpc_ipam_linux::{
    Difference, Extent, HostConfig, KernelChange, KernelNetlink, Netlink as _, NodeNetwork, Object,
    Refusal, eni as enis,
};

use crate::support::{Altered, Netns, Vpc, chain, eni, eni_mac, really};

#[test]
fn missing_capabilities_are_named() {
    let vpc = Vpc::new();
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20"]);
    let other = Netns::new();

    let (refused, not_entered) = vpc
        .node
        .namespace
        .run(|| {
            // Of this thread alone, which ends with the function.
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets).unwrap();
            let mut netlink = KernelNetlink::current().unwrap();
            let refused = enis::set_up(&mut netlink, &eni(1)).unwrap_err();
            (chain(&refused), chain(&other.namespace.run(|| ()).unwrap_err()))
        })
        .unwrap();

    for part in [
        "set up or remove eni-1: ",
        "set link eth1 mtu 9001 up (CAP_NET_ADMIN is missing?): Operation not permitted",
    ] {
        assert!(refused.contains(part), "{part:?} not in {refused:?}");
    }
    let path = other.namespace.path().display();
    assert_eq!(
        not_entered,
        format!(
            "enter network namespace {path}: CAP_SYS_ADMIN is missing: Operation not permitted (os error 1)"
        )
    );
}

/// 1.6.1 and 1.12.1: `/proc/sys` is read-only in a container.
#[test]
fn kernel_variables_that_cannot_be_written_stop_nothing_else() {
    const EROFS: i32 = 30;
    let vpc = Vpc::new();
    let change = |inner: &mut KernelNetlink, change: &KernelChange| match change {
        KernelChange::Set(Object::Sysctl(_)) => Err(Refusal { errno: Some(EROFS), says: None }),
        other => really(inner, other),
    };
    let mut netlink = Altered { inner: vpc.node.netlink(), change };

    let error = host::set_up(&mut netlink, &HostConfig::default(), &vpc.host_facts());

    let Err(HostError::Apply(error)) = error else { panic!("{error:?}") };
    let refused = error.kernel_variables().unwrap();
    let words: Vec<_> = refused.iter().map(|refused| chain(refused)).collect();
    let expected = ["net.ipv4.conf.eth0.rp_filter=2", "net.ipv4.conf.all.send_redirects=0"].map(|it| {
        format!(
            "set sysctl {it} (/proc/sys is mounted read-only: write it on the host or in a privileged init container): \
             Read-only file system (os error 30)"
        )
    });
    assert_eq!(words, expected);
    assert!(vpc.nat().is_some());
    assert_eq!(vpc.node.rules(1024).len(), 1);
    // What is right already needs no write, so it is not reported.
    vpc.node.exec("sysctl -qw net.ipv4.conf.eth0.rp_filter=2 net.ipv4.conf.all.send_redirects=0");
    let again = host::set_up(&mut netlink, &HostConfig::default(), &vpc.host_facts());
    assert_eq!(again.unwrap(), []);
}

#[test]
fn repair_tells_apart_what_it_put_right_and_what_it_could_not() {
    const EROFS: i32 = 30;
    let (vpc, node, _pods) = crate::node::node_with_pods();
    vpc.node.ip("rule del pref 1024");
    vpc.node.exec("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
    let change = |inner: &mut KernelNetlink, change: &KernelChange| match change {
        KernelChange::Set(Object::Sysctl(_)) => Err(Refusal { errno: Some(EROFS), says: None }),
        other => really(inner, other),
    };
    let mut netlink = Altered { inner: vpc.node.netlink(), change };

    let repaired = NodeNetwork::repair(&|| node.clone(), &mut netlink, Extent::All).unwrap();

    let [Difference::Missing(Object::Rule(rule))] = &repaired.differences[..] else {
        panic!("{:?}", repaired.differences);
    };
    assert_eq!(rule.priority, 1024);
    let [refused] = &repaired.unwritable[..] else { panic!("{:?}", repaired.unwritable) };
    assert!(refused.to_string().contains("rp_filter"), "{refused}");
}

#[test]
fn other_refusals_are_no_matter_of_kernel_variables() {
    const ENOMEM: i32 = 12;
    let vpc = Vpc::new();
    let change =
        |_: &mut KernelNetlink, _: &KernelChange| Err(Refusal { errno: Some(ENOMEM), says: None });
    let mut netlink = Altered { inner: vpc.node.netlink(), change };

    let error = host::set_up(&mut netlink, &HostConfig::default(), &vpc.host_facts());

    let Err(HostError::Apply(error)) = error else { panic!("{error:?}") };
    assert!(error.kernel_variables().is_none());
    assert!(error.to_string().contains("rule 1024: fwmark 0x80/0x80 lookup main"), "{error}");
}

/// The link goes between the moment when it is found and the moment when it is set up.
#[test]
fn link_that_goes_meanwhile_is_named() {
    let vpc = Vpc::new();
    vpc.plug("eth1", eni_mac(1), "subnet1", &["10.0.0.20"]);
    let gone = |inner: &mut KernelNetlink, change: &KernelChange| {
        let _ = vpc.node.try_ip("link del eth1");
        really(inner, change)
    };
    let mut netlink = Altered { inner: vpc.node.netlink(), change: gone };

    let error = enis::set_up(&mut netlink, &eni(1)).unwrap_err();

    let words = chain(&error);
    assert!(
        words.contains("set link eth1 mtu 9001 up (the link is gone): No such device"),
        "{words}"
    );
    assert!(netlink.link("eth1").unwrap().is_none());
}
