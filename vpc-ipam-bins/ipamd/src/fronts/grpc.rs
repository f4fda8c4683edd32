//! The gRPC services of amazon-vpc-cni-k8s: each call becomes a request to the event loop.

mod caller_version;
mod cni;
mod config;
mod connection;
mod health;

use core::future::Future;
use core::net::SocketAddr;
use core::time::Duration;
use std::net::TcpListener as StdTcpListener;

use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::HealthServer;
use tracing::{info, warn};
use vpc_ipam_core::error_chain;
use vpc_ipam_protocol::{Answer, Request};

use self::cni::Cni;
use self::config::ConfigServer;
use self::connection::{Connection, Greeter};
use self::health::Readiness;
use super::socket::claim::Claim;
use super::socket::place::Place;
use crate::error::DaemonError;
use crate::grpc::rpc::cni_backend_server::CniBackendServer;
use crate::grpc::rpc::config_server_backend_server::ConfigServerBackendServer;
use crate::grpc_address::GrpcAddress;
use crate::input::Input;
use crate::options::Options;

/// How long a connection may be silent before its client is asked whether it is there, and how long that may take to answer. A
/// client of which nothing is left makes room in half a minute.
const PING_AFTER: Duration = Duration::from_secs(20);
const PING_MAX: Duration = Duration::from_secs(10);
/// How many calls of one connection are carried out at once.
const STREAMS_MAX: u32 = 128;
/// The longest request, in bytes: many times the longest that the plugin writes.
const MESSAGE_MAX: usize = 64 << 10;
/// How long calls may take to end when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

async fn ask(request: Request, inputs: &mpsc::Sender<Input>) -> Answer {
    super::ask(request, inputs).await.unwrap_or_else(super::stopping)
}

/// The right to listen wherever gRPC is to be served.
pub(crate) struct Claims {
    sockets: Vec<Claim>,
    ports: Vec<(SocketAddr, StdTcpListener)>,
}

impl Claims {
    /// Takes the sockets and ports, the ports in the node's network.
    pub(crate) fn take(options: &Options) -> Result<Self, DaemonError> {
        let mut claims = Self { sockets: Vec::new(), ports: Vec::new() };
        for address in &options.grpc {
            match address {
                GrpcAddress::Unix(path) => claims.sockets.push(Claim::take(path)?),
                GrpcAddress::Tcp(address) => {
                    let bind = || {
                        let listener = StdTcpListener::bind(address)?;
                        listener.set_nonblocking(true).map(|()| listener)
                    };
                    let listener = options.netns.run(bind).map_err(std::io::Error::other);
                    let listener = listener.flatten().map_err(|source| DaemonError::Listen {
                        path: address.to_string(),
                        source,
                    })?;
                    claims.ports.push((*address, listener));
                }
            }
        }
        Ok(claims)
    }

    /// Listens at all of them.
    pub(crate) fn listen(self, inputs: mpsc::Sender<Input>) -> Result<Server, DaemonError> {
        let (connections, incoming) = mpsc::channel(1);
        let greeter = Greeter::new(connections);
        let (mut stops, mut places, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for claim in self.sockets {
            let path = claim.socket().display().to_string();
            info!(path, "serving gRPC");
            let place =
                Place::make(claim).map_err(|source| DaemonError::Listen { path, source })?;
            let (stop, stopped) = oneshot::channel();
            let greeter = greeter.clone();
            let begin = async move |stream: UnixStream| greeter.greet(stream).await;
            places.push(tokio::spawn(place.accept_until(stopped, begin)));
            stops.push(stop);
        }
        for (address, listener) in self.ports {
            let listener = TcpListener::from_std(listener);
            let path = address.to_string();
            info!(path, "serving gRPC, to every program in the node's network");
            let listener = listener.map_err(|source| DaemonError::Listen { path, source })?;
            ports.push(tokio::spawn(accept(listener, greeter.clone())));
        }
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            // The sender dropped is as good as the word sent.
            let _ = stopped.await;
        };
        let serving = tokio::spawn(serve(router(inputs), incoming, stopped));
        Ok(Server { stops, places, ports, greeter, stop, serving })
    }
}

/// gRPC that is served until it is stopped.
pub(crate) struct Server {
    /// Stop accepting at the places.
    stops: Vec<oneshot::Sender<()>>,
    places: Vec<JoinHandle<Place>>,
    ports: Vec<JoinHandle<()>>,
    greeter: Greeter,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Server {
    /// Stops listening, lets the calls under way end, and returns the right to the sockets.
    pub(crate) async fn stop(mut self) -> Vec<Claim> {
        drop(self.stops);
        self.ports.iter().for_each(JoinHandle::abort);
        let mut claims = Vec::new();
        for place in self.places {
            claims.extend(place.await.ok().map(Place::remove));
        }
        self.greeter.stop();
        let _ = self.stop.send(());
        if tokio::time::timeout(STOP_PATIENCE, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
        claims
    }
}

/// Begins a conversation with every caller of a port.
async fn accept(listener: TcpListener, greeter: Greeter) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are short, and awaited.
                let _ = stream.set_nodelay(true);
                greeter.greet(stream).await;
            }
            Err(error) => {
                // Out of file descriptors, as a rule: it passes.
                warn!(%error, "cannot accept a caller");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn router(inputs: mpsc::Sender<Input>) -> Router {
    let cni = CniBackendServer::new(Cni::new(inputs.clone()));
    let config = ConfigServerBackendServer::new(ConfigServer::new(inputs.clone()));
    let health = HealthServer::new(Readiness::new(inputs));
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING_AFTER))
        .http2_keepalive_timeout(Some(PING_MAX))
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(cni.max_decoding_message_size(MESSAGE_MAX))
        .add_service(config.max_decoding_message_size(MESSAGE_MAX))
        .add_service(health.max_decoding_message_size(MESSAGE_MAX))
}

async fn serve(
    router: Router,
    incoming: mpsc::Receiver<std::io::Result<Connection>>,
    stopped: impl Future<Output = ()>,
) {
    let incoming = ReceiverStream::new(incoming);
    if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
        warn!(error = error_chain(&error), "gRPC is no longer served");
    }
}
