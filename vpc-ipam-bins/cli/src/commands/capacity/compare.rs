//! What other tools say of the same node.

use vpc_ipam_core::Limits;
use vpc_ipam_core::capacity::compat::{
    CalculatorOptions, CiliumOptions, KarpenterOptions, PlutoOptions, calculator_sh, cilium,
    cluster_autoscaler, eni_max_pods_file, karpenter, nodeadm, pluto,
};
use vpc_ipam_core::capacity::{Shape, max_pods};

use super::expression::{Dialect, evaluate};

/// What another tool says, and why that may differ.
pub(super) struct Tool {
    pub(super) name: &'static str,
    /// `None` if it does not know the type.
    pub(super) pods: Option<u32>,
    pub(super) why: String,
    /// Whether it cannot follow the settings, so that `why` matters whatever it says.
    pub(super) fails: bool,
}

/// The settings of a node for which tools have an option.
pub(super) struct Settings<'a> {
    pub(super) custom_networking: bool,
    pub(super) prefix_delegation: bool,
    pub(super) trunk: bool,
    pub(super) max_eni: Option<u8>,
    pub(super) reserved_enis: u8,
    pub(super) efa_only: u8,
    pub(super) expression: Option<&'a str>,
}

/// Returns what other tools say, given the options that they have.
pub(super) fn tools(limits: &Limits, settings: &Settings<'_>) -> Vec<Tool> {
    let name = limits.instance_type;
    let calculator = CalculatorOptions {
        custom_networking: settings.custom_networking,
        prefix_delegation: settings.prefix_delegation,
        max_eni: settings.max_eni,
        show_max_allowed: false,
    };
    let reserved = u8::from(settings.custom_networking) + u8::from(settings.trunk);
    let for_karpenter = KarpenterOptions {
        reserved_enis: settings.reserved_enis.saturating_add(reserved),
        efa_only: settings.efa_only,
        ..KarpenterOptions::default()
    };
    let for_cilium = CiliumOptions {
        first_interface_index: u8::from(settings.custom_networking),
        prefix_delegation: settings.prefix_delegation,
    };
    let tool = |name, pods, why: &str| Tool { name, pods, why: why.to_string(), fails: false };
    let plain = max_pods(limits, &Shape::default()).max_pods;
    let knows = |pods: u32| {
        let both_cards = pods > plain && limits.enis_per_card.len() > 1;
        if both_cards {
            "counts the ENIs of both network cards as one's"
        } else {
            "knows the type alone"
        }
    };
    let listed = |name, pods: Option<u32>| {
        let why = pods.map_or("does not list the type, so kubelet takes 110", knows);
        tool(name, pods, why)
    };
    let nodeadm_says = nodeadm(name, Some(limits));
    let karpenter_says = karpenter(limits, &for_karpenter);
    let mut tools = vec![
        listed("eni-max-pods.txt", eni_max_pods_file(name)),
        listed("pluto (Bottlerocket)", pluto(name, &PlutoOptions::default())),
        tool(
            "max-pods-calculator.sh",
            Some(calculator_sh(limits, &calculator)),
            "caps at 110 up to 30 vCPUs and at 250 above, and gives bare metal no prefixes",
        ),
        tool("nodeadm", Some(nodeadm_says), knows(nodeadm_says)),
        tool(
            "Karpenter",
            Some(karpenter_says),
            "knows RESERVED_ENIS, but no prefixes, IPv6, MAX_ENI or cap",
        ),
        tool(
            "cluster-autoscaler from 0",
            Some(cluster_autoscaler(None)),
            "takes 110 for every type",
        ),
        tool(
            "Cilium, ENI mode",
            Some(cilium(limits, &for_cilium)),
            "counts all network cards, no pods on the host's network, and keeps two addresses",
        ),
    ];
    for (name, dialect, by_itself) in [
        ("nodeadm, expression", Dialect::Nodeadm, nodeadm_says),
        ("Karpenter, expression", Dialect::Karpenter, karpenter_says),
    ] {
        let Some(expression) = settings.expression else { continue };
        tools.push(match evaluate(dialect, expression, limits, by_itself) {
            Ok(pods) => tool(name, Some(pods), "as the expression has it"),
            Err(error) => Tool {
                name,
                pods: Some(by_itself),
                why: format!("keeps its own number, because the expression fails: {error}"),
                fails: true,
            },
        });
    }
    tools
}
