use async_trait::async_trait;
use ipnet::{Ipv4Net, Ipv6Net};
use vpc_ipam_core::{
    AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface, AttachmentId,
    CreateNetworkInterface, CreateTags, DeleteNetworkInterface, DetachNetworkInterface, Ec2Action,
    InstanceId, InstanceType, Limits, Metadata, ModifyNetworkInterfaceAttribute, Node, ObservedEni,
    ObservedSubnet, Scope, Timestamp, UnassignIpv6Addresses, UnassignPrivateIpAddresses, VpcId,
    Zone,
};

use crate::Ec2Error;

/// The operations of EC2 and of its metadata service that address management calls.
///
/// This is the seam for another backend: a recording one, one that adds faults, one for another cloud. Each method is one
/// question and one answer. An implementation neither retries nor waits for more than that one answer, and it reports
/// failures in EC2's error codes, by which they are classified.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait Ec2Api: Send + Sync {
    /// Makes an ENI, and returns it with the addresses that EC2 chose.
    async fn create_network_interface(
        &self,
        request: &CreateNetworkInterface,
    ) -> Result<ObservedEni, Ec2Error>;

    /// Attaches an ENI to an instance.
    async fn attach_network_interface(
        &self,
        request: &AttachNetworkInterface,
    ) -> Result<AttachmentId, Ec2Error>;

    /// Changes an attribute of an ENI.
    async fn modify_network_interface_attribute(
        &self,
        request: &ModifyNetworkInterfaceAttribute,
    ) -> Result<(), Ec2Error>;

    /// Adds secondary IPv4 addresses or /28 prefixes to an ENI, and returns them as /32 and /28.
    async fn assign_private_ip_addresses(
        &self,
        request: &AssignPrivateIpAddresses,
    ) -> Result<Vec<Ipv4Net>, Ec2Error>;

    /// Adds /80 prefixes to an ENI, and returns them.
    async fn assign_ipv6_addresses(
        &self,
        request: &AssignIpv6Addresses,
    ) -> Result<Vec<Ipv6Net>, Ec2Error>;

    /// Gives secondary IPv4 addresses and /28 prefixes of an ENI back.
    async fn unassign_private_ip_addresses(
        &self,
        request: &UnassignPrivateIpAddresses,
    ) -> Result<(), Ec2Error>;

    /// Gives /80 prefixes of an ENI back.
    async fn unassign_ipv6_addresses(
        &self,
        request: &UnassignIpv6Addresses,
    ) -> Result<(), Ec2Error>;

    /// Detaches an ENI, without force.
    async fn detach_network_interface(
        &self,
        request: &DetachNetworkInterface,
    ) -> Result<(), Ec2Error>;

    /// Deletes an ENI.
    async fn delete_network_interface(
        &self,
        request: &DeleteNetworkInterface,
    ) -> Result<(), Ec2Error>;

    /// Sets tags of an ENI.
    async fn create_tags(&self, request: &CreateTags) -> Result<(), Ec2Error>;

    /// Returns the ENIs of a scope, as seen from an instance. A named one that does not exist is missing from the
    /// answer, and the rest are there.
    async fn describe_network_interfaces(
        &self,
        instance: InstanceId,
        scope: &Scope,
    ) -> Result<Vec<ObservedEni>, Ec2Error>;

    /// Returns the subnets of a VPC and availability zone.
    async fn describe_subnets(
        &self,
        vpc: VpcId,
        zone: Zone,
    ) -> Result<Vec<ObservedSubnet>, Ec2Error>;

    /// Returns what EC2 knows of these instances; one that does not exist fails the call.
    async fn describe_instances(&self, instances: &[InstanceId]) -> Result<Vec<Node>, Ec2Error>;

    /// Returns the limits of these instance types; one that does not exist fails the call.
    async fn describe_instance_types(
        &self,
        types: &[InstanceType],
    ) -> Result<Vec<Limits>, Ec2Error>;

    /// Asks EC2 whether it would carry an action out, and has no effect.
    ///
    /// A right that is missing is [`FailureKind::Denied`](vpc_ipam_core::FailureKind::Denied). Any other error means that it cannot be
    /// told: the operation has no dry run, the backend does not ask, or EC2's answer says nothing of rights.
    async fn dry_run(&self, action: &Ec2Action) -> Result<(), Ec2Error> {
        Err(Ec2Error::no_dry_run(action))
    }

    /// Reads the metadata of the instance on which this runs; `now` is the age of what it says.
    async fn metadata(&self, now: Timestamp) -> Result<Metadata, Ec2Error>;
}
