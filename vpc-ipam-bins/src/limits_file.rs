//! The file in which an operator gives the limits of instance types.

use std::path::{Path, PathBuf};
use std::{fs, io};

use vpc_ipam_core::Limits;

/// Why the limits of a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsFileError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a series of JSON objects, each with the limits of a type.
    #[error("read the limits of instance types in {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        source: serde_json::Error,
    },
}

/// Reads the limits of a file: JSON objects one after the other, as `vpc-ipam limits --json` prints them.
pub fn read(path: &Path) -> Result<Vec<Limits>, LimitsFileError> {
    let failed = |source| LimitsFileError::Read { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(failed)?;
    let objects = serde_json::Deserializer::from_str(&text).into_iter();
    let failed = |source| LimitsFileError::Parse { path: path.to_owned(), source };
    objects.collect::<Result<_, _>>().map_err(failed)
}
