//! When damage is repaired: soon, but not as often as whoever does it can do it again.

use core::time::Duration;

use vpc_ipam_core::Timestamp;

use crate::node::Extent;

/// Decides when damage is repaired, and counts.
///
/// Damage is repaired at once but for a moment in which what belongs together gathers. Where the same hand does it again
/// and again, the distance between two repairs doubles up to half a minute; a minute of peace brings it back.
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
/// pace.repaired(1, due);
/// assert_eq!((pace.due(), pace.repairs()), (None, 1));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Pace {
    due: Option<(Timestamp, Extent)>,
    last: Option<Last>,
    repairs: u64,
    objects: u64,
}

/// The last repair that found something to do, or failed.
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

impl Pace {
    /// Takes note of damage.
    pub fn damaged(&mut self, extent: Extent, now: Timestamp) {
        let earliest = self.last.map_or(now, |last| last.at + last.distance);
        let (at, known) = self.due.unwrap_or((earliest.max(now + GATHER), extent));
        self.due = Some((at, known.max(extent)));
    }

    /// Returns when the next repair is due.
    pub fn due(&self) -> Option<Timestamp> {
        self.due.map(|(at, _)| at)
    }

    /// Returns how much to look at if a repair is due.
    pub fn take(&mut self, now: Timestamp) -> Option<Extent> {
        self.due.take_if(|(at, _)| *at <= now).map(|(_, extent)| extent)
    }

    /// Takes note that a repair ended, which found so many objects to put right.
    pub fn repaired(&mut self, objects: usize, now: Timestamp) {
        if objects > 0 {
            self.repairs += 1;
            self.objects += objects as u64;
            self.space(now);
        }
    }

    /// Takes note that a repair failed; it is tried again.
    pub fn failed(&mut self, extent: Extent, now: Timestamp) {
        self.space(now);
        self.damaged(extent, now);
    }

    /// Returns how many repairs found something to put right.
    pub fn repairs(&self) -> u64 {
        self.repairs
    }

    /// Returns how many objects were put right.
    pub fn objects(&self) -> u64 {
        self.objects
    }

    /// Returns whether repairs are held back because they have to be made again and again.
    pub fn is_held_back(&self) -> bool {
        self.last.is_some_and(|last| last.distance > 8 * DISTANCE_FIRST)
    }

    fn space(&mut self, now: Timestamp) {
        let recent = self.last.filter(|last| now.since(last.at) < PEACE.max(2 * last.distance));
        let distance = recent.map_or(DISTANCE_FIRST, |last| 2 * last.distance).min(DISTANCE_MAX);
        self.last = Some(Last { at: now, distance });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_that_comes_again_is_repaired_ever_more_seldom() {
        let mut pace = Pace::default();
        let mut now = Timestamp::from_secs(1_000);
        let mut waits = Vec::new();
        for _ in 0..12 {
            pace.damaged(Extent::Routing, now);
            let due = pace.due().unwrap();
            waits.push(due.since(now));
            now = due;
            assert_eq!(pace.take(now), Some(Extent::Routing));
            pace.repaired(1, now);
        }
        assert_eq!(waits[..3], [20, 100, 200].map(Duration::from_millis));
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!(waits[11], DISTANCE_MAX);
        assert!(pace.is_held_back());

        now = now + 2 * PEACE;
        pace.damaged(Extent::Routing, now);
        assert_eq!(pace.due(), Some(now + GATHER));
        let due = pace.due().unwrap();
        pace.take(due);
        pace.repaired(1, due);
        assert!(!pace.is_held_back());
        assert_eq!((pace.repairs(), pace.objects()), (13, 13));
    }

    #[test]
    fn damage_that_gathers_is_repaired_once_and_in_full() {
        let mut pace = Pace::default();
        let now = Timestamp::from_secs(1);
        pace.damaged(Extent::Routing, now);
        pace.damaged(Extent::All, now + Duration::from_millis(5));
        pace.damaged(Extent::Routing, now + Duration::from_millis(7));
        assert_eq!(pace.take(now + Duration::from_millis(19)), None);
        assert_eq!(pace.take(now + GATHER), Some(Extent::All));
        assert_eq!(pace.due(), None);
    }

    #[test]
    fn failed_repair_is_tried_again_though_nothing_happens() {
        let mut pace = Pace::default();
        let now = Timestamp::from_secs(1);
        pace.failed(Extent::All, now);
        assert_eq!(pace.due(), Some(now + DISTANCE_FIRST));
        assert_eq!(pace.repairs(), 0);
    }

    #[test]
    fn repair_that_finds_nothing_costs_no_patience() {
        let mut pace = Pace::default();
        let now = Timestamp::from_secs(1);
        for _ in 0..100 {
            pace.damaged(Extent::Routing, now);
            pace.take(now + GATHER);
            pace.repaired(0, now + GATHER);
        }
        assert_eq!(pace.repairs(), 0);
        assert!(!pace.is_held_back());
    }
}
