//! What other tools say of max-pods, reproduced exactly, so that it can be seen which of them differ and why.
//!
//! Tools that carry a list of types answer from their own list, whatever [`Limits`] say: [`eni_max_pods_file`], [`pluto`] and
//! [`nodeadm`] take a type. The others ask EC2, so they take limits.
//!
//! Sources, read in November 2026: amazon-vpc-cni-k8s v1.23.1 (`misc/eni-max-pods.txt`), awslabs/amazon-eks-ami
//! (`max-pods-calculator.sh` and `bootstrap.sh` before their removal, `nodeadm`), aws/karpenter-provider-aws,
//! kubernetes/autoscaler, cilium/cilium (`pkg/aws/eni`), bottlerocket-os/bottlerocket (`pluto`, October 2024).

use crate::limits::{List, listed_pods};
use crate::model::action::PREFIX_SIZE;
use crate::{Card, Hypervisor, InstanceType, Limits};

/// What kubelet takes where it is not told a number.
pub const KUBELET_DEFAULT: u32 = 110;

/// Returns the line of `eni-max-pods.txt`: ENIs x (addresses - 1) + 2. `None` if the file does not have the type.
///
/// For four types (i7ie.48xlarge, i8ge.48xlarge and their bare metal) the file counts the ENIs of both network cards.
pub fn eni_max_pods_file(instance_type: InstanceType) -> Option<u32> {
    listed_pods(List::EniMaxPods, instance_type)
}

/// The settings of Bottlerocket that bear on pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlutoOptions {
    /// The setting `kubernetes.max-pods`, which comes before everything.
    pub max_pods: Option<u32>,
    /// The type's line in the file `eni-max-pods-override`, if there is one, which comes before pluto's own list.
    pub overridden: Option<u32>,
}

setters!(PlutoOptions {
    with_max_pods max_pods: Option<u32>,
    with_overridden overridden: Option<u32>,
});

/// Returns what Bottlerocket's pluto sets: a setting, an override, or its list of October 2024, a copy of eni-max-pods.txt. `None` for a type that it does not know: nothing is set then, so that kubelet
/// takes its own [default](KUBELET_DEFAULT).
pub fn pluto(instance_type: InstanceType, options: &PlutoOptions) -> Option<u32> {
    options.max_pods.or(options.overridden).or_else(|| listed_pods(List::Pluto, instance_type))
}

/// The options of `max-pods-calculator.sh`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
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

setters!(CalculatorOptions {
    with_custom_networking custom_networking: bool,
    with_prefix_delegation prefix_delegation: bool,
    with_max_eni max_eni: Option<u8>,
    with_show_max_allowed show_max_allowed: bool,
});

/// Returns what `max-pods-calculator.sh` prints.
///
/// It caps in every mode, and takes prefixes for possible only where EC2 names Nitro as hypervisor, which it does not for
/// bare metal.
pub fn calculator_sh(limits: &Limits, options: &CalculatorOptions) -> u32 {
    let most = options.max_eni.map_or(u32::MAX, u32::from);
    let enis = enis(limits).min(most).saturating_sub(u32::from(options.custom_networking));
    let slots = u32::from(limits.ipv4_slots());
    let prefixes = options.prefix_delegation && limits.hypervisor == Hypervisor::Nitro;
    let pods = enis * slots * if prefixes { PREFIX_SIZE } else { 1 } + 2;
    if options.show_max_allowed {
        pods
    } else {
        pods.min(if limits.vcpus > 30 { 250 } else { 110 })
    }
}

/// Returns what nodeadm (AL2023) tells kubelet where it is given no expression: the plain formula in every mode, by its own
/// list, which counts the ENIs of both cards of the same four types as [`eni_max_pods_file`] does. `described` is what EC2 answers for a type that the list lacks; without an answer it is 110.
pub fn nodeadm(instance_type: InstanceType, described: Option<&Limits>) -> u32 {
    listed_pods(List::Nodeadm, instance_type)
        .or_else(|| described.map(|limits| formula(enis(limits), limits)))
        .unwrap_or(KUBELET_DEFAULT)
}

/// The settings of Karpenter that bear on pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
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

setters!(KarpenterOptions {
    with_reserved_enis reserved_enis: u8,
    with_efa_only efa_only: u8,
    with_max_pods max_pods: Option<u32>,
    with_pods_per_core pods_per_core: Option<u32>,
});

/// Returns what Karpenter expects of a node that does not run Windows. It knows of no prefixes and of no cap.
pub fn karpenter(limits: &Limits, options: &KarpenterOptions) -> u32 {
    let taken = u32::from(options.reserved_enis) + u32::from(options.efa_only);
    let usable = u32::from(limits.enis(Card(0))).saturating_sub(taken);
    let by_enis = if usable == 0 { 0 } else { formula(usable, limits) };
    let pods = options.max_pods.unwrap_or(by_enis);
    match options.pods_per_core {
        Some(per_core) if per_core > 0 => pods.min(per_core.saturating_mul(limits.vcpus.into())),
        _ => pods,
    }
}

/// Returns what cluster-autoscaler expects of a group without nodes: the tag or override of the group, else 110.
pub fn cluster_autoscaler(group_override: Option<u32>) -> u32 {
    group_override.unwrap_or(110)
}

/// The settings of Cilium's ENI mode that bear on pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CiliumOptions {
    /// `first-interface-index`: 0 gives pods addresses of the primary ENI too, which is the default.
    pub first_interface_index: u8,
    /// `aws-enable-prefix-delegation`, which Cilium follows on Nitro and on bare metal.
    pub prefix_delegation: bool,
}

setters!(CiliumOptions {
    with_first_interface_index first_interface_index: u8,
    with_prefix_delegation prefix_delegation: bool,
});

/// Returns for how many pods Cilium's ENI mode has addresses, pods on the host's network not included.
///
/// It counts the ENIs of all network cards; two addresses go to Cilium's router and its health endpoint.
pub fn cilium(limits: &Limits, options: &CiliumOptions) -> u32 {
    let enis = limits.enis_in_all().saturating_sub(options.first_interface_index.into());
    let prefixes = options.prefix_delegation && limits.prefixes();
    let size = if prefixes { PREFIX_SIZE } else { 1 };
    (enis * u32::from(limits.ipv4_slots()) * size).saturating_sub(2)
}

/// What an EKS node keeps from pods for kubelet and the container runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct KubeReserved {
    /// Thousandths of a CPU.
    pub cpu_millis: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk in MiB.
    pub ephemeral_storage_mib: u32,
}

/// Returns kube-reserved of EKS's AMIs, Bottlerocket and Karpenter: 255 MiB and 11 MiB a pod, 1 GiB of disk, and of the CPUs
/// 6 % of the first, 1 % of the second, 0.5 % of the next two and 0.25 % of the others.
pub fn kube_reserved(max_pods: u32, vcpus: u16) -> KubeReserved {
    // CPUs up to, and ten-thousandths of each that are kept.
    const SHARES: [(u32, u32); 4] = [(1, 600), (2, 100), (4, 50), (u32::MAX, 25)];
    let cpus = u32::from(vcpus);
    let mut before = 0;
    let mut ten_thousandths = 0;
    for (up_to, share) in SHARES {
        ten_thousandths += cpus.min(up_to).saturating_sub(before) * share;
        before = up_to;
    }
    KubeReserved {
        cpu_millis: ten_thousandths / 10,
        memory_mib: max_pods.saturating_mul(11).saturating_add(255),
        ephemeral_storage_mib: 1024,
    }
}

fn enis(limits: &Limits) -> u32 {
    u32::from(limits.enis(limits.default_card))
}

fn formula(enis: u32, limits: &Limits) -> u32 {
    enis * u32::from(limits.ipv4_slots()) + 2
}

#[cfg(test)]
mod tests {
    use alloc::borrow::ToOwned;

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
            assert_eq!(eni_max_pods_file(limits.instance_type), Some(file), "{name}");
            assert_eq!(nodeadm(limits.instance_type, None), nodeadm_says, "{name}");
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

    /// The formula is that of our own numbers, so the lists' lines are ours, but for the types whose ENIs they count on both
    /// cards.
    #[test]
    fn lists_follow_the_plain_formula_but_for_four_types() {
        let mut differing = alloc::vec::Vec::new();
        let mut listed = [0; 3];
        for limits in Limits::all() {
            let name = limits.instance_type;
            let ours = crate::capacity::max_pods(&limits, &crate::capacity::Shape::default());
            let says = [
                eni_max_pods_file(name),
                pluto(name, &PlutoOptions::default()),
                listed_pods(List::Nodeadm, name),
            ];
            for (count, says) in listed.iter_mut().zip(says) {
                *count += u32::from(says.is_some());
            }
            if says.iter().flatten().any(|pods| *pods != ours.max_pods) {
                differing.push((name.as_str().to_owned(), says[0], says[2], ours.max_pods));
            }
        }
        let expected = [
            ("i7ie.48xlarge", 737, 394),
            ("i7ie.metal-48xl", 737, 394),
            ("i8ge.48xlarge", 1178, 590),
            ("i8ge.metal-48xl", 1178, 590),
        ];
        let expected = expected
            .map(|(name, theirs, ours)| (name.to_owned(), Some(theirs), Some(theirs), ours));
        assert_eq!(differing, expected);
        assert_eq!(listed, [1391, 824, 1384]);
    }

    #[test]
    fn tools_with_lists_do_not_know_every_type() {
        let types = ["c7g-flex.large", "r9g.large", "p2.xlarge", "m5.large"];
        // The file, pluto, nodeadm without and with EC2.
        let cases = [
            (None, None, 110, 29),
            (None, None, 110, 59),
            (None, Some(58), 110, 58),
            (Some(29), Some(29), 29, 29),
        ];
        for (name, (file, pluto_says, alone, with_ec2)) in types.into_iter().zip(cases) {
            let limits = limits(name);
            let name = limits.instance_type;
            assert_eq!(eni_max_pods_file(name), file, "{name}");
            assert_eq!(pluto(name, &PlutoOptions::default()), pluto_says, "{name}");
            assert_eq!(
                (nodeadm(name, None), nodeadm(name, Some(&limits))),
                (alone, with_ec2),
                "{name}"
            );
        }
        let m5_large = limits("m5.large").instance_type;
        let overridden = PlutoOptions { overridden: Some(20), ..PlutoOptions::default() };
        assert_eq!(pluto(m5_large, &overridden), Some(20));
        assert_eq!(pluto(m5_large, &PlutoOptions { max_pods: Some(30), ..overridden }), Some(30));
    }

    #[test]
    fn cilium_counts_all_cards_and_keeps_two_addresses() {
        let plain = CiliumOptions::default();
        let prefixes = CiliumOptions { prefix_delegation: true, ..plain };
        let second = CiliumOptions { first_interface_index: 1, ..plain };
        let cases = [
            ("m5.large", plain, 25),
            ("m5.large", second, 16),
            ("m5.large", prefixes, 430),
            ("m5.metal", prefixes, 15 * 49 * 16 - 2),
            ("m4.large", prefixes, 16),
            ("p5.48xlarge", plain, 64 * 49 - 2),
            ("hpc6id.32xlarge", CiliumOptions { first_interface_index: 9, ..plain }, 0),
        ];
        for (name, options, expected) in cases {
            assert_eq!(cilium(&limits(name), &options), expected, "{name} {options:?}");
        }
    }

    /// By hand from `bootstrap.sh`.
    #[test]
    fn kube_reserved_grows_with_pods_and_cpus() {
        let cases = [
            (8, 1, 60, 343),
            (29, 2, 70, 574),
            (58, 4, 80, 893),
            (58, 8, 90, 893),
            (234, 16, 110, 2829),
            (737, 96, 310, 8362),
            (u32::MAX, u16::MAX, 163_907, u32::MAX),
        ];
        for (pods, vcpus, cpu_millis, memory_mib) in cases {
            let expected = KubeReserved { cpu_millis, memory_mib, ephemeral_storage_mib: 1024 };
            assert_eq!(kube_reserved(pods, vcpus), expected, "{pods} pods, {vcpus} vCPUs");
        }
    }

    #[test]
    fn karpenter_knows_reserved_enis_and_no_prefixes() {
        let m5_large = limits("m5.large");
        let unknown = "m99.large".parse().unwrap();
        assert_eq!((nodeadm(unknown, Some(&m5_large)), nodeadm(unknown, None)), (29, 110));
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
