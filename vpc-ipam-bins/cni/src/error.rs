use core::fmt;

use vpc_ipam_core::error_chain;

use crate::CniVersion;

/// What a plugin reports when it fails: on standard output, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", Details(details))]
pub struct Error {
    /// The class of failure.
    pub code: Code,
    /// What was attempted and what went wrong, in a line.
    pub message: String,
    /// The causes, and what can be done.
    pub details: String,
}

struct Details<'a>(&'a str);

impl fmt::Display for Details<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

/// The codes of the specification ("Error"), and those of plugins from 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 1: the configuration asks for a version of the specification that the plugin does not know.
    IncompatibleVersion,
    /// 3: the container is not known, or does not exist any more.
    UnknownContainer,
    /// 4: variables are missing or malformed.
    InvalidEnvironment,
    /// 5: reading or writing failed.
    Io,
    /// 6: the configuration is not JSON.
    Decoding,
    /// 7: the configuration says something that cannot be.
    InvalidConfig,
    /// 8: the namespace is the plugin's own.
    InvalidNetns,
    /// 11: no address at present, or no answer of the daemon.
    TryAgainLater,
    /// 50: the next pod would get no address.
    NotAvailable,
    /// 51: as 50, and pods that run may be cut off.
    LimitedConnectivity,
    /// 100: the kernel refused.
    Kernel,
    /// 101: the daemon refused.
    Daemon,
    /// 102: the pod's link on the host is another pod's.
    LinkTaken,
}

impl From<Code> for u32 {
    fn from(code: Code) -> Self {
        match code {
            Code::IncompatibleVersion => 1,
            Code::UnknownContainer => 3,
            Code::InvalidEnvironment => 4,
            Code::Io => 5,
            Code::Decoding => 6,
            Code::InvalidConfig => 7,
            Code::InvalidNetns => 8,
            Code::TryAgainLater => 11,
            Code::NotAvailable => 50,
            Code::LimitedConnectivity => 51,
            Code::Kernel => 100,
            Code::Daemon => 101,
            Code::LinkTaken => 102,
        }
    }
}

impl Error {
    /// Makes an error without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// Adds the chain of causes as details.
    #[must_use]
    pub fn because(mut self, error: impl core::error::Error) -> Self {
        self.details = error_chain(&error);
        self
    }

    pub(crate) fn missing(variable: &str) -> Self {
        Self::new(
            Code::InvalidEnvironment,
            format!("{variable} is not set: this program is called by a container runtime"),
        )
    }

    /// Returns the error in the form of a version.
    pub fn to_json(&self, version: CniVersion) -> serde_json::Value {
        serde_json::json!({
            "cniVersion": version.as_str(),
            "code": u32::from(self.code),
            "msg": self.message,
            "details": said_once(&self.message, &self.details),
        })
    }
}

/// Returns details without what the message or an earlier part of them says already: several interfaces may fail for one reason.
fn said_once(message: &str, details: &str) -> String {
    let repeated = |rest: &&str| rest.is_empty() || rest.starts_with(": ");
    let rest = details.strip_prefix(message).filter(repeated);
    let details = rest.map_or(details, |rest| rest.trim_start_matches(": "));
    let mut said: Vec<&str> = vec![message];
    for part in details.split("; ").filter(|part| !part.is_empty()) {
        if !said.contains(&part) {
            said.push(part);
        }
    }
    said[1..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_two_times() {
        let cases = [
            ("a", "", ""),
            ("a", "b", "b"),
            ("a", "a", ""),
            ("a", "a: b", "b"),
            ("a", "b; b; c; b", "b; c"),
            ("a", "b; a; c", "b; c"),
            ("ask", "asking is late", "asking is late"),
        ];
        for (message, details, expected) in cases {
            let mut error = Error::new(Code::Io, message);
            error.details = details.to_string();
            let json = error.to_json(CniVersion::V1_1_0);
            assert_eq!(json["details"], expected, "{message}: {details}");
        }
    }
}
