//! Asking EC2 whether it would carry an action out.

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use vpc_ipam_core::Ec2Action;

use super::failure::failed;
use super::{SdkEc2, calls};
use crate::Ec2Error;

/// How EC2 answers a dry run of what it would carry out.
const WOULD_SUCCEED: &str = "DryRunOperation";

impl SdkEc2 {
    pub(super) async fn tried(&self, action: &Ec2Action) -> Result<(), Ec2Error> {
        let client = self.ec2().await?;
        let Some(operation) = action.operation() else { return Err(Ec2Error::no_dry_run(action)) };
        let operation = operation.name();
        match action {
            Ec2Action::CreateNetworkInterface(request) => {
                let call = calls::create_network_interface(client, request).dry_run(true);
                told(operation, call.send().await)
            }
            Ec2Action::AttachNetworkInterface(request) => {
                let call = calls::attach_network_interface(client, request).dry_run(true);
                told(operation, call.send().await)
            }
            Ec2Action::ModifyNetworkInterfaceAttribute(request) => {
                let call = calls::modify_network_interface_attribute(client, request).dry_run(true);
                told(operation, call.send().await)
            }
            Ec2Action::DetachNetworkInterface(request) => {
                let call = calls::detach_network_interface(client, request).dry_run(true);
                told(operation, call.send().await)
            }
            Ec2Action::DeleteNetworkInterface(request) => {
                let call = calls::delete_network_interface(client, request).dry_run(true);
                told(operation, call.send().await)
            }
            Ec2Action::CreateTags(request) => {
                let call = calls::create_tags(client, request).dry_run(true);
                told(operation, call.send().await)
            }
            Ec2Action::DescribeNetworkInterfaces(_) => {
                let call = client.describe_network_interfaces().dry_run(true);
                told(operation, call.send().await)
            }
            Ec2Action::DescribeSubnets => {
                told(operation, client.describe_subnets().dry_run(true).send().await)
            }
            Ec2Action::AssignPrivateIpAddresses(_)
            | Ec2Action::AssignIpv6Addresses(_)
            | Ec2Action::UnassignPrivateIpAddresses(_)
            | Ec2Action::UnassignIpv6Addresses(_)
            | Ec2Action::ReadMetadata => Err(Ec2Error::no_dry_run(action)),
        }
    }
}

/// Returns what the answer to a dry run means, which is always an error.
fn told<T, E>(operation: &str, answer: Result<T, SdkError<E>>) -> Result<(), Ec2Error>
where
    E: ProvideErrorMetadata + core::error::Error + Send + Sync + 'static,
{
    match answer.map_err(|error| failed(operation, error)) {
        Err(error) if error.code.as_deref() == Some(WOULD_SUCCEED) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(Ec2Error::unanswered(operation, "the endpoint heeds no DryRun")),
    }
}
