//! Whether the node is ready, as gRPC asks for health.

use core::time::Duration;

use tokio::sync::mpsc;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request as Call, Response, Status, async_trait};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use vpc_ipam_protocol::{Answer, Request};

use super::ask;
use crate::input::Input;

/// How often it is looked at for those who watch.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Serving while the next pod would get an address.
pub(super) struct Readiness {
    inputs: mpsc::Sender<Input>,
}

impl Readiness {
    pub(super) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs }
    }
}

/// What health can be asked for.
#[derive(Clone, Copy)]
enum Service {
    /// Whether the next pod would get an address: the empty name, and that of amazon-vpc-cni-k8s.
    Ready,
    /// Whether the daemon answers at all, for a liveness probe: to restart it makes no address free.
    Live,
    Unknown,
}

impl Service {
    fn of(call: Call<HealthCheckRequest>) -> Self {
        match call.into_inner().service.as_str() {
            "" | "grpc.health.v1.aws-node" => Self::Ready,
            "live" => Self::Live,
            _ => Self::Unknown,
        }
    }

    async fn status(self, inputs: &mpsc::Sender<Input>) -> ServingStatus {
        match (self, ask(Request::Status, inputs).await) {
            (Self::Unknown, _) => ServingStatus::ServiceUnknown,
            (Self::Live, Answer::Status(_)) => ServingStatus::Serving,
            (Self::Ready, Answer::Status(status)) if status.ready => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[async_trait]
impl Health for Readiness {
    async fn check(
        &self,
        call: Call<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match Service::of(call).status(&self.inputs).await {
            ServingStatus::ServiceUnknown => Err(Status::not_found(
                "services with a health are \"\" and \"grpc.health.v1.aws-node\", ready for pods, and \"live\"",
            )),
            status => Ok(Response::new(response(status))),
        }
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    /// Tells how it is, and again whenever that changes.
    async fn watch(
        &self,
        call: Call<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (service, inputs) = (Service::of(call), self.inputs.clone());
        let (told, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut last = None;
            loop {
                let status = service.status(&inputs).await;
                if last.replace(status) != Some(status)
                    && told.send(Ok(response(status))).await.is_err()
                {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(WATCH_EVERY) => {}
                    () = told.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
