//! What nft and iptables-save list, as text.
#![cfg_attr(fuzzing, no_main)]

use vpc_ipam_linux::testkit::nft_listing;

#[cfg(not(fuzzing))]
mod by_chance;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nft_listing(bytes).unwrap());

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    by_chance::main(nft_listing)
}
