use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::time::Duration;

use super::guard::longer;
use super::suite::{PATIENCE, RUN_TAG, Suite};
use crate::{
    AttachmentId, DeleteNetworkInterface, DetachNetworkInterface, Ec2Action, EniId, FailureKind,
    ObservedEni, Outcome, Scope,
};

/// What is left is detached and deleted, and what cannot be is named.
impl Suite<'_> {
    pub(super) fn clean_up(&mut self) {
        let mut why: BTreeMap<EniId, String> = BTreeMap::new();
        let mut wait = Duration::from_secs(1);
        for _ in 0..PATIENCE {
            self.find_made();
            if self.made.is_empty() {
                break;
            }
            for eni in self.made.clone() {
                match self.delete(eni) {
                    Ok(()) => {
                        why.remove(&eni);
                        self.made.remove(&eni);
                    }
                    Err(error) => {
                        why.insert(eni, error);
                    }
                }
            }
            if self.made.is_empty() {
                break;
            }
            self.wait(wait);
            wait = longer(wait);
        }
        let left: Vec<String> = self
            .made
            .iter()
            .map(|eni| format!("{eni} ({})", why.get(eni).map_or("not deleted", String::as_str)))
            .collect();
        let left = if left.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "expected that the suite's ENIs are deleted, saw left: {}",
                left.join(", ")
            ))
        };
        self.check("nothing is left behind", left);
    }

    /// Detaches an ENI if it is attached, and deletes it. Done once no list shows it, and EC2 does not know it.
    fn delete(&mut self, eni: EniId) -> Result<(), String> {
        for attachment in self.attachments(eni) {
            let call = DetachNetworkInterface { eni, attachment };
            let _ = self.call(&Ec2Action::DetachNetworkInterface(call));
        }
        let delete = Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni });
        let deleted = self.call(&delete);
        let shown = self.list(&Scope::Only([eni].into()));
        let is_shown = shown.as_ref().is_ok_and(|shown| shown.iter().any(|shown| shown.id == eni));
        if is_shown || self.everywhere().iter().any(|shown| shown.id == eni) {
            return Err(format!("still shown after its deletion: {}", told(&deleted)));
        }
        // A list may be wrong, and an answer too. Both are wrong of one thing less often.
        match self.call(&delete) {
            Outcome::Failed(failure) if failure.kind == FailureKind::NotFound => Ok(()),
            Outcome::Failed(failure) if shown.is_err() || may_exist(failure.kind) => {
                Err(format!("its deletion fails: {failure}"))
            }
            Outcome::Failed(_) | Outcome::Done(_) => shown.map(drop),
        }
    }

    /// Returns the attachments of an ENI: as it is shown, and as it should be.
    fn attachments(&mut self, eni: EniId) -> BTreeSet<AttachmentId> {
        let mut shown = self.list(&Scope::Only([eni].into())).unwrap_or_default();
        shown.extend(self.everywhere());
        shown.extend(self.expected.get(&eni).cloned());
        let of_it = shown.into_iter().filter(|shown| shown.id == eni);
        of_it.filter_map(|shown| shown.attachment?.id).collect()
    }

    /// Returns what the lists show that need no ids.
    fn everywhere(&mut self) -> Vec<ObservedEni> {
        let mut enis = self.list(&Scope::Attached).unwrap_or_default();
        enis.extend(self.list(&Scope::Unattached).unwrap_or_default());
        enis
    }

    /// Adds ENIs that carry the tag of this run, whatever answer of theirs was lost.
    fn find_made(&mut self) {
        let shown = self.everywhere();
        let ours = |eni: &&ObservedEni| {
            let run = eni.tags.as_ref().and_then(|tags| tags.get(RUN_TAG));
            run.map(String::as_str) == Some(self.run.as_str()) && !self.was_there(eni.id)
        };
        let found: Vec<EniId> = shown.iter().filter(ours).map(|eni| eni.id).collect();
        self.made.extend(found);
    }
}

/// Returns whether a deletion that fails so leaves open whether the ENI is there.
fn may_exist(kind: FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::InUse
            | FailureKind::WrongState
            | FailureKind::Denied
            | FailureKind::Throttled
            | FailureKind::Unanswered
    )
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(_) => "it was said to be done".to_string(),
        Outcome::Failed(failure) => failure.to_string(),
    }
}
