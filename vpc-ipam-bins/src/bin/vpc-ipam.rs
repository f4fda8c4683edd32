//! The command line of vpc-ipam.

fn main() -> std::process::ExitCode {
    vpc_ipam_bins::cli::main()
}
