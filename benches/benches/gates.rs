//! What the core costs a node, in instructions, which do not depend on what else the machine does. More than the limits
//! here fails the run.
#![allow(missing_docs, reason = "gungraun's macros document nothing")]

use core::hint::black_box;
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use vpc_ipam_benches::BusyNode;
use vpc_ipam_core::{Plan, Released};

const ADDRESSES_MOST: u64 = 3_600;
const PREFIXES_MOST: u64 = 4_750;
const PLAN_MOST: u64 = 11_000;

fn limit(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)]));
    config
}

/// Once around, so that every address it takes was used before.
fn warm(prefixes: bool, pods: usize) -> Box<BusyNode> {
    let mut node = rest(prefixes, pods);
    (0..100).for_each(|_| drop(node.assign_and_release()));
    node
}

/// In a box, since what it takes to move it would be counted.
fn rest(prefixes: bool, pods: usize) -> Box<BusyNode> {
    Box::new(BusyNode::new(prefixes, pods))
}

#[library_benchmark]
#[bench::addresses(args = (false, 700), setup = warm, config = limit(ADDRESSES_MOST))]
#[bench::prefixes(args = (true, 11_700), setup = warm, config = limit(PREFIXES_MOST))]
fn assign_and_release(mut node: Box<BusyNode>) -> (Box<BusyNode>, Released) {
    let released = black_box(node.assign_and_release());
    (node, released)
}

#[library_benchmark]
#[bench::at_rest(args = (false, 735), setup = rest, config = limit(PLAN_MOST))]
fn plan(node: Box<BusyNode>) -> (Box<BusyNode>, Plan) {
    let plan = black_box(node.world.ipam.plan(node.world.now));
    (node, plan)
}

library_benchmark_group!(name = ipam, benchmarks = [assign_and_release, plan]);
main!(library_benchmark_groups = ipam);
