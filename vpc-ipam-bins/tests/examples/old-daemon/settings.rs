//! The variables of the daemon.

use ipnet::IpNet;

/// What the operator set.
pub(crate) struct Settings {
    pub(crate) mark: u32,
    pub(crate) veth_prefix: String,
    pub(crate) node_port: bool,
    pub(crate) external_snat: bool,
    pub(crate) excluded: Vec<IpNet>,
    /// Words for the ports of the SNAT rule.
    pub(crate) random: &'static str,
    pub(crate) service_cidrs: Vec<IpNet>,
    pub(crate) eni_mtu: u32,
    pub(crate) pod_mtu: String,
    pub(crate) ipv6: bool,
    pub(crate) custom_networking: bool,
    /// Seconds.
    pub(crate) cooldown: u64,
    pub(crate) bandwidth: bool,
    pub(crate) disable_pod_v6: bool,
    pub(crate) v4_egress: bool,
    /// Whether marks are set by nft, as since 1.23 where iptables is not legacy.
    pub(crate) nft_connmark: bool,
}

impl Settings {
    pub(crate) fn from_vars() -> Result<Self, String> {
        let version = crate::programs::run("iptables", &["--version"])?;
        let legacy = version.contains("legacy");
        let before_1_23 = var("STAND_IN_VERSION").is_some_and(|version| version == "1.22");
        let mtu = var("AWS_VPC_ENI_MTU").unwrap_or_else(|| "9001".to_owned());
        Ok(Self {
            mark: var("AWS_VPC_K8S_CNI_CONNMARK").and_then(|mark| number(&mark)).unwrap_or(0x80),
            veth_prefix: var("AWS_VPC_K8S_CNI_VETHPREFIX").unwrap_or_else(|| "eni".to_owned()),
            node_port: flag("AWS_VPC_CNI_NODE_PORT_SUPPORT", true),
            external_snat: flag("AWS_VPC_K8S_CNI_EXTERNALSNAT", false),
            excluded: ranges("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"),
            random: match var("AWS_VPC_K8S_CNI_RANDOMIZESNAT").as_deref() {
                Some("none") => "",
                Some("hashrandom") => " --random",
                _ => " --random-fully",
            },
            service_cidrs: ranges("AWS_EXTERNAL_SERVICE_CIDRS"),
            pod_mtu: var("POD_MTU").unwrap_or_else(|| mtu.clone()),
            eni_mtu: mtu.parse().unwrap_or(9001),
            ipv6: flag("ENABLE_IPv6", false),
            custom_networking: flag("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", false),
            cooldown: var("IP_COOLDOWN_PERIOD").and_then(|text| text.parse().ok()).unwrap_or(30),
            bandwidth: flag("ENABLE_BANDWIDTH_PLUGIN", false),
            disable_pod_v6: flag("DISABLE_POD_V6", false),
            v4_egress: flag("ENABLE_V4_EGRESS", true),
            nft_connmark: !legacy && !before_1_23,
        })
    }
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// By the rules of Go's ParseBool.
fn flag(name: &str, default: bool) -> bool {
    match var(name).as_deref() {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        _ => default,
    }
}

/// A number as Go writes it.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.to_ascii_lowercase() {
        text if text.starts_with("0x") => (text[2..].to_owned(), 16),
        text if text.starts_with("0b") => (text[2..].to_owned(), 2),
        text if text.starts_with('0') && text.len() > 1 => {
            (text[1..].trim_start_matches('o').to_owned(), 8)
        }
        text => (text, 10),
    };
    u32::from_str_radix(&digits, radix).ok().filter(|number| *number > 0)
}

/// A list of IPv4 ranges; what is none is left out.
fn ranges(name: &str) -> Vec<IpNet> {
    let text = var(name).unwrap_or_default();
    let nets = text.split(',').filter_map(|item| item.trim().parse::<IpNet>().ok());
    nets.filter(|net| net.addr().is_ipv4()).map(|net| net.trunc()).collect()
}
