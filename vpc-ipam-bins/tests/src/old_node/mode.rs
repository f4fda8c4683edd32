//! How amazon-vpc-cni-k8s may be set up.

/// A way in which amazon-vpc-cni-k8s is set up on a node.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// What it is called in a test.
    pub name: &'static str,
    /// The node's variables.
    pub vars: &'static [(&'static str, &'static str)],
    /// The kind of iptables on the node.
    pub iptables: Iptables,
    /// Variables of the stand-in alone.
    pub(super) stand_in: &'static [(&'static str, &'static str)],
}

/// A kind of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iptables {
    /// Its rules are tables of nft.
    Nft,
    /// Its rules are the kernel's old ones.
    Legacy,
}

impl Iptables {
    /// Returns what its programs' names end with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

/// All ways in which it is set up here; the first is what it is without any variable.
pub const MODES: [Mode; 11] = [
    Mode::new("default", &[]),
    Mode { iptables: Iptables::Legacy, ..Mode::new("iptables-legacy", &[]) },
    // Marks are set by iptables of either kind until 1.22.
    Mode { stand_in: &[("STAND_IN_VERSION", "1.22")], ..Mode::new("iptables-nft", &[]) },
    Mode::new("external-snat", &[("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true")]),
    Mode::new(
        "excluded",
        &[("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "198.51.100.0/24,192.0.2.0/25")],
    ),
    Mode::new("custom-networking", &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")]),
    Mode::new("prefixes", &[("ENABLE_PREFIX_DELEGATION", "true")]),
    Mode::new(
        "ipv6",
        &[
            ("ENABLE_IPv6", "true"),
            ("ENABLE_IPv4", "false"),
            ("ENABLE_PREFIX_DELEGATION", "true"),
            ("ENABLE_V4_EGRESS", "false"),
        ],
    ),
    Mode::new(
        "mark-and-names",
        &[
            ("AWS_VPC_K8S_CNI_CONNMARK", "0x100"),
            ("AWS_VPC_K8S_CNI_VETHPREFIX", "pod"),
            ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "hashrandom"),
            ("AWS_VPC_ENI_MTU", "1500"),
        ],
    ),
    Mode::new("services", &[("AWS_EXTERNAL_SERVICE_CIDRS", "198.18.0.0/16,198.19.0.0/24")]),
    Mode::new("bandwidth", &[("ENABLE_BANDWIDTH_PLUGIN", "true")]),
];

impl Mode {
    const fn new(name: &'static str, vars: &'static [(&'static str, &'static str)]) -> Self {
        Self { name, vars, iptables: Iptables::Nft, stand_in: &[] }
    }

    /// Returns the mode of a name.
    ///
    /// # Panics
    /// Panics if there is none.
    pub fn named(name: &str) -> &'static Self {
        let names = MODES.map(|mode| mode.name);
        MODES
            .iter()
            .find(|mode| mode.name == name)
            .unwrap_or_else(|| panic!("{name:?} is no mode; there are {names:?}"))
    }

    /// Returns whether pods have IPv6 addresses.
    pub fn ipv6(&self) -> bool {
        self.is_set("ENABLE_IPv6")
    }

    /// Returns whether pods are on ENIs in a subnet of their own.
    pub fn custom_networking(&self) -> bool {
        self.is_set("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG")
    }

    /// Returns whether ENIs have prefixes instead of addresses.
    pub fn prefixes(&self) -> bool {
        self.is_set("ENABLE_PREFIX_DELEGATION")
    }

    /// Returns whether what leaves the VPC keeps the pod's address.
    pub fn external_snat(&self) -> bool {
        self.is_set("AWS_VPC_K8S_CNI_EXTERNALSNAT")
    }

    fn is_set(&self, name: &str) -> bool {
        self.vars.contains(&(name, "true"))
    }
}
