//! Who holds a lock on a file.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Returns the process that holds a `flock` on a file, where the kernel shows it: a holder in another container is not shown.
pub(crate) fn holder(path: &Path) -> Option<u32> {
    let file = fs::metadata(path).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    // proc_locks(5): `1: FLOCK  ADVISORY  WRITE 4711 00:19:1234 0 EOF`, the device in hexadecimal digits.
    let wanted = format!("{major:02x}:{minor:02x}:{}", file.ino());
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, process, file, ..] if file == wanted => process.parse().ok(),
            _ => None,
        }
    })
}

/// Returns the holder of a lock in words, for an error.
pub(crate) fn in_words(holder: Option<u32>) -> String {
    match holder {
        Some(process) => {
            let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            match name.trim() {
                "" => format!("process {process}"),
                name => format!("process {process} ({name})"),
            }
        }
        None => "a process that cannot be seen from here".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_is_the_process_that_locked_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = fs::File::create(&path).unwrap();
        assert_eq!(holder(&path), None);
        file.lock().unwrap();
        assert_eq!(holder(&path), Some(std::process::id()));
        assert!(in_words(holder(&path)).starts_with(&format!("process {} (", std::process::id())));
        file.unlock().unwrap();
        assert_eq!(holder(&path), None);
        assert_eq!(holder(&folder.path().join("missing")), None);
    }
}
