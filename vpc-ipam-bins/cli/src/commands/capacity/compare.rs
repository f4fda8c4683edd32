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

impl Tool {
    fn new(name: &'static str, pods: impl Into<Option<u32>>, why: impl Into<String>) -> Self {
        Self { name, pods: pods.into(), why: why.into(), fails: false }
    }
}

/// Returns what other tools say, given the options that they have.
pub(super) fn tools(limits: &Limits, settings: &Settings<'_>) -> Vec<Tool> {
    let mut tools = with_lists(limits);
    tools.extend(with_options(limits, settings));
    if let Some(expression) = settings.expression {
        tools.extend(with_expressions(limits, settings, expression));
    }
    tools
}

/// The tools that look a type up in a list of their own and have no options.
fn with_lists(limits: &Limits) -> Vec<Tool> {
    let name = limits.instance_type;
    let plain = max_pods(limits, &Shape::default()).max_pods;
    let knows = |pods: u32| {
        let both_cards = pods > plain && limits.enis_per_card.len() > 1;
        if both_cards {
            "counts the ENIs of both network cards as one's"
        } else {
            "knows the type alone"
        }
    };
    let listed = |tool, pods: Option<u32>| {
        Tool::new(tool, pods, pods.map_or("does not list the type, so kubelet takes 110", knows))
    };
    vec![
        listed("eni-max-pods.txt", eni_max_pods_file(name)),
        listed("pluto (Bottlerocket)", pluto(name, &PlutoOptions::default())),
        listed("nodeadm", Some(nodeadm(name, Some(limits)))),
    ]
}

/// The tools that ask EC2 and have options for some of the settings.
fn with_options(limits: &Limits, settings: &Settings<'_>) -> Vec<Tool> {
    let calculator = CalculatorOptions::default()
        .with_custom_networking(settings.custom_networking)
        .with_prefix_delegation(settings.prefix_delegation)
        .with_max_eni(settings.max_eni);
    let for_cilium = CiliumOptions::default()
        .with_first_interface_index(u8::from(settings.custom_networking))
        .with_prefix_delegation(settings.prefix_delegation);
    vec![
        Tool::new(
            "max-pods-calculator.sh",
            calculator_sh(limits, &calculator),
            "caps at 110 up to 30 vCPUs and at 250 above, and gives bare metal no prefixes",
        ),
        Tool::new(
            "Karpenter",
            karpenter(limits, &for_karpenter(settings)),
            "knows RESERVED_ENIS, but no prefixes, IPv6, MAX_ENI or cap",
        ),
        Tool::new(
            "cluster-autoscaler from 0",
            cluster_autoscaler(None),
            "takes 110 for every type",
        ),
        Tool::new(
            "Cilium, ENI mode",
            cilium(limits, &for_cilium),
            "counts all network cards, no pods on the host's network, and keeps two addresses",
        ),
    ]
}

fn for_karpenter(settings: &Settings<'_>) -> KarpenterOptions {
    let reserved = u8::from(settings.custom_networking) + u8::from(settings.trunk);
    KarpenterOptions::default()
        .with_reserved_enis(settings.reserved_enis.saturating_add(reserved))
        .with_efa_only(settings.efa_only)
}

/// The tools that compute an expression; one that fails leaves them their own number.
fn with_expressions(limits: &Limits, settings: &Settings<'_>, expression: &str) -> [Tool; 2] {
    let by_itself = [
        ("nodeadm, expression", Dialect::Nodeadm, nodeadm(limits.instance_type, Some(limits))),
        ("Karpenter, expression", Dialect::Karpenter, karpenter(limits, &for_karpenter(settings))),
    ];
    by_itself.map(|(name, dialect, own)| match evaluate(dialect, expression, limits, own) {
        Ok(pods) => Tool::new(name, pods, "as the expression has it"),
        Err(error) => {
            let why = format!("keeps its own number, because the expression fails: {error}");
            Tool { fails: true, ..Tool::new(name, own, why) }
        }
    })
}
