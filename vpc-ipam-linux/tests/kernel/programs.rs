//! Programs that write the address translation and cannot.

use std::path::PathBuf;

use vpc_ipam_linux::host::HostError;
use vpc_ipam_linux::{ApplyError, HostConfig, KernelNetlink, NatPrograms, host};

use crate::regressions::Folder;
use crate::support::{INTERNET, Vpc, add_pods, chain, source_seen};

const IPTABLES: &str = "iptables-nft";

/// What nft says where the kernel lacks a module that the rules need.
const LACKS: &str = "Error: Could not process rule: No such file or directory";

#[test]
fn iptables_is_taken_where_nft_lists_and_cannot_load() {
    let folder = Folder::new("no-fib");
    let vpc = Vpc::new();
    // From a time when the kernel had all that it takes.
    vpc.set_up_host(&HostConfig {
        excluded_cidrs: vec!["192.0.2.0/24".parse().unwrap()],
        ..HostConfig::default()
    });
    let nft = folder.program("nft", "nft", "fib", LACKS);
    let mut netlink = netlink(&vpc, nft.clone(), &[IPTABLES]);

    assert_ne!(set_up(&mut netlink, &vpc).unwrap(), 0);

    assert_eq!(vpc.nat(), None, "rules of the program that was not taken");
    let [_a, b, _c] = add_pods(&vpc, &mut vpc.node.netlink());
    let seen = source_seen(&b.namespace, &vpc.fabric.namespace, INTERNET);
    assert_eq!(seen.as_deref(), Some("10.0.0.10"));
    for _ in 0..2 {
        assert_eq!(set_up(&mut netlink, &vpc).unwrap(), 0, "again");
    }
    // Another daemon finds what there is.
    let mut netlink = self::netlink(&vpc, nft, &[IPTABLES]);
    set_up(&mut netlink, &vpc).unwrap();
    let seen = source_seen(&b.namespace, &vpc.fabric.namespace, INTERNET);
    assert_eq!(seen.as_deref(), Some("10.0.0.10"));
    assert_eq!(vpc.nat(), None);
}

#[test]
fn nothing_else_is_tried_where_nft_may_load_the_next_time() {
    let folder = Folder::new("busy-nft");
    let vpc = Vpc::new();
    let nft = folder.program("nft", "nft", "fib", "Error: Device or resource busy");
    let mut netlink = netlink(&vpc, nft, &[IPTABLES]);

    let error = set_up(&mut netlink, &vpc).unwrap_err();

    let HostError::Apply(error) = error else { panic!("{error:?}") };
    assert!(error.may_pass(), "{error:?}");
    assert!(!vpc.node.exec("iptables-nft-save").contains("VPC-IPAM"));
}

#[test]
fn what_each_program_says_is_told_where_none_can_load() {
    let folder = Folder::new("none");
    let vpc = Vpc::new();
    let nft = folder.program("nft", "nft", "fib", LACKS);
    let restore = "iptables-nft-restore";
    folder.program(restore, restore, "VPC-IPAM", "Extension CONNMARK revision 0 not supported");
    std::fs::copy("/usr/sbin/iptables-nft-save", folder.0.join("iptables-nft-save")).unwrap();
    let iptables = folder.0.join(IPTABLES);
    let mut netlink = netlink(&vpc, nft, &[iptables.to_str().unwrap()]);

    let error = set_up(&mut netlink, &vpc).unwrap_err();

    let text = chain(&error);
    assert!(text.contains(LACKS) && text.contains("CONNMARK"), "{text}");
    let HostError::Apply(ApplyError::Refused { refused }) = error else { panic!("{error:?}") };
    assert!(refused.iter().all(|it| it.refusal.errno.is_none()), "{refused:?}");
}

fn netlink(vpc: &Vpc, nft: PathBuf, iptables: &[&str]) -> KernelNetlink {
    let iptables = iptables.iter().map(PathBuf::from).collect();
    vpc.node.netlink().with_nat_programs(NatPrograms { nft, iptables })
}

fn set_up(netlink: &mut KernelNetlink, vpc: &Vpc) -> Result<usize, HostError> {
    host::set_up(netlink, &HostConfig::default(), &vpc.host_facts()).map(|applied| applied.len())
}
