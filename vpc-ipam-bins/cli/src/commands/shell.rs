//! `vpc-ipam completions` and `man`: what a package of the operating system ships beside the program.

use std::io;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// The folder cannot be written to.
#[derive(Debug, thiserror::Error)]
#[error("write the manual to {}", folder.display())]
struct ManError {
    folder: PathBuf,
    source: io::Error,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The folder, such as /usr/local/share/man/man1, which is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "vpc-ipam", &mut script);
    super::unless_closed(io::Write::write_all(&mut io::stdout().lock(), &script))
}

pub(super) fn man(args: &ManArgs, command: Command) -> Result<(), Failure> {
    let folder = &args.folder;
    let write = || {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(command, folder)
    };
    write().map_err(|source| ManError { folder: folder.clone(), source })?;
    println!("{}", folder.display());
    Ok(())
}
