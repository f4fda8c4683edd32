//! What other programs of a node go by.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// What a node is, and which of its settings concern programs besides the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The instance.
    pub instance: String,
    /// The region, as the name of the zone says.
    pub region: String,
    /// The primary ENI's own IPv4 address, if it has one.
    pub ipv4: Option<Ipv4Addr>,
    /// The primary ENI's first own IPv6 address, if it has one.
    pub ipv6: Option<Ipv6Addr>,
    /// The IPv4 ranges of the VPC.
    pub vpc_ipv4_cidrs: Vec<Ipv4Net>,
    /// Further ranges that see pods untranslated.
    pub excluded_cidrs: Vec<Ipv4Net>,
    /// The IPv6 ranges of the VPC.
    pub vpc_ipv6_cidrs: Vec<Ipv6Net>,
    /// Whether the addresses of pods are translated outside the node.
    pub external_snat: bool,
    /// Whether network cards other than 0 are used.
    pub multi_nic: bool,
    /// How network policies are enforced; `None` where the node has no agent for them.
    pub network_policy: Option<NetworkPolicyMode>,
}

/// How network policies are enforced: `NETWORK_POLICY_ENFORCING_MODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPolicyMode {
    /// The agent hears of pods, and enforces nothing.
    None,
    /// A pod is closed to all until its policies are enforced.
    Strict,
    /// A pod is open to all until its policies are enforced.
    Standard,
}

impl NetworkPolicyMode {
    const ALL: [Self; 3] = [Self::None, Self::Strict, Self::Standard];

    /// Returns the mode as amazon-vpc-cni-k8s writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Strict => "strict",
            Self::Standard => "standard",
        }
    }
}

impl fmt::Display for NetworkPolicyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is no mode of enforcing network policies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "NETWORK_POLICY_ENFORCING_MODE={0:?}: expected none, strict or standard; unset it where no network policy agent runs"
)]
pub struct UnknownNetworkPolicyModeError(pub String);

impl FromStr for NetworkPolicyMode {
    type Err = UnknownNetworkPolicyModeError;

    /// Reads a mode in upper or lower case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mode = Self::ALL.into_iter().find(|mode| mode.as_str().eq_ignore_ascii_case(text));
        mode.ok_or_else(|| UnknownNetworkPolicyModeError(text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_is_read_in_any_case_and_nothing_else_is() {
        for mode in NetworkPolicyMode::ALL {
            assert_eq!(mode.as_str().to_uppercase().parse(), Ok(mode));
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("{:?}", mode.as_str()));
        }
        for text in ["", " strict", "on"] {
            let error = text.parse::<NetworkPolicyMode>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
