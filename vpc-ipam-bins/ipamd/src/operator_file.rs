//! Files in which an operator says what variables cannot.

use std::io;
use std::path::{Path, PathBuf};

use vpc_ipam_core::{Limits, Override};
use vpc_ipam_protocol::trusted_file::{self, UntrustedError};

/// The longest file that is read, in bytes: the limits of all instance types take less than a tenth of it.
const BYTES_MAX: u64 = 16 << 20;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorFileError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is no regular file, or too long.
    #[error(transparent)]
    Untrusted(UntrustedError),
    /// It does not hold what it should.
    #[error("read {expected} in {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// Where, and what is wrong.
        source: serde_json::Error,
    },
}

/// Reads limits of instance types: JSON objects one after the other, as `vpc-ipam limits --json` prints them.
pub fn limits(path: &Path) -> Result<Vec<Limits>, OperatorFileError> {
    let text = read(path)?;
    let objects = serde_json::Deserializer::from_slice(&text).into_iter();
    let expected = "the limits of instance types";
    objects.collect::<Result<_, _>>().map_err(|source| parse(path, expected, source))
}

/// Reads settings for some nodes only: a JSON array of [`Override`]s.
pub fn overrides(path: &Path) -> Result<Vec<Override>, OperatorFileError> {
    let expected = "the settings of some nodes";
    let text = read(path)?;
    serde_json::from_slice(&text).map_err(|source| parse(path, expected, source))
}

/// Makes sure that another program that reads a file is neither kept waiting nor filled by it; one that is not there, or not to
/// be read by us, is that program's business.
pub fn expect_readable(path: &Path) -> Result<(), OperatorFileError> {
    match read(path) {
        Ok(_) | Err(OperatorFileError::Read { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, OperatorFileError> {
    trusted_file::read_named(path, BYTES_MAX).map_err(|error| match error {
        UntrustedError::Open { path, source } => OperatorFileError::Read { path, source },
        error => OperatorFileError::Untrusted(error),
    })
}

fn parse(path: &Path, expected: &'static str, source: serde_json::Error) -> OperatorFileError {
    OperatorFileError::Parse { path: path.to_owned(), expected, source }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The examples of docs/per-node.md are read as they stand there.
    #[test]
    fn the_guides_examples_are_read() {
        let guide = include_str!("../../../docs/per-node.md");
        let mut blocks = guide.split("```json\n").skip(1);
        let mut block = || blocks.next().unwrap().split("```").next().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("example.json");
        fs::write(&path, block()).unwrap();
        assert_eq!(overrides(&path).unwrap().len(), 3);
        fs::write(&path, block()).unwrap();
        assert_eq!(limits(&path).unwrap()[0].ipv4_slots(), 9);
    }

    #[test]
    fn overrides_are_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overrides.json");
        for (text, expected) in [
            ("[]", Some(0)),
            (r#"[{"when": {"families": ["m5"]}, "set": {"enis_max": 2}}]"#, Some(1)),
            (r#"[{"when": {"families": ["m5"]}, "set": {"max_eni": 2}}]"#, None),
            (r#"{"when": {}, "set": {}}"#, None),
            ("", None),
        ] {
            fs::write(&path, text).unwrap();
            let read = overrides(&path).ok().map(|overrides| overrides.len());
            assert_eq!(read, expected, "{text}");
        }
        assert!(expect_readable(&path).is_ok());
        assert!(expect_readable(&folder.path().join("missing")).is_ok());
        assert!(matches!(expect_readable(folder.path()), Err(OperatorFileError::Untrusted(_))));
        let missing = overrides(&folder.path().join("missing")).unwrap_err();
        assert!(matches!(missing, OperatorFileError::Read { .. }), "{missing}");
    }
}
