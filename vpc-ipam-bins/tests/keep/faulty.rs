//! EC2 and the metadata service, with what a test wants to go wrong.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::sync::Mutex;

use async_trait::async_trait;
use ipnet::{Ipv4Net, Ipv6Net};
use vpc_ipam_aws::{Ec2Api, Ec2Error, EmulatedEc2};
use vpc_ipam_core::{
    AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface, AttachmentId,
    CreateNetworkInterface, CreateTags, DeleteNetworkInterface, DetachNetworkInterface, Ec2Action,
    InstanceId, InstanceType, Limits, Metadata, ModifyNetworkInterfaceAttribute, Node, ObservedEni,
    ObservedSubnet, Scope, Timestamp, UnassignIpv6Addresses, UnassignPrivateIpAddresses, VpcId,
    Zone,
};

/// A cloud whose sources can be taken away.
pub(crate) struct Faulty {
    inner: EmulatedEc2,
    /// Whether EC2 answers only when this is over.
    pub(crate) ec2_hangs: AtomicBool,
    /// Whether the metadata service does not answer.
    pub(crate) imds_is_away: AtomicBool,
    /// Whether the metadata service takes requests and never answers.
    pub(crate) imds_hangs: AtomicBool,
    /// Whether EC2 lists no ENI of the instance, as it does for the credentials of another account.
    pub(crate) ec2_is_anothers: AtomicBool,
    /// How often the metadata were asked for.
    pub(crate) imds_asked: AtomicU32,
    /// The ENIs that were asked for.
    pub(crate) creations: Mutex<Vec<CreateNetworkInterface>>,
    /// The tags that were set on ENIs that were there.
    pub(crate) taggings: Mutex<Vec<CreateTags>>,
    /// The calls that were tried without effect.
    pub(crate) dry_runs: Mutex<Vec<Ec2Action>>,
}

impl Faulty {
    pub(crate) fn new(inner: EmulatedEc2) -> Self {
        Self {
            inner,
            ec2_hangs: AtomicBool::new(false),
            imds_is_away: AtomicBool::new(false),
            imds_hangs: AtomicBool::new(false),
            ec2_is_anothers: AtomicBool::new(false),
            imds_asked: AtomicU32::new(0),
            creations: Mutex::default(),
            taggings: Mutex::default(),
            dry_runs: Mutex::default(),
        }
    }

    async fn ec2(&self) {
        while self.ec2_hangs.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[async_trait]
impl Ec2Api for Faulty {
    async fn create_network_interface(
        &self,
        request: &CreateNetworkInterface,
    ) -> Result<ObservedEni, Ec2Error> {
        self.ec2().await;
        self.creations.lock().unwrap().push(request.clone());
        self.inner.create_network_interface(request).await
    }

    async fn attach_network_interface(
        &self,
        request: &AttachNetworkInterface,
    ) -> Result<AttachmentId, Ec2Error> {
        self.ec2().await;
        self.inner.attach_network_interface(request).await
    }

    async fn modify_network_interface_attribute(
        &self,
        request: &ModifyNetworkInterfaceAttribute,
    ) -> Result<(), Ec2Error> {
        self.ec2().await;
        self.inner.modify_network_interface_attribute(request).await
    }

    async fn assign_private_ip_addresses(
        &self,
        request: &AssignPrivateIpAddresses,
    ) -> Result<Vec<Ipv4Net>, Ec2Error> {
        self.ec2().await;
        self.inner.assign_private_ip_addresses(request).await
    }

    async fn assign_ipv6_addresses(
        &self,
        request: &AssignIpv6Addresses,
    ) -> Result<Vec<Ipv6Net>, Ec2Error> {
        self.ec2().await;
        self.inner.assign_ipv6_addresses(request).await
    }

    async fn unassign_private_ip_addresses(
        &self,
        request: &UnassignPrivateIpAddresses,
    ) -> Result<(), Ec2Error> {
        self.ec2().await;
        self.inner.unassign_private_ip_addresses(request).await
    }

    async fn unassign_ipv6_addresses(
        &self,
        request: &UnassignIpv6Addresses,
    ) -> Result<(), Ec2Error> {
        self.ec2().await;
        self.inner.unassign_ipv6_addresses(request).await
    }

    async fn detach_network_interface(
        &self,
        request: &DetachNetworkInterface,
    ) -> Result<(), Ec2Error> {
        self.ec2().await;
        self.inner.detach_network_interface(request).await
    }

    async fn delete_network_interface(
        &self,
        request: &DeleteNetworkInterface,
    ) -> Result<(), Ec2Error> {
        self.ec2().await;
        self.inner.delete_network_interface(request).await
    }

    async fn create_tags(&self, request: &CreateTags) -> Result<(), Ec2Error> {
        self.ec2().await;
        self.taggings.lock().unwrap().push(request.clone());
        self.inner.create_tags(request).await
    }

    async fn describe_network_interfaces(
        &self,
        instance: InstanceId,
        scope: &Scope,
    ) -> Result<Vec<ObservedEni>, Ec2Error> {
        self.ec2().await;
        if self.ec2_is_anothers.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        self.inner.describe_network_interfaces(instance, scope).await
    }

    async fn describe_subnets(
        &self,
        vpc: VpcId,
        zone: Zone,
    ) -> Result<Vec<ObservedSubnet>, Ec2Error> {
        self.ec2().await;
        self.inner.describe_subnets(vpc, zone).await
    }

    async fn describe_instances(&self, instances: &[InstanceId]) -> Result<Vec<Node>, Ec2Error> {
        self.ec2().await;
        self.inner.describe_instances(instances).await
    }

    async fn describe_instance_types(
        &self,
        types: &[InstanceType],
    ) -> Result<Vec<Limits>, Ec2Error> {
        self.ec2().await;
        self.inner.describe_instance_types(types).await
    }

    async fn dry_run(&self, action: &Ec2Action) -> Result<(), Ec2Error> {
        self.ec2().await;
        self.dry_runs.lock().unwrap().push(action.clone());
        self.inner.dry_run(action).await
    }

    async fn metadata(&self, now: Timestamp) -> Result<Metadata, Ec2Error> {
        self.imds_asked.fetch_add(1, Ordering::Relaxed);
        if self.imds_hangs.load(Ordering::Relaxed) {
            core::future::pending::<()>().await;
        }
        if self.imds_is_away.load(Ordering::Relaxed) {
            return Err(Ec2Error::unanswered("metadata instance-id", "connection refused"));
        }
        self.inner.metadata(now).await
    }
}
