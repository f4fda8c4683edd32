//! What rtnetlink and nftables answer and tell, as bytes: lists and events.
#![cfg_attr(fuzzing, no_main)]

use vpc_ipam_linux::testkit::netlink_dump;

#[cfg(not(fuzzing))]
mod by_chance;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netlink_dump(bytes).unwrap());

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    by_chance::main(netlink_dump)
}
