//! EC2 and its metadata service, played by core's model.

mod ec2;
mod filter;
mod guard;
mod imds;
mod query;
mod render;
mod xml;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::collections::BTreeSet;
use std::fmt;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ipnet::{Ipv4Net, Ipv6Net};
use tokio::task::JoinHandle;
use vpc_ipam_core::sim::{Change, Cloud, CloudError, CreateInterface, Ipv4Request, Ipv6Request};
use vpc_ipam_core::{
    AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface, AttachmentId,
    CreateNetworkInterface, CreateTags, DeleteNetworkInterface, DetachNetworkInterface, Ec2Action,
    Ec2Operation, InstanceId, InstanceType, Limits, Metadata, ModifyNetworkInterfaceAttribute,
    Node, ObservedEni, ObservedSubnet, Scope, Source, Timestamp, UnassignIpv6Addresses,
    UnassignPrivateIpAddresses, VpcId, Zone,
};

use crate::{Ec2Api, Ec2Error};

/// The operations that take no `DryRun`; EC2 refuses the parameter there.
const NO_DRY_RUN: [Ec2Operation; 4] = [
    Ec2Operation::AssignPrivateIpAddresses,
    Ec2Operation::AssignIpv6Addresses,
    Ec2Operation::UnassignPrivateIpAddresses,
    Ec2Operation::UnassignIpv6Addresses,
];

/// Returns whether the operation of this name takes `DryRun`.
fn has_dry_run(operation: &str) -> bool {
    NO_DRY_RUN.iter().all(|without| without.name() != operation)
}

/// A [`Cloud`] with a clock, shared by all its callers: in process, over HTTP, and the code that runs it.
///
/// Cloning gives another handle on the same cloud.
#[derive(Clone)]
pub struct SharedCloud(Arc<Shared>);

struct Shared {
    played: Mutex<Played>,
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
    /// The status with which the metadata service refuses every request; 0 where it answers.
    metadata_refusal: AtomicU16,
    metadata_requests: AtomicU64,
    /// The operations for which no caller has the right.
    denied: Mutex<BTreeSet<Ec2Operation>>,
}

struct Played {
    cloud: Cloud,
    follow: Option<Box<dyn FnMut(Change) + Send>>,
}

impl SharedCloud {
    /// Shares a cloud in which it is always as late as `clock` says.
    pub fn new(cloud: Cloud, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let played = Mutex::new(Played { cloud, follow: None });
        Self(Arc::new(Shared {
            played,
            clock: Box::new(clock),
            metadata_refusal: AtomicU16::new(0),
            metadata_requests: AtomicU64::new(0),
            denied: Mutex::default(),
        }))
    }

    /// Takes the right to these operations from all callers, and restores it for all others.
    pub fn deny(&self, operations: impl IntoIterator<Item = Ec2Operation>) {
        *self.denied() = operations.into_iter().collect();
    }

    fn denied(&self) -> MutexGuard<'_, BTreeSet<Ec2Operation>> {
        self.0.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses the operation of this name as EC2 does where the caller has no right to it.
    fn authorize(&self, operation: &str) -> Result<(), CloudError> {
        if self.denied().iter().any(|denied| denied.name() == operation) {
            let message = "You are not authorized to perform this operation.".to_owned();
            return Err(CloudError { code: "UnauthorizedOperation", message });
        }
        Ok(())
    }

    /// Lets the metadata service on HTTP refuse every request with this status (429, 503), until this is set to `None`. With 401
    /// it issues tokens and takes none.
    pub fn refuse_metadata(&self, status: Option<u16>) {
        self.0.metadata_refusal.store(status.unwrap_or(0), Ordering::Relaxed);
    }

    /// Returns how many requests the metadata service on HTTP had, those for a token included.
    pub fn metadata_requests(&self) -> u64 {
        self.0.metadata_requests.load(Ordering::Relaxed)
    }

    /// Counts a request for metadata. Returns the status with which it is refused, if it is.
    fn on_metadata_request(&self) -> Option<u16> {
        self.0.metadata_requests.fetch_add(1, Ordering::Relaxed);
        let status = self.0.metadata_refusal.load(Ordering::Relaxed);
        (status != 0).then_some(status)
    }

    /// Does something with the cloud, at the time of its clock.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Cloud, Timestamp) -> T) -> T {
        let now = (self.0.clock)();
        let mut played = self.lock();
        let result = use_it(&mut played.cloud, now);
        played.tell();
        result
    }

    /// Lets the network behind the ENIs follow the cloud: `follow` gets every change of the fabric, those included that
    /// no follower got yet.
    ///
    /// It gets a change before the call that made it is answered, so that an address which EC2 has given is delivered. It
    /// must not use the cloud itself.
    pub fn on_change(&self, follow: impl FnMut(Change) + Send + 'static) {
        let mut played = self.lock();
        played.follow = Some(Box::new(follow));
        played.tell();
    }

    fn lock(&self) -> MutexGuard<'_, Played> {
        // A panic in the middle of an operation leaves a cloud that is wrong but usable, and it is already reported.
        self.0.played.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Played {
    fn tell(&mut self) {
        if let Some(follow) = &mut self.follow {
            while let Some(change) = self.cloud.poll_change() {
                follow(change);
            }
        }
    }
}

impl fmt::Debug for SharedCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCloud").finish_non_exhaustive()
    }
}

/// EC2 and the metadata service of one instance, in process.
#[derive(Clone, Debug)]
pub struct EmulatedEc2 {
    cloud: SharedCloud,
    instance: InstanceId,
}

impl EmulatedEc2 {
    /// Makes what `instance` sees of the cloud.
    pub fn new(cloud: SharedCloud, instance: InstanceId) -> Self {
        Self { cloud, instance }
    }

    fn call<T>(
        &self,
        operation: &str,
        call: impl FnOnce(&mut Cloud, Timestamp) -> Result<T, CloudError>,
    ) -> Result<T, Ec2Error> {
        self.cloud
            .authorize(operation)
            .and_then(|()| self.cloud.with(call))
            .map_err(|error| Ec2Error::refused(operation, error.code, &error.message))
    }
}

#[async_trait]
impl Ec2Api for EmulatedEc2 {
    async fn create_network_interface(
        &self,
        request: &CreateNetworkInterface,
    ) -> Result<ObservedEni, Ec2Error> {
        let request = CreateInterface::from(request);
        self.call("CreateNetworkInterface", |cloud, now| {
            let eni = cloud.create_network_interface(&request, now)?;
            Ok(ObservedEni::from(&eni))
        })
    }

    async fn attach_network_interface(
        &self,
        request: &AttachNetworkInterface,
    ) -> Result<AttachmentId, Ec2Error> {
        self.call("AttachNetworkInterface", |cloud, now| {
            cloud.attach_network_interface(request, now)
        })
    }

    async fn modify_network_interface_attribute(
        &self,
        request: &ModifyNetworkInterfaceAttribute,
    ) -> Result<(), Ec2Error> {
        self.call("ModifyNetworkInterfaceAttribute", |cloud, now| {
            let change = (&request.attribute).into();
            cloud.modify_network_interface_attribute(request.eni, &change, now)
        })
    }

    async fn assign_private_ip_addresses(
        &self,
        request: &AssignPrivateIpAddresses,
    ) -> Result<Vec<Ipv4Net>, Ec2Error> {
        self.call("AssignPrivateIpAddresses", |cloud, now| {
            let amount = Ipv4Request::Count(request.amount);
            cloud.assign_private_ip_addresses(request.eni, &amount, now)
        })
    }

    async fn assign_ipv6_addresses(
        &self,
        request: &AssignIpv6Addresses,
    ) -> Result<Vec<Ipv6Net>, Ec2Error> {
        self.call("AssignIpv6Addresses", |cloud, now| {
            let amount = Ipv6Request::PrefixCount(request.prefixes);
            cloud.assign_ipv6_addresses(request.eni, &amount, now)
        })
    }

    async fn unassign_private_ip_addresses(
        &self,
        request: &UnassignPrivateIpAddresses,
    ) -> Result<(), Ec2Error> {
        self.call("UnassignPrivateIpAddresses", |cloud, now| {
            cloud.unassign_private_ip_addresses(request, now)
        })
    }

    async fn unassign_ipv6_addresses(
        &self,
        request: &UnassignIpv6Addresses,
    ) -> Result<(), Ec2Error> {
        self.call("UnassignIpv6Addresses", |cloud, now| cloud.unassign_ipv6_addresses(request, now))
    }

    async fn detach_network_interface(
        &self,
        request: &DetachNetworkInterface,
    ) -> Result<(), Ec2Error> {
        self.call("DetachNetworkInterface", |cloud, now| {
            cloud.detach_network_interface(request.attachment, now)
        })
    }

    async fn delete_network_interface(
        &self,
        request: &DeleteNetworkInterface,
    ) -> Result<(), Ec2Error> {
        self.call("DeleteNetworkInterface", |cloud, now| {
            cloud.delete_network_interface(request.eni, now)
        })
    }

    async fn create_tags(&self, request: &CreateTags) -> Result<(), Ec2Error> {
        self.call("CreateTags", |cloud, now| {
            cloud.create_tags(&[request.eni.as_str()], &request.tags, now)
        })
    }

    async fn describe_network_interfaces(
        &self,
        instance: InstanceId,
        scope: &Scope,
    ) -> Result<Vec<ObservedEni>, Ec2Error> {
        self.call("DescribeNetworkInterfaces", |cloud, now| {
            let seen = cloud.observe(instance, Source::Ec2, scope, now)?;
            Ok(seen.enis)
        })
    }

    async fn describe_subnets(
        &self,
        vpc: VpcId,
        zone: Zone,
    ) -> Result<Vec<ObservedSubnet>, Ec2Error> {
        self.call("DescribeSubnets", |cloud, now| {
            let mut subnets = cloud.describe_subnets(&[], now)?;
            subnets.retain(|subnet| subnet.vpc == vpc && subnet.zone == zone);
            Ok(subnets)
        })
    }

    async fn describe_instances(&self, instances: &[InstanceId]) -> Result<Vec<Node>, Ec2Error> {
        if instances.is_empty() {
            return Ok(Vec::new());
        }
        self.call("DescribeInstances", |cloud, now| {
            let found = cloud.describe_instances(instances, now)?;
            Ok(found.into_iter().map(|instance| instance.node).collect())
        })
    }

    async fn describe_instance_types(
        &self,
        types: &[InstanceType],
    ) -> Result<Vec<Limits>, Ec2Error> {
        self.call("DescribeInstanceTypes", |cloud, now| cloud.describe_instance_types(types, now))
    }

    async fn dry_run(&self, action: &Ec2Action) -> Result<(), Ec2Error> {
        match action.operation().map(Ec2Operation::name) {
            Some(operation) if has_dry_run(operation) => self
                .cloud
                .authorize(operation)
                .map_err(|error| Ec2Error::refused(operation, error.code, &error.message)),
            _ => Err(Ec2Error::no_dry_run(action)),
        }
    }

    async fn metadata(&self, now: Timestamp) -> Result<Metadata, Ec2Error> {
        self.call("metadata", |cloud, _| cloud.metadata(self.instance, now))
    }
}

/// A shared cloud on HTTP, for any EC2 client.
///
/// It takes connections until it is dropped. Nothing it says is secret and no client has to say who it is, so it belongs in a
/// network namespace of its own, or on a loopback address of a machine without other users. Requests that a web page makes a
/// browser send are refused with status 403: those with an `Origin` or a `Host` that is another server's.
#[derive(Debug)]
pub struct HttpServer {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Serves the EC2 Query API (version 2016-11-15) on a listener, as a task of the current Tokio runtime.
    ///
    /// Signatures are not verified and credentials not looked at: every request is allowed, unless the
    /// cloud was made to [deny](SharedCloud::deny) its operation. An operation that the cloud
    /// does not play is refused with `InvalidAction`, a parameter that it does not heed with `UnknownParameter`.
    pub fn ec2(cloud: SharedCloud, listener: TcpListener) -> std::io::Result<Self> {
        Self::serve(ec2::router(cloud), listener)
    }

    /// Serves the metadata service (IMDSv2) of one instance on a listener, as a task of the current Tokio runtime.
    pub fn imds(
        cloud: SharedCloud,
        instance: InstanceId,
        listener: TcpListener,
    ) -> std::io::Result<Self> {
        Self::serve(imds::router(cloud, instance), listener)
    }

    fn serve(router: axum::Router, listener: TcpListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let task = tokio::spawn(async move {
            // It accepts until the task is aborted, and retries by itself where accepting fails.
            let _never = axum::serve(listener, guard::guarded(router, addr)).await;
        });
        Ok(Self { addr, task })
    }

    /// Returns the address on which it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the endpoint to give to a client.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
