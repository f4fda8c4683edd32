//! What the core costs a node: EC2 calls, and times for people; `gates` holds the times by instructions.
#![allow(
    missing_docs,
    clippy::print_stdout,
    reason = "criterion's macros document nothing, and a benchmark prints what it found"
)]

use core::hint::black_box;
use core::time::Duration;

use criterion::{Criterion, criterion_group};
use vpc_ipam_benches::{BusyNode, ScannedNode, Table, node};
use vpc_ipam_core::Ec2Operation;

// Of amazon-vpc-cni-k8s, as docs/design.md has them: of its release 1.5.5 in memory, and of its newest version.
const PEER_ADDRESSES: &str = "peer 1.5.5: 2,100 ns; newest: 70 us";
const PEER_PREFIXES: &str = "peer 1.5.5: 2,300 ns";
const PEER_PLAN: &str = "peer: 140 us to find an ENI to free";
// Of the calls that allocate; making an ENI counts as one.
const PEER_CALLS: &str = "peer: 31";
const PEER_TIME: &str = "peer: 155 s";

criterion_group!(times, assign_and_release, plan);

fn main() {
    ec2_calls();
    println!();
    times();
    Criterion::default().configure_from_args().final_summary();
}

/// Counts what EC2 is asked until 30 pods that come at once have their addresses and the node rests.
fn ec2_calls() {
    let table = Table::of_figures("EC2 calls for 30 pods at once, WARM_IP_TARGET=1, m5.4xlarge");
    let mut world = node("m5.4xlarge", [("WARM_IP_TARGET", "1")]);
    let (before, begun) = (world.calls().clone(), world.now);
    for pod in 0..30 {
        world.add_pod(&format!("pod-{pod}"));
    }
    world.run_for(Duration::from_secs(300));
    assert_eq!(world.leases().len(), 30, "pods with an address");
    let took = world.changed_at().since(begun);
    let calls = |counts: fn(Ec2Operation) -> bool| -> u32 {
        let made = world.calls().iter().filter(|(operation, _)| counts(**operation));
        made.map(|(operation, made)| made - before.get(operation).unwrap_or(&0)).sum()
    };
    let allocates = |operation| {
        matches!(
            operation,
            Ec2Operation::CreateNetworkInterface
                | Ec2Operation::AssignPrivateIpAddresses
                | Ec2Operation::AssignIpv6Addresses
        )
    };
    table.figure(
        "calls that allocate: of ENIs or addresses",
        &calls(allocates).to_string(),
        PEER_CALLS,
    );
    table.figure("all calls", &calls(|_| true).to_string(), "");
    table.figure(
        "time in a cloud that answers at once",
        &format!("{} s", took.as_secs()),
        PEER_TIME,
    );
}

fn assign_and_release(criterion: &mut Criterion) {
    for (what, peer, prefixes, pods) in [
        ("15 x 49 addresses, half taken", PEER_ADDRESSES, false, 367),
        ("15 x 49 addresses, 35 free", PEER_ADDRESSES, false, 700),
        ("15 x 49 x 16 addresses, half taken", PEER_PREFIXES, true, 5_880),
        ("15 x 49 x 16 addresses, 60 free", PEER_PREFIXES, true, 11_700),
    ] {
        let mut node = BusyNode::new(prefixes, pods);
        criterion.bench_function(&format!("assign, commit, release: {what} ({peer})"), |bencher| {
            bencher.iter(|| black_box(node.assign_and_release()));
        });
        let mut node = ScannedNode::new(prefixes, pods);
        criterion.bench_function(
            &format!("the same by looking at every address: {what}"),
            |bencher| {
                bencher.iter(|| black_box(node.assign_and_release()));
            },
        );
    }
}

fn plan(criterion: &mut Criterion) {
    for (pods, prefixes) in [(735, false), (11_760, true)] {
        let node = BusyNode::new(prefixes, pods);
        criterion.bench_function(
            &format!("plan once converged: {pods} pods ({PEER_PLAN})"),
            |bencher| {
                bencher.iter(|| black_box(node.world.ipam.plan(node.world.now)));
            },
        );
    }
}
