//! The numbers of the datapath: priorities of rules, route tables, gateways, and the ranges of egress addresses.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use vpc_ipam_core::{Card, DeviceIndex};

use crate::kernel::network::{Family, Table};

/// The priority of the rule by which the node reaches the pod.
pub(crate) const PRIORITY_TO_POD: u32 = 512;

/// The priority of the rules that lead what comes in by the links of a pod on a branch ENI to the ENI's table.
pub(crate) const PRIORITY_BRANCH: u32 = 10;

/// The priority to which the rule of the host's own addresses moves, so that the rules of branch ENIs come first.
pub(crate) const PRIORITY_LOCAL: u32 = 20;

/// The priority of the rule that leads marked packets to the main table.
pub(crate) const PRIORITY_MARK: u32 = 1024;

/// The priority of the rules that lead to Services outside of the VPC by the main table.
pub(crate) const PRIORITY_SERVICE: u32 = 1535;

/// The priority of the rule that leads what the pod sends to the table of its ENI.
pub(crate) const PRIORITY_FROM_POD: u32 = 1536;

/// The priority of the rule that leads what an ENI's own address sends to the ENI's table.
pub(crate) const PRIORITY_ENI: u32 = 32765;

/// The priority, inside the pod, of the rule that leads what an address sends to the table of its interface.
pub(crate) const PRIORITY_IN_POD: u32 = 1;

/// Returns the route table of a secondary ENI: the device's number and one on the first network card, and the numbers that
/// Amazon Linux gives (ec2-net-utils) on other cards.
///
/// The primary ENI has the main table, wherever it is attached: [`LeasedInterface::on_primary`] tells.
///
/// [`LeasedInterface::on_primary`]: vpc_ipam_core::LeasedInterface::on_primary
pub fn table(card: Card, device: DeviceIndex) -> Table {
    match (card.0, device.0) {
        (0, device) => Table(u32::from(device) + 1),
        (card, device) => Table(10_000 + 100 * u32::from(card) + u32::from(device)),
    }
}

/// The router of every subnet, to IPv6.
pub(crate) const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0xec2, 0, 0, 0, 0, 0, 1);

/// The router of a subnet is the first address after its base, whatever octet that carries into.
pub(crate) fn subnet_gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.network().to_bits().wrapping_add(1))
}

/// Returns the next hop of an interface: on no network, the same in every pod.
pub(crate) fn pod_gateway(family: Family, number: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(169, 254, 1, number + 1).into(),
        Family::Ipv6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(number) + 1).into(),
    }
}

/// Where pods of an IPv6 cluster get an IPv4 address that only their node knows; the range of amazon-vpc-cni-k8s.
pub(crate) const EGRESS_IPV4: Ipv4Net =
    Ipv4Net::new_assert(core::net::Ipv4Addr::new(169, 254, 172, 0), 22);

/// Where pods of an IPv4 cluster get an IPv6 address that only their node knows; the range of amazon-vpc-cni-k8s.
pub(crate) const EGRESS_IPV6: Ipv6Net =
    Ipv6Net::new_assert(core::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xac, 0), 118);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_numbered_as_amazon_vpc_cni_k8s_numbers_them() {
        let cases = [
            ((0, 0), "1"),
            ((0, 1), "2"),
            ((0, 2), "3"),
            ((1, 0), "10100"),
            ((1, 1), "10101"),
            ((2, 3), "10203"),
        ];
        for ((card, device), expected) in cases {
            let actual = table(Card(card), DeviceIndex(device)).to_string();
            assert_eq!(actual, expected, "card {card} device {device}");
        }
    }

    #[test]
    fn gateway_carries_into_the_next_octet() {
        let cases = [
            ("10.0.0.0/19", "10.0.0.1"),
            ("10.0.255.255/32", "10.1.0.0"),
            ("172.31.16.7/20", "172.31.16.1"),
        ];
        for (subnet, expected) in cases {
            assert_eq!(subnet_gateway(subnet.parse().unwrap()).to_string(), expected, "{subnet}");
        }
    }
}
