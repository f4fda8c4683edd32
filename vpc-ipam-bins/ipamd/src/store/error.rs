use std::io;

use vpc_ipam_protocol::trusted_file::UntrustedError;

use super::file::{FORMAT, KNOWN_FORM};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "{path} is the state file of another daemon, {owner}: stop that one first, or give this one its own --socket and --state"
    )]
    InUse {
        /// The file.
        path: String,
        /// The other daemon's process, as far as the kernel shows it.
        owner: String,
    },
    /// The directory could not be made, or is another user's or every user's.
    #[error("keep the state file in a folder of ours")]
    Folder(#[source] UntrustedError),
    /// What cannot be used could not be put aside.
    #[error("move {path} away")]
    Move {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// What is in it cannot be. It is left as it is.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Another version of vpc-ipamd wrote it, in a form that this one does not know. It is left as it is.
    #[error(
        "{path} has format {found:?}, and this vpc-ipamd reads {FORMAT:?}: start the version that wrote it, or move the file away"
    )]
    UnknownVersion {
        /// The file.
        path: String,
        /// Its format.
        found: String,
    },
    /// The file could not be read or written, which is no damage of its contents: it is as it was.
    #[error("use {path}")]
    Use {
        /// The file.
        path: String,
        /// The cause.
        source: Box<redb::Error>,
    },
}

/// Why records could not be made durable. None of them is.
#[derive(Debug, thiserror::Error)]
#[error("write the state file")]
pub struct WriteError(#[source] pub(super) Box<redb::Error>);

/// Why what is known of the node cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KnownError {
    /// The file cannot be read.
    #[error("read the state file")]
    Read(#[from] Box<redb::Error>),
    /// It is not in the form that its name says.
    #[error("read what the state file says of the node, form {KNOWN_FORM:?}")]
    Decode(#[from] serde_json::Error),
}
