//! Which pod of the node is meant.

use vpc_ipam_core::{Lease, Pod, PodKey};

/// What a pod is called on the command line.
pub(super) const HELP: &str = "\
POD is a pod's name, NAMESPACE/NAME, container id or its beginning, address, or key NETWORK/CONTAINER/INTERFACE";

/// A pod, called by its name, `NAMESPACE/NAME`, container id or the beginning of it, address, or key.
#[derive(Clone, Debug)]
pub(super) struct WhichPod(String);

impl core::str::FromStr for WhichPod {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() { Err("expected a pod") } else { Ok(Self(text.to_string())) }
    }
}

impl core::fmt::Display for WhichPod {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl WhichPod {
    /// Returns the leases of what is meant: of the best kind of match alone, so that a pod that is called as another's container id
    /// begins is found by its name.
    pub(super) fn find<'a>(&self, leases: &'a [Lease]) -> Vec<&'a Lease> {
        let kinds: [&dyn Fn(&Lease) -> bool; 4] = [
            &|lease| lease.key.to_string() == self.0 || lease.key.container() == self.0,
            &|lease| lease.addresses().any(|address| address.to_string() == self.0),
            &|lease| self.is_name_of(&lease.pod),
            &|lease| lease.key.container().starts_with(&self.0),
        ];
        let found = kinds.iter().map(|is_meant| leases.iter().filter(|it| is_meant(it)).collect());
        found.into_iter().find(|found: &Vec<&Lease>| !found.is_empty()).unwrap_or_default()
    }

    /// Returns whether a pod is meant that has no address.
    pub(super) fn is(&self, key: &PodKey, pod: Option<&Pod>) -> bool {
        pod.is_some_and(|pod| self.is_name_of(pod))
            || key.to_string() == self.0
            || key.container().starts_with(&self.0)
    }

    fn is_name_of(&self, pod: &Pod) -> bool {
        pod.name == self.0 || format!("{}/{}", pod.namespace, pod.name) == self.0
    }
}
