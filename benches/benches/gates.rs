//! What the core costs a node, in instructions, which do not depend on what else the machine does. More than the limits
//! here fails the run.
#![allow(missing_docs, reason = "gungraun's macros document nothing")]

use core::hint::black_box;
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use vpc_ipam_benches::BusyNode;
use vpc_ipam_core::{Plan, Released};

const ADDRESSES_MOST: u64 = 10_000;
const PREFIXES_MOST: u64 = 10_000;
const PLAN_MOST: u64 = 16_000;

fn limit(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)]));
    config
}

/// Once around, so that every address it takes was used before.
fn warm(prefixes: bool, pods: usize) -> BusyNode {
    let mut node = BusyNode::new(prefixes, pods);
    (0..100).for_each(|_| drop(node.assign_and_release()));
    node
}

#[library_benchmark]
#[bench::addresses(args = (false, 700), setup = warm, config = limit(ADDRESSES_MOST))]
#[bench::prefixes(args = (true, 11_700), setup = warm, config = limit(PREFIXES_MOST))]
fn assign_and_release(mut node: BusyNode) -> (BusyNode, Released) {
    let released = black_box(node.assign_and_release());
    (node, released)
}

#[library_benchmark]
#[bench::at_rest(args = (false, 735), setup = BusyNode::new, config = limit(PLAN_MOST))]
fn plan(node: BusyNode) -> (BusyNode, Plan) {
    let plan = black_box(node.world.ipam.plan(node.world.now));
    (node, plan)
}

library_benchmark_group!(name = ipam, benchmarks = [assign_and_release, plan]);
main!(library_benchmark_groups = ipam);
