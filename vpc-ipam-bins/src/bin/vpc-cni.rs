//! The CNI plugin of vpc-ipam; container runtimes call it.

fn main() -> std::process::ExitCode {
    vpc_ipam_bins::cni::plugin::main()
}
