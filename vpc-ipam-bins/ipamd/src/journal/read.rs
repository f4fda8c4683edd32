//! Reading a journal: a segment, a folder of segments, or a support archive that holds one.

use core::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;
use vpc_ipam_core::journal::Step;

use super::segments::{self, number};
use super::{FORM, Head, RELEASE};

/// The longest segment that is read, in bytes: longer than a journal of any useful bound.
const SEGMENT_MAX: u64 = 256 << 20;

/// A segment as it was read.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Segment {
    /// The name of its file.
    pub name: String,
    /// The state that it begins with.
    pub head: Head,
    /// The steps that could be read.
    pub steps: Vec<Step>,
    /// What is left out at its end.
    pub cut: Option<Cut>,
}

/// What is left out at the end of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cut {
    /// The last line has no end: the daemon was killed while it wrote it, or writes it now.
    Torn {
        /// How many bytes of the line are there.
        bytes: usize,
    },
    /// A line is no step, and so nothing after it can be replayed.
    Damaged {
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
        /// How many lines are left out, this one included.
        lines: usize,
    },
}

/// Why a segment cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// Its head was not written to the end.
    #[error("{name}: it has no head: the daemon was killed before it had written one")]
    NoHead {
        /// The name of its file.
        name: String,
    },
    /// Another release wrote it, in a form or with a state that this one does not know.
    #[error(
        "{name}: release {release} wrote it, and this is release {RELEASE}, which cannot read it: use that release's vpc-ipam"
    )]
    OtherRelease {
        /// The name of its file.
        name: String,
        /// The release that wrote it.
        release: String,
        /// What cannot be read.
        source: serde_json::Error,
    },
    /// It is no segment, or damaged where everything else depends on it.
    #[error("{name}: its first line is not the head of a journal's segment")]
    NotASegment {
        /// The name of its file.
        name: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file or the folder cannot be read.
    #[error("read {}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// There is no segment in the folder or archive.
    #[error("{}: there is no segment of a journal (segment-*.jsonl) in it", path.display())]
    Empty {
        /// Its path.
        path: PathBuf,
    },
    /// A file is longer than what is read.
    #[error("{}: it is longer than the {SEGMENT_MAX} bytes that are read", path.display())]
    TooLong {
        /// Its path.
        path: PathBuf,
    },
}

/// Reads a segment, a folder of segments, or a support archive, the oldest segment first.
pub fn read(path: &Path) -> Result<Vec<Result<Segment, SegmentError>>, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_path_buf(), source };
    let mut files = if fs::metadata(path).map_err(failed)?.is_dir() {
        read_folder(path)?
    } else {
        let bytes = read_file(path)?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            read_archive(path, &bytes)?
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            vec![(0, name, bytes)]
        }
    };
    if files.is_empty() {
        return Err(ReadError::Empty { path: path.to_path_buf() });
    }
    files.sort_by_key(|(number, ..)| *number);
    Ok(files.into_iter().map(|(_, name, bytes)| parse(&name, &bytes)).collect())
}

type Files = Vec<(u64, String, Vec<u8>)>;

fn read_folder(path: &Path) -> Result<Files, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_path_buf(), source };
    let mut files = Files::new();
    for (number, path) in segments::list(path).map_err(failed)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match read_file(&path) {
            Ok(bytes) => files.push((number, name, bytes)),
            // The daemon deletes old ones while this reads.
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

fn read_archive(path: &Path, bytes: &[u8]) -> Result<Files, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_path_buf(), source };
    let mut files = Files::new();
    let mut archive = tar::Archive::new(GzDecoder::new(bytes));
    for entry in archive.entries().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let inside = entry.path().map_err(failed)?.into_owned();
        let name = inside.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(number) = number(&name) {
            files.push((number, name, read_bounded(&inside, entry)?));
        }
    }
    Ok(files)
}

fn read_file(path: &Path) -> Result<Vec<u8>, ReadError> {
    let file = fs::File::open(path)
        .map_err(|source| ReadError::Io { path: path.to_path_buf(), source })?;
    read_bounded(path, file)
}

fn read_bounded(path: &Path, file: impl io::Read) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let read = file.take(SEGMENT_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|source| ReadError::Io { path: path.to_path_buf(), source })?;
    if bytes.len() as u64 > SEGMENT_MAX {
        return Err(ReadError::TooLong { path: path.to_path_buf() });
    }
    Ok(bytes)
}

/// Reads a segment out of the bytes of its file. A damaged end is left out and named.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Segment, SegmentError> {
    let name = name.to_string();
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    if !first.ends_with(b"\n") {
        return Err(SegmentError::NoHead { name });
    }
    let head = match serde_json::from_slice::<Head>(first) {
        Ok(head) if head.form == FORM => head,
        Ok(Head { release, form, .. }) => {
            let source = serde::de::Error::custom(format!("the form of the segment is {form}"));
            return Err(SegmentError::OtherRelease { name, release, source });
        }
        Err(source) => {
            #[derive(Deserialize)]
            struct Of {
                release: String,
            }

            return Err(match serde_json::from_slice::<Of>(first) {
                Ok(Of { release }) if release != RELEASE => {
                    SegmentError::OtherRelease { name, release, source }
                }
                _ => SegmentError::NotASegment { name, source },
            });
        }
    };
    let (mut steps, mut cut) = (Vec::new(), None);
    for (line, number) in lines.by_ref().zip(2..) {
        if !line.ends_with(b"\n") {
            cut = Some(Cut::Torn { bytes: line.len() });
            break;
        }
        match serde_json::from_slice(line) {
            Ok(step) => steps.push(step),
            Err(error) => {
                let lines = 1 + lines.count();
                cut = Some(Cut::Damaged { line: number, why: error.to_string(), lines });
                break;
            }
        }
    }
    Ok(Segment { name, head, steps, cut })
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn { bytes } => write!(
                f,
                "its last line has no end and is left out ({bytes} bytes): the daemon was killed while it wrote, or writes now"
            ),
            Self::Damaged { line, why, lines } => write!(
                f,
                "line {line} cannot be read ({why}); it and what follows is left out ({lines} lines)"
            ),
        }
    }
}
