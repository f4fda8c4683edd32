//! The CNI plugin of vpc-ipam; container runtimes call it.

fn main() -> std::process::ExitCode {
    vpc_cni::plugin::main()
}
