//! How the operator wants the node's network.

mod veth_prefix;

use core::num::NonZeroU32;

use ipnet::Ipv4Net;
use vpc_ipam_core::{ConfigProblem, ConfigWarning, Vars};

use self::veth_prefix::EXPECTED_PREFIX;
pub use self::veth_prefix::{VethPrefix, VethPrefixError};

/// How the operator wants the node's network, as the variables of amazon-vpc-cni-k8s say.
///
/// ```
/// use vpc_ipam_linux::{HostConfig, SnatPorts};
///
/// let (config, notes) = HostConfig::from_vars([("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "prng")]);
/// assert_eq!(config, HostConfig { snat_ports: SnatPorts::FullyRandom, ..HostConfig::default() });
/// assert!(notes.is_empty());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Whether something outside the node translates the pods' addresses: `AWS_VPC_K8S_CNI_EXTERNALSNAT`.
    pub external_snat: bool,
    /// How source ports are chosen: `AWS_VPC_K8S_CNI_RANDOMIZESNAT`.
    pub snat_ports: SnatPorts,
    /// Ranges outside the VPC that see pods with their own addresses: `AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS`.
    pub excluded_cidrs: Vec<Ipv4Net>,
    /// Whether NodePorts lead to pods on secondary ENIs: `AWS_VPC_CNI_NODE_PORT_SUPPORT`.
    pub node_port: bool,
    /// The bits that mark a connection of the primary ENI: `AWS_VPC_K8S_CNI_CONNMARK`.
    pub mark: NonZeroU32,
    /// How the names of the pods' links begin on the host: `AWS_VPC_K8S_CNI_VETHPREFIX`.
    pub veth_prefix: VethPrefix,
    /// Whether TCP may find the socket before the route; kubelet's probes of pods on branch ENIs need it not to:
    /// the contrary of `DISABLE_TCP_EARLY_DEMUX`.
    pub tcp_early_demux: bool,
    /// Ranges that the node and its pods reach by the primary ENI, whichever ENI a pod is on: `AWS_EXTERNAL_SERVICE_CIDRS`.
    pub service_cidrs: Vec<Ipv4Net>,
    /// The MTU of the pods' links in bytes, where it is not that of the ENIs: `POD_MTU`.
    pub pod_mtu: Option<u16>,
    /// How pods on branch ENIs are reached: `POD_SECURITY_GROUP_ENFORCING_MODE`.
    pub branch_mode: BranchMode,
    /// Whether pods of an IPv6 cluster reach IPv4 through the node: `ENABLE_V4_EGRESS`.
    pub ipv4_egress: bool,
    /// Whether pods of an IPv4 cluster reach IPv6 through the node, if that has an address: `ENABLE_V6_EGRESS`.
    pub ipv6_egress: bool,
    /// Whether pods without an IPv6 address may have link-local ones: the contrary of `DISABLE_POD_V6`.
    pub pod_ipv6: bool,
    /// Whether pods may send from their own addresses alone: `ENABLE_POD_SOURCE_CHECK`.
    pub source_check: bool,
}

/// How the packets of a pod on a branch ENI find their way on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchMode {
    /// All of them by the branch ENI, also to and from the node and its other pods, so that its security groups see all:
    /// `strict`.
    Strict,
    /// As any pod's: on the node directly, to outside of the VPC with the node's address: `standard`.
    Standard,
}

/// How the source port of a translated connection is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnatPorts {
    /// From a hash of the addresses with a random secret: `hashrandom`.
    Random,
    /// From a random number each time: `prng`.
    FullyRandom,
    /// The pod's own where it is free: `none`.
    Kept,
}

/// The bits that amazon-vpc-cni-k8s takes where nothing else is configured.
const MARK: NonZeroU32 = NonZeroU32::new(0x80).unwrap();

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            external_snat: false,
            snat_ports: SnatPorts::Random,
            excluded_cidrs: Vec::new(),
            node_port: true,
            mark: MARK,
            veth_prefix: VethPrefix::default(),
            tcp_early_demux: true,
            service_cidrs: Vec::new(),
            pod_mtu: None,
            branch_mode: BranchMode::Strict,
            ipv4_egress: true,
            ipv6_egress: false,
            pod_ipv6: true,
            source_check: true,
        }
    }
}

impl HostConfig {
    /// Reads variables, in any order; of two with one name the later wins. Variables of other programs are passed over.
    pub fn from_vars<N: Into<String>, V: Into<String>>(
        vars: impl IntoIterator<Item = (N, V)>,
    ) -> (Self, Vec<ConfigWarning>) {
        let mut vars = Vars::new(vars);
        let default = Self::default();
        let config = Self {
            external_snat: vars.boolean("AWS_VPC_K8S_CNI_EXTERNALSNAT", default.external_snat),
            snat_ports: snat_ports(&mut vars).unwrap_or(default.snat_ports),
            excluded_cidrs: cidrs(&mut vars, "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"),
            node_port: vars.boolean("AWS_VPC_CNI_NODE_PORT_SUPPORT", default.node_port),
            mark: mark(&mut vars).unwrap_or(default.mark),
            veth_prefix: veth_prefix(&mut vars).unwrap_or(default.veth_prefix),
            tcp_early_demux: !vars.boolean("DISABLE_TCP_EARLY_DEMUX", !default.tcp_early_demux),
            service_cidrs: cidrs(&mut vars, "AWS_EXTERNAL_SERVICE_CIDRS"),
            pod_mtu: pod_mtu(&mut vars),
            branch_mode: branch_mode(&mut vars).unwrap_or(default.branch_mode),
            ipv4_egress: vars.boolean("ENABLE_V4_EGRESS", default.ipv4_egress),
            ipv6_egress: vars.boolean("ENABLE_V6_EGRESS", default.ipv6_egress),
            pod_ipv6: !vars.boolean("DISABLE_POD_V6", !default.pod_ipv6),
            source_check: vars.boolean("ENABLE_POD_SOURCE_CHECK", default.source_check),
        };
        config.remark(&mut vars);
        (config, vars.into_warnings())
    }
}

impl HostConfig {
    /// Remarks on what has no effect, or another than is meant.
    fn remark(&self, vars: &mut Vars) {
        const EXCLUDED: &str = "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS";
        if self.external_snat && !self.excluded_cidrs.is_empty() {
            vars.warn(EXCLUDED, ConfigProblem::Overridden { by: "AWS_VPC_K8S_CNI_EXTERNALSNAT" });
        }
        let ipv6 = is_true(vars, "ENABLE_IPv6");
        if self.ipv6_egress && ipv6 {
            vars.warn("ENABLE_V6_EGRESS", ConfigProblem::Overridden { by: "ENABLE_IPv6" });
        }
        if !self.pod_ipv6 && (ipv6 || self.ipv6_egress) {
            let by = if ipv6 { "ENABLE_IPv6" } else { "ENABLE_V6_EGRESS" };
            vars.warn("DISABLE_POD_V6", ConfigProblem::Overridden { by });
        }
        if self.branch_mode == BranchMode::Strict
            && self.tcp_early_demux
            && is_true(vars, "ENABLE_POD_ENI")
        {
            vars.warn(
                "DISABLE_TCP_EARLY_DEMUX",
                ConfigProblem::Advice(
                    "kubelet's TCP probes do not reach pods on branch ENIs in strict mode; set it to true",
                ),
            );
        }
        for (name, why) in [
            (
                "AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER",
                "has no effect: rp_filter of the primary ENI is always loose",
            ),
            (
                "ENABLE_NFTABLES",
                "has no effect: nftables is used where nft works, else the kind of iptables that the node uses",
            ),
        ] {
            if vars.text(name).is_some() {
                vars.warn(name, ConfigProblem::Advice(why));
            }
        }
    }
}

/// Reads a variable that is core's to remark on.
fn is_true(vars: &Vars, name: &str) -> bool {
    matches!(vars.text(name), Some("1" | "t" | "T" | "TRUE" | "true" | "True"))
}

fn pod_mtu(vars: &mut Vars) -> Option<u16> {
    const NAME: &str = "POD_MTU";
    const ENI: i64 = 9001;
    vars.text(NAME)?;
    let least = if is_true(vars, "ENABLE_IPv6") { 1280 } else { 576 };
    let range = least..=9001;
    let of_enis = vars.text("AWS_VPC_ENI_MTU").and_then(|text| text.parse().ok()).unwrap_or(ENI);
    // The ENIs' own value counts where this one is none.
    let mtu = match vars.text(NAME).map(str::parse::<i64>) {
        Some(Ok(_)) => vars.clamped(NAME, range, ENI),
        _ => return unusable(vars, NAME, "a number of bytes", "AWS_VPC_ENI_MTU"),
    };
    if mtu > of_enis {
        vars.warn(
            NAME,
            ConfigProblem::Advice(
                "larger than AWS_VPC_ENI_MTU: large packets of pods do not leave the node",
            ),
        );
    }
    u16::try_from(mtu).ok()
}

fn branch_mode(vars: &mut Vars) -> Option<BranchMode> {
    const NAME: &str = "POD_SECURITY_GROUP_ENFORCING_MODE";
    match vars.text(NAME)? {
        "strict" => Some(BranchMode::Strict),
        "standard" => Some(BranchMode::Standard),
        _ => unusable(vars, NAME, "strict or standard", "strict"),
    }
}

fn snat_ports(vars: &mut Vars) -> Option<SnatPorts> {
    const NAME: &str = "AWS_VPC_K8S_CNI_RANDOMIZESNAT";
    match vars.text(NAME)? {
        "hashrandom" => Some(SnatPorts::Random),
        "prng" => Some(SnatPorts::FullyRandom),
        "none" => Some(SnatPorts::Kept),
        _ => unusable(vars, NAME, "hashrandom, prng or none", "hashrandom"),
    }
}

fn cidrs(vars: &mut Vars, name: &'static str) -> Vec<Ipv4Net> {
    let items = vars.list(name);
    let cidrs = items.iter().filter_map(|item| item.parse::<Ipv4Net>().ok());
    let cidrs: Vec<_> = cidrs.map(|cidr| cidr.trunc()).collect();
    if cidrs.len() < items.len() {
        unusable::<()>(vars, name, "IPv4 ranges such as 10.8.0.0/16", "those that are");
    }
    cidrs
}

fn mark(vars: &mut Vars) -> Option<NonZeroU32> {
    const NAME: &str = "AWS_VPC_K8S_CNI_CONNMARK";
    let mark = go_integer(vars.text(NAME)?).and_then(|mark| u32::try_from(mark).ok());
    match mark.and_then(NonZeroU32::new) {
        Some(mark) => Some(mark),
        None => unusable(vars, NAME, "a number from 1 to 0xffffffff", "0x80"),
    }
}

fn veth_prefix(vars: &mut Vars) -> Option<VethPrefix> {
    const NAME: &str = "AWS_VPC_K8S_CNI_VETHPREFIX";
    match vars.text(NAME)?.parse() {
        Ok(prefix) => Some(prefix),
        Err(VethPrefixError { .. }) => unusable(vars, NAME, EXPECTED_PREFIX, "eni"),
    }
}

fn unusable<T>(
    vars: &mut Vars,
    name: &'static str,
    expected: &'static str,
    used: &str,
) -> Option<T> {
    vars.warn(name, ConfigProblem::Unusable { expected, used: used.to_owned() });
    None
}

/// Reads a number as Go does where the text says in which base: `0x80`, `0o200`, `0200`, `0b1000_0000`, `128`.
fn go_integer(text: &str) -> Option<u64> {
    let (radix, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &text[2..]),
        [b'0', b'o' | b'O', ..] => (8, &text[2..]),
        [b'0', b'b' | b'B', ..] => (2, &text[2..]),
        [b'0', _, ..] => (8, &text[1..]),
        _ => (10, text.strip_prefix('+').unwrap_or(text)),
    };
    // Underscores may stand between digits, and between them and the prefix.
    let misplaced = digits.ends_with('_') || digits.contains("__");
    let misplaced = misplaced || (radix == 10 && digits.starts_with('_'));
    if misplaced || digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_mean_what_they_mean_to_amazon_vpc_cni_k8s() {
        let default = HostConfig::default;
        let cidrs = |cidrs: &[&str]| cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let mark = |mark| NonZeroU32::new(mark).unwrap();
        let cases = [
            ("NOT_OURS", "x", default(), 0),
            ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "", default(), 0),
            (
                "AWS_VPC_K8S_CNI_EXTERNALSNAT",
                "T",
                HostConfig { external_snat: true, ..default() },
                0,
            ),
            ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "yes", default(), 1),
            ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "0", HostConfig { node_port: false, ..default() }, 0),
            (
                "AWS_VPC_K8S_CNI_RANDOMIZESNAT",
                "none",
                HostConfig { snat_ports: SnatPorts::Kept, ..default() },
                0,
            ),
            ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "PRNG", default(), 1),
            (
                "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
                " 10.1.2.3/16 ,, 172.16.0.0/12",
                HostConfig {
                    excluded_cidrs: cidrs(&["10.1.0.0/16", "172.16.0.0/12"]),
                    ..default()
                },
                0,
            ),
            (
                "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
                "fd00::/8,10.1.0.0/16,10.2.0.0",
                HostConfig { excluded_cidrs: cidrs(&["10.1.0.0/16"]), ..default() },
                1,
            ),
            ("AWS_VPC_K8S_CNI_CONNMARK", "0x100", HostConfig { mark: mark(0x100), ..default() }, 0),
            ("AWS_VPC_K8S_CNI_CONNMARK", "0200", HostConfig { mark: mark(0x80), ..default() }, 0),
            ("AWS_VPC_K8S_CNI_CONNMARK", "0", default(), 1),
            ("AWS_VPC_K8S_CNI_CONNMARK", "4294967296", default(), 1),
            (
                "AWS_VPC_K8S_CNI_VETHPREFIX",
                "pod_",
                HostConfig { veth_prefix: "pod_".parse().unwrap(), ..default() },
                0,
            ),
            ("AWS_VPC_K8S_CNI_VETHPREFIX", "vlan", default(), 1),
            ("AWS_VPC_K8S_CNI_VETHPREFIX", "toolong", default(), 1),
            (
                "DISABLE_TCP_EARLY_DEMUX",
                "true",
                HostConfig { tcp_early_demux: false, ..default() },
                0,
            ),
            (
                "AWS_EXTERNAL_SERVICE_CIDRS",
                "172.20.5.0/16, fd00::/8",
                HostConfig { service_cidrs: cidrs(&["172.20.0.0/16"]), ..default() },
                1,
            ),
            ("POD_MTU", "1500", HostConfig { pod_mtu: Some(1500), ..default() }, 0),
            ("POD_MTU", "100", HostConfig { pod_mtu: Some(576), ..default() }, 1),
            ("POD_MTU", "jumbo", default(), 1),
            (
                "POD_SECURITY_GROUP_ENFORCING_MODE",
                "standard",
                HostConfig { branch_mode: BranchMode::Standard, ..default() },
                0,
            ),
            ("POD_SECURITY_GROUP_ENFORCING_MODE", "Strict", default(), 1),
            ("ENABLE_V4_EGRESS", "false", HostConfig { ipv4_egress: false, ..default() }, 0),
            ("ENABLE_V6_EGRESS", "true", HostConfig { ipv6_egress: true, ..default() }, 0),
            ("DISABLE_POD_V6", "true", HostConfig { pod_ipv6: false, ..default() }, 0),
            (
                "ENABLE_POD_SOURCE_CHECK",
                "false",
                HostConfig { source_check: false, ..default() },
                0,
            ),
            ("AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER", "false", default(), 1),
            ("ENABLE_NFTABLES", "true", default(), 1),
        ];
        for (name, value, expected, notes) in cases {
            let (actual, noted) = HostConfig::from_vars([(name, value)]);
            assert_eq!(actual, expected, "{name}={value:?}");
            assert_eq!(noted.len(), notes, "{name}={value:?}: {noted:?}");
        }
    }

    #[test]
    fn variables_that_do_not_go_together_are_noted() {
        let cases: [(&[(&str, &str)], &[&str]); 7] = [
            (
                &[
                    ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true"),
                    ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "10.8.0.0/16"),
                ],
                &["AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"],
            ),
            (&[("ENABLE_V6_EGRESS", "true"), ("ENABLE_IPv6", "true")], &["ENABLE_V6_EGRESS"]),
            (&[("DISABLE_POD_V6", "true"), ("ENABLE_IPv6", "true")], &["DISABLE_POD_V6"]),
            (&[("ENABLE_POD_ENI", "true")], &["DISABLE_TCP_EARLY_DEMUX"]),
            (&[("ENABLE_POD_ENI", "true"), ("DISABLE_TCP_EARLY_DEMUX", "true")], &[]),
            (&[("AWS_VPC_ENI_MTU", "1500"), ("POD_MTU", "9001")], &["POD_MTU"]),
            (&[("ENABLE_IPv6", "true"), ("POD_MTU", "600")], &["POD_MTU"]),
        ];
        for (vars, expected) in cases {
            let (_, notes) = HostConfig::from_vars(vars.iter().copied());
            let actual: Vec<_> = notes.iter().map(|note| note.variable).collect();
            assert_eq!(actual, expected, "{vars:?}");
        }
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        let cases = [
            ("128", Some(128)),
            ("0x80", Some(128)),
            ("0X8_0", Some(128)),
            ("0x_80", Some(128)),
            ("0o200", Some(128)),
            ("0b10000000", Some(128)),
            ("0", Some(0)),
            ("-1", None),
            ("1_", None),
            ("_1", None),
            ("0x", None),
            ("0x+1", None),
            ("08", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(go_integer(text), expected, "{text:?}");
        }
    }
}
