//! What other tools say of max-pods, reproduced exactly, so that it can be seen which of them differ and why.
//!
//! Sources, read in 2026: amazon-vpc-cni-k8s v1.23.1 (`misc/eni-max-pods.txt`), awslabs/amazon-eks-ami
//! (`max-pods-calculator.sh` before its removal, `nodeadm`), aws/karpenter-provider-aws, kubernetes/autoscaler.

use crate::{Card, Hypervisor, Limits};

/// Returns the line of `eni-max-pods.txt`, which Bottlerocket's pluto looks up too: ENIs x (addresses - 1) + 2.
pub fn eni_max_pods_file(limits: &Limits) -> u32 {
    formula(enis(limits), limits)
}

/// The options of `max-pods-calculator.sh`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalculatorOptions {
    /// `--cni-custom-networking-enabled`.
    pub custom_networking: bool,
    /// `--cni-prefix-delegation-enabled`, with a CNI version of at least 1.9.
    pub prefix_delegation: bool,
    /// `--cni-max-eni`.
    pub max_eni: Option<u8>,
    /// `--show-max-allowed`: without the cap by vCPUs.
    pub show_max_allowed: bool,
}

/// Returns what `max-pods-calculator.sh` prints.
///
/// It caps in every mode, and takes prefixes for possible only where EC2 names Nitro as hypervisor, which it does not for
/// bare metal.
pub fn calculator_sh(limits: &Limits, options: &CalculatorOptions) -> u32 {
    let most = options.max_eni.map_or(u32::MAX, u32::from);
    let enis = enis(limits).min(most).saturating_sub(u32::from(options.custom_networking));
    let slots = u32::from(limits.ipv4_slots());
    let prefixes = options.prefix_delegation && limits.hypervisor == Hypervisor::Nitro;
    let pods = enis * slots * if prefixes { 16 } else { 1 } + 2;
    if options.show_max_allowed {
        pods
    } else {
        pods.min(if limits.vcpus > 30 { 250 } else { 110 })
    }
}

/// Returns what nodeadm (AL2023) tells kubelet: the plain formula in every mode, and 110 for a type it does not know.
pub fn nodeadm(limits: Option<&Limits>) -> u32 {
    limits.map_or(110, eni_max_pods_file)
}

/// The settings of Karpenter that bear on pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KarpenterOptions {
    /// `RESERVED_ENIS`, for all nodes alike; 1 is what custom networking and pod ENIs need.
    pub reserved_enis: u8,
    /// Fabric adapters without addresses on card 0.
    pub efa_only: u8,
    /// `maxPods` of the NodeClass, which comes before everything.
    pub max_pods: Option<u32>,
    /// `podsPerCore` of the NodeClass.
    pub pods_per_core: Option<u32>,
}

/// Returns what Karpenter expects of a node that does not run Windows. It knows of no prefixes and of no cap.
pub fn karpenter(limits: &Limits, options: &KarpenterOptions) -> u32 {
    let taken = u32::from(options.reserved_enis) + u32::from(options.efa_only);
    let usable = u32::from(limits.enis(Card(0))).saturating_sub(taken);
    let by_enis = if usable == 0 { 0 } else { formula(usable, limits) };
    let pods = options.max_pods.unwrap_or(by_enis);
    match options.pods_per_core {
        Some(per_core) if per_core > 0 => pods.min(per_core * u32::from(limits.vcpus)),
        _ => pods,
    }
}

/// Returns what cluster-autoscaler expects of a group without nodes: the tag or override of the group, else 110.
pub fn cluster_autoscaler(group_override: Option<u32>) -> u32 {
    group_override.unwrap_or(110)
}

fn enis(limits: &Limits) -> u32 {
    u32::from(limits.enis(limits.default_card))
}

fn formula(enis: u32, limits: &Limits) -> u32 {
    enis * u32::from(limits.ipv4_slots()) + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(name: &str) -> Limits {
        Limits::lookup(name.parse().unwrap()).unwrap()
    }

    #[test]
    fn calculator_caps_in_every_mode() {
        let plain = CalculatorOptions::default();
        let custom = CalculatorOptions { custom_networking: true, ..plain };
        let prefixes = CalculatorOptions { prefix_delegation: true, ..plain };
        let both = CalculatorOptions { custom_networking: true, ..prefixes };
        let cases = [
            ("m5.large", plain, 29, 29),
            ("m5.large", prefixes, 110, 434),
            ("m5.large", custom, 20, 20),
            ("m5.large", both, 110, 290),
            ("m5.4xlarge", plain, 110, 234),
            ("m5.24xlarge", plain, 250, 737),
            ("c7g.medium", plain, 8, 8),
            ("c7g.medium", prefixes, 98, 98),
            ("c7g.medium", custom, 5, 5),
            ("p5.48xlarge", plain, 100, 100),
            ("m5.metal", prefixes, 250, 737),
        ];
        for (name, options, capped, raw) in cases {
            let open = CalculatorOptions { show_max_allowed: true, ..options };
            let actual =
                (calculator_sh(&limits(name), &options), calculator_sh(&limits(name), &open));
            assert_eq!(actual, (capped, raw), "{name} {options:?}");
        }
    }

    /// The table of what each tool says, worked out by hand from their sources.
    #[test]
    fn tools_say_what_they_say() {
        let plain = KarpenterOptions::default();
        let reserved = KarpenterOptions { reserved_enis: 1, ..plain };
        // Type, file, nodeadm, Karpenter by default and with RESERVED_ENIS=1.
        let cases = [
            ("m5.large", 29, 29, 29, 20),
            ("m5.4xlarge", 234, 234, 234, 205),
            ("m5.24xlarge", 737, 737, 737, 688),
            ("c7g.medium", 8, 8, 8, 5),
            ("p5.48xlarge", 100, 100, 100, 51),
            ("t3.nano", 4, 4, 4, 3),
            ("hpc6id.32xlarge", 51, 51, 51, 0),
        ];
        for (name, file, nodeadm_says, karpenter_says, with_reserved) in cases {
            let limits = limits(name);
            assert_eq!(eni_max_pods_file(&limits), file, "{name}");
            assert_eq!(nodeadm(Some(&limits)), nodeadm_says, "{name}");
            assert_eq!(karpenter(&limits, &plain), karpenter_says, "{name}");
            assert_eq!(karpenter(&limits, &reserved), with_reserved, "{name}");
        }
        let p5 = limits("p5.48xlarge");
        let efa_only = KarpenterOptions { efa_only: 1, ..plain };
        assert_eq!(karpenter(&p5, &efa_only), 51);
        let set = KarpenterOptions { max_pods: Some(60), pods_per_core: Some(1), ..plain };
        assert_eq!(karpenter(&p5, &set), 60);
        assert_eq!(karpenter(&limits("m5.large"), &set), 2);
    }

    /// The formula is that of our own numbers, so the file's lines are theirs for every type.
    #[test]
    fn the_file_is_the_plain_formula_for_every_type() {
        for limits in Limits::all() {
            let ours = crate::capacity::max_pods(&limits, &crate::capacity::Shape::default());
            assert_eq!(eni_max_pods_file(&limits), ours.max_pods, "{}", limits.instance_type);
        }
    }

    #[test]
    fn others_know_no_prefixes() {
        let m5_large = limits("m5.large");
        assert_eq!(eni_max_pods_file(&m5_large), 29);
        assert_eq!((nodeadm(Some(&m5_large)), nodeadm(None)), (29, 110));
        let reserved = KarpenterOptions { reserved_enis: 1, ..KarpenterOptions::default() };
        let dense = KarpenterOptions { pods_per_core: Some(4), ..KarpenterOptions::default() };
        assert_eq!(karpenter(&m5_large, &KarpenterOptions::default()), 29);
        assert_eq!(karpenter(&m5_large, &reserved), 20);
        assert_eq!(karpenter(&m5_large, &dense), 8);
        let none = KarpenterOptions { reserved_enis: 3, ..KarpenterOptions::default() };
        assert_eq!(karpenter(&m5_large, &none), 0);
        assert_eq!((cluster_autoscaler(None), cluster_autoscaler(Some(58))), (110, 58));
    }
}
