//! Reading the settings again while the daemon runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};
use vpc_ipam_core::{Config, Limits, Override, UnusableConfigError, error_chain};

use crate::environment::{self, Vars};
use crate::operator_file::{self, OperatorFileError};
use crate::settings::Settings;
use crate::variables::{self, Effect};

/// Settings for a daemon that runs.
#[derive(Debug)]
pub struct Reload {
    /// What the operator wants of addresses.
    pub config: Config,
    /// What holds instead for some nodes.
    pub overrides: Vec<Override>,
    /// The node's labels, by which overrides may name it.
    pub labels: BTreeMap<String, String>,
    /// Is told what became of them.
    pub done: oneshot::Sender<Result<Reloaded, UnusableConfigError>>,
}

/// What became of settings that were read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Whether the address families that overrides name are others than those in force, which only a start can change.
    pub families_kept: bool,
}

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The variables that the process was given.
    pub process: Vars,
    /// The file of further variables.
    pub env_file: Option<PathBuf>,
    /// The file with settings for some nodes only.
    pub overrides: Option<PathBuf>,
    /// The file with limits of instance types.
    pub limits: Option<PathBuf>,
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
    /// The most pods of the node.
    pub pods_max: Option<u32>,
}

/// What the sources say at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The variables.
    pub vars: Vars,
    /// What holds instead for some nodes.
    pub overrides: Vec<Override>,
    /// Limits of instance types.
    pub limits: Vec<Limits>,
    /// What is passed over.
    pub warnings: Vec<String>,
}

impl Sources {
    /// Reads all of them, or says which cannot be read.
    pub fn read(&self) -> Result<Read, OperatorFileError> {
        let (vars, mut warnings) = environment::with_file(&self.process, self.env_file.as_deref())?;
        let overrides = self.overrides.as_deref().map(operator_file::overrides).transpose()?;
        let limits = self.limits.as_deref().map(operator_file::limits).transpose()?;
        let (_, notes) = Settings::from_vars(vars.clone());
        warnings.extend(notes.iter().map(ToString::to_string));
        let noted: Vec<&str> = notes.iter().map(|note| note.variable).collect();
        let set = vars.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        warnings.extend(variables::notes(set, &noted).iter().map(ToString::to_string));
        Ok(Read {
            vars,
            overrides: overrides.unwrap_or_default(),
            limits: limits.unwrap_or_default(),
            warnings,
        })
    }
}

/// What differs between settings in force and those that were read again.
#[derive(Debug, PartialEq)]
struct Difference {
    /// What takes effect at once, as old and new value.
    at_once: Vec<String>,
    /// What takes effect with the next start.
    restart: Vec<String>,
    /// What is in force then.
    in_force: Read,
}

impl Difference {
    fn between(in_force: &Read, read: Read) -> Self {
        let (mut at_once, mut restart) = (Vec::new(), Vec::new());
        let mut vars = in_force.vars.clone();
        for changed in variables::changed(&in_force.vars, &read.vars) {
            match changed.variable.effect {
                Effect::Reload => {
                    at_once.push(changed.to_string());
                    match changed.after {
                        Some(value) => drop(vars.insert(changed.variable.name.to_string(), value)),
                        None => drop(vars.remove(changed.variable.name)),
                    }
                }
                Effect::Start | Effect::Sdk => restart.push(changed.to_string()),
                Effect::None(_) => {}
            }
        }
        let entries = |count: usize| if count == 1 { "entry" } else { "entries" };
        if in_force.overrides != read.overrides {
            let (old, new) = (in_force.overrides.len(), read.overrides.len());
            at_once.push(format!("--overrides: {old} {} -> {new} {}", entries(old), entries(new)));
        }
        if in_force.limits != read.limits {
            restart.push("--limits".to_string());
        }
        let in_force = Read {
            vars,
            overrides: read.overrides,
            limits: in_force.limits.clone(),
            warnings: read.warnings,
        };
        Self { at_once, restart, in_force }
    }
}

/// Reads the settings again whenever that is asked for, has the daemon take them in, and logs what changed. What cannot be used
/// leaves the settings in force as they are.
pub async fn serve(
    sources: Sources,
    mut in_force: Read,
    mut asked: mpsc::Receiver<oneshot::Sender<()>>,
    daemon: mpsc::Sender<Reload>,
) {
    while let Some(done) = asked.recv().await {
        match sources.read() {
            Ok(read) => take_in(&sources, &mut in_force, read, &daemon).await,
            Err(error) => {
                warn!(
                    error = error_chain(&error),
                    "cannot read the settings again; those in force stay"
                );
            }
        }
        // Who asked may have gone.
        let _ = done.send(());
    }
}

async fn take_in(
    sources: &Sources,
    in_force: &mut Read,
    read: Read,
    daemon: &mpsc::Sender<Reload>,
) {
    for warning in &read.warnings {
        if !in_force.warnings.contains(warning) {
            warn!("{warning}");
        }
    }
    let Difference { at_once, restart, in_force: next } = Difference::between(in_force, read);
    let (settings, _) = Settings::from_vars(next.vars.clone());
    let (done, answer) = oneshot::channel();
    let reload = Reload {
        config: settings.config.with_pods_max(sources.pods_max),
        overrides: next.overrides.clone(),
        labels: sources.labels.clone(),
        done,
    };
    if daemon.send(reload).await.is_err() {
        return;
    }
    match answer.await {
        Ok(Ok(Reloaded { families_kept })) => {
            *in_force = next;
            let mut restart = restart;
            if families_kept {
                restart.push("the address families that --overrides names".to_string());
            }
            match at_once.is_empty() {
                true => {
                    info!("settings were read again: none that takes effect at once has changed")
                }
                false => info!(changed = at_once.join(", "), "settings were read again"),
            }
            if !restart.is_empty() {
                warn!(changed = restart.join(", "), "takes effect when vpc-ipamd is restarted");
            }
        }
        Ok(Err(error)) => warn!(
            error = error_chain(&error),
            "settings were read again and cannot be used; those in force stay"
        ),
        // The daemon ends.
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Read {
        let sources = Sources {
            process: vars.iter().map(|(n, v)| ((*n).to_string(), (*v).to_string())).collect(),
            ..Sources::default()
        };
        sources.read().unwrap()
    }

    #[test]
    fn what_needs_a_start_stays_as_it_is_and_is_told_each_time() {
        let in_force = read(&[("WARM_IP_TARGET", "1"), ("AWS_VPC_ENI_MTU", "1500")]);
        let new = [("MAX_ENI", "2"), ("AWS_VPC_ENI_MTU", "9001"), ("AWS_REGION", "eu-west-1")];

        let told = Difference::between(&in_force, read(&new));

        let at_once =
            ["MAX_ENI: as the instance type (unset) -> 2", "WARM_IP_TARGET: 1 -> none (unset)"];
        assert_eq!(told.at_once, at_once);
        assert_eq!(told.restart, ["AWS_REGION", "AWS_VPC_ENI_MTU: 1500 -> 9001"]);
        let (settings, _) = Settings::from_vars(told.in_force.vars.clone());
        assert_eq!((settings.config.eni_mtu, settings.config.enis_max), (1500, Some(2)));
        let again = Difference::between(&told.in_force, read(&new));
        assert_eq!((again.at_once.len(), again.restart), (0, told.restart));
    }

    #[test]
    fn file_that_cannot_be_read_is_named() {
        let missing = Some(PathBuf::from("/there/is/no/such/file"));
        for sources in [
            Sources { env_file: missing.clone(), ..Sources::default() },
            Sources { overrides: missing.clone(), ..Sources::default() },
            Sources { limits: missing, ..Sources::default() },
        ] {
            let error = sources.read().unwrap_err();
            assert!(error.to_string().contains("/there/is/no/such/file"), "{error}");
        }
    }
}
