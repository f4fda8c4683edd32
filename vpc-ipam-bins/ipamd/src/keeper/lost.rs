//! Pods of the state file that are gone and of which no DEL told: another program deleted them, or the runtime forgot them.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use vpc_ipam_core::{PodKey, Timestamp};

/// Pods without a link on the node, and since when.
///
/// Their routes went with the links. A pod that is being added has none yet, and one that dies has its DEL within seconds as a rule:
/// so they are waited for, and then looked for once more.
#[derive(Debug)]
pub(crate) struct Lost {
    since: BTreeMap<PodKey, Timestamp>,
    grace: Duration,
}

impl Lost {
    /// Describes that there are none. A pod may be without a link for the grace time; nothing is lost if its DEL comes later.
    pub(crate) fn new(grace: Duration) -> Self {
        Self { since: BTreeMap::new(), grace }
    }

    /// Takes note of the pods that a comparison found without links, all of them, and returns those whose time is up. They are asked
    /// for again when it is up once more, should they stay.
    pub(crate) fn found(&mut self, without_links: BTreeSet<PodKey>, now: Timestamp) -> Vec<PodKey> {
        self.since.retain(|key, _| without_links.contains(key));
        for key in without_links {
            self.since.entry(key).or_insert(now);
        }
        let over = self.since.iter_mut().filter(|(_, since)| now.since(**since) >= self.grace);
        let again = |(key, since): (&PodKey, &mut Timestamp)| {
            *since = now;
            key.clone()
        };
        over.map(again).collect()
    }

    /// A pod is being added, or removed as it should be.
    pub(crate) fn forget(&mut self, key: &PodKey) {
        self.since.remove(key);
    }

    /// Returns when they are to be looked for once more.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.since.values().min().map(|since| *since + self.grace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_is_given_up_that_is_found_without_a_link_for_as_long_as_it_may_be() {
        const GRACE: Duration = Duration::from_secs(60);
        let mut lost = Lost::new(GRACE);
        let now = Timestamp::from_secs(1_000);
        let [a, b] = ["a", "b"].map(|name| PodKey::new("net", name, "eth0").unwrap());
        let both = || BTreeSet::from([a.clone(), b.clone()]);
        let later = now + GRACE;
        assert_eq!(lost.found(both(), now), []);
        assert_eq!(lost.due(), Some(later));
        assert_eq!(lost.found(both(), now + GRACE / 2), []);
        lost.forget(&b);
        assert_eq!(
            lost.found(both(), later),
            core::slice::from_ref(&a),
            "the other is looked for anew"
        );
        assert_eq!(lost.found(both(), later), [], "it was returned already");
        assert_eq!(lost.found(BTreeSet::from([b.clone()]), later), [], "its link is back");
        assert_eq!(lost.found(both(), later + GRACE), core::slice::from_ref(&b));
        assert_eq!(lost.found(BTreeSet::new(), later + GRACE), []);
        assert_eq!(lost.due(), None);
    }
}
