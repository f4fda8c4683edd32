//! Leases for pods that amazon-vpc-cni-k8s set up, by the links that are there of them.

use core::net::IpAddr;

use vpc_ipam_core::{
    FoundInterface, FoundLink, Import, ImportError, Lease, Pod, Record, Timestamp, Uncommitted,
};
use vpc_ipam_linux::pod::is_link_of;
use vpc_ipam_protocol::{Answer, ImportOutcome, NodeEventKind, PodImport, Refusal, RefusalKind};

use super::answers::Caller;
use super::commit::Write;
use super::{Loop, pod_lines};

/// Why a pod gets no lease.
struct Skipped {
    why: String,
    /// Whether trying again may help.
    temporary: bool,
}

impl From<String> for Skipped {
    fn from(why: String) -> Self {
        Self { why, temporary: false }
    }
}

impl From<ImportError> for Skipped {
    fn from(error: ImportError) -> Self {
        Self { why: error.to_string(), temporary: error.is_temporary() }
    }
}

/// What a request to import pods is to make durable, all or none, and who is answered then.
pub(crate) struct ImportWrite {
    /// The leases, each with the place of its pod in the request.
    leases: Vec<(usize, Uncommitted)>,
    /// What becomes of every pod of the request if that succeeds.
    outcomes: Vec<ImportOutcome>,
    caller: Caller,
}

impl ImportWrite {
    pub(super) fn records(&self) -> Vec<Record> {
        self.leases.iter().map(|(_, uncommitted)| uncommitted.record()).collect()
    }
}

impl Loop {
    /// Takes in pods that another program set up.
    pub(super) fn on_import(&mut self, pods: Vec<PodImport>, caller: Caller, now: Timestamp) {
        if self.ipam.pool().enis().is_empty() {
            return caller.answer(not_seen());
        }
        let (mut leases, mut outcomes) = (Vec::new(), Vec::new());
        for (place, pod) in pods.iter().enumerate() {
            let is_there = self.ipam.pool().lease(&pod.key).is_some();
            outcomes.push(match self.import(pod, now) {
                Ok(uncommitted) => {
                    leases.push((place, uncommitted));
                    if is_there { ImportOutcome::AlreadyThere } else { ImportOutcome::Imported }
                }
                Err(Skipped { why, temporary }) => ImportOutcome::Skipped { why, temporary },
            });
        }
        if leases.is_empty() {
            return caller.answer(Answer::Imported(outcomes));
        }
        self.commit_later([Write::Import(ImportWrite { leases, outcomes, caller })]);
    }

    fn import(&mut self, pod: &PodImport, now: Timestamp) -> Result<Uncommitted, Skipped> {
        let interfaces = match self.ipam.pool().lease(&pod.key) {
            Some(lease) => known_interfaces(pod, lease),
            None => self.found_interfaces(pod)?,
        };
        let names = pod.pod.clone().unwrap_or_else(|| {
            // As of pods whose runtime does not tell their names.
            Pod::new("default", pod.key.container())
        });
        let import = Import::new(pod.key.clone(), names, pod.since).with_interfaces(interfaces);
        let uncommitted = self.ipam.import(&import, now)?;
        self.flush.imported(uncommitted.addresses());
        if let Record::Leased(lease) = uncommitted.record() {
            self.names.insert(&lease);
        }
        Ok(uncommitted)
    }

    /// Returns the interfaces of a pod with the links that are there of it.
    fn found_interfaces(&self, pod: &PodImport) -> Result<Vec<FoundInterface>, Skipped> {
        let of = |(number, address): (usize, IpAddr)| {
            let names = |lease: &&Lease| lease.addresses().any(|it| it == address);
            if let Some(Lease { key, .. }) = self.ipam.pool().leases().find(names) {
                return Err(ImportError::AddressTaken { address, by: key.clone() }.into());
            }
            let link = self.keeper.link_to_import(address)?;
            // A checkpoint that is long out of date names pods that had the addresses before.
            if let Some(names) = &pod.pod
                && !is_link_of(&link.name, names, number)
            {
                let (link, Pod { namespace, name, .. }) = (&link.name, names);
                let why = format!(
                    "link {link}, which leads to {address}, is not that of pod {namespace}/{name}: its pod is gone"
                );
                return Err(why.into());
            }
            Ok(FoundInterface::new(address, link))
        };
        pod.addresses.iter().copied().enumerate().map(of).collect()
    }

    /// The leases of imported pods are durable.
    pub(super) fn imported(&mut self, import: ImportWrite, now: Timestamp) {
        let ImportWrite { leases, mut outcomes, caller } = import;
        for (place, uncommitted) in leases {
            match self.ipam.commit(uncommitted) {
                Some(lease) if outcomes[place] == ImportOutcome::Imported => {
                    self.keeper.imported(&lease, now);
                    pod_lines::imported(&lease);
                    self.event_log.push(now, NodeEventKind::Imported { lease });
                }
                Some(_) => {}
                None => {
                    let why = "the pod was deleted meanwhile".to_string();
                    outcomes[place] = ImportOutcome::Skipped { why, temporary: false };
                }
            }
        }
        caller.answer(Answer::Imported(outcomes));
    }

    /// Takes leases back that could not be made durable; returns what has to be written, since they may be in the file all the same,
    /// and who asked.
    pub(super) fn take_import_back(
        &mut self,
        import: ImportWrite,
        now: Timestamp,
    ) -> (Vec<Record>, Caller) {
        let mut records = Vec::new();
        for (_, uncommitted) in import.leases {
            let record = uncommitted.record();
            records.extend(self.ipam.abandon(uncommitted, now));
            if let Record::Leased(lease) = record
                && self.ipam.pool().lease(&lease.key).is_none()
            {
                self.names.remove(&lease);
            }
        }
        (records, import.caller)
    }
}

/// Returns the interfaces of a pod that has a lease; its links are not looked at again.
fn known_interfaces(pod: &PodImport, lease: &Lease) -> Vec<FoundInterface> {
    let known = pod.addresses.iter().enumerate();
    let link = |number: usize| {
        let found = lease.found.get(number).cloned();
        found.unwrap_or_else(|| FoundLink::new("", lease.first.mac))
    };
    known.map(|(number, address)| FoundInterface::new(*address, link(number))).collect()
}

fn not_seen() -> Answer {
    Answer::Refused(Refusal {
        kind: RefusalKind::TryAgainLater,
        message: "import pods".to_string(),
        details: format!(
            "{}: neither the metadata service nor EC2 has answered this daemon; try again in a few seconds",
            ImportError::NotSeen
        ),
    })
}
