//! Answers to the plugin and the command line.

use tokio::sync::oneshot;
use vpc_ipam_core::AssignError;
use vpc_ipam_protocol::{Answer, Refusal, RefusalKind};

pub(super) fn answer(caller: oneshot::Sender<Answer>, said: Answer) {
    // A caller that hung up will ask again, or send DEL.
    let _ = caller.send(said);
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

pub(super) fn gone() -> Answer {
    Answer::Refused(Refusal {
        kind: RefusalKind::PodDeleted,
        message: "assign an address to the pod".to_string(),
        details: "the pod was deleted while it waited".to_string(),
    })
}
