//! EC2 and the metadata service on the node's loopback, for the AWS SDK.
//!
//! On the machine's own, every user of it could change the lab.

use core::net::Ipv4Addr;
use core::time::Duration;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;
use vpc_ipam_aws::{Credentials, Ec2Api, HttpServer, SdkEc2, SdkOptions, SharedCloud};
use vpc_ipam_core::InstanceId;
use vpc_ipam_linux::{Namespace, NamespaceError};

/// Servers on the node's loopback; they stop when this is dropped.
pub(super) struct Fronts {
    pub(super) ec2: String,
    pub(super) imds: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fronts {
    pub(super) fn serve(
        cloud: SharedCloud,
        instance: InstanceId,
        node: &Namespace,
    ) -> Result<io::Result<Self>, NamespaceError> {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        // A socket belongs to the namespace in which it was opened, not to that of the thread that serves it.
        let listeners = node.run(|| Ok((listen()?, listen()?)))?;
        Ok(listeners.and_then(|listeners| Self::serve_on(cloud, instance, listeners)))
    }

    fn serve_on(
        cloud: SharedCloud,
        instance: InstanceId,
        (for_ec2, for_imds): (TcpListener, TcpListener),
    ) -> io::Result<Self> {
        let url = |listener: &TcpListener| -> io::Result<String> {
            Ok(format!("http://{}", listener.local_addr()?))
        };
        let (ec2, imds) = (url(&for_ec2)?, url(&for_imds)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            runtime.block_on(async move {
                let servers = (
                    HttpServer::ec2(cloud.clone(), for_ec2),
                    HttpServer::imds(cloud, instance, for_imds),
                );
                // The sender dropped is as good as the word sent.
                let _ = stopped.await;
                drop(servers);
            });
        };
        let thread = thread::Builder::new().name("ec2".to_string()).spawn(serve)?;
        Ok(Self { ec2, imds, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns how a client reaches the servers, and nothing else.
    pub(super) fn options(&self) -> SdkOptions {
        SdkOptions {
            region: Some("lab-1".to_string()),
            ec2_endpoint: Some(self.ec2.clone()),
            imds_endpoint: Some(self.imds.clone()),
            credentials: Credentials::Static {
                access_key_id: "lab".to_string(),
                secret_access_key: "lab".to_string(),
            },
            timeout: Duration::from_secs(10),
            observer: None,
        }
    }
}

impl Drop for Fronts {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panicked, which was reported then.
            let _ = thread.join();
        }
    }
}

/// Makes the client. With the region and both endpoints given there is nothing that could fail.
pub(super) async fn connect(options: SdkOptions) -> Arc<dyn Ec2Api> {
    let client = SdkEc2::connect(options).await;
    Arc::new(client.expect("an endpoint made of an address is a URL, and the region is given"))
}
