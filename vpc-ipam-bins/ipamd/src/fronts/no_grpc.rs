//! What a daemon that was built without the feature `grpc` does where gRPC is asked for: it does not start.

use tokio::sync::mpsc;

use super::socket::claim::Claim;
use crate::error::DaemonError;
use crate::input::Input;
use crate::options::Options;

/// That nothing is asked for.
pub(crate) struct Claims;

impl Claims {
    pub(crate) fn take(options: &Options) -> Result<Self, DaemonError> {
        let asked = [
            ("GRPC_BIND_ADDRESS", !options.grpc.is_empty()),
            ("NETWORK_POLICY_ENFORCING_MODE", options.network_policy.is_some()),
        ];
        match asked.into_iter().find(|(_, is_set)| *is_set) {
            Some((setting, _)) => Err(DaemonError::WithoutGrpc { setting }),
            None => Ok(Self),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "with the feature grpc it may fail")]
    pub(crate) fn listen(self, _: mpsc::Sender<Input>) -> Result<Server, DaemonError> {
        Ok(Server)
    }
}

/// None.
pub(crate) struct Server;

impl Server {
    #[expect(clippy::unused_async, reason = "with the feature grpc it waits")]
    pub(crate) async fn stop(self) -> Vec<Claim> {
        Vec::new()
    }
}
