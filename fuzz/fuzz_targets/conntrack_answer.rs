//! What the kernel answers that is asked for connections.
#![cfg_attr(fuzzing, no_main)]

use vpc_ipam_linux::testkit::conntrack_answer;

#[cfg(not(fuzzing))]
mod by_chance;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conntrack_answer(bytes).unwrap());

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    by_chance::main(conntrack_answer)
}
