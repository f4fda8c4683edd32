use ipnet::IpNet;
use vpc_ipam_core::{Ec2Action, Effect, Node, Observation, Outcome, Source, Timestamp};

use crate::{Ec2Api, Ec2Error};

/// Carries out one action and says what became of it.
///
/// `node` is the instance for which core acts, `now` the time at which the action is started: an observation is as old as
/// its question.
pub async fn execute(api: &dyn Ec2Api, node: &Node, action: &Ec2Action, now: Timestamp) -> Outcome {
    match call(api, node, action, now).await {
        Ok(effect) => Outcome::Done(effect),
        Err(error) => Outcome::Failed(error.into()),
    }
}

async fn call(
    api: &dyn Ec2Api,
    node: &Node,
    action: &Ec2Action,
    now: Timestamp,
) -> Result<Effect, Ec2Error> {
    Ok(match action {
        Ec2Action::CreateNetworkInterface(request) => {
            Effect::Created(api.create_network_interface(request).await?)
        }
        Ec2Action::AttachNetworkInterface(request) => {
            Effect::Attached(api.attach_network_interface(request).await?)
        }
        Ec2Action::ModifyNetworkInterfaceAttribute(request) => {
            api.modify_network_interface_attribute(request).await?;
            Effect::Done
        }
        Ec2Action::AssignPrivateIpAddresses(request) => {
            let added = api.assign_private_ip_addresses(request).await?;
            Effect::Assigned(added.into_iter().map(IpNet::V4).collect())
        }
        Ec2Action::AssignIpv6Addresses(request) => {
            let added = api.assign_ipv6_addresses(request).await?;
            Effect::Assigned(added.into_iter().map(IpNet::V6).collect())
        }
        Ec2Action::UnassignPrivateIpAddresses(request) => {
            api.unassign_private_ip_addresses(request).await?;
            Effect::Done
        }
        Ec2Action::UnassignIpv6Addresses(request) => {
            api.unassign_ipv6_addresses(request).await?;
            Effect::Done
        }
        Ec2Action::DetachNetworkInterface(request) => {
            api.detach_network_interface(request).await?;
            Effect::Done
        }
        Ec2Action::DeleteNetworkInterface(request) => {
            api.delete_network_interface(request).await?;
            Effect::Done
        }
        Ec2Action::CreateTags(request) => {
            api.create_tags(request).await?;
            Effect::Done
        }
        Ec2Action::DescribeNetworkInterfaces(scope) => Effect::Observed(
            Observation::new(now, Source::Ec2, scope.clone())
                .with_enis(api.describe_network_interfaces(node.instance, scope).await?),
        ),
        Ec2Action::DescribeSubnets => {
            Effect::Subnets(api.describe_subnets(node.vpc, node.zone).await?)
        }
        Ec2Action::ReadMetadata => Effect::Metadata(api.metadata(now).await?),
    })
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use core::str::FromStr;
    use core::time::Duration;

    use vpc_ipam_core::{
        AssignPrivateIpAddresses, DeleteNetworkInterface, Failure, FailureKind, Ipv4Amount,
        ObservedEni, Scope,
    };

    use super::*;
    use crate::api::MockEc2Api;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    #[tokio::test]
    async fn an_observation_is_as_old_as_its_question() {
        let mut api = MockEc2Api::new();
        let (node, eni) = (node(), eni());
        let seen = vec![eni.clone()];
        api.expect_describe_network_interfaces()
            .withf(|instance, scope| {
                instance.as_str() == "i-1" && *scope == Scope::Only(vec![id("eni-1")])
            })
            .return_once(|_, _| Ok(seen));

        let scope = Scope::Only(vec![eni.id]);
        let action = Ec2Action::DescribeNetworkInterfaces(scope.clone());
        let outcome = execute(&api, &node, &action, NOW).await;

        let expected = Observation::new(NOW, Source::Ec2, scope).with_enis(vec![eni]);
        assert_eq!(outcome, Outcome::Done(Effect::Observed(expected)));
    }

    #[tokio::test]
    async fn assigned_blocks_are_what_the_answer_says() {
        let mut api = MockEc2Api::new();
        api.expect_assign_private_ip_addresses()
            .return_once(|_| Ok(vec![net("10.0.1.32/28"), net("10.0.1.5/32")]));

        let action = Ec2Action::AssignPrivateIpAddresses(AssignPrivateIpAddresses {
            eni: id("eni-1"),
            amount: Ipv4Amount::Prefixes(1),
        });
        let outcome = execute(&api, &node(), &action, NOW).await;

        let blocks = ["10.0.1.32/28", "10.0.1.5/32"].map(|text| IpNet::V4(net(text)));
        assert_eq!(outcome, Outcome::Done(Effect::Assigned(blocks.to_vec())));
    }

    #[tokio::test]
    async fn subnets_are_asked_for_where_the_node_is() {
        let mut api = MockEc2Api::new();
        api.expect_describe_subnets()
            .withf(|vpc, zone| vpc.as_str() == "vpc-1" && zone.as_str() == "eu-west-1a")
            .return_once(|_, _| Ok(Vec::new()));

        let outcome = execute(&api, &node(), &Ec2Action::DescribeSubnets, NOW).await;

        assert_eq!(outcome, Outcome::Done(Effect::Subnets(Vec::new())));
    }

    #[tokio::test]
    async fn a_failure_is_handed_on_once_and_classified() {
        let refused = |code| Ec2Error::refused("DeleteNetworkInterface", code, "because");
        let throttled = Ec2Error {
            retry_after: Some(Duration::from_secs(3)),
            ..refused("RequestLimitExceeded")
        };
        let silent = Ec2Error::unanswered("DeleteNetworkInterface", "timed out");
        let cases = [
            (
                throttled,
                FailureKind::Throttled,
                Some(3),
                "DeleteNetworkInterface: RequestLimitExceeded: because",
            ),
            (
                refused("InvalidNetworkInterfaceID.NotFound"),
                FailureKind::NotFound,
                None,
                "DeleteNetworkInterface: InvalidNetworkInterfaceID.NotFound: because",
            ),
            (silent, FailureKind::Unanswered, None, "DeleteNetworkInterface: timed out"),
        ];
        for (error, kind, retry_after, message) in cases {
            let mut api = MockEc2Api::new();
            api.expect_delete_network_interface().times(1).return_once(move |_| Err(error));
            let action =
                Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni: id("eni-1") });

            let outcome = execute(&api, &node(), &action, NOW).await;

            let expected =
                Failure::new(kind, message).with_retry_after(retry_after.map(Duration::from_secs));
            assert_eq!(outcome, Outcome::Failed(expected));
        }
    }

    fn node() -> Node {
        Node::new(
            id("i-1"),
            id("m5.large"),
            id("eu-west-1a"),
            id("vpc-1"),
            id("eni-0"),
            id("subnet-1"),
        )
    }

    fn eni() -> ObservedEni {
        ObservedEni::new(id("eni-1"), id("02:00:00:00:00:01"), id("subnet-1"))
            .with_vpc(Some(id("vpc-1")))
            .with_primary_ipv4(Some(Ipv4Addr::new(10, 0, 1, 4)))
    }

    fn id<I: FromStr<Err: core::fmt::Debug>>(text: &str) -> I {
        text.parse().unwrap()
    }

    fn net(text: &str) -> ipnet::Ipv4Net {
        text.parse().unwrap()
    }
}
