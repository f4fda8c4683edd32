//! Lists the public items of the libraries, a line each, in `api/NAME.txt`.
//!
//! `cargo run -p vpc-ipam-api` writes the lists; with `--check` it compares them, prints what differs and exits with 1. Items that follow from
//! others (blanket and derived implementations) are left out.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "cargo and rustdoc name themselves by variables")]

use core::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The libraries that others build on, with all their features.
const LIBRARIES: [&str; 5] =
    ["vpc-ipam-core", "vpc-ipam-aws", "vpc-ipam-linux", "vpc-ipam-protocol", "vpc-ipamd"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let check = match arguments.as_slice() {
        [] => false,
        [argument] if argument == "--check" => true,
        _ => {
            eprintln!("usage: vpc-ipam-api [--check]");
            return ExitCode::from(2);
        }
    };
    match list(check) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!(
                "the public API differs from api/*.txt: if it should, make api, and commit it with the change"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("vpc-ipam-api: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the lists are as they should be.
fn list(check: bool) -> Result<bool, Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = document(here)?;
    let mut same = true;
    for library in LIBRARIES {
        let json = target.join("doc").join(library.replace('-', "_")).with_extension("json");
        let api = public_api::Builder::from_rustdoc_json(&json)
            .omit_blanket_impls(true)
            .omit_auto_trait_impls(true)
            .omit_auto_derived_impls(true)
            .build()
            .map_err(|error| format!("read {}: {error}", json.display()))?;
        let listed = format!("{api}");
        let path = here.join(library).with_extension("txt");
        if check {
            let committed = std::fs::read_to_string(&path)
                .map_err(|error| format!("read {}: {error}", path.display()))?;
            same &= compare(library, &committed, &listed);
        } else {
            std::fs::write(&path, listed)
                .map_err(|error| format!("write {}: {error}", path.display()))?;
        }
    }
    Ok(same)
}

/// Lets rustdoc describe all libraries, with the flags of every other build, so that dependencies are compiled once.
fn document(here: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let rustc = String::from_utf8(Command::new("rustc").arg("--print=sysroot").output()?.stdout)?;
    let rustdoc = Path::new(rustc.trim()).join("bin/rustdoc");
    let root = here.parent().ok_or("the workspace is the folder above")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let status = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .current_dir(root)
        .args(["doc", "--quiet", "--workspace", "--all-features", "--locked", "--no-deps", "--lib"])
        .env("RUSTDOC", here.join("rustdoc.sh"))
        .env("VPC_IPAM_RUSTDOC", rustdoc)
        .status()?;
    if status.success() { Ok(target) } else { Err("cargo doc failed".into()) }
}

/// Prints the lines that only one of the two has.
fn compare(library: &str, committed: &str, listed: &str) -> bool {
    let missing = |of: &str, in_: &str, sign: char| {
        let known: std::collections::BTreeSet<&str> = in_.lines().collect();
        of.lines()
            .filter(|line| !known.contains(line))
            .for_each(|line| println!("{library}: {sign} {line}"));
    };
    missing(committed, listed, '-');
    missing(listed, committed, '+');
    committed == listed
}
