//! Leases of pods that another program set up.

use crate::ipam::Ipam;
use crate::ipam::recorder::Input;
use crate::{Import, ImportError, Timestamp, Uncommitted};

impl Ipam {
    /// Gives a pod that another program set up a lease of the addresses that it has. From then on it is as any other: it is released,
    /// restored and counted alike.
    ///
    /// An ENI that is managed has to hold every address, whichever source showed it, and no lease of another pod may. Until the lease is
    /// committed the addresses count as those of an untracked owner too, so that they stay the pod's if it is abandoned. The same
    /// import again returns the same lease.
    pub fn import(&mut self, import: &Import, now: Timestamp) -> Result<Uncommitted, ImportError> {
        let tape = self.tape(|| Input::Import(import.clone()));
        let answer = self.on_import(import, now);
        self.record(tape, Some(now));
        answer
    }

    fn on_import(&mut self, import: &Import, now: Timestamp) -> Result<Uncommitted, ImportError> {
        if self.waiting.iter().any(|waiting| waiting.request.key == import.key) {
            return Err(ImportError::KeyWaits);
        }
        let lease = self.pool.import(import, now)?;
        self.changed_at.get_or_insert(now);
        Ok(Uncommitted { lease })
    }
}
