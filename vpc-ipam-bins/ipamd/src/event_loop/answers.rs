//! Answers to the plugin and the command line.

use std::sync::Arc;

use tokio::sync::oneshot;
use vpc_ipam_core::{AssignError, Pod, Timestamp};
use vpc_ipam_protocol::{Answer, Refusal, RefusalKind};

use crate::metrics::AddTimer;

/// Who waits for an answer.
pub(crate) struct Caller {
    hears: oneshot::Sender<Answer>,
    /// When the loop took the request in.
    pub(super) asked: Timestamp,
    /// Of an ADD.
    timer: Option<AddTimer>,
    /// For which an ADD wants an address.
    pub(super) pod: Option<Arc<Pod>>,
    /// Whether that pod has one already.
    has_address: bool,
}

impl Caller {
    pub(super) fn new(hears: oneshot::Sender<Answer>, asked: Timestamp) -> Self {
        Self { hears, asked, timer: None, pod: None, has_address: false }
    }

    /// Times the caller's ADD until it is answered.
    pub(super) fn timed(self, timer: AddTimer) -> Self {
        Self { timer: Some(timer), ..self }
    }

    /// Notes for which pod the caller wants an address, and whether it has one already.
    pub(super) fn of(self, pod: &Arc<Pod>, has_address: bool) -> Self {
        Self { pod: Some(Arc::clone(pod)), has_address, ..self }
    }

    /// Returns whether the caller hung up.
    pub(super) fn is_gone(&self) -> bool {
        self.hears.is_closed()
    }

    /// Its pod has an address, which is yet to be made durable.
    pub(super) fn granted(&mut self) {
        if let Some(timer) = &mut self.timer {
            timer.granted();
        }
    }

    pub(super) fn answer(self, mut said: Answer) {
        if let Answer::Lease { again, .. } = &mut said {
            *again = self.has_address;
        }
        if let Some(timer) = self.timer {
            timer.answered(&said);
        }
        // A caller that hung up will ask again, or send DEL.
        let _ = self.hears.send(said);
    }
}

pub(super) fn refused(error: &AssignError) -> Answer {
    let details = match error.retry_at() {
        Some(at) => format!("{error}; try again at {at}"),
        None => error.to_string(),
    };
    Answer::Refused(Refusal {
        kind: RefusalKind::TryAgainLater,
        message: "assign an address to the pod".to_string(),
        details,
    })
}

pub(super) fn no_such_eni() -> Answer {
    Answer::Refused(Refusal {
        kind: RefusalKind::TryAgainLater,
        message: "assign an address of the link that master names".to_string(),
        details: "vpc-ipamd knows no ENI with that MAC address".to_string(),
    })
}

pub(super) fn gone() -> Answer {
    Answer::Refused(Refusal {
        kind: RefusalKind::PodDeleted,
        message: "assign an address to the pod".to_string(),
        details: "the pod was deleted while it waited".to_string(),
    })
}
