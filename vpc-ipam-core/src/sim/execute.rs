use crate::sim::{Cloud, CloudError, CreateInterface, Ipv4Request, Ipv6Request, ModifyInterface};
use crate::{
    Ec2Action, Effect, Failure, FailureKind, Node, ObservedEni, ObservedSubnet, Outcome, Source,
    Timestamp,
};
use alloc::vec::Vec;
use ipnet::IpNet;

impl Cloud {
    /// Carries out an action of a node, at once and without fault.
    pub fn execute(&mut self, node: &Node, action: &Ec2Action, now: Timestamp) -> Outcome {
        match self.effect(node, action, now) {
            Ok(effect) => Outcome::Done(effect),
            Err(error) => Outcome::Failed(Failure {
                kind: FailureKind::of_ec2_error(error.code, &error.message),
                retry_after: None,
                message: alloc::format!("{error}"),
            }),
        }
    }

    fn effect(
        &mut self,
        node: &Node,
        action: &Ec2Action,
        now: Timestamp,
    ) -> Result<Effect, CloudError> {
        Ok(match action {
            Ec2Action::CreateNetworkInterface(request) => {
                let eni = self.create_network_interface(&CreateInterface::from(request), now)?;
                Effect::Created(ObservedEni::from(&eni))
            }
            Ec2Action::AttachNetworkInterface(request) => {
                Effect::Attached(self.attach_network_interface(request, now)?)
            }
            Ec2Action::ModifyNetworkInterfaceAttribute(request) => {
                let attribute = ModifyInterface::from(&request.attribute);
                self.modify_network_interface_attribute(request.eni, &attribute, now)?;
                Effect::Done
            }
            Ec2Action::AssignPrivateIpAddresses(request) => {
                let wanted = Ipv4Request::Count(request.amount);
                let blocks = self.assign_private_ip_addresses(request.eni, &wanted, now)?;
                Effect::Assigned(blocks.into_iter().map(IpNet::V4).collect())
            }
            Ec2Action::AssignIpv6Addresses(request) => {
                let wanted = Ipv6Request::PrefixCount(request.prefixes);
                let blocks = self.assign_ipv6_addresses(request.eni, &wanted, now)?;
                Effect::Assigned(blocks.into_iter().map(IpNet::V6).collect())
            }
            Ec2Action::UnassignPrivateIpAddresses(request) => {
                self.unassign_private_ip_addresses(request, now)?;
                Effect::Done
            }
            Ec2Action::UnassignIpv6Addresses(request) => {
                self.unassign_ipv6_addresses(request, now)?;
                Effect::Done
            }
            Ec2Action::DetachNetworkInterface(request) => {
                self.detach_network_interface(request.attachment, now)?;
                Effect::Done
            }
            Ec2Action::DeleteNetworkInterface(request) => {
                self.delete_network_interface(request.eni, now)?;
                Effect::Done
            }
            Ec2Action::CreateTags(request) => {
                self.create_tags(&[request.eni.as_str()], &request.tags, now)?;
                Effect::Done
            }
            Ec2Action::DescribeNetworkInterfaces(scope) => {
                Effect::Observed(self.observe(node.instance, Source::Ec2, scope, now)?)
            }
            Ec2Action::DescribeSubnets => Effect::Subnets(self.subnets_near(node, now)?),
            Ec2Action::ReadMetadata => Effect::Metadata(self.metadata(node.instance, now)?),
        })
    }

    /// Returns the subnets of a node's VPC in its zone.
    fn subnets_near(
        &mut self,
        node: &Node,
        now: Timestamp,
    ) -> Result<Vec<ObservedSubnet>, CloudError> {
        let mut subnets = self.describe_subnets(&[], now)?;
        subnets.retain(|subnet| subnet.vpc == node.vpc && subnet.zone == node.zone);
        Ok(subnets)
    }
}
