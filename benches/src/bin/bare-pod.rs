//! Joins one pod to a node and does nothing else: what the plugin is measured against.

fn main() -> std::process::ExitCode {
    vpc_ipam_benches::bare::main()
}
