//! What the daemon is asked, and what the plugin says when it does not do it.

use core::time::Duration;
use std::path::Path;
use std::time::Instant;

use vpc_ipam_protocol::{
    self as protocol, Answer, AskError, Asked, PATIENCE, Refusal, RefusalKind, Request,
};

use crate::{Code, Error};

pub(super) fn ask(socket: &Path, request: &Request) -> Result<Answer, Error> {
    protocol::ask(socket, request).map_err(not_asked)
}

/// How long a daemon that is being restarted is waited for: several times what a start takes on a node with 700 pods.
const RESTART: Duration = Duration::from_secs(10);
/// How far apart it is looked whether it is back.
const LOOKS: Duration = Duration::from_millis(50);

/// A daemon that may be restarted while it is asked. Only for a question that may be asked twice.
pub(super) struct Daemon<'a> {
    socket: &'a Path,
    /// Until when a daemon that is away is waited for, since it was first found to be.
    until: Option<Instant>,
}

impl<'a> Daemon<'a> {
    pub(super) fn at(socket: &'a Path) -> Self {
        Self { socket, until: None }
    }

    /// Asks the daemon as soon as there is one, and does not wait for the answer.
    pub(super) fn ask(&mut self, request: &Request) -> Result<Asked, Error> {
        loop {
            match Asked::send(self.socket, request, PATIENCE) {
                Err(AskError::NoDaemon { .. } | AskError::Closed { .. }) if self.is_awaited() => {
                    std::thread::sleep(LOOKS);
                }
                Err(error @ AskError::NoDaemon { .. }) => {
                    let mut error = not_asked(error);
                    error.details.push_str(&format!("; waited {} s for it", RESTART.as_secs()));
                    return Err(error);
                }
                other => return other.map_err(not_asked),
            }
        }
    }

    /// Waits for the answer, and asks the next daemon if this one ends before it answers.
    pub(super) fn answer(&mut self, mut asked: Asked, request: &Request) -> Result<Answer, Error> {
        loop {
            match asked.answer() {
                Err(AskError::Closed { .. }) if self.is_awaited() => asked = self.ask(request)?,
                other => return other.map_err(not_asked),
            }
        }
    }

    fn is_awaited(&mut self) -> bool {
        let now = Instant::now();
        now < *self.until.get_or_insert(now + RESTART)
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
