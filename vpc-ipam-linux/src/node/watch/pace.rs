//! When damage is repaired: soon, but not as often as the program that does it can do it again.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use vpc_ipam_core::Timestamp;

use crate::node::Extent;

/// Decides when damage is repaired, and counts.
///
/// Damage is repaired at once but for a moment in which what belongs together gathers. Where another program changes an object
/// back again and again, the distance between two repairs of that object doubles up to half a minute; a minute of peace brings it
/// back. All other objects are repaired as soon as ever.
///
/// ```
/// use core::time::Duration;
/// use vpc_ipam_core::Timestamp;
/// use vpc_ipam_linux::{Extent, Pace};
///
/// let mut pace = Pace::default();
/// let now = Timestamp::from_secs(100);
/// pace.damaged(Extent::Routing, now);
/// let due = pace.due().unwrap();
/// assert!(due.since(now) < Duration::from_secs(1));
/// assert_eq!(pace.take(due), Some(Extent::Routing));
/// pace.repaired(&["rule 512: to 10.0.0.100 lookup main".to_owned()], &[], Extent::Routing, due);
/// assert_eq!((pace.due(), pace.repairs()), (None, 1));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Pace {
    due: Option<(Timestamp, Extent)>,
    /// What was repaired, and not yet forgiven.
    objects: BTreeMap<String, Last>,
    /// The last repair that failed.
    failed: Option<Last>,
    /// When the last comparison ended, and how many in a row found nothing.
    idle: Option<(Timestamp, u32)>,
    repairs: u64,
    repaired: u64,
}

/// The last repair of an object.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Timestamp,
    /// How long after it the next may begin.
    distance: Duration,
}

/// For what belongs together to gather: a link that goes down takes its routes along one by one.
const GATHER: Duration = Duration::from_millis(20);
const DISTANCE_FIRST: Duration = Duration::from_millis(100);
const DISTANCE_MAX: Duration = Duration::from_secs(30);
/// After which all is forgiven.
const PEACE: Duration = Duration::from_secs(60);
/// How far apart comparisons come that find nothing, at most: one reads every list of the kernel.
const IDLE_MAX: Duration = Duration::from_millis(500);
/// More objects than a node with 700 pods has for them.
const OBJECTS_MAX: usize = 8192;

impl Pace {
    /// Takes note of damage.
    pub fn damaged(&mut self, extent: Extent, now: Timestamp) {
        let after_failure = self.failed.map(|last| last.at + last.distance);
        let after_idle =
            self.idle.map(|(at, times)| at + (GATHER * (1 << times.min(8))).min(IDLE_MAX));
        let earliest = after_failure.into_iter().chain(after_idle).fold(now + GATHER, Ord::max);
        let (at, known) = self.due.unwrap_or((earliest, extent));
        self.due = Some((at.min(earliest), known.and(extent)));
    }

    /// Returns when the next repair is due.
    pub fn due(&self) -> Option<Timestamp> {
        self.due.map(|(at, _)| at)
    }

    /// Returns how much to look at if a repair is due.
    pub fn take(&mut self, now: Timestamp) -> Option<Extent> {
        self.due.take_if(|(at, _)| *at <= now).map(|(_, extent)| extent)
    }

    /// Returns what a repair that begins now should leave as it is, in the words of the event that told of it:
    /// [`NodeNetwork::spared`](crate::NodeNetwork::spared).
    pub fn spared(&mut self, now: Timestamp) -> BTreeSet<String> {
        self.objects.retain(|_, last| now.since(last.at) < PEACE.max(2 * last.distance));
        let early = self.objects.iter().filter(|(_, last)| last.at + last.distance > now);
        early.map(|(object, _)| object.clone()).collect()
    }

    /// Takes note that a repair ended, which put some objects right and left other objects as they are, named in their own words.
    pub fn repaired(
        &mut self,
        objects: &[String],
        spared: &[String],
        extent: Extent,
        now: Timestamp,
    ) {
        self.failed = None;
        if !objects.is_empty() {
            self.repairs += 1;
            self.repaired += objects.len() as u64;
            self.idle = None;
        } else if spared.is_empty() {
            self.idle = match self.idle {
                Some((at, times)) if now.since(at) < 4 * IDLE_MAX => Some((now, times + 1)),
                Some(_) | None => Some((now, 0)),
            };
        }
        for object in objects {
            let last = self.objects.get(object);
            let recent = last.filter(|last| now.since(last.at) < PEACE.max(2 * last.distance));
            let distance =
                recent.map_or(DISTANCE_FIRST, |last| 2 * last.distance).min(DISTANCE_MAX);
            if last.is_some() || self.objects.len() < OBJECTS_MAX {
                self.objects.insert(object.clone(), Last { at: now, distance });
            }
        }
        let again = spared.iter().filter_map(|object| self.objects.get(object));
        if let Some(at) = again.map(|last| last.at + last.distance).min() {
            let (due, known) = self.due.unwrap_or((at, extent));
            self.due = Some((due.min(at), known.and(extent)));
        }
    }

    /// Takes note that a repair failed; it is tried again.
    pub fn failed(&mut self, extent: Extent, now: Timestamp) {
        let distance = self.failed.map_or(DISTANCE_FIRST, |last| 2 * last.distance);
        self.failed = Some(Last { at: now, distance: distance.min(DISTANCE_MAX) });
        self.damaged(extent, now);
    }

    /// Returns how many repairs found something to put right.
    pub fn repairs(&self) -> u64 {
        self.repairs
    }

    /// Returns how many objects were put right.
    pub fn objects(&self) -> u64 {
        self.repaired
    }

    /// Returns what is held back because it has to be put right again and again.
    pub fn held_back(&self) -> impl Iterator<Item = &str> {
        let held_back = self.objects.iter().filter(|(_, last)| last.distance > 8 * DISTANCE_FIRST);
        held_back.map(|(object, _)| object.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "rule 1024: fwmark 0x80/0x80 lookup main";

    #[test]
    fn object_that_is_changed_back_is_repaired_ever_more_seldom_and_others_at_once() {
        let mut pace = Pace::default();
        let mut now = Timestamp::from_secs(1_000);
        let mut waits = Vec::new();
        for round in 0..12 {
            let begun = now;
            let another = format!("rule 512: to 10.0.0.{round} lookup main");
            pace.damaged(Extent::Routing, now);
            // What is to be left is found at the first look, and is looked for again when it is time.
            while {
                now = pace.due().unwrap();
                assert_eq!(pace.take(now), Some(Extent::Routing));
                pace.spared(now).contains(RULE)
            } {
                let spared = (now.since(begun) == GATHER).then_some(&*another);
                let spared = names(spared.as_slice());
                pace.repaired(&spared, &names(&[RULE]), Extent::Routing, now);
            }
            waits.push(now.since(begun));
            pace.repaired(&names(&[RULE]), &[], Extent::Routing, now);
        }
        assert_eq!(waits[..3], [20, 100, 200].map(Duration::from_millis));
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!(waits[11], DISTANCE_MAX);
        assert_eq!(pace.held_back().collect::<Vec<_>>(), [RULE]);

        now = now + 2 * PEACE;
        pace.damaged(Extent::Routing, now);
        assert_eq!(pace.due(), Some(now + GATHER));
        assert_eq!(pace.spared(now + GATHER), BTreeSet::new());
        pace.take(now + GATHER);
        pace.repaired(&names(&[RULE]), &[], Extent::Routing, now + GATHER);
        assert_eq!(pace.held_back().count(), 0);
    }

    #[test]
    fn damage_that_gathers_is_repaired_once_and_in_full() {
        let mut pace = Pace::default();
        let now = Timestamp::from_secs(1);
        pace.damaged(Extent::Routing, now);
        pace.damaged(Extent::Kernel, now + Duration::from_millis(5));
        pace.damaged(Extent::Routing, now + Duration::from_millis(7));
        assert_eq!(pace.take(now + Duration::from_millis(19)), None);
        assert_eq!(pace.take(now + GATHER), Some(Extent::Kernel));
        assert_eq!(pace.due(), None);
    }

    #[test]
    fn failed_repair_is_tried_again_though_nothing_happens() {
        let mut pace = Pace::default();
        let mut now = Timestamp::from_secs(1);
        for distance in [100, 200, 400].map(Duration::from_millis) {
            pace.failed(Extent::Kernel, now);
            assert_eq!(pace.due(), Some(now + distance));
            now = now + distance;
            assert_eq!(pace.take(now), Some(Extent::Kernel));
        }
        assert_eq!(pace.repairs(), 0);
        pace.repaired(&[], &[], Extent::Kernel, now);
        pace.failed(Extent::Kernel, now);
        assert_eq!(pace.due(), Some(now + DISTANCE_FIRST));
    }

    #[test]
    fn comparisons_that_find_nothing_come_apart_and_damage_is_still_met_within_a_second() {
        let mut pace = Pace::default();
        let mut now = Timestamp::from_secs(1);
        let mut looks = 0;
        let end = now + Duration::from_secs(10);
        while now < end {
            // Something happens without end.
            pace.damaged(Extent::Routing, now);
            let due = pace.due().unwrap();
            assert!(due.since(now) <= IDLE_MAX, "{:?}", due.since(now));
            now = due;
            pace.take(now);
            pace.repaired(&[], &[], Extent::Routing, now);
            looks += 1;
        }
        assert!((20..30).contains(&looks), "{looks}");
        assert_eq!((pace.repairs(), pace.held_back().count()), (0, 0));
        now = now + 8 * IDLE_MAX;
        pace.repaired(&[], &[], Extent::Routing, now);
        pace.damaged(Extent::Routing, now);
        assert_eq!(pace.due(), Some(now + GATHER));
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}
