//! A file of log lines that is followed by another one when it is long or old.
//!
//! Ours, because the libraries there are end the program where a folder is missing or another program renames their files.

use core::time::Duration;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use rustix::fs::OFlags;

/// When a log file is followed by another one, and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogBounds {
    /// How many bytes a file gets.
    pub size_max: u64,
    /// How many files of before are kept, under the names `PATH.1` and so on, the youngest first.
    pub files: u32,
    /// How long a file is kept after its last line, and how long one is written to.
    pub age_max: Duration,
}

impl Default for LogBounds {
    /// Those of amazon-vpc-cni-k8s: 100 MiB, 5 files, 30 days.
    fn default() -> Self {
        Self { size_max: 100 << 20, files: 5, age_max: Duration::from_secs(30 * 86_400) }
    }
}

impl LogBounds {
    /// Returns the bounds with others for a file's size in bytes, for the number of files and for their age.
    #[must_use]
    pub fn with(self, size_max: u64, files: u32, age_max: Duration) -> Self {
        Self { size_max, files, age_max }
    }
}

/// How long a file that could not be followed by another one goes on before that is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// A file of log lines. No line is divided between two files.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    bounds: LogBounds,
    file: File,
    /// Bytes in the file; `None` of what is no regular file, which is never followed by another.
    size: Option<u64>,
    began: SystemTime,
    /// When it may be followed by another file, after that failed.
    not_before: Option<Instant>,
    /// Whether the last line is still to be ended.
    in_line: bool,
}

impl LogFile {
    /// Opens a log file, or makes it with its folder. Lines are appended to what is there. What is no regular file is written to as it is;
    /// a pipe that no program reads is an error.
    pub fn open(path: &Path, bounds: LogBounds) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        // Names of pods are for root to read.
        options.append(true).create(true).mode(0o640);
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = options.open(path)?;
        let found = file.metadata()?;
        let size = found.is_file().then_some(found.len());
        let began = found.created().unwrap_or_else(|_| SystemTime::now());
        let path = path.to_path_buf();
        let log = Self { path, bounds, file, size, began, not_before: None, in_line: false };
        if log.size.is_some() {
            log.delete_old();
        }
        Ok(log)
    }

    /// Opens the file of this name again, which another program may have renamed; goes on with the one that is open where that fails.
    pub fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path, self.bounds)?;
        Ok(())
    }

    /// Returns the names of the files of before, the youngest first, whether they are there or not.
    pub fn earlier(path: &Path, files: u32) -> impl Iterator<Item = PathBuf> {
        (1..=files).map(|number| numbered(path, number))
    }

    fn is_over(&self, more: usize) -> bool {
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            return false;
        }
        let age = SystemTime::now().duration_since(self.began).unwrap_or_default();
        let long = |size| size > 0 && size + more as u64 > self.bounds.size_max;
        self.size.is_some_and(|size| long(size) || size > 0 && age > self.bounds.age_max)
    }

    /// Gives the file of now the next name, and begins another one. Where that fails the file of now goes on.
    fn follow(&mut self) -> io::Result<()> {
        // One at a time does so: plugins share a file.
        if self.file.try_lock().is_err() {
            return Ok(());
        }
        if !is_still(&self.file, &self.path) {
            return self.reopen();
        }
        let files = self.bounds.files;
        // A name that is free takes the file before it, and the later ones stay: a try that fails at the last name, again and again,
        // loses no file.
        let is_free = |number: &u32| fs::symlink_metadata(numbered(&self.path, *number)).is_err();
        let last = (1..files).find(is_free).unwrap_or(files);
        for number in (1..last).rev() {
            let (from, to) = (numbered(&self.path, number), numbered(&self.path, number + 1));
            match fs::rename(from, to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match files {
            0 => fs::remove_file(&self.path)?,
            _ => fs::rename(&self.path, numbered(&self.path, 1))?,
        }
        self.reopen()?;
        self.began = SystemTime::now();
        Ok(())
    }

    fn delete_old(&self) {
        for path in Self::earlier(&self.path, self.bounds.files) {
            let modified = fs::symlink_metadata(&path).and_then(|found| found.modified());
            let age = modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_some_and(|age| age > self.bounds.age_max) {
                // It is tried again with the next file.
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.write_all(lines)?;
        Ok(lines.len())
    }

    fn write_all(&mut self, lines: &[u8]) -> io::Result<()> {
        if !self.in_line && self.is_over(lines.len()) && self.follow().is_err() {
            // Not with each line again, whether the file is too long or too old.
            self.not_before = Some(Instant::now() + RETRY_AFTER);
            // Another program that shares the file may succeed.
            let _ = self.file.unlock();
        }
        self.file.write_all(lines)?;
        self.in_line = lines.last().is_some_and(|last| *last != b'\n');
        self.size = self.size.map(|size| size + lines.len() as u64);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    let (Ok(file), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (file.dev(), file.ino()) == (named.dev(), named.ino())
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(size_max: u64, files: u32) -> LogBounds {
        LogBounds::default().with(size_max, files, Duration::from_secs(3600))
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn long_files_are_followed_by_others_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/log");
        let mut log = LogFile::open(&path, bounds(100, 2)).unwrap();
        for number in 0..30 {
            // In one piece, as the length of a line counts before it is written.
            log.write_all(format!("line {number:034}\n").as_bytes()).unwrap();
        }
        assert_eq!(names(path.parent().unwrap()), ["log", "log.1", "log.2"]);
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        let lines: String =
            [text(&numbered(&path, 2)), text(&numbered(&path, 1)), text(&path)].concat();
        let expected: String = (24..30).map(|number| format!("line {number:034}\n")).collect();
        assert_eq!(lines, expected);
        // A start appends.
        drop(log);
        let mut log = LogFile::open(&path, bounds(1000, 2)).unwrap();
        writeln!(log, "more").unwrap();
        assert!(text(&path).ends_with("29\nmore\n"));
    }

    /// A folder in the way of the next name, as a file that is mounted by itself, or to which the system lets lines be appended alone.
    #[test]
    fn file_that_cannot_be_renamed_goes_on_and_is_tried_again_after_a_while() {
        let (long, old) = (bounds(1, 1), bounds(1000, 1));
        for (bounds, began) in [(long, SystemTime::now()), (old, SystemTime::UNIX_EPOCH)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            fs::create_dir(numbered(&path, 1)).unwrap();
            let mut log = LogFile::open(&path, bounds).unwrap();
            log.began = began;
            log.write_all(b"first\n").unwrap();
            log.write_all(b"refused\n").unwrap();
            fs::remove_dir(numbered(&path, 1)).unwrap();

            for _ in 0..3 {
                log.write_all(b"not yet\n").unwrap();
            }
            assert_eq!(names(folder.path()), ["log"], "{bounds:?}");
            // Another program that shares the file is not kept from it.
            assert!(File::open(&path).unwrap().try_lock().is_ok(), "{bounds:?}");

            log.not_before = Some(Instant::now());
            log.write_all(b"next\n").unwrap();
            let earlier = fs::read_to_string(numbered(&path, 1)).unwrap();
            assert_eq!(earlier, "first\nrefused\nnot yet\nnot yet\nnot yet\n", "{bounds:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "next\n", "{bounds:?}");
        }
    }

    /// As a try leaves it that renamed the earlier files and not the last one.
    #[test]
    fn name_that_is_free_is_taken_and_no_earlier_file_is_lost_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for number in [1, 3, 4] {
            fs::write(numbered(&path, number), number.to_string()).unwrap();
        }
        let mut log = LogFile::open(&path, bounds(1, 4)).unwrap();
        log.write_all(b"before\n").unwrap();
        log.write_all(b"after\n").unwrap();
        let text = |number| fs::read_to_string(numbered(&path, number)).unwrap();
        assert_eq!([1, 2, 3, 4].map(text), ["before\n", "1", "3", "4"]);
    }

    #[test]
    fn old_files_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for (number, age) in [(1, 60), (2, 3700)] {
            let file = File::create(numbered(&path, number)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        let _log = LogFile::open(&path, bounds(100, 5)).unwrap();
        assert_eq!(names(folder.path()), ["log", "log.1"]);
    }

    #[test]
    fn a_file_that_was_renamed_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, bounds(1000, 2)).unwrap();
        writeln!(log, "before").unwrap();
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        writeln!(log, "between").unwrap();
        log.reopen().unwrap();
        writeln!(log, "after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
        let elsewhere = fs::read_to_string(folder.path().join("elsewhere")).unwrap();
        assert_eq!(elsewhere, "before\nbetween\n");
    }

    /// Two plugins at a time: no line is lost, and none is in a file twice.
    #[test]
    fn programs_share_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::thread::scope(|scope| {
            for program in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for line in 0..50 {
                        let mut log = LogFile::open(path, bounds(100, 50)).unwrap();
                        // In one piece, as programs write it: pieces of two lines may mix.
                        log.write_all(format!("{program} {line}\n").as_bytes()).unwrap();
                    }
                });
            }
        });
        let mut lines = Vec::new();
        for name in names(folder.path()) {
            let text = fs::read_to_string(folder.path().join(name)).unwrap();
            lines.extend(text.lines().map(str::to_string));
        }
        let all = lines.len();
        lines.sort();
        lines.dedup();
        assert_eq!((all, lines.len()), (200, 200));
        assert!(numbered(&path, 1).exists(), "the file was followed by others");
    }

    #[test]
    fn what_cannot_be_a_log_is_an_error_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [folder.path().to_path_buf(), file.join("below"), pipe] {
            assert!(LogFile::open(&path, LogBounds::default()).is_err(), "{}", path.display());
        }
        // Never renamed.
        let mut null = LogFile::open(Path::new("/dev/null"), bounds(1, 2)).unwrap();
        writeln!(null, "long").unwrap();
        writeln!(null, "long").unwrap();
    }
}
