//! The VPC of a lab in the model of EC2, made for what the node's settings ask for.

use ipnet::{Ipv4Net, Ipv6Net};
use vpc_ipam_core::sim::{Cloud, CloudError, CreateSubnet, Ipv6Request, RunInstance};
use vpc_ipam_core::{
    Config, ConfigChange, EniConfig, InstanceId, Limits, LimitsSource, Node, NodeSelector,
    Override, SubnetId, Timestamp, UnknownInstanceTypeError, VpcId, Zone,
};
use vpc_ipam_linux::HostConfig;
use vpc_ipam_linux::lab::{Layout, LayoutError};
use vpc_ipamd::settings::Settings;

use super::{LabSpec, PerNode, StartError};

const IPV4: &str = "10.0.0.0/16";
/// Of carrier-grade NAT (RFC 6598): what AWS advises for the pods of custom networking.
const IPV4_OF_PODS: &str = "100.64.0.0/16";
/// For documentation (RFC 3849); EC2 gives a VPC a /56 too.
const IPV6: &str = "2001:db8:ec2::/56";

/// A VPC with a node and another host.
pub(super) struct Vpc {
    pub(super) cloud: Cloud,
    pub(super) subnets: Subnets,
    pub(super) node: Node,
    other_host: InstanceId,
}

/// The subnets of a lab.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Subnets {
    /// That of the node's primary ENI.
    pub node: LabSubnet,
    /// That of the other host.
    pub other_host: LabSubnet,
    /// That of pods under custom networking.
    pub pods: Option<LabSubnet>,
}

/// A subnet of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LabSubnet {
    /// Its id.
    pub id: SubnetId,
    /// Its IPv4 range.
    pub ipv4_cidr: Ipv4Net,
    /// Its IPv6 range, where the lab has IPv6.
    pub ipv6_cidr: Option<Ipv6Net>,
}

/// What a node's variables and files come to on it.
#[derive(Clone, Debug)]
pub struct Mode {
    /// What the operator wants of its addresses.
    pub config: Config,
    /// What the operator wants of its network.
    pub host: HostConfig,
    /// Where ENIs for pods go under custom networking.
    pub eni_config: Option<EniConfig>,
    /// What it can hold: as much as the daemon takes its type for, and no more than EC2 allows.
    pub limits: Limits,
}

impl Mode {
    /// Settles what holds for a node by the overrides of its daemon and the true limits of its type.
    fn of(
        spec: &LabSpec,
        overrides: &[Override],
        node: &Node,
        truth: &Limits,
    ) -> Result<Self, UnknownInstanceTypeError> {
        let PerNode { labels, pods_max, .. } = &spec.per_node;
        let (Settings { config, host, .. }, _) = Settings::from_vars(spec.vars.iter().cloned());
        let pods_max = pods_max.or(config.pods_max);
        let mut config = config.with_pods_max(pods_max);
        if let Some(timing) = spec.timing {
            config.timing = timing;
        }
        let config = config.for_node(overrides, node, labels);
        let (believed, _) = spec.per_node.known_limits().find(spec.instance_type)?;
        let eni_config = EniConfig::for_node(overrides, node, labels);
        Ok(Self { config, host, eni_config, limits: within(&believed, truth) })
    }

    /// Returns whether anything about the node has to do with IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.config.families.ipv6() || self.host.ipv6_egress
    }
}

impl Vpc {
    /// Makes what a spec asks for: IPv6 and a subnet for pods only where the settings want them, so that a node without is one
    /// of a VPC without.
    pub(super) fn make(spec: &LabSpec, now: Timestamp) -> Result<(Self, Mode), StartError> {
        // EC2 holds a type to its true limits, whatever the operator makes the daemon believe.
        let truth = spec
            .per_node
            .known_limits()
            .with_trust(vec![LimitsSource::Table, LimitsSource::Override]);
        let (limits, _) = truth.find(spec.instance_type)?;
        // Which settings are for the node follows from its zone and subnet, which are the same in any such VPC.
        let plain = Self::with(limits.clone(), false, false, now)?;
        let mode = Mode::of(spec, &spec.per_node.overrides, &plain.node, &limits)?;
        let (ipv6, custom_networking) = (mode.has_ipv6(), mode.config.custom_networking);
        let vpc = Self::with(limits.clone(), ipv6, custom_networking, now)?;
        let mode = Mode::of(spec, &vpc.overrides(spec), &vpc.node, &limits)?;
        Ok((vpc, mode))
    }

    fn with(
        limits: Limits,
        ipv6: bool,
        custom_networking: bool,
        now: Timestamp,
    ) -> Result<Self, CloudError> {
        let mut cloud = Cloud::new(1);
        let ipv4 = [IPV4].into_iter().chain(custom_networking.then_some(IPV4_OF_PODS));
        let ipv6: Option<Ipv6Net> = ipv6.then(|| range(IPV6));
        let vpc = cloud.create_vpc(ipv4.map(range).collect(), ipv6.into_iter().collect());
        let node_subnet = create_subnet(&mut cloud, vpc, "10.0.0.0/19", ipv6, 0)?;
        let other = create_subnet(&mut cloud, vpc, "10.0.32.0/19", ipv6, 1)?;
        let mut run = |subnet: LabSubnet| -> Result<Node, CloudError> {
            let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet.id), now)?;
            let node = cloud.metadata(instance, now)?.node;
            if ipv6.is_some() {
                let own = Ipv6Request::AddressCount(1);
                cloud.assign_ipv6_addresses(node.primary, &own, now)?;
            }
            Ok(node)
        };
        let (node, other_host) = (run(node_subnet)?, run(other)?.instance);
        let pods =
            custom_networking.then(|| create_subnet(&mut cloud, vpc, "100.64.0.0/19", ipv6, 2));
        let subnets = Subnets { node: node_subnet, other_host: other, pods: pods.transpose()? };
        Ok(Self { cloud, subnets, node, other_host })
    }

    /// Returns what the lab is to be built like.
    pub(super) fn layout(&self) -> Result<Layout, LayoutError> {
        let ids = self.subnets.all().map(|subnet| subnet.id);
        Layout::of(&self.cloud, ids, self.node.instance, self.other_host)
    }

    /// Returns the overrides for the node's daemon. Unless the operator's say otherwise, pods under custom networking get their
    /// addresses from the subnet that is there for them.
    pub(super) fn overrides(&self, spec: &LabSpec) -> Vec<Override> {
        let for_pods = self.subnets.pods.map(|subnet| {
            let eni_config = EniConfig::new(subnet.id);
            let set = ConfigChange::default().with_eni_config(Some(eni_config));
            Override::default().with_when(NodeSelector::default()).with_set(set)
        });
        for_pods.into_iter().chain(spec.per_node.overrides.iter().cloned()).collect()
    }
}

impl Subnets {
    /// Returns all that there are.
    pub fn all(&self) -> impl Iterator<Item = LabSubnet> {
        [self.node, self.other_host].into_iter().chain(self.pods)
    }
}

/// Returns believed limits, cut down to the true ones.
fn within(believed: &Limits, truth: &Limits) -> Limits {
    let enis = believed.enis_per_card.iter().zip(&*truth.enis_per_card);
    believed
        .clone()
        .with_enis_per_card(enis.map(|(believed, truth)| *believed.min(truth)).collect())
        .with_ipv4_per_eni(believed.ipv4_per_eni.min(truth.ipv4_per_eni))
        .with_ipv6_per_eni(believed.ipv6_per_eni.min(truth.ipv6_per_eni))
}

fn create_subnet(
    cloud: &mut Cloud,
    vpc: VpcId,
    ipv4_cidr: &str,
    of_vpc: Option<Ipv6Net>,
    number: u8,
) -> Result<LabSubnet, CloudError> {
    let zone: Zone = "lab-1a".parse().expect("a short printable text is a zone");
    let ipv4_cidr = range(ipv4_cidr);
    let ipv6_cidr = of_vpc.map(|vpc| {
        let mut bytes = vpc.network().octets();
        bytes[7] = number;
        Ipv6Net::new_assert(bytes.into(), 64)
    });
    let request = CreateSubnet { ipv6_cidr, ..CreateSubnet::new(vpc, zone, ipv4_cidr) };
    Ok(LabSubnet { id: cloud.create_subnet(request)?, ipv4_cidr, ipv6_cidr })
}

fn range<T: core::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is written as a range"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn spec(vars: &[(&str, &str)], per_node: &str) -> LabSpec {
        let vars = vars.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let mut spec = LabSpec::new("a".parse().unwrap(), "m5.large".parse().unwrap());
        spec.vars = vars.collect();
        spec.per_node.overrides = serde_json::from_str(per_node).unwrap();
        spec.per_node.labels = BTreeMap::from([("team".to_string(), "batch".to_string())]);
        spec
    }

    #[test]
    fn vpc_has_what_the_settings_ask_for() {
        let of_zone = r#"[{"when": {"zones": ["lab-1a"]}, "set": {"families": "Ipv6"}}]"#;
        let of_label = r#"[{"when": {"labels": {"team": "web"}}, "set": {"families": "Ipv6"}}]"#;
        let custom = ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true");
        let ipv6 = ("ENABLE_IPv6", "true");
        let cases: [(&[(&str, &str)], &str, _); 7] = [
            (&[], "[]", (false, 2)),
            (&[ipv6], "[]", (true, 2)),
            (&[ipv6, ("ENABLE_IPv4", "true")], "[]", (true, 2)),
            (&[("ENABLE_V6_EGRESS", "true")], "[]", (true, 2)),
            (&[custom], "[]", (false, 3)),
            (&[], of_zone, (true, 2)),
            (&[], of_label, (false, 2)),
        ];
        for (vars, per_node, expected) in cases {
            let now = Timestamp::from_secs(1_700_000_000);
            let (vpc, _) = Vpc::make(&spec(vars, per_node), now).unwrap();
            let layout = vpc.layout().unwrap();
            let case = format!("{vars:?} {per_node}");
            assert_eq!((layout.has_ipv6(), layout.subnets.len()), expected, "{case}");
            assert_eq!(layout.node.primary_ipv6.is_some(), expected.0, "{case}");
        }
    }

    /// So that a file of overrides may name them.
    #[test]
    fn ids_are_the_same_in_every_lab() {
        let now = Timestamp::from_secs(1_700_000_000);
        let (plain, _) = Vpc::make(&spec(&[], "[]"), now).unwrap();
        let all = [("ENABLE_IPv6", "true"), ("ENABLE_IPv4", "true")];
        let (other, _) = Vpc::make(&spec(&all, "[]"), now).unwrap();
        assert_eq!(plain.node, other.node);
    }

    #[test]
    fn ec2_holds_a_type_to_its_true_limits() {
        let mut spec = spec(&[], "[]");
        let cases =
            [("m5.large", 4, (10, 4)), ("m5.large", 30, (10, 10)), ("m99.large", 4, (4, 4))];
        for (instance_type, ipv4_per_eni, expected) in cases {
            spec.instance_type = instance_type.parse().unwrap();
            let like = Limits::lookup("m5.large".parse().unwrap()).unwrap();
            let believed =
                like.with_instance_type(spec.instance_type).with_ipv4_per_eni(ipv4_per_eni);
            spec.per_node.limits = vec![believed];
            let now = Timestamp::from_secs(1_700_000_000);
            let (vpc, mode) = Vpc::make(&spec, now).unwrap();
            let truth = &vpc.cloud.instance(&vpc.node.instance).unwrap().limits;
            let found = (truth.ipv4_per_eni, mode.limits.ipv4_per_eni);
            assert_eq!(found, expected, "{instance_type} {ipv4_per_eni}");
        }
    }
}
