//! The command line of vpc-ipam.

fn main() -> std::process::ExitCode {
    vpc_ipam::commands::main()
}
