//! Generates the messages and services of proto/rpc.proto, with the feature `grpc`.

fn main() -> Result<(), Box<dyn core::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "grpc")]
    {
        let files = protox::compile(["proto/rpc.proto"], ["proto"])?;
        tonic_prost_build::configure().compile_fds(files)?;
    }
    Ok(())
}
