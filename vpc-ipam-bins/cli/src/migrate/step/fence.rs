//! amazon-vpc-cni-k8s does not start on this node until it goes back: it would hand out addresses that pods have by then, and write its
//! network configuration, which comes before ours.

use super::{Context, Options, Step, StepError};
use crate::migrate::Checkpoint;

pub(super) const STEP: Step = Step { name: "fence", commands, run };

fn commands(options: &Options) -> Vec<String> {
    vec![format!(
        "# {}: its version is one with which amazon-vpc-cni-k8s does not start, until `vpc-ipam migrate back` writes it",
        options.paths.checkpoint.display()
    )]
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let paths = &context.options.paths;
    let path = paths.at(&paths.checkpoint);
    let checkpoint = Checkpoint::read(&path)?;
    if !checkpoint.fenced {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        checkpoint.write_fenced(&path)?;
    }
    Ok(format!("amazon-vpc-cni-k8s does not start with {} as it is", path.display()))
}
