//! vpc-ipamd as a process of its own that needs no AWS SDK: what it asks of EC2 goes to a unix socket, where a test plays EC2.
//!
//! Usage: `lab-daemon EC2_SOCKET DAEMON_SOCKET INSTANCE [OVERRIDES]`, in the node's network namespace, with the node's variables, and with
//! a file of settings for some nodes. It runs until it is killed.
#![allow(clippy::unwrap_used, reason = "without one of its arguments it can do nothing")]
#![allow(clippy::disallowed_methods, reason = "a process reads its variables")]

use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use vpc_ipam::lab::quick;
use vpc_ipam_aws::{Ec2Api, Ec2Error};
use vpc_ipam_core::{
    AssignIpv6Addresses, AssignPrivateIpAddresses, AttachNetworkInterface, AttachmentId, Budget,
    CreateNetworkInterface, CreateTags, DeleteNetworkInterface, DetachNetworkInterface, Ec2Action,
    Effect, InstanceId, InstanceType, KnownLimits, Limits, Metadata,
    ModifyNetworkInterfaceAttribute, Node, ObservedEni, ObservedSubnet, Outcome, Scope, Timestamp,
    UnassignIpv6Addresses, UnassignPrivateIpAddresses, VpcId, Zone, error_chain,
};
use vpc_ipam_linux::Namespace;
use vpc_ipamd::journal::JournalOptions;
use vpc_ipamd::settings::Settings;
use vpc_ipamd::{Options, ServiceOptions, store};

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).with_writer(io::stderr).init();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, ec2, socket, instance, overrides @ ..] = &*arguments else {
        panic!("three arguments, and maybe a file")
    };
    let overrides = overrides.first().map_or_else(Vec::new, |path| {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    });
    let (settings, _) = Settings::from_vars(std::env::vars());
    let mut config = settings.config;
    config.timing = quick();
    let socket = PathBuf::from(socket);
    let options = Options {
        config,
        host_config: settings.host,
        budget: Budget::default(),
        netns: Namespace::current().unwrap(),
        state: socket.with_file_name("state.redb"),
        journal: Some(JournalOptions::new(socket.with_file_name("journal"))),
        grpc: Vec::new(),
        network_policy: None,
        socket,
        boot: store::boot_id().unwrap(),
        adopt: true,
        service: ServiceOptions::default(),
        limits: KnownLimits::default(),
        overrides,
        labels: BTreeMap::new(),
        metrics: settings.metrics,
        introspection: settings.introspection,
    };
    let api = Arc::new(Ec2OnSocket { path: ec2.into(), instance: instance.parse().unwrap() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let never = core::future::pending();
    match runtime.block_on(vpc_ipamd::run(options, api, None, never)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// EC2 and the metadata service, played at a unix socket: a line of JSON is an action, the line after it the outcome.
struct Ec2OnSocket {
    path: PathBuf,
    instance: InstanceId,
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn exchange(path: &Path, action: &Ec2Action) -> io::Result<Outcome> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all((serde_json::to_string(action)? + "\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

impl Ec2OnSocket {
    async fn call(&self, action: Ec2Action) -> Result<Effect, Ec2Error> {
        let (path, operation) = (self.path.clone(), action.to_string());
        let outcome = tokio::task::spawn_blocking(move || exchange(&path, &action)).await.unwrap();
        match outcome {
            Ok(Outcome::Done(effect)) => Ok(effect),
            Ok(Outcome::Failed(failure)) => Err(Ec2Error {
                operation,
                kind: failure.kind,
                code: None,
                message: failure.message,
                retry_after: failure.retry_after,
            }),
            Err(error) => Err(Ec2Error::unanswered(&operation, error.to_string())),
        }
    }

    async fn done(&self, action: Ec2Action) -> Result<(), Ec2Error> {
        self.call(action).await.map(drop)
    }

    async fn assigned(&self, action: Ec2Action) -> Result<Vec<IpNet>, Ec2Error> {
        match self.call(action).await? {
            Effect::Assigned(blocks) => Ok(blocks),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(effect: &Effect) -> Ec2Error {
    Ec2Error::unanswered("read the answer", format!("{effect:?}"))
}

#[async_trait]
impl Ec2Api for Ec2OnSocket {
    async fn create_network_interface(
        &self,
        request: &CreateNetworkInterface,
    ) -> Result<ObservedEni, Ec2Error> {
        match self.call(Ec2Action::CreateNetworkInterface(request.clone())).await? {
            Effect::Created(eni) => Ok(eni),
            other => Err(unexpected(&other)),
        }
    }

    async fn attach_network_interface(
        &self,
        request: &AttachNetworkInterface,
    ) -> Result<AttachmentId, Ec2Error> {
        match self.call(Ec2Action::AttachNetworkInterface(request.clone())).await? {
            Effect::Attached(id) => Ok(id),
            other => Err(unexpected(&other)),
        }
    }

    async fn modify_network_interface_attribute(
        &self,
        request: &ModifyNetworkInterfaceAttribute,
    ) -> Result<(), Ec2Error> {
        self.done(Ec2Action::ModifyNetworkInterfaceAttribute(request.clone())).await
    }

    async fn assign_private_ip_addresses(
        &self,
        request: &AssignPrivateIpAddresses,
    ) -> Result<Vec<Ipv4Net>, Ec2Error> {
        let blocks = self.assigned(Ec2Action::AssignPrivateIpAddresses(request.clone())).await?;
        Ok(blocks
            .into_iter()
            .filter_map(|net| if let IpNet::V4(net) = net { Some(net) } else { None })
            .collect())
    }

    async fn assign_ipv6_addresses(
        &self,
        request: &AssignIpv6Addresses,
    ) -> Result<Vec<Ipv6Net>, Ec2Error> {
        let blocks = self.assigned(Ec2Action::AssignIpv6Addresses(request.clone())).await?;
        Ok(blocks
            .into_iter()
            .filter_map(|net| if let IpNet::V6(net) = net { Some(net) } else { None })
            .collect())
    }

    async fn unassign_private_ip_addresses(
        &self,
        request: &UnassignPrivateIpAddresses,
    ) -> Result<(), Ec2Error> {
        self.done(Ec2Action::UnassignPrivateIpAddresses(request.clone())).await
    }

    async fn unassign_ipv6_addresses(
        &self,
        request: &UnassignIpv6Addresses,
    ) -> Result<(), Ec2Error> {
        self.done(Ec2Action::UnassignIpv6Addresses(request.clone())).await
    }

    async fn detach_network_interface(
        &self,
        request: &DetachNetworkInterface,
    ) -> Result<(), Ec2Error> {
        self.done(Ec2Action::DetachNetworkInterface(request.clone())).await
    }

    async fn delete_network_interface(
        &self,
        request: &DeleteNetworkInterface,
    ) -> Result<(), Ec2Error> {
        self.done(Ec2Action::DeleteNetworkInterface(request.clone())).await
    }

    async fn create_tags(&self, request: &CreateTags) -> Result<(), Ec2Error> {
        self.done(Ec2Action::CreateTags(request.clone())).await
    }

    async fn describe_network_interfaces(
        &self,
        instance: InstanceId,
        scope: &Scope,
    ) -> Result<Vec<ObservedEni>, Ec2Error> {
        assert_eq!(instance, self.instance, "a node asks about itself");
        match self.call(Ec2Action::DescribeNetworkInterfaces(scope.clone())).await? {
            Effect::Observed(observation) => Ok(observation.enis),
            other => Err(unexpected(&other)),
        }
    }

    async fn describe_subnets(&self, _: VpcId, _: Zone) -> Result<Vec<ObservedSubnet>, Ec2Error> {
        // Those of the node's VPC and zone are what the action is about.
        match self.call(Ec2Action::DescribeSubnets).await? {
            Effect::Subnets(subnets) => Ok(subnets),
            other => Err(unexpected(&other)),
        }
    }

    async fn describe_instances(&self, _: &[InstanceId]) -> Result<Vec<Node>, Ec2Error> {
        Err(Ec2Error::refused("DescribeInstances", "UnauthorizedOperation", "is not played"))
    }

    async fn describe_instance_types(&self, _: &[InstanceType]) -> Result<Vec<Limits>, Ec2Error> {
        Err(Ec2Error::refused("DescribeInstanceTypes", "UnauthorizedOperation", "is not played"))
    }

    async fn metadata(&self, now: Timestamp) -> Result<Metadata, Ec2Error> {
        match self.call(Ec2Action::ReadMetadata).await? {
            Effect::Metadata(mut metadata) => {
                // By this process's clock, as everything else that it knows.
                metadata.observation.as_of = now;
                Ok(metadata)
            }
            other => Err(unexpected(&other)),
        }
    }
}
