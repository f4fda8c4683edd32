//! The support archive: what an engineer needs to find out what happened on a node, in one file and without secrets.
//!
//! It is made by `vpc-ipam support`, and by the daemon when it gets SIGUSR1. Whatever cannot be had is named in it, and the rest is there.

mod kernel;
mod scrub;

use core::time::Duration;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use tracing::warn;
use vpc_ipam_core::{Timestamp, error_chain};
use vpc_ipam_linux::Namespace;
use vpc_ipam_protocol::log_file::LogFile;
use vpc_ipam_protocol::{Answer, Refusal, Request, ask_within};

use self::scrub::Scrub;
use crate::journal::RELEASE;
use crate::journal::segments::{self, expect_space};
use crate::store::{self, Found, Store};

/// The folder in the archive that holds everything.
const ROOT: &str = "vpc-ipam-support";
/// As much of the end of each log file is taken, in bytes.
const LOG_MAX: u64 = 4 << 20;
/// As much of a configuration of CNI is taken, in bytes.
const CONFLIST_MAX: u64 = 1 << 20;
/// How long each answer of the daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many archives the daemon keeps that it made itself.
const KEPT: usize = 3;

/// Where everything is that belongs into an archive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SupportOptions {
    /// Where the daemon listens.
    pub socket: PathBuf,
    /// The state file.
    pub state: PathBuf,
    /// The folder of the journal.
    pub journal: PathBuf,
    /// The folder of the runtime's network configurations.
    pub cni: PathBuf,
    /// The daemon's log file, if it has one.
    pub log: Option<PathBuf>,
    /// The variables of the daemon; none where they cannot be read.
    pub vars: Result<Vec<(String, String)>, String>,
    /// The node's network namespace, if it is not that of this program.
    pub netns: Option<Namespace>,
}

impl SupportOptions {
    /// The folder in which container runtimes look for network configurations.
    pub const CNI: &str = "/etc/cni/net.d";

    /// Returns options for a daemon with this socket and this state file, and with everything else where it is by default.
    pub fn new(socket: PathBuf, state: PathBuf) -> Self {
        let journal = state.with_file_name("journal");
        let vars = Err("the daemon's variables were not looked for".to_string());
        Self { socket, state, journal, cni: Self::CNI.into(), log: None, vars, netns: None }
    }

    /// Returns them with what the process of the daemon says of its variables and its options.
    #[must_use]
    pub fn of_process(mut self, pid: u32) -> Self {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}"));
        self.vars = match read("environ") {
            Ok(bytes) => Ok(strings(&bytes).filter_map(variable).collect()),
            Err(error) => Err(format!("read /proc/{pid}/environ: {error}")),
        };
        if let Ok(vars) = &self.vars {
            let name = "AWS_VPC_K8S_CNI_LOG_FILE";
            let log = vars.iter().find(|(it, _)| it == name);
            if let Some(crate::log::LogTo::File(path)) =
                log.map(|it| crate::log::LogTo::parse(&it.1))
            {
                self.log.get_or_insert(path);
            }
        }
        self
    }
}

fn strings(bytes: &[u8]) -> impl Iterator<Item = String> {
    bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned())
}

fn variable(text: String) -> Option<(String, String)> {
    text.split_once('=').map(|(name, value)| (name.to_string(), value.to_string()))
}

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
#[error("write {}", path.display())]
pub struct SupportError {
    path: PathBuf,
    source: io::Error,
}

/// Makes an archive, readable by this user alone, and returns what is missing in it, in words. There must be no such file yet.
pub fn write(options: &SupportOptions, path: &Path) -> Result<Vec<String>, SupportError> {
    write_with(options, path, None)
}

/// Makes an archive, and leaves the reserve of the state file on the file system of a folder, if one is given.
fn write_with(
    options: &SupportOptions,
    path: &Path,
    reserve: Option<&Path>,
) -> Result<Vec<String>, SupportError> {
    let failed = |source| SupportError { path: path.to_path_buf(), source };
    let mut new = fs::OpenOptions::new();
    let file = new.write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let written = write_to(options, Output { file, reserve: reserve.map(Path::to_path_buf) });
    if written.is_err() {
        // Half of it is of no use.
        let _ = fs::remove_file(path);
    }
    written.map_err(failed)
}

/// Makes an archive beside the state file, and then deletes the oldest that were made so; returns where it is, and what is missing in
/// it. There is none where the file system would be too full for the state file.
pub fn write_beside_state(
    options: &SupportOptions,
) -> Result<(PathBuf, Vec<String>), SupportError> {
    let folder = options.state.with_file_name("support");
    let failed = |source| SupportError { path: folder.clone(), source };
    vpc_ipam_protocol::trusted_file::folder(&folder)
        .map_err(|error| failed(io::Error::other(error_chain(&error))))?;
    let made = |entry: io::Result<fs::DirEntry>| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        (name.starts_with(ROOT) && name.ends_with(".tar.gz")).then_some(name)
    };
    let mut names: Vec<String> = fs::read_dir(&folder).map_err(failed)?.filter_map(made).collect();
    names.sort();
    let path = folder.join(file_name());
    let missing = write_with(options, &path, Some(&folder))?;
    let surplus = (names.len() + 1).saturating_sub(KEPT);
    for old in names.iter().take(surplus).map(|name| folder.join(name)) {
        if let Err(error) = fs::remove_file(&old) {
            warn!(path = %old.display(), %error, "cannot delete an earlier support archive");
        }
    }
    Ok((path, missing))
}

/// The file of an archive.
struct Output {
    file: File,
    /// A folder on whose file system the reserve of the state file stays free.
    reserve: Option<PathBuf>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(folder) = &self.reserve {
            expect_space(folder, bytes.len() as u64).map_err(io::Error::other)?;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Returns a name for an archive that is made now.
pub fn file_name() -> String {
    let now = now().to_string().replace([':', '.'], "-");
    format!("{ROOT}-{now}.tar.gz")
}

fn now() -> Timestamp {
    Timestamp::EPOCH + SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

fn write_to(options: &SupportOptions, output: Output) -> io::Result<Vec<String>> {
    let vars = options.vars.as_ref().map_or(&[][..], Vec::as_slice);
    // Those of this program may hold what it has in common with the daemon.
    let own: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut archive = Archive {
        tar: tar::Builder::new(GzEncoder::new(output, Compression::default())),
        scrub: Scrub::of(&[vars, &own].concat()),
        missing: Vec::new(),
        at: now(),
    };
    archive.text("versions.txt", &kernel::versions(RELEASE))?;
    match &options.vars {
        Ok(vars) => {
            let lines = archive.scrub.variables(vars);
            archive.text("variables.txt", &lines)?;
        }
        Err(why) => archive.misses("variables.txt", why),
    }
    archive.add_daemon(&options.socket)?;
    archive.add_state(&options.state)?;
    archive.add_journal(&options.journal)?;
    archive.add_conflists(&options.cni)?;
    archive.add_logs(options.log.as_deref())?;
    for (name, told) in kernel::state(options.netns.as_ref()) {
        match told {
            Ok(text) => archive.text(&format!("kernel/{name}"), &text)?,
            Err(why) => archive.misses(&format!("kernel/{name}"), &why),
        }
    }
    let missing = archive.missing.clone();
    archive.text("missing.txt", &missing.iter().map(|it| format!("{it}\n")).collect::<String>())?;
    archive.tar.into_inner()?.finish()?.flush()?;
    Ok(missing)
}

/// An archive that is being written.
struct Archive {
    tar: tar::Builder<GzEncoder<Output>>,
    scrub: Scrub,
    missing: Vec<String>,
    at: Timestamp,
}

impl Archive {
    fn misses(&mut self, name: &str, why: &str) {
        let why = self.scrub.text(why);
        self.missing.push(format!("{name}: {why}"));
    }

    /// Adds text, without secrets. Everything in the archive goes through here.
    fn text(&mut self, name: &str, text: &str) -> io::Result<()> {
        let text = self.scrub.text(text);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.at.as_nanos() / 1_000_000_000);
        self.tar.append_data(&mut header, format!("{ROOT}/{name}"), text.as_bytes())
    }

    fn json(&mut self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.text(name, &(text + "\n"))
    }

    /// Adds what the daemon says of itself.
    fn add_daemon(&mut self, socket: &Path) -> io::Result<()> {
        let questions = [
            ("status.json", Request::Status),
            ("explanation.json", Request::Explain),
            ("plan.json", Request::Plan),
            ("inventory.json", Request::Inventory),
            ("leases.json", Request::Leases { network: None }),
            ("events.json", Request::Events { after: 0, wait: 0 }),
            ("net.json", Request::NetDiff),
        ];
        for (name, question) in questions {
            let name = format!("daemon/{name}");
            match ask_within(socket, &question, PATIENCE) {
                Ok(Answer::Refused(Refusal { message, details, .. })) => {
                    self.misses(&name, &format!("{message}: {details}"));
                }
                Ok(Answer::Explanation(explanation)) => {
                    self.text("daemon/explanation.txt", &explanation.to_string())?;
                    self.json(&name, &explanation)?;
                }
                Ok(answer) => self.json(&name, &answer)?,
                Err(error) => {
                    // The others would be answered so, too, after as long a wait.
                    self.misses("daemon", &error_chain(&error));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Adds the records of the state file, out of a copy: the daemon alone may open it.
    fn add_state(&mut self, path: &Path) -> io::Result<()> {
        let read = || -> Result<Vec<vpc_ipam_core::Record>, String> {
            let folder = kernel::PrivateFolder::make().map_err(|error| error.to_string())?;
            let copy = folder.path().join("state.redb");
            let size = fs::metadata(path).map_or(0, |found| found.len());
            // The copy may be on the state file's own file system.
            expect_space(folder.path(), size).map_err(|error| error_chain(&error))?;
            fs::copy(path, &copy).map_err(|error| format!("read {}: {error}", path.display()))?;
            let boot = store::boot_id().map_err(|error| error.to_string())?;
            match Store::open(&copy, &boot, self.at).map_err(|error| error_chain(&error))?.1 {
                Found::Records(records) => Ok(records),
                Found::Nothing => Ok(Vec::new()),
                Found::OtherBoot => Err("it is of an earlier boot".to_string()),
                Found::Damaged { why, .. } => {
                    Err(format!("{why}; it may have been written to while it was copied"))
                }
            }
        };
        match read() {
            Ok(records) => self.json("state.json", &records),
            Err(why) => {
                self.misses("state.json", &why);
                Ok(())
            }
        }
    }

    fn add_journal(&mut self, folder: &Path) -> io::Result<()> {
        let segments = match segments::list(folder) {
            Ok(segments) => segments,
            Err(error) => {
                self.misses("journal", &format!("read {}: {error}", folder.display()));
                return Ok(());
            }
        };
        for (_, path) in segments {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match fs::read_to_string(&path) {
                Ok(text) => self.text(&format!("journal/{name}"), &text)?,
                // Old ones are deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.misses(&format!("journal/{name}"), &error.to_string()),
            }
        }
        Ok(())
    }

    /// Adds the configurations that a runtime reads; other files of the folder hold credentials.
    fn add_conflists(&mut self, folder: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.misses("cni", &format!("read {}: {error}", folder.display()));
                return Ok(());
            }
        };
        let mut paths: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        let mut names = String::new();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            names += &format!("{name}\n");
            let read =
                path.extension().is_some_and(|it| it == "conf" || it == "conflist" || it == "json");
            if !read {
                continue;
            }
            let parsed = tail(&path, CONFLIST_MAX).map_err(|error| error.to_string());
            let parsed = parsed.and_then(|text| {
                serde_json::from_str::<serde_json::Value>(&text).map_err(|error| error.to_string())
            });
            match parsed {
                Ok(mut value) => {
                    Scrub::json(&mut value);
                    self.json(&format!("cni/{name}"), &value)?;
                }
                Err(why) => self.misses(&format!("cni/{name}"), &why),
            }
        }
        self.text("cni/files.txt", &names)
    }

    fn add_logs(&mut self, log: Option<&Path>) -> io::Result<()> {
        match log {
            Some(path) => {
                let paths = [path.to_path_buf()].into_iter().chain(LogFile::earlier(path, 1));
                for (path, name) in paths.zip(["ipamd.log", "ipamd.log.1"]) {
                    match tail(&path, LOG_MAX) {
                        Ok(text) => self.text(&format!("logs/{name}"), &text)?,
                        Err(error)
                            if name.ends_with('1') && error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => self.misses(
                            &format!("logs/{name}"),
                            &format!("read {}: {error}", path.display()),
                        ),
                    }
                }
            }
            None => match kernel::service_log() {
                Ok(text) => self.text("logs/journalctl.txt", &text)?,
                Err(why) => self.misses("logs", &format!("the daemon has no log file, and {why}")),
            },
        }
        Ok(())
    }
}

/// Reads the end of a file, from the start of a line.
fn tail(path: &Path, bytes_max: u64) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let skipped = size.saturating_sub(bytes_max);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(match (skipped, text.find('\n')) {
        (1.., Some(end)) => text[end + 1..].to_string(),
        _ => text.into_owned(),
    })
}
