//! For authors of a tool that sets nodes up, in the terms of Bottlerocket's pluto: `kubernetes.max-pods` and kube-reserved.
//!
//! `cargo run -p vpc-ipam-core --example bottlerocket`. Of the crate's features it needs none. pluto takes the setting if there is one, else the
//! type's line of `eni-max-pods-override`, else that of `eni-max-pods`, and sets nothing for a type that no file has. An
//! override lowers the number (pods on the host's network, custom networking) or raises it (prefixes).
#![allow(clippy::print_stdout, reason = "it is a program")]

use core::error::Error;

use vpc_ipam_core::capacity::compat::{KUBELET_DEFAULT, PlutoOptions, kube_reserved, pluto};
use vpc_ipam_core::capacity::{Cap, Shape, max_pods};
use vpc_ipam_core::{Families, InstanceType, Ipv4Kind, Limits};

/// A minimum: nodes with custom networking, whose primary ENI serves no pod.
const OVERRIDE_MIN: &str = "\
# instance-type max-pods
m5.large 20
m5.4xlarge 205
";
/// A maximum: nodes with prefixes, as far as AWS advises.
const OVERRIDE_MAX: &str = "\
# instance-type max-pods
m5.large 110
m5.4xlarge 110
m5.24xlarge 250
";

fn main() -> Result<(), Box<dyn Error>> {
    // Type, setting, override file, and what max-pods becomes.
    let cases = [
        ("m5.large", None, "", Some(29)),
        ("m5.large", None, OVERRIDE_MIN, Some(20)),
        ("m5.large", None, OVERRIDE_MAX, Some(110)),
        ("m5.large", Some(64), OVERRIDE_MAX, Some(64)),
        ("m5.xlarge", None, OVERRIDE_MAX, Some(58)),
        // Of 2026, and in no file of pluto's.
        ("r9g.large", None, OVERRIDE_MAX, None),
    ];
    for (name, setting, file, expected) in cases {
        let instance_type: InstanceType = name.parse()?;
        let overridden = line_of(file, instance_type);
        let options = PlutoOptions::default().with_max_pods(setting).with_overridden(overridden);
        let generated = pluto(instance_type, &options);
        assert_eq!(generated, expected, "{name} with {options:?}");

        // What pluto does not set, kubelet takes.
        let pods = generated.unwrap_or(KUBELET_DEFAULT);
        let limits = Limits::lookup(instance_type)?;
        let reserved = kube_reserved(pods, limits.vcpus);
        let generated = generated.map_or("unset".to_owned(), |pods| pods.to_string());
        println!(
            "{name:11} kubernetes.max-pods = {generated:5}  kube-reserved: cpu = \"{}m\", memory = \"{}Mi\", ephemeral-storage = \"{}Mi\"",
            reserved.cpu_millis, reserved.memory_mib, reserved.ephemeral_storage_mib
        );
    }

    // The override files need not be written by hand: this is where their numbers come from.
    for (file, shape) in [
        (OVERRIDE_MIN, Shape::default().with_custom_networking(true)),
        (
            OVERRIDE_MAX,
            Shape::default()
                .with_families(Families::Ipv4(Ipv4Kind::Prefixes))
                .with_cap(Cap::ByVcpus),
        ),
    ] {
        for (name, pods) in lines(file) {
            let capacity = max_pods(&Limits::lookup(name.parse()?)?, &shape);
            assert_eq!(capacity.max_pods.to_string(), pods, "{name}");
        }
    }
    Ok(())
}

/// Returns what a file of pluto's says of a type; a line that is not of two words, or has no number, says nothing.
fn line_of(file: &str, instance_type: InstanceType) -> Option<u32> {
    lines(file).find(|(name, _)| *name == instance_type.as_str())?.1.parse().ok()
}

fn lines(file: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = file.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(name), Some(pods), None) => Some((name, pods)),
            _ => None,
        }
    })
}
