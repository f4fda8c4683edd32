//! What EC2 and the metadata service let this daemon do, asked without effect.
//!
//! The calls are none of core's: they come out of no budget and change nothing, and an operator asks for them by hand.

use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use vpc_ipam_aws::{Ec2Api, Ec2Error};
use vpc_ipam_core::{
    AttachNetworkInterface, AttachmentId, Config, CreateNetworkInterface, CreateTags,
    DeleteNetworkInterface, DetachNetworkInterface, DeviceIndex, Ec2Action, Ec2Operation,
    EniAttribute, FailureKind, Ipv4Amount, Limits, LimitsSource, Metadata,
    ModifyNetworkInterfaceAttribute, Node, ObservedEni, ObservedSubnet, Scope, Timestamp,
};
use vpc_ipam_protocol::{LimitsTold, MetadataTold, Permission, Permitted, PodSandbox, Probe, Told};

/// How long all answers together are waited for: half of what a caller waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// The operations without a dry run, those of IPv6 last.
const WITHOUT_DRY_RUN: [Ec2Operation; 4] = [
    Ec2Operation::AssignPrivateIpAddresses,
    Ec2Operation::UnassignPrivateIpAddresses,
    Ec2Operation::AssignIpv6Addresses,
    Ec2Operation::UnassignIpv6Addresses,
];

/// What the event loop knows when it is asked.
pub(crate) struct Known {
    pub(crate) api: Arc<dyn Ec2Api>,
    pub(crate) node: Node,
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    pub(crate) limits_source: LimitsSource,
    pub(crate) state: PathBuf,
    pub(crate) sandboxes: Vec<PodSandbox>,
    pub(crate) now: Timestamp,
}

/// Asks for everything, for [`PATIENCE`] in all. What is not answered by then cannot be told.
pub(crate) async fn probe(known: Known) -> Probe {
    let asking = Asking { known, deadline: Instant::now() + PATIENCE };
    let metadata = asking.metadata().await;
    let (subnets, permissions) = asking.ec2().await;
    let Known { config, limits, limits_source, state, sandboxes, now, .. } = asking.known;
    Probe {
        now,
        metadata,
        permissions,
        subnets,
        limits: LimitsTold {
            instance_type: limits.instance_type,
            source: limits_source,
            enis: limits.enis(limits.default_card),
            ipv4_per_eni: limits.ipv4_per_eni,
        },
        pods_max: config.pods_max,
        state,
        sandboxes,
    }
}

struct Asking {
    known: Known,
    deadline: Instant,
}

impl Asking {
    async fn answer<T>(
        &self,
        operation: &str,
        call: impl Future<Output = Result<T, Ec2Error>>,
    ) -> Result<T, Ec2Error> {
        timeout_at(self.deadline, call).await.unwrap_or_else(|_| {
            let late = format!("not answered within {} s", PATIENCE.as_secs());
            Err(Ec2Error::unanswered(operation, late))
        })
    }

    async fn metadata(&self) -> Told<MetadataTold> {
        let began = Instant::now();
        let Known { api, now, .. } = &self.known;
        match self.answer("metadata", api.metadata(*now)).await {
            Ok(Metadata { node, observation, .. }) => Told::Told(MetadataTold {
                instance: node.instance,
                instance_type: node.instance_type,
                zone: node.zone,
                subnet: node.subnet,
                incomplete: observation
                    .incomplete
                    .iter()
                    .map(|eni| format!("{}: {}", eni.mac, eni.missing))
                    .collect(),
                ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            }),
            Err(error) => Told::Failed(error.to_string()),
        }
    }

    /// Asks EC2 for the subnets, and for the right to each operation that is called with these settings.
    async fn ec2(&self) -> (Told<Vec<ObservedSubnet>>, Vec<Permission>) {
        let Known { api, node, config, limits, now, .. } = &self.known;
        if !config.ec2_reads {
            let why = "ENABLE_IMDS_ONLY_MODE is set: EC2 is not called".to_owned();
            return (Told::NotAsked(why), Vec::new());
        }
        let mut permissions = Vec::new();
        let mut told = |operation, permitted| permissions.push(Permission { operation, permitted });

        let call = api.describe_subnets(node.vpc, node.zone);
        let subnets = self.answer("DescribeSubnets", call).await;
        told(Ec2Operation::DescribeSubnets, permitted(&subnets));
        let call = api.describe_network_interfaces(node.instance, &Scope::Attached);
        let enis = self.answer("DescribeNetworkInterfaces", call).await;
        told(Ec2Operation::DescribeNetworkInterfaces, permitted(&enis));
        let types = [limits.instance_type];
        let types = self.answer("DescribeInstanceTypes", api.describe_instance_types(&types)).await;
        told(Ec2Operation::DescribeInstanceTypes, permitted(&types));

        if config.provisioning {
            let attachment = attachment(node, enis.as_deref().unwrap_or_default());
            for action in changes(node, config, *now, attachment) {
                let Some(operation) = action.operation() else { continue };
                let tried = self.answer(operation.name(), api.dry_run(&action)).await;
                told(operation, permitted(&tried));
            }
            let of_family = if config.families.ipv6() { 4 } else { 2 };
            for operation in &WITHOUT_DRY_RUN[..of_family] {
                let why = "EC2 has no dry run of it; a refusal shows when it is called".to_owned();
                told(*operation, Permitted::Unknown(why));
            }
        }
        let subnets = match subnets {
            Ok(subnets) => Told::Told(subnets),
            Err(error) => Told::Failed(error.to_string()),
        };
        (subnets, permissions)
    }
}

/// Returns the attachment of the primary ENI, which EC2 never detaches: an endpoint that does not heed `DryRun` does no harm.
fn attachment(node: &Node, enis: &[ObservedEni]) -> Option<AttachmentId> {
    enis.iter().find(|eni| eni.id == node.primary)?.attachment.as_ref()?.id
}

/// Returns what the daemon does at EC2, as calls of which there is a dry run. They carry the tags of the real ones: a policy may ask
/// for any of these.
fn changes(
    node: &Node,
    config: &Config,
    now: Timestamp,
    attachment: Option<AttachmentId>,
) -> Vec<Ec2Action> {
    let eni = node.primary;
    let of_new_eni = config.tags_of_new_eni(node, now);
    let mut of_managed_eni = config.tags_of_managed_eni();
    if of_managed_eni.is_empty() {
        // Nothing is tagged later, but a new ENI is, which takes the right to CreateTags, too.
        of_managed_eni.clone_from(&of_new_eni);
    }
    let mut changes = vec![
        Ec2Action::CreateNetworkInterface(CreateNetworkInterface {
            client_token: format!("probe-{}", node.instance),
            subnet: node.subnet,
            security_groups: Vec::new(),
            description: "vpc-ipam doctor".to_owned(),
            tags: of_new_eni,
            ipv4: Ipv4Amount::Addresses(0),
            ipv6_prefixes: 0,
        }),
        Ec2Action::AttachNetworkInterface(AttachNetworkInterface {
            eni,
            instance: node.instance,
            card: vpc_ipam_core::Card(0),
            device: DeviceIndex(1),
        }),
        Ec2Action::DeleteNetworkInterface(DeleteNetworkInterface { eni }),
        Ec2Action::CreateTags(CreateTags { eni, tags: of_managed_eni }),
    ];
    if let Some(attachment) = attachment {
        let attribute = EniAttribute::DeleteOnTermination(attachment);
        changes.push(Ec2Action::ModifyNetworkInterfaceAttribute(ModifyNetworkInterfaceAttribute {
            eni,
            attribute,
        }));
        changes.push(Ec2Action::DetachNetworkInterface(DetachNetworkInterface { eni, attachment }));
    }
    changes
}

fn permitted<T>(answer: &Result<T, Ec2Error>) -> Permitted {
    match answer {
        Ok(_) => Permitted::Yes,
        Err(error) if error.kind == FailureKind::Denied => Permitted::No(error.to_string()),
        Err(error) => Permitted::Unknown(error.to_string()),
    }
}
