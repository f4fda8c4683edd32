//! What depends on what: core <- aws, core <- linux, all <- programs, and core on nothing of an operating system.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]
#![allow(clippy::disallowed_methods, reason = "cargo names itself by a variable")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The direct dependencies of each crate, those for tests aside. A new one is a decision: see docs/design.md.
const ALLOWED: [(&str, &[&str]); 7] = [
    // proptest is for the feature `testkit` alone.
    ("vpc-ipam-core", &["ipnet", "proptest", "serde", "thiserror"]),
    (
        "vpc-ipam-aws",
        &[
            "async-trait",
            "aws-config",
            // What the SDK says of credentials that are missing.
            "aws-credential-types",
            "aws-sdk-ec2",
            "aws-smithy-http-client",
            // The seam at which answers are bounded.
            "aws-smithy-runtime-api",
            "aws-smithy-types",
            // What a profile or a variable says to one service alone.
            "aws-types",
            "axum",
            "form_urlencoded",
            "http",
            "http-body-util",
            "ipnet",
            "quick-xml",
            "thiserror",
            "tokio",
            "vpc-ipam-core",
        ],
    ),
    (
        "vpc-ipam-linux",
        &[
            "ipnet",
            "netlink-packet-core",
            "netlink-packet-route",
            "netlink-sys",
            // To hear of changes; the plugin does without.
            "rtnetlink",
            "rustix",
            // What is kept of pods that are in no state file.
            "serde",
            "serde_json",
            "sha1",
            "thiserror",
            "tokio",
            "vpc-ipam-core",
        ],
    ),
    (
        "vpc-ipam-protocol",
        &[
            // Ranges of addresses.
            "ipnet",
            // Files that are not followed, who owns them, and who calls.
            "rustix",
            "serde",
            "serde_json",
            // Names of files for pods whose names are too long.
            "sha1",
            "thiserror",
            "vpc-ipam-core",
        ],
    ),
    (
        "vpc-cni",
        &[
            "ipnet",
            "serde",
            "serde_json",
            "thiserror",
            "vpc-ipam-core",
            "vpc-ipam-linux",
            "vpc-ipam-protocol",
        ],
    ),
    (
        "vpc-ipamd",
        &[
            // Metrics and introspection.
            "axum",
            // Masks of networks, as amazon-vpc-cni-k8s's introspection has them.
            "base64",
            "clap",
            // Support archives.
            "flate2",
            // What axum serves with, for bounds on headers and time.
            "hyper",
            "hyper-util",
            "ipnet",
            // The other spellings of a secret.
            "percent-encoding",
            "prometheus",
            // gRPC, which the feature `grpc` adds.
            "prost",
            "redb",
            "rustix",
            // The service manager.
            "sd-notify",
            "serde",
            "serde_json",
            // Names of variables that are similar to a misspelt one.
            "strsim",
            "tar",
            "thiserror",
            "tokio",
            "tonic",
            "tonic-health",
            "tonic-prost",
            "tracing",
            "tracing-subscriber",
            "vpc-ipam-aws",
            "vpc-ipam-core",
            "vpc-ipam-linux",
            "vpc-ipam-protocol",
        ],
    ),
    (
        "vpc-ipam",
        &[
            // Expressions of nodeadm and Karpenter.
            "cel",
            "clap",
            // Completions and the manual.
            "clap_complete",
            "clap_mangen",
            "ipnet",
            // Times that people write.
            "jiff",
            // Processes and user namespaces of labs.
            "rustix",
            "serde",
            "serde_json",
            // Names that are similar to a misspelt one.
            "strsim",
            "thiserror",
            "tokio",
            "vpc-ipam-aws",
            "vpc-ipam-core",
            "vpc-ipam-linux",
            "vpc-ipam-protocol",
            "vpc-ipamd",
            "wildmatch",
        ],
    ),
];

#[test]
fn each_crate_depends_on_what_it_may() {
    let metadata = cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let mut actual: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let dependencies = package["dependencies"].as_array().unwrap();
        let direct = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
        let names = direct.map(|dependency| dependency["name"].as_str().unwrap().to_string());
        actual.insert(name.to_string(), names.collect());
    }
    for (name, allowed) in ALLOWED {
        let allowed: BTreeSet<String> = allowed.iter().map(ToString::to_string).collect();
        assert_eq!(actual[name], allowed, "direct dependencies of {name}");
    }
}

#[test]
fn the_plugin_is_built_without_runtime_and_cloud() {
    let tree = cargo(&[
        "tree",
        "--offline",
        "-p",
        "vpc-cni",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.contains("vpc-ipam-linux"), "{tree}");
    for heavy in [
        "tokio",
        "rtnetlink",
        "netlink-proto",
        "futures",
        "aws-",
        "vpc-ipam-aws",
        "vpc-ipamd",
        "axum",
        "redb",
        "clap",
        "cel",
        "tracing",
    ] {
        assert!(!tree.lines().any(|line| line.starts_with(heavy)), "{heavy} in\n{tree}");
    }
}

/// A crate that brings its own panic handler cannot be compiled together with the standard library, which has one: so
/// the compiler tells whether core, or anything that it depends on, needs an operating system.
#[test]
fn core_needs_no_operating_system() {
    let alone = check_with_own_panic_handler("");
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));

    let with_std = check_with_own_panic_handler("extern crate std;");
    let said = String::from_utf8_lossy(&with_std.stderr);
    assert!(!with_std.status.success() && said.contains("panic_impl"), "{said}");
}

fn check_with_own_panic_handler(further: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let core = workspace().join("vpc-ipam-core");
    let manifest = format!(
        "[package]\nname = \"no-std\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
         [dependencies]\nvpc-ipam-core = {{ path = {core:?}, default-features = false }}\n"
    );
    let source = format!(
        "#![no_std]\n{further}\n#[panic_handler]\n\
         fn panic(_: &core::panic::PanicInfo<'_>) -> ! {{ loop {{}} }}\n\
         pub use vpc_ipam_core::Ipam;\n"
    );
    std::fs::create_dir(folder.path().join("src")).unwrap();
    std::fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
    std::fs::write(folder.path().join("src/lib.rs"), source).unwrap();
    // The versions that the workspace has locked are those that are at hand.
    std::fs::copy(workspace().join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    Command::new(env!("CARGO"))
        .args(["check", "--offline", "--quiet"])
        .current_dir(folder.path())
        .env("CARGO_TARGET_DIR", folder.path().join("target"))
        .output()
        .unwrap()
}

fn cargo(arguments: &[&str]) -> Output {
    let output =
        Command::new(env!("CARGO")).args(arguments).current_dir(workspace()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}
