//! Which names the links of pods have on the host: two pods' names may lead to one.

use core::fmt;
use std::collections::BTreeMap;
use std::sync::Arc;

use vpc_ipam_core::{Lease, Pod, PodKey};
use vpc_ipam_linux::VethPrefix;
use vpc_ipam_linux::pod::host_links;
use vpc_ipam_protocol::{Answer, Refusal, RefusalKind};

/// The names that the links of pods have which hold a lease.
pub(super) struct LinkNames {
    prefix: VethPrefix,
    /// Of one name there may be several keys: a pod that was made anew, and the sandbox of before.
    by_link: BTreeMap<String, BTreeMap<PodKey, Arc<Pod>>>,
}

/// A link that is another pod's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    link: String,
    by: Arc<Pod>,
}

impl LinkNames {
    /// Takes note of pods that hold leases already.
    pub(super) fn new<'a>(prefix: VethPrefix, leases: impl Iterator<Item = &'a Lease>) -> Self {
        let mut names = Self { prefix, by_link: BTreeMap::new() };
        for lease in leases {
            names.insert(lease);
        }
        names
    }

    /// Returns the first link of a pod with so many interfaces that is another pod's.
    pub(super) fn taken(&self, pod: &Pod, interfaces: usize) -> Option<Taken> {
        host_links(pod, interfaces, &self.prefix).find_map(|link| {
            let mut pods = self.by_link.get(&link)?.values();
            let by = Arc::clone(pods.find(|other| ***other != *pod)?);
            Some(Taken { link, by })
        })
    }

    /// A pod got a lease.
    pub(super) fn insert(&mut self, lease: &Lease) {
        if lease.addresses_only {
            return;
        }
        for link in links(lease, &self.prefix) {
            let pods = self.by_link.entry(link).or_default();
            pods.insert(lease.key.clone(), Arc::clone(&lease.pod));
        }
    }

    /// A pod's lease ended.
    pub(super) fn remove(&mut self, lease: &Lease) {
        for link in links(lease, &self.prefix) {
            if let Some(pods) = self.by_link.get_mut(&link) {
                pods.remove(&lease.key);
                if pods.is_empty() {
                    self.by_link.remove(&link);
                }
            }
        }
    }
}

/// Returns the names of the links of a pod that has a lease, as far as they follow from the pod's names: those of an imported pod whose
/// names are not known do not, and the plugin finds by itself that such a link is there.
fn links(lease: &Lease, prefix: &VethPrefix) -> impl Iterator<Item = String> {
    let names = host_links(&lease.pod, lease.interfaces().count(), prefix);
    names.enumerate().filter_map(|(number, name)| match lease.found.get(number) {
        Some(found) if found.name != name => None,
        Some(_) | None => Some(name),
    })
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, by } = self;
        write!(f, "its link on the node would be {link}, that of pod {}/{}", by.namespace, by.name)
    }
}

impl Taken {
    /// Returns what the pod is answered that wants the link.
    pub(super) fn answer(&self, pod: &Pod) -> Answer {
        let Self { link, by } = self;
        Answer::Refused(Refusal {
            kind: RefusalKind::LinkTaken,
            message: format!(
                "assign an address to pod {}/{}: its link on the node would be that of pod {}/{}",
                pod.namespace, pod.name, by.namespace, by.name
            ),
            details: format!(
                "both names lead to the link {link}, which has room for 44 bits of their SHA-1; delete one of the pods, or rename it"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::{FoundLink, Mac, testkit};

    use super::*;

    /// Of one name of a link: vpc-ipam-linux's `examples/colliding_names.rs` found them.
    const COLLIDING: [&str; 2] = ["web-5952665", "web-14117156"];

    #[test]
    fn link_is_taken_by_another_pod_as_long_as_that_has_a_lease() {
        let [one, other] = COLLIDING;
        let mut names = LinkNames::new(VethPrefix::default(), core::iter::empty());
        let taken_by = |names: &LinkNames, name: &str, interfaces| {
            names.taken(&pod(name), interfaces).map(|taken| taken.by.name.clone())
        };
        assert_eq!(taken_by(&names, one, 1), None);
        let (first, again) = (lease(one, "c1", 1), lease(one, "c2", 1));
        names.insert(&first);
        assert_eq!(taken_by(&names, other, 1).as_deref(), Some(one));
        assert_eq!(taken_by(&names, one, 1), None, "made anew under its name");
        names.insert(&again);
        names.remove(&first);
        assert_eq!(taken_by(&names, other, 1).as_deref(), Some(one));
        names.remove(&again);
        assert_eq!(taken_by(&names, other, 1), None);
        assert_eq!(names.by_link, BTreeMap::new());
    }

    #[test]
    fn further_interfaces_have_links_too() {
        let both = lease("web", "c1", 2);
        let names = LinkNames::new(VethPrefix::default(), [&both].into_iter());
        assert_eq!(names.taken(&pod("web.1"), 1).unwrap().by, both.pod);
        assert_eq!(names.taken(&pod("web.2"), 1), None);
        let first = lease("web.1", "c1", 1);
        let names = LinkNames::new(VethPrefix::default(), [&first].into_iter());
        assert_eq!(names.taken(&pod("web"), 1), None);
        assert_eq!(names.taken(&pod("web"), 2).unwrap().by, first.pod);
    }

    #[test]
    fn imported_pod_has_the_name_of_its_link_where_its_own_name_leads_there() {
        let name = host_links(&pod("web"), 1, &VethPrefix::default()).next().unwrap();
        let found = |name: &str| vec![FoundLink::new(name, Mac([2, 0, 0, 0, 0, 1]))];
        for (link, expected) in [(&*name, vec![name.clone()]), ("eni0123456789a", vec![])] {
            let mut names = LinkNames::new(VethPrefix::default(), core::iter::empty());
            let lease = lease("web", "c1", 1).with_found(found(link));
            names.insert(&lease);
            assert_eq!(names.by_link.keys().cloned().collect::<Vec<_>>(), expected, "{link}");
            names.remove(&lease);
            assert_eq!(names.by_link, BTreeMap::new(), "{link}");
        }
    }

    fn pod(name: &str) -> Pod {
        Pod::new("default", name.to_owned())
    }

    fn lease(name: &str, container: &str, interfaces: u8) -> Lease {
        let interfaces = (0..interfaces).map(|card| testkit::leased(card, 1, ["10.0.0.7"]));
        (testkit::lease(container, interfaces)).with_pod(pod(name).into())
    }
}
