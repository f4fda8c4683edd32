//! The variables that vpc-ipamd starts with.

use core::fmt::Write as _;

use vpc_ipamd::env_file;

use super::{Context, Options, Step, StepError};
use crate::migrate::durable;

pub(super) const STEP: Step = Step { name: "env file", commands, run };

/// The file as it was, in the folder of the run that changed it.
pub(super) const SETTINGS_BEFORE: &str = "vpc-ipamd.env";

/// A file of settings, which is no secret.
const MODE: u32 = 0o644;

fn commands(options: &Options) -> Vec<String> {
    if options.vars.is_empty() {
        return Vec::new();
    }
    // Quoted, so that the shell leaves the lines as they are.
    let begin = format!("cat >> {} <<'END'", options.paths.env_file.display());
    let lines = options.vars.iter().map(|(name, value)| line(name, value));
    core::iter::once(begin).chain(lines).chain(["END".to_owned()]).collect()
}

/// Returns a variable as a line of the file.
fn line(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let Options { paths, vars, .. } = context.options;
    let path = paths.at(&paths.env_file);
    let before = durable::read(&path)?.unwrap_or_default();
    let (set, _) = env_file::parse(&before);
    let missing: Vec<_> = vars
        .iter()
        .filter(|(name, value)| !set.contains(&((*name).clone(), (*value).clone())))
        .collect();
    if missing.is_empty() {
        return Ok(format!("{} has all settings", path.display()));
    }
    // Of two lines with one name the later counts.
    let mut text = String::from_utf8_lossy(&before).into_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str("# As amazon-vpc-cni-k8s had it on this node.\n");
    for (name, value) in &missing {
        let _ = writeln!(text, "{}", line(name, value));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let kept = context.run_folder().join(SETTINGS_BEFORE);
    durable::write(&kept, &before, 0o600)?;
    durable::write(&path, text.as_bytes(), MODE)?;
    Ok(format!("{} settings added to {}", missing.len(), path.display()))
}
