//! The segments of a journal on disk: written, followed by another when full, and deleted when there are too many.

use core::time::Duration;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use vpc_ipam_core::journal::Step;
use vpc_ipam_protocol::trusted_file::{self, UntrustedError};

use super::{Head, JournalOptions};

/// How many segments of full length a journal has at most: so much of it is lost at once when the oldest is deleted.
const SEGMENTS: u32 = 8;
/// Bytes that stay free for the state file, which is on the same file system by default and without which no pod gets an address.
const RESERVE: u64 = 4 << 20;

/// Why nothing is recorded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error(transparent)]
    Folder(#[from] UntrustedError),
    #[error("write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the file system of {} would have less than {} MiB left, which are for the state file", path.display(), RESERVE >> 20)]
    Full { path: PathBuf },
}

/// The segments in a folder, and the one that is being written.
pub(crate) struct Segments {
    options: JournalOptions,
    current: Option<Current>,
}

struct Current {
    path: PathBuf,
    file: File,
    /// What is encoded and not written yet.
    unwritten: Vec<u8>,
    /// Bytes of whole lines that are in the file.
    written: u64,
    /// Of these, bytes of the head.
    head: u64,
    began: Instant,
}

impl Segments {
    pub(crate) fn new(options: JournalOptions) -> Self {
        Self { options, current: None }
    }

    /// Ends the segment that is being written, and begins another one.
    pub(crate) fn begin(&mut self, head: &Head) -> Result<(), RecordError> {
        self.current = None;
        let folder = &self.options.folder;
        trusted_file::folder(folder)?;
        expect_space(folder, 0)?;
        let last = list(folder).map_err(|source| self.failed(source))?.last().map_or(0, |it| it.0);
        let path = folder.join(file_name(last + 1));
        let file = trusted_file::create(&path)?;
        let mut current = Current {
            path,
            file,
            unwritten: Vec::new(),
            written: 0,
            head: 0,
            began: Instant::now(),
        };
        if let Err(error) = current.add(head).and_then(|()| current.flush()) {
            // Without a head it is of no use.
            let _ = fs::remove_file(&current.path);
            return Err(error);
        }
        current.head = current.written;
        self.current = Some(current);
        self.prune();
        Ok(())
    }

    /// Ends the segment that is being written, without what was added since the last [`Self::flush`].
    pub(crate) fn end(&mut self) {
        self.current = None;
    }

    /// Adds a step to the segment. It is in the file after [`Self::flush`].
    pub(crate) fn add(&mut self, step: &Step) -> Result<(), RecordError> {
        self.current.as_mut().map_or(Ok(()), |current| current.add(step))
    }

    /// Writes what was added. After a failure the segment has ended, without what could not be written.
    pub(crate) fn flush(&mut self) -> Result<(), RecordError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if current.unwritten.is_empty() {
            return Ok(());
        }
        let result = expect_space(&self.options.folder, current.unwritten.len() as u64)
            .and_then(|()| current.flush());
        if result.is_err() {
            self.current = None;
        }
        result
    }

    /// Returns whether the segment is long or old enough for another one.
    pub(crate) fn is_full(&self) -> bool {
        self.current.as_ref().is_some_and(|current| {
            // However long the head is: a segment of little else would be followed by the next too soon.
            current.written - current.head >= self.options.size_max / u64::from(SEGMENTS)
                || current.began.elapsed() >= self.options.age_max / SEGMENTS
        })
    }

    /// Deletes the segments that are too old, and the oldest until there is room for what this one may still get.
    fn prune(&self) {
        let current = self.current.as_ref().map(|current| current.path.as_path());
        let Ok(segments) = list(&self.options.folder) else { return };
        let found = segments.into_iter().filter_map(|(_, path)| {
            let found = fs::symlink_metadata(&path).ok()?;
            Some((path, found.len(), found.modified().ok()))
        });
        let found: Vec<(PathBuf, u64, Option<SystemTime>)> = found.collect();
        let mut size: u64 = found.iter().map(|(_, size, _)| size).sum();
        let size_max = self.options.size_max - self.options.size_max / u64::from(SEGMENTS);
        let now = SystemTime::now();
        for (path, bytes, modified) in found {
            let age = modified.and_then(|at| now.duration_since(at).ok()).unwrap_or(Duration::ZERO);
            let too_much = size > size_max || age > self.options.age_max;
            if too_much && Some(path.as_path()) != current && fs::remove_file(&path).is_ok() {
                size -= bytes;
            }
        }
    }

    fn failed(&self, source: io::Error) -> RecordError {
        RecordError::Write { path: self.options.folder.clone(), source }
    }
}

impl Current {
    fn add(&mut self, line: &impl serde::Serialize) -> Result<(), RecordError> {
        serde_json::to_writer(&mut self.unwritten, line).map_err(|error| RecordError::Write {
            path: self.path.clone(),
            source: error.into(),
        })?;
        self.unwritten.push(b'\n');
        Ok(())
    }

    fn flush(&mut self) -> Result<(), RecordError> {
        let unwritten = core::mem::take(&mut self.unwritten);
        if let Err(source) = self.file.write_all(&unwritten) {
            // What is there of these lines; a reader leaves a line without an end out, too.
            let _ = self.file.set_len(self.written);
            return Err(RecordError::Write { path: self.path.clone(), source });
        }
        self.written += unwritten.len() as u64;
        Ok(())
    }
}

/// Returns an error where the file system of a folder would have less than [`RESERVE`] left with so many more bytes.
pub(crate) fn expect_space(folder: &Path, bytes: u64) -> Result<(), RecordError> {
    let failed = |source| RecordError::Write { path: folder.to_path_buf(), source };
    let found = rustix::fs::statvfs(folder).map_err(|errno| failed(errno.into()))?;
    if found.f_bavail.saturating_mul(found.f_frsize) < RESERVE.saturating_add(bytes) {
        return Err(RecordError::Full { path: folder.to_path_buf() });
    }
    Ok(())
}

/// Returns the segments of a folder by their numbers, the oldest first.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(number) {
            segments.push((number, entry.path()));
        }
    }
    segments.sort();
    Ok(segments)
}

fn file_name(number: u64) -> String {
    format!("segment-{number:06}.jsonl")
}

/// Returns the number of a segment, if that is what a file of this name is.
pub(crate) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".jsonl")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}
