//! Python, for what others wrote: moto and boto3.

use std::path::{Path, PathBuf};

use tokio::process::Command;

/// Returns a command that runs a script of this directory, in an environment that leads nowhere but where the script is
/// told to go.
#[expect(
    clippy::disallowed_methods,
    reason = "the Makefile names the interpreter that it prepared"
)]
pub fn script(name: &str) -> Command {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = match std::env::var_os("VPC_IPAM_TEST_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => here.join("../target/venv/bin/python"),
    };
    assert!(
        python.is_file(),
        "no Python with moto and boto3 at {}: run `make test-deps`",
        python.display()
    );
    let mut command = Command::new(python);
    command
        .arg(here.join("tests/http").join(name))
        .env_clear()
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/nonexistent")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .kill_on_drop(true);
    command
}
