//! Whether the state file can be written, and is whose it should be.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use vpc_ipam_protocol::trusted_file;

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "state",
    about: "the state file: room on its file system, owner, mode, size, whether it is of this boot, and damaged ones beside it",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

const MIB: u64 = 1 << 20;
/// As much as the file of a node with a thousand pods takes while it is written anew.
const ROOM_MIN: u64 = 16 * MIB;
const ROOM_LITTLE: u64 = 64 * MIB;
const FILES_MIN: u64 = 64;
/// Half of what the daemon opens.
const LARGE: u64 = 128 * MIB;
const OTHERS: u32 = 0o077;

fn run(facts: &Facts) -> Vec<Finding> {
    let path = match facts.probe() {
        Ok(probe) => probe.state.clone(),
        Err(_) => facts.socket().with_file_name("state.redb"),
    };
    let at = facts.files.at(&path.to_string_lossy());
    let Some(folder) = at.parent().filter(|folder| folder.is_dir()) else {
        return vec![Finding::not_checked(format!("there is no folder of {}", path.display()))];
    };
    let mut findings = vec![room(facts, folder, &path)];
    match fs::symlink_metadata(&at) {
        Ok(found) => of_file(facts, &path, &found, &mut findings),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let none = format!("there is no {} yet: the daemon makes it", path.display());
            findings.push(Finding::ok(none));
        }
        Err(error) => findings.push(Finding::not_checked(format!("{}: {error}", path.display()))),
    }
    findings.extend(damaged(&at));
    findings
}

fn room(facts: &Facts, folder: &Path, path: &Path) -> Finding {
    let room = match (facts.room)(folder) {
        Ok(room) => room,
        Err(error) => return Finding::not_checked(format!("room for {}: {error}", path.display())),
    };
    let mib = room.bytes / MIB;
    let remedy = "make room there (du -x): nothing is granted that cannot be written";
    if room.bytes < ROOM_MIN || room.files.is_some_and(|files| files < FILES_MIN) {
        let files = room.files.map(|files| format!(", {files} files")).unwrap_or_default();
        let evidence = format!("{} has room for {mib} MiB{files}", path.display());
        return Finding::failure(evidence, remedy);
    }
    let evidence = format!("{} has room for {mib} MiB", path.display());
    if room.bytes < ROOM_LITTLE {
        Finding::warning(evidence, remedy)
    } else {
        Finding::ok(evidence)
    }
}

fn of_file(facts: &Facts, path: &Path, found: &fs::Metadata, findings: &mut Vec<Finding>) {
    let shown = path.display();
    if !found.is_file() {
        findings.push(Finding::failure(
            format!("{shown} is no regular file: the daemon puts it aside at its next start"),
            format!("move it away: mv {shown} {shown}.aside"),
        ));
        return;
    }
    let (uid, mode, size) = (found.uid(), found.mode() & 0o7777, found.len());
    let before = findings.len();
    if !trusted_file::is_trusted(uid) {
        findings.push(Finding::failure(
            format!("{shown} belongs to user {uid}: the daemon does not use it"),
            format!("chown root:root {shown}, after you made sure who wrote it"),
        ));
    }
    if mode & OTHERS != 0 {
        findings.push(Finding::warning(
            format!("{shown} has mode {mode:04o}: other users can read the names of pods"),
            format!("chmod 0600 {shown}"),
        ));
    }
    if size > LARGE {
        findings.push(Finding::warning(
            format!("{shown} has {} MiB; one of more than 256 MiB is put aside", size / MIB),
            "vpc-ipam pods: are there pods of which the runtime never called DEL?",
        ));
    }
    if findings.len() == before {
        let boot = match is_of_earlier_boot(facts, found) {
            Some(true) => ", of an earlier boot: the next start discards it",
            Some(false) => ", of this boot",
            None => "",
        };
        findings
            .push(Finding::ok(format!("{shown} has {} KiB, mode {mode:04o}{boot}", size / 1024)));
    }
}

/// Returns whether a file was last written before the kernel started; `None` where that cannot be told.
fn is_of_earlier_boot(facts: &Facts, found: &fs::Metadata) -> Option<bool> {
    let stat = facts.files.read("/proc/stat").ok()??;
    let boot: i64 =
        stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(found.mtime() < boot)
}

/// Returns the damaged files that a start put aside.
fn damaged(at: &Path) -> Option<Finding> {
    let (folder, name) = (at.parent()?, at.file_name()?.to_str()?);
    let begins = format!("{name}.damaged-");
    let names = fs::read_dir(folder).ok()?.flatten();
    let mut names: Vec<String> =
        names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with(&begins));
    names.sort();
    let last = names.last()?;
    Some(Finding::warning(
        format!("a start put {} damaged state files aside, the last is {last}", names.len()),
        "journalctl -u vpc-ipamd says what was wrong; delete them once that is known",
    ))
}
