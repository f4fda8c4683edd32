//! What the core costs a node: EC2 calls, and times for people; `gates` holds the times by instructions.
#![allow(
    missing_docs,
    clippy::print_stdout,
    reason = "criterion's macros document nothing, and a benchmark prints what it found"
)]

use core::hint::black_box;
use core::time::Duration;

use criterion::{Criterion, criterion_group};
use vpc_ipam_benches::{BusyNode, Table, node};

// Of the peer, as docs/design.md has them: of its release 1.5.5 in memory, and of its newest version.
const PEER_ADDRESSES: &str = "peer 1.5.5: 2,100 ns; newest: 70 us";
const PEER_PREFIXES: &str = "peer 1.5.5: 2,300 ns";
const PEER_PLAN: &str = "peer: 140 us to find an ENI to free";
const PEER_CALLS: &str = "peer: 31 calls, 155 s";

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
    let calls = |world: &vpc_ipam_core::sim::World| world.calls().values().sum::<u32>();
    let (before, begun) = (calls(&world), world.now);
    for pod in 0..30 {
        world.add_pod(&format!("pod-{pod}"));
    }
    world.run_for(Duration::from_secs(300));
    assert_eq!(world.leases().len(), 30, "pods with an address");
    let took = world.changed_at().since(begun);
    let figure = format!("{} calls, {} s", calls(&world) - before, took.as_secs());
    table.figure("calls, and time in a cloud that answers at once", &figure, PEER_CALLS);
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
    }
}

fn plan(criterion: &mut Criterion) {
    for (pods, prefixes) in [(735, false), (11_760, true)] {
        let node = BusyNode::new(prefixes, pods);
        criterion.bench_function(&format!("plan at rest: {pods} pods ({PEER_PLAN})"), |bencher| {
            bencher.iter(|| black_box(node.world.ipam.plan(node.world.now)));
        });
    }
}
