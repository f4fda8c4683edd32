//! What is to be made durable before anyone is answered, and what becomes of it when a write fails.

use core::time::Duration;
use std::sync::Arc;

use tracing::{error, warn};
use vpc_ipam_core::{PodKey, Record, Timestamp, Uncommitted, error_chain};
use vpc_ipam_protocol::{Answer, NodeEventKind, Refusal, RefusalKind};

use super::answers::{Caller, gone};
use super::import::ImportWrite;
use super::{Loop, pod_lines};
use crate::conntrack::Flush;
use crate::error::DaemonError;
use crate::store::{Entry, WriteError};
use crate::threads::departed::Departed;

/// After a write failed, until the next is tried.
const WRITE_PAUSE: Duration = Duration::from_millis(200);

/// Something to be made durable, and who is answered then.
pub(crate) enum Write {
    Grant(Uncommitted, Vec<Caller>),
    Import(ImportWrite),
    Release(Record, Answer, Vec<Caller>),
    /// A grant that could not be made durable may be in the file all the same.
    Undo(Record),
}

impl Write {
    fn records(&self) -> Vec<Record> {
        match self {
            Self::Grant(uncommitted, _) => vec![uncommitted.record()],
            Self::Import(import) => import.records(),
            Self::Release(record, ..) | Self::Undo(record) => vec![record.clone()],
        }
    }
}

/// A write that the writer has yet to get.
pub(crate) enum PendingCommit {
    /// The grant of an address whose connections the kernel has yet to forget, or to a pod whose earlier links are still to be
    /// removed.
    AwaitingFlush(Write),
    /// Nothing keeps it from being written.
    Ready(Write),
}

impl PendingCommit {
    fn of(write: Write, flush: &Flush, departed: &Departed) -> Self {
        // As a rule there is nothing to wait for, and no record has to be made to see that.
        if flush.is_idle() && departed.is_idle() {
            return Self::Ready(write);
        }
        let holds_back = |record: &Record| flush.holds_back(record) || departed.holds_back(record);
        if write.records().iter().any(holds_back) {
            Self::AwaitingFlush(write)
        } else {
            Self::Ready(write)
        }
    }

    pub(super) fn write(self) -> Write {
        let (Self::AwaitingFlush(write) | Self::Ready(write)) = self;
        write
    }

    fn write_mut(&mut self) -> &mut Write {
        let (Self::AwaitingFlush(write) | Self::Ready(write)) = self;
        write
    }

    fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }
}

impl Loop {
    /// Queues the write of a granted lease; the callers are answered once it is durable.
    pub(super) fn granted(&mut self, uncommitted: Uncommitted, mut callers: Vec<Caller>) {
        callers.iter_mut().for_each(Caller::granted);
        if let Record::Leased(lease) = uncommitted.record() {
            // While it waited for the address, another may have got one; and only the lease says how many interfaces there are.
            if !lease.addresses_only
                && let Some(taken) = self.names.taken(&lease.pod, lease.interfaces().count())
            {
                self.refused(&lease.key, Some(Arc::clone(&lease.pod)), taken.to_string());
                let undone = self.ipam.abandon(uncommitted, self.clock.now());
                self.commit_later(undone.map(Write::Undo));
                for caller in callers {
                    caller.answer(taken.answer(&lease.pod));
                }
                return;
            }
            self.names.insert(&lease);
        }
        self.flush.granted(uncommitted.addresses());
        self.commit_later([Write::Grant(uncommitted, callers)]);
    }

    /// Hands the queued writes to the writer, unless it is at work or has failed a moment ago.
    pub(super) fn write(&mut self) -> Result<(), DaemonError> {
        if self.write_at.is_some_and(|at| at > tokio::time::Instant::now()) {
            return Ok(());
        }
        self.write_at = None;
        if !self.being_written.is_empty() {
            return Ok(());
        }
        let unwritten = core::mem::take(&mut self.unwritten).into_iter();
        let now = |it: PendingCommit| PendingCommit::of(it.write(), &self.flush, &self.departed);
        self.unwritten = unwritten.map(now).collect();
        if self.unwritten.iter().any(PendingCommit::is_ready) {
            let ready = self.unwritten.extract_if(.., |pending| pending.is_ready());
            self.being_written = ready.map(PendingCommit::write).collect();
            let entry = |record: Record| {
                let sandbox = match &record {
                    Record::Leased(lease) => self.sandboxes.get(&lease.key).cloned(),
                    Record::Released { .. } => None,
                };
                Entry { record, sandbox }
            };
            let records = self.being_written.iter().flat_map(Write::records);
            let entries = records.map(entry).collect();
            self.writer.write(entries).map_err(|_| DaemonError::Ended("store thread"))?;
        }
        Ok(())
    }

    /// Has something made durable with the next write that it can be part of.
    pub(super) fn commit_later(&mut self, writes: impl IntoIterator<Item = Write>) {
        let (flush, departed) = (&self.flush, &self.departed);
        let pending = writes.into_iter().map(|write| PendingCommit::of(write, flush, departed));
        self.unwritten.extend(pending);
    }

    /// Has something made durable before all that waits for that.
    fn commit_first(&mut self, writes: impl IntoIterator<Item = Write>) {
        let (flush, departed) = (&self.flush, &self.departed);
        let pending = writes.into_iter().map(|write| PendingCommit::of(write, flush, departed));
        self.unwritten.splice(..0, pending);
    }

    /// Withdraws a grant: while it was written, its address turned out to belong to a pod that is in no state file.
    fn withdraw(&mut self, uncommitted: Uncommitted, callers: Vec<Caller>, now: Timestamp) {
        let (key, addresses) = (uncommitted.key().clone(), uncommitted.addresses());
        let addresses: Vec<_> = addresses.collect();
        let record = uncommitted.record();
        warn!(pod = %key, ?addresses, "another program's pod has the address that was granted; another one is to be asked for");
        // Later grants of this pod are written after it.
        let undone = self.ipam.abandon(uncommitted, now).map(Write::Undo);
        self.commit_first(undone);
        for caller in callers {
            caller.answer(Answer::Refused(Refusal {
                kind: RefusalKind::TryAgainLater,
                message: "assign an address to the pod".to_string(),
                details: "another program gave the address to a pod of its own meanwhile"
                    .to_string(),
            }));
        }
        // A running pod that was added again keeps its own.
        if self.ipam.pool().lease(&key).is_none() {
            self.keep_untracked(addresses.into_iter(), now);
            if let Record::Leased(lease) = record {
                self.names.remove(&lease);
            }
        }
    }

    /// Returns who waits until the release of a pod is durable, if it is not yet.
    pub(super) fn release_of(&mut self, of: &PodKey) -> Option<&mut Vec<Caller>> {
        let unwritten = self.unwritten.iter_mut().map(PendingCommit::write_mut);
        self.being_written.iter_mut().chain(unwritten).find_map(|write| match write {
            Write::Release(Record::Released { key, .. }, _, callers) if key == of => Some(callers),
            _ => None,
        })
    }

    pub(super) fn on_written(&mut self, result: Result<(), WriteError>, now: Timestamp) {
        let written = core::mem::take(&mut self.being_written);
        match result {
            Ok(()) => written.into_iter().for_each(|write| self.committed(write, now)),
            Err(error) => self.not_committed(written, &error_chain(&error), now),
        }
    }

    /// A write is durable: its callers are answered.
    fn committed(&mut self, write: Write, now: Timestamp) {
        let (said, callers) = match write {
            Write::Grant(uncommitted, callers)
                // What leads to a pod whose links another plugin makes is not in the state file.
                if !uncommitted.is_addresses_only()
                    && self.keeper.is_untracked(uncommitted.addresses()) =>
            {
                return self.withdraw(uncommitted, callers, now);
            }
            Write::Grant(uncommitted, callers) => match self.ipam.commit(uncommitted) {
                Some(lease) => {
                    self.keeper.leased(&lease, now);
                    let asked = callers.iter().map(|caller| caller.asked).min().unwrap_or(now);
                    let ms = u64::try_from(now.since(asked).as_millis()).unwrap_or(u64::MAX);
                    pod_lines::added(&lease, ms);
                    self.event_log.push(now, NodeEventKind::Assigned { lease: lease.clone(), ms });
                    (self.lease(lease), callers)
                }
                None => (gone(), callers),
            },
            Write::Import(import) => return self.imported(import, now),
            Write::Release(_, said, callers) => {
                if let Answer::Lease { lease, .. } = &said {
                    let asked = callers.iter().map(|caller| caller.asked).min();
                    pod_lines::deleted(lease, asked, now);
                    self.event_log.push(now, NodeEventKind::Released { lease: lease.clone() });
                }
                (said, callers)
            }
            Write::Undo(_) => return,
        };
        for caller in callers {
            caller.answer(said.clone());
        }
    }

    /// A write failed: its callers are refused, grants are taken back, and what has to be in the file is written again.
    fn not_committed(&mut self, written: Vec<Write>, error: &str, now: Timestamp) {
        self.metrics.write_failed();
        error!(error, records = written.len(), "cannot make grants and releases durable");
        let refuse = |callers: Vec<Caller>, attempted: &str| {
            for caller in callers {
                caller.answer(Answer::Refused(Refusal {
                    kind: RefusalKind::StateFile,
                    message: attempted.to_string(),
                    details: format!(
                        "{error}; is the file system of the state file full or read-only?"
                    ),
                }));
            }
        };
        let mut again = Vec::new();
        for write in written {
            match write {
                Write::Grant(uncommitted, callers) => {
                    again.extend(self.take_back(uncommitted, now).map(Write::Undo));
                    refuse(callers, "make the pod's address durable");
                }
                Write::Import(import) => {
                    let (undone, caller) = self.take_import_back(import, now);
                    again.extend(undone.into_iter().map(Write::Undo));
                    refuse(vec![caller], "make the leases of imported pods durable");
                }
                // The pod is gone whatever the file says; it is written with the next that can be.
                Write::Release(record, said, callers) => {
                    refuse(callers, "make the release of the pod's address durable");
                    again.push(Write::Release(record, said, Vec::new()));
                }
                Write::Undo(record) => again.push(Write::Undo(record)),
            }
        }
        self.commit_first(again);
        self.write_at = Some(self.clock.instant(now + WRITE_PAUSE));
    }

    /// Takes a grant back that could not be made durable; returns what has to be written, since it may be in the file all the
    /// same.
    fn take_back(&mut self, uncommitted: Uncommitted, now: Timestamp) -> Option<Record> {
        let (key, addresses) = (uncommitted.key().clone(), uncommitted.addresses());
        let addresses: Vec<_> = addresses.collect();
        let record = uncommitted.record();
        let undone = self.ipam.abandon(uncommitted, now);
        // A running pod that was added again keeps its own.
        if self.ipam.pool().lease(&key).is_none() {
            self.flush.released(addresses, now);
            if let Record::Leased(lease) = record {
                self.names.remove(&lease);
            }
        }
        undone
    }
}
