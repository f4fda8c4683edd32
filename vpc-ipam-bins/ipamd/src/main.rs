//! The daemon of vpc-ipam.

fn main() -> std::process::ExitCode {
    vpc_ipamd::program::main()
}
