//! What answers the plugin and the operator.

pub(crate) mod ask;
#[cfg(feature = "grpc")]
pub(crate) mod grpc;
#[cfg(not(feature = "grpc"))]
#[path = "fronts/no_grpc.rs"]
pub(crate) mod grpc;
mod health;
pub(crate) mod http;
mod introspection;
mod metrics;
pub(crate) mod socket;
pub(crate) mod status;

use tokio::sync::{mpsc, oneshot};
use vpc_ipam_protocol::{Answer, Refusal, RefusalKind, Request};

use crate::input::Input;

/// Returns the event loop's answer; none if it stops.
async fn ask(request: Request, inputs: &mpsc::Sender<Input>) -> Option<Answer> {
    let (caller, answer) = oneshot::channel();
    inputs.send(Input::Request(request, caller)).await.ok()?;
    answer.await.ok()
}

fn stopping() -> Answer {
    Answer::Refused(Refusal {
        kind: RefusalKind::TryAgainLater,
        message: "ask the daemon".to_string(),
        details: "it is stopping".to_string(),
    })
}
