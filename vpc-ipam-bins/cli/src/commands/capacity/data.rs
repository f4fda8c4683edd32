//! `vpc-ipam capacity-data`: what `limits` and `max-pods` say of every type, for tools in other languages.

use core::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use vpc_ipam_core::capacity::{Cap, Capacity, Shape, max_pods};
use vpc_ipam_core::{Families, Ipv4Kind, Limits};

use super::Failure;
use super::limits::name_of;

/// The version of the files' format: another one when a reader of this one would read something wrong.
const VERSION: u32 = 1;

/// The modes that max-pods.json and max-pods.csv have a column for.
const MODES: [&str; 6] =
    ["secondary", "prefixes", "custom_networking", "custom_networking_prefixes", "trunk", "ipv6"];

/// The types of the vectors: each shape that limits can have.
const VECTOR_TYPES: [&str; 14] = [
    "a1.metal",
    "c7g-flex.medium",
    "c7g.medium",
    "hpc6id.32xlarge",
    "i7ie.48xlarge",
    "m4.large",
    "m5.24xlarge",
    "m5.4xlarge",
    "m5.large",
    "m5.metal",
    "p5.48xlarge",
    "r9g.large",
    "t3.large",
    "u-6tb1.56xlarge",
];

#[derive(Debug, Args)]
pub(in crate::commands) struct DataArgs {
    /// The folder, which is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// A file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("write {}", path.display())]
struct WriteError {
    path: PathBuf,
    source: io::Error,
}

pub(in crate::commands) fn write(args: &DataArgs) -> Result<(), Failure> {
    let error = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError { path, source }
    };
    std::fs::create_dir_all(&args.folder).map_err(error(&args.folder))?;
    let types: Vec<Limits> = Limits::all().collect();
    let files = [
        ("limits.json", limits_json(&types)),
        ("limits.csv", limits_csv(&types)),
        ("max-pods.json", max_pods_json(&types)),
        ("max-pods.csv", max_pods_csv(&types)),
        ("vectors.json", vectors_json()),
    ];
    for (name, text) in files {
        let path = args.folder.join(name);
        std::fs::write(&path, text).map_err(error(&path))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn limits_json(types: &[Limits]) -> String {
    let rows = types.iter().map(|limits| {
        let mut row = json!(limits);
        row["prefixes"] = json!(limits.prefixes());
        row["source"] = json!(source(limits));
        row
    });
    document("limits", "types", rows)
}

fn limits_csv(types: &[Limits]) -> String {
    let mut text = String::from(
        "instance_type,enis,enis_per_card,ipv4_per_eni,ipv6_per_eni,prefixes,bare_metal,vcpus,memory_mib,branch_enis,source\n",
    );
    for limits in types {
        let cards: Vec<String> = limits.enis_per_card.iter().map(u8::to_string).collect();
        let branch_enis = limits.branch_enis.map_or(String::new(), |branches| branches.to_string());
        let fields = [
            limits.instance_type.to_string(),
            limits.enis(limits.default_card).to_string(),
            cards.join("+"),
            limits.ipv4_per_eni.to_string(),
            limits.ipv6_per_eni.to_string(),
            limits.prefixes().to_string(),
            limits.bare_metal.to_string(),
            limits.vcpus.to_string(),
            limits.memory_mib.to_string(),
            branch_enis,
            source(limits).to_string(),
        ];
        text.push_str(&fields.join(","));
        text.push('\n');
    }
    text
}

fn max_pods_json(types: &[Limits]) -> String {
    let rows = types.iter().map(|limits| {
        let mut row = json!({ "instance_type": limits.instance_type });
        for mode in MODES {
            let (by_addresses, advised) = of_mode(limits, mode);
            row[mode] = json!({ "by_addresses": by_addresses, "advised": advised });
        }
        row
    });
    document("max-pods", "types", rows)
}

fn max_pods_csv(types: &[Limits]) -> String {
    let mut text = String::from("instance_type");
    for mode in MODES {
        let _ = write!(text, ",{mode},{mode}_advised");
    }
    text.push('\n');
    for limits in types {
        text.push_str(limits.instance_type.as_str());
        for mode in MODES {
            let (by_addresses, advised) = of_mode(limits, mode);
            let _ = write!(text, ",{by_addresses},{advised}");
        }
        text.push('\n');
    }
    text
}

/// Returns the pods by addresses alone, and with the cap that AWS advises.
fn of_mode(limits: &Limits, mode: &str) -> (u32, u32) {
    let prefixes = Families::Ipv4(Ipv4Kind::Prefixes);
    let plain = Shape::default().with_cap(Cap::ByVcpus);
    let shape = match mode {
        "prefixes" => plain.with_families(prefixes),
        "custom_networking" => plain.with_custom_networking(true),
        "custom_networking_prefixes" => plain.with_custom_networking(true).with_families(prefixes),
        "trunk" => plain.with_trunk(true),
        "ipv6" => plain.with_families(Families::Ipv6),
        _ => plain,
    };
    let Capacity { by_addresses, max_pods, .. } = max_pods(limits, &shape);
    (by_addresses, max_pods)
}

/// Returns inputs and what comes out of them: each bound is in it.
fn vectors_json() -> String {
    let families = [
        ("addresses", Families::Ipv4(Ipv4Kind::Addresses)),
        ("prefixes", Families::Ipv4(Ipv4Kind::Prefixes)),
        ("ipv6", Families::Ipv6),
    ];
    let caps =
        [(json!("none"), Cap::None), (json!("aws"), Cap::ByVcpus), (json!(20), Cap::Fixed(20))];
    // MAX_ENI, custom networking, trunk, further ENIs that are reserved, pods on the host's network.
    let nodes = [
        (None, false, false, 0, 2),
        (Some(2), false, false, 0, 2),
        (None, true, false, 0, 2),
        (None, false, true, 0, 2),
        (None, true, true, 1, 0),
    ];
    let mut rows = Vec::new();
    for name in VECTOR_TYPES {
        let instance_type = name.parse().expect("the names above are valid");
        let limits = Limits::lookup(instance_type).expect("the names above are in the table");
        for (mode, families) in families {
            for (cap_name, cap) in &caps {
                for (max_eni, custom_networking, trunk, reserved_enis, host_network_pods) in nodes {
                    let shape = Shape::default()
                        .with_families(families)
                        .with_cap(*cap)
                        .with_enis_max(max_eni)
                        .with_custom_networking(custom_networking)
                        .with_trunk(trunk)
                        .with_enis_reserved(reserved_enis)
                        .with_host_network_pods(host_network_pods);
                    rows.push(json!({
                        "instance_type": name,
                        "mode": mode,
                        "cap": cap_name,
                        "max_eni": max_eni,
                        "custom_networking": custom_networking,
                        "trunk": trunk,
                        "reserved_enis": reserved_enis,
                        "host_network_pods": host_network_pods,
                        "expected": max_pods(&limits, &shape),
                    }));
                }
            }
        }
    }
    document("vectors", "vectors", rows.into_iter())
}

fn source(limits: &Limits) -> &'static str {
    Limits::source_in_table(limits.instance_type).map_or("file", name_of)
}

/// Writes a row a line, so that a change of one type is a change of one line.
fn document(schema: &str, name: &str, rows: impl Iterator<Item = Value>) -> String {
    let rows: Vec<String> = rows.map(|row| format!("    {row}")).collect();
    format!(
        "{{\n  \"$schema\": \"{schema}.schema.json\",\n  \"version\": {VERSION},\n  \"{name}\": [\n{}\n  ]\n}}\n",
        rows.join(",\n")
    )
}
