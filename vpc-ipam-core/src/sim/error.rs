use alloc::format;
use alloc::string::String;
use core::fmt;

use ipnet::IpNet;

use crate::{AttachmentId, EniId, InstanceId, InstanceType, SecurityGroupId, SubnetId, VpcId};

/// EC2's refusal of a call: nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct CloudError {
    /// EC2's error code, such as `InvalidSubnetID.NotFound`.
    pub code: &'static str,
    /// EC2's message, for people.
    pub message: String,
}

// One function for each refusal, so that codes and messages stand in one place. Where EC2's message is known from its
// documentation or from reports of users, it is that one; clients are known to read ids out of it.
impl CloudError {
    fn new(code: &'static str, message: impl fmt::Display) -> Self {
        Self { code, message: format!("{message}") }
    }

    pub(super) fn no_vpc(id: VpcId) -> Self {
        Self::new("InvalidVpcID.NotFound", format_args!("The vpc ID '{id}' does not exist"))
    }

    pub(super) fn no_subnet(id: SubnetId) -> Self {
        Self::new("InvalidSubnetID.NotFound", format_args!("The subnet ID '{id}' does not exist"))
    }

    pub(super) fn no_instance(id: InstanceId) -> Self {
        Self::new(
            "InvalidInstanceID.NotFound",
            format_args!("The instance ID '{id}' does not exist"),
        )
    }

    pub(super) fn no_instance_type(name: InstanceType) -> Self {
        Self::new(
            "InvalidInstanceType",
            format_args!("The following supplied instance types do not exist: [{name}]"),
        )
    }

    pub(super) fn no_security_group(id: SecurityGroupId) -> Self {
        Self::new("InvalidGroup.NotFound", format_args!("The security group '{id}' does not exist"))
    }

    pub(super) fn no_interfaces(ids: &[EniId]) -> Self {
        const CODE: &str = "InvalidNetworkInterfaceID.NotFound";
        if let [id] = ids {
            return Self::new(CODE, format_args!("The networkInterface ID '{id}' does not exist"));
        }
        let mut list = String::new();
        for id in ids {
            if !list.is_empty() {
                list.push_str(", ");
            }
            list.push_str(id.as_str());
        }
        Self::new(CODE, format_args!("The networkInterface IDs '{list}' do not exist"))
    }

    pub(super) fn no_attachment(id: AttachmentId) -> Self {
        Self::new(
            "InvalidAttachmentID.NotFound",
            format_args!("The attachment ID '{id}' does not exist"),
        )
    }

    pub(super) fn no_resource(id: &str) -> Self {
        Self::new("InvalidID", format_args!("The ID '{id}' is not valid"))
    }

    pub(super) fn subnet_range(cidr: impl Into<IpNet>) -> Self {
        Self::new("InvalidSubnet.Range", format_args!("The CIDR '{}' is invalid.", cidr.into()))
    }

    pub(super) fn subnet_conflict(cidr: impl Into<IpNet>) -> Self {
        Self::new(
            "InvalidSubnet.Conflict",
            format_args!("The CIDR '{}' conflicts with another subnet", cidr.into()),
        )
    }

    pub(super) fn token_reused() -> Self {
        Self::new(
            "IdempotentParameterMismatch",
            "The client token was used before, with other parameters",
        )
    }

    pub(super) fn subnet_full() -> Self {
        Self::new(
            "InsufficientFreeAddressesInSubnet",
            "The specified subnet does not have enough free addresses to satisfy the request.",
        )
    }

    pub(super) fn no_free_prefix() -> Self {
        Self::new(
            "InsufficientCidrBlocks",
            "The specified subnet does not have enough free cidr blocks to satisfy the request.",
        )
    }

    pub(super) fn address_in_use(block: IpNet) -> Self {
        Self::new("InvalidIPAddress.InUse", format_args!("Address {} is in use.", Bare(block)))
    }

    pub(super) fn address_outside(block: IpNet) -> Self {
        Self::new(
            "InvalidParameterValue",
            format_args!("Address {} does not fall within the subnet's address range", Bare(block)),
        )
    }

    pub(super) fn not_assigned(block: IpNet, eni: EniId) -> Self {
        Self::new(
            "InvalidParameterValue",
            format_args!("{} is not assigned to interface {eni}", Bare(block)),
        )
    }

    pub(super) fn primary_address(eni: EniId) -> Self {
        Self::new(
            "InvalidParameterValue",
            format_args!("The primary private IP address of interface {eni} cannot be unassigned"),
        )
    }

    pub(super) fn no_addresses_on(eni: EniId) -> Self {
        Self::new(
            "UnsupportedOperation",
            format_args!("Interface {eni} is of type efa-only, which takes no addresses"),
        )
    }

    pub(super) fn no_ipv6(subnet: SubnetId) -> Self {
        Self::new(
            "InvalidParameterValue",
            format_args!("The subnet '{subnet}' has no IPv6 CIDR block"),
        )
    }

    pub(super) fn address_limit() -> Self {
        Self::new("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
    }

    pub(super) fn no_prefixes_on(instance_type: InstanceType) -> Self {
        Self::new(
            "UnsupportedOperation",
            format_args!("The instance type '{instance_type}' does not support prefix delegation"),
        )
    }

    pub(super) fn interface_limit(count: usize, instance_type: InstanceType) -> Self {
        Self::new(
            "AttachmentLimitExceeded",
            format_args!("Interface count {count} exceeds the limit for {instance_type}"),
        )
    }

    pub(super) fn no_card(card: u8, instance_type: InstanceType) -> Self {
        Self::new(
            "InvalidParameterValue",
            format_args!(
                "Network card index {card} is not valid for instance type {instance_type}"
            ),
        )
    }

    pub(super) fn device_taken(instance: InstanceId, device: u8) -> Self {
        Self::new(
            "InvalidParameterValue",
            format_args!(
                "Instance '{instance}' already has an interface attached at device index '{device}'."
            ),
        )
    }

    pub(super) fn other_zone() -> Self {
        Self::new(
            "InvalidParameterCombination",
            "You may not attach a network interface to an instance if they are not in the same availability zone",
        )
    }

    /// On attaching; EC2 says otherwise on deleting.
    pub(super) fn attached_already(id: EniId) -> Self {
        Self::new("InvalidNetworkInterface.InUse", format_args!("Interface: [{id}] in use."))
    }

    /// On deleting; EC2 says otherwise on attaching.
    pub(super) fn still_attached(id: EniId) -> Self {
        Self::new(
            "InvalidParameterValue",
            format_args!("Network interface '{id}' is currently in use."),
        )
    }

    pub(super) fn not_its_attachment(id: AttachmentId, eni: EniId) -> Self {
        Self::new(
            "InvalidParameterValue",
            format_args!("The attachment '{id}' is not that of interface {eni}"),
        )
    }

    pub(super) fn primary_interface() -> Self {
        Self::new(
            "OperationNotPermitted",
            "The network interface at device index 0 and networkCard index 0 cannot be detached.",
        )
    }
}

/// Formats an address without its length and a prefix with it, as EC2's messages do.
struct Bare(IpNet);

impl fmt::Display for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}
