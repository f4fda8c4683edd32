//! Proptest strategies, with a bias for where numbers go wrong.

use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::sample::select;

use super::scenario::Scenario;
use super::setup::{ENIS, SETUP_BYTES, SLOTS, Setup, config_of, limits_of};
use super::step::STEP_BYTES;
use crate::{Config, Limits};

/// Makes limits of instances: from the smallest types to the largest, one network card or two, with prefixes or without.
///
/// They shrink to two ENIs of three slots on one card.
pub fn limits() -> impl Strategy<Value = Limits> {
    let shapes = prop_oneof![4 => Just(0u8), 1 => any::<u8>()];
    (0..SLOTS.len() as u8, 0..ENIS.len() as u8, shapes)
        .prop_map(|(slots, enis, shape)| limits_of(slots, enis, shape))
}

/// Makes configurations that instances with these limits can follow: targets around one ENI and one prefix, both
/// families, gates.
///
/// They shrink to one warm address.
pub fn config(limits: &Limits) -> impl Strategy<Value = Config> + use<> {
    let limits = limits.clone();
    // Most choices are the simplest one, so that a few other choices meet.
    let choice = || prop_oneof![2 => Just(0u8), 1 => any::<u8>()];
    proptest::collection::vec(choice(), 7).prop_map(move |bytes| config_of(&limits, &bytes))
}

/// Makes nodes, clouds around them, and what their operators want.
pub fn setup() -> impl Strategy<Value = Setup> {
    let choice = || prop_oneof![2 => Just(0u8), 1 => any::<u8>()];
    proptest::collection::vec(choice(), SETUP_BYTES).prop_map(|bytes| Setup::decode(&bytes))
}

/// Makes numbers of pods around whole ENIs and whole prefixes, where they are many and where they are few.
pub fn pods(limits: &Limits) -> impl Strategy<Value = u16> + use<> {
    let (slots, enis) = (limits.ipv4_slots(), u16::from(limits.enis(crate::Card(0))));
    let edges: Vec<u16> = (0..=enis)
        .flat_map(|count| [count * slots, count * 16])
        .flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1])
        .filter(|pods| *pods <= enis * slots + 1)
        .collect();
    select(edges)
}

/// Makes scenarios; they shrink to fewer steps, and to simpler ones.
pub fn scenario() -> impl Strategy<Value = Scenario> {
    let choice = || prop_oneof![2 => Just(0u8), 1 => any::<u8>()];
    let step = proptest::array::uniform::<_, STEP_BYTES>(any::<u8>());
    let steps = proptest::collection::vec(step, 0..80);
    (proptest::collection::vec(choice(), SETUP_BYTES), steps).prop_map(|(mut bytes, steps)| {
        bytes.extend(steps.iter().flatten());
        Scenario::decode(&bytes)
    })
}
