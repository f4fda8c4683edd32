//! Finds two pods whose links on the host would have one name, in seconds:
//! `cargo run --release -p vpc-ipam-linux --example colliding_names`.
//!
//! The name of a link has 44 bits of SHA-1. Among 4 million names two that share them are to be expected, of 16 million it is all but
//! certain.
#![allow(clippy::print_stdout, reason = "it is a program")]

use std::process::ExitCode;

use vpc_ipam_core::Pod;
use vpc_ipam_linux::VethPrefix;
use vpc_ipam_linux::pod::host_links;

/// How many names are tried, which take 16 bytes each.
const TRIES: u32 = 1 << 24;

fn main() -> ExitCode {
    let mut links: Vec<_> = (0..TRIES).map(|number| (digits(number), number)).collect();
    links.sort_unstable();
    match links.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => {
            for (_, number) in pair {
                let Pod { namespace, name, .. } = pod(*number);
                println!("{namespace}/{name} {}", link(*number));
            }
            ExitCode::SUCCESS
        }
        None => {
            println!("no two of {TRIES} names share the name of a link");
            ExitCode::FAILURE
        }
    }
}

fn pod(number: u32) -> Pod {
    Pod::new("default", format!("web-{number}"))
}

fn link(number: u32) -> String {
    host_links(&pod(number), 1, &VethPrefix::default()).collect()
}

fn digits(number: u32) -> u64 {
    let link = link(number);
    let digits = link.trim_start_matches(VethPrefix::default().as_str());
    // The rest of the name is always of hexadecimal digits.
    u64::from_str_radix(digits, 16).unwrap_or_default()
}
