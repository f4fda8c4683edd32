//! The daemon of vpc-ipam.

fn main() -> std::process::ExitCode {
    vpc_ipam_bins::ipamd::program::main()
}
