//! The variables of the process and of the file that `--env-file` names, those of the process first.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::env_file;
use crate::operator_file::OperatorFileError;

/// Names, to the program that it becomes, the variables that a process has from the file.
const FROM_FILE: &str = "VPC_IPAMD_FROM_ENV_FILE";

/// Variables by name.
pub type Vars = BTreeMap<String, String>;

/// Returns the variables that the process itself was given, those of the file of `--env-file` aside, and what is passed over.
pub fn of_process(vars: impl IntoIterator<Item = (OsString, OsString)>) -> (Vars, Vec<String>) {
    let (mut of_process, mut warnings) = (Vars::new(), Vec::new());
    for (name, value) in vars {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => drop(of_process.insert(name, value)),
            (Ok(name), Err(_)) => warnings.push(format!(
                "{}: its value is not UTF-8; the variable is passed over",
                name.escape_debug()
            )),
            (Err(name), _) => warnings.push(format!(
                "{}: its name is not UTF-8; the variable is passed over",
                name.to_string_lossy().escape_debug()
            )),
        }
    }
    let from_file = of_process.remove(FROM_FILE).unwrap_or_default();
    of_process.retain(|name, _| !from_file.split(':').any(|it| it == name));
    (of_process, warnings)
}

/// Returns the variables of the process and of the file, and what is wrong in the file.
pub fn with_file(
    of_process: &Vars,
    file: Option<&Path>,
) -> Result<(Vars, Vec<String>), OperatorFileError> {
    let Some(path) = file else { return Ok((of_process.clone(), Vec::new())) };
    let (from_file, bad) = env_file::read(path)?;
    let mut vars: Vars = from_file.into_iter().collect();
    vars.extend(of_process.iter().map(|(name, value)| (name.clone(), value.clone())));
    let bad = bad.iter().map(|bad| format!("{}, {bad}", path.display())).collect();
    Ok((vars, bad))
}

/// Gives the process the variables of the file that it does not have, by starting the program anew in its place: the AWS SDK reads
/// them from the process alone. Does nothing in the program that was started so.
pub fn adopt_file(file: &Path) -> Result<(), AdoptError> {
    if std::env::var_os(FROM_FILE).is_some() {
        return Ok(());
    }
    let (from_file, _) = env_file::read(file)?;
    let added: Vec<_> =
        from_file.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
    if added.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = added.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(":");
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_else(|| "vpc-ipamd".into());
    // By its name, which is that of the process then; a program that was replaced meanwhile has none any more.
    let program = std::env::current_exe().ok().filter(|program| program.exists());
    let program = program.unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut command = Command::new(program);
    command.arg0(called).args(arguments).envs(added).env(FROM_FILE, names);
    Err(AdoptError::Start(command.exec()))
}

/// Why the variables of a file are not those of the process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] OperatorFileError),
    /// The program could not be started anew.
    #[error("start the program anew with the variables of --env-file")]
    Start(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn what_is_not_utf_8_is_named_and_passed_over() {
        let os = |bytes: &[u8]| OsStr::from_bytes(bytes).to_os_string();
        let vars = [
            (os(b"MAX_ENI"), os(b"2")),
            (os(b"WARM_IP_TARGET"), os(b"5\xff")),
            (os(b"B\xffD"), os(b"1")),
        ];
        let (vars, warnings) = of_process(vars);
        assert_eq!(vars, Vars::from([("MAX_ENI".to_string(), "2".to_string())]));
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].starts_with("WARM_IP_TARGET: its value is not UTF-8"), "{warnings:?}");
        assert!(warnings[1].starts_with("B\u{fffd}D: its name is not UTF-8"), "{warnings:?}");
    }

    #[test]
    fn variables_of_the_process_come_first_and_those_of_the_file_are_told_from_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        std::fs::write(&path, "MAX_ENI=3\nWARM_IP_TARGET=7\nbroken\n").unwrap();
        // As in the program that was started with them: the file was another one then.
        let os = |text: &str| OsString::from(text);
        let process = [("MAX_ENI", "2"), ("WARM_IP_TARGET", "5"), (FROM_FILE, "WARM_IP_TARGET:X")];
        let (process, _) = of_process(process.map(|(name, value)| (os(name), os(value))));

        let (vars, warnings) = with_file(&process, Some(&path)).unwrap();

        let var = |name: &str, value: &str| (name.to_string(), value.to_string());
        assert_eq!(vars, Vars::from([var("MAX_ENI", "2"), var("WARM_IP_TARGET", "7")]));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("line 3, broken"), "{warnings:?}");
    }
}
