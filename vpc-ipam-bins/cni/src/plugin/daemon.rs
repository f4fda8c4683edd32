//! What the daemon is asked, and what the plugin says when it does not do it.

use std::path::Path;

use vpc_ipam_core::PodKey;
use vpc_ipam_protocol::{self as protocol, Answer, AskError, Refusal, RefusalKind, Request};

use crate::{Code, Error};

pub(super) fn ask(socket: &Path, request: &Request) -> Result<Answer, Error> {
    protocol::ask(socket, request).map_err(not_asked)
}

pub(super) fn release(socket: &Path, key: PodKey) -> Result<(), Error> {
    match ask(socket, &Request::Release(key))? {
        Answer::Lease { .. } | Answer::Unknown => Ok(()),
        Answer::Refused(refusal) => Err(refusal.into()),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn not_asked(error: AskError) -> Error {
    let (code, hint) = match &error {
        AskError::NoDaemon { .. } => (Code::TryAgainLater, "; is vpc-ipamd running?"),
        AskError::NotASocket { .. } | AskError::Connect { .. } | AskError::Untrusted { .. } => (
            Code::InvalidConfig,
            "; \"socket\" of the network configuration is vpc-ipamd's --socket",
        ),
        AskError::Decode { .. } => (Code::Daemon, "; are plugin and daemon of the same version?"),
        _ => (Code::TryAgainLater, ""),
    };
    let mut refused = Error::new(code, "ask vpc-ipamd").because(error);
    refused.details.push_str(hint);
    refused
}

impl From<Refusal> for Error {
    fn from(Refusal { kind, message, details }: Refusal) -> Self {
        let code = match kind {
            RefusalKind::PodDeleted => Code::UnknownContainer,
            RefusalKind::StateFile => Code::Io,
            RefusalKind::TryAgainLater => Code::TryAgainLater,
            RefusalKind::Kernel => Code::Kernel,
            RefusalKind::UnknownRequest => Code::Daemon,
            RefusalKind::LinkTaken => Code::LinkTaken,
        };
        Self { code, message, details }
    }
}

pub(super) fn unexpected(answer: &Answer) -> Error {
    Error {
        code: Code::Daemon,
        message: "ask vpc-ipamd".to_string(),
        details: format!(
            "its answer does not fit the question: {answer:?}; are plugin and daemon of the same version?"
        ),
    }
}
