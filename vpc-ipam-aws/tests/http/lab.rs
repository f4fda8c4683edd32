//! A small VPC on HTTP.

use core::net::Ipv4Addr;
use std::net::TcpListener;

use vpc_ipam_aws::{HttpServer, SharedCloud};
use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance};
use vpc_ipam_core::{InstanceId, Limits, Node, SubnetId, Timestamp};

pub const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// One m5.large in a dual-stack subnet; EC2 and the instance's metadata service on loopback.
pub struct Lab {
    pub cloud: SharedCloud,
    pub instance: InstanceId,
    pub node: Node,
    /// A subnet of eleven usable addresses.
    pub tiny: SubnetId,
    pub ec2: HttpServer,
    pub imds: HttpServer,
}

impl Lab {
    pub fn new() -> Self {
        Self::at(|| NOW)
    }

    /// Makes a lab in which it is always as late as `clock` says.
    pub fn at(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let mut cloud = Cloud::new(1);
        let vpc = cloud.create_vpc(
            vec!["10.0.0.0/16".parse().unwrap()],
            vec!["2001:db8::/56".parse().unwrap()],
        );
        let zone = "eu-west-1a".parse().unwrap();
        let subnet = |cidr: &str| CreateSubnet::new(vpc, zone, cidr.parse().unwrap());
        let main = CreateSubnet {
            ipv6_cidr: Some("2001:db8:0:1::/64".parse().unwrap()),
            ..subnet("10.0.1.0/24")
        };
        let main = cloud.create_subnet(main).unwrap();
        let tiny = cloud.create_subnet(subnet("10.0.2.0/28")).unwrap();
        let limits = Limits::lookup("m5.large".parse().unwrap()).unwrap();
        let instance = cloud.run_instance(RunInstance::new(limits, main), NOW).unwrap();
        let node = cloud.metadata(instance, NOW).unwrap().node;

        let cloud = SharedCloud::new(cloud, clock);
        Self {
            ec2: HttpServer::ec2(cloud.clone(), listener()).unwrap(),
            imds: HttpServer::imds(cloud.clone(), instance, listener()).unwrap(),
            cloud,
            instance,
            node,
            tiny,
        }
    }
}

pub fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}
