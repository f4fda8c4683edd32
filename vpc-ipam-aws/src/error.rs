use core::time::Duration;

use vpc_ipam_core::{Ec2Action, Ec2Operation, Failure, FailureKind};

/// Why a call to EC2 or to the metadata service brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {}{message}", prefix(code))]
pub struct Ec2Error {
    /// The operation, as EC2 names it; for the metadata service the path.
    pub operation: String,
    /// What it means for the caller.
    pub kind: FailureKind,
    /// EC2's error code; `None` where EC2 did not answer.
    pub code: Option<String>,
    /// EC2's message, or what became of the connection; what is made here is cut at 4 KiB.
    pub message: String,
    /// How long EC2 asks to wait, if it does.
    pub retry_after: Option<Duration>,
}

impl Ec2Error {
    /// Makes the error of a call that EC2 refused, classified by its code and message.
    pub fn refused(operation: &str, code: &str, message: &str) -> Self {
        Self {
            operation: operation.into(),
            kind: FailureKind::of_ec2_error(code, message),
            code: Some(cut(code, CODE_BYTES_MAX)),
            message: cut(message, MESSAGE_BYTES_MAX),
            retry_after: None,
        }
    }

    /// Makes the error of a call that may have taken effect or not: no answer came, or one that cannot be read.
    pub fn unanswered(operation: &str, message: impl Into<String>) -> Self {
        Self {
            operation: operation.into(),
            kind: FailureKind::Unanswered,
            code: None,
            message: cut(&message.into(), MESSAGE_BYTES_MAX),
            retry_after: None,
        }
    }
}

impl Ec2Error {
    /// Makes the error of a dry run that cannot be asked for.
    pub(crate) fn no_dry_run(action: &Ec2Action) -> Self {
        let operation = action.operation().map_or("metadata", Ec2Operation::name);
        let message = "cannot be tried without effect: EC2 has no dry run of it";
        Self { kind: FailureKind::Rejected, ..Self::unanswered(operation, message) }
    }
}

/// As long as the longest that EC2 sends: what it encodes of a call that is not allowed.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Twice as long as the longest code.
const CODE_BYTES_MAX: usize = 128;

/// Returns a text whole, or as much of it as is worth a line of the log.
fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    format!("{}… ({} bytes)", &text[..text.floor_char_boundary(bytes_max)], text.len())
}

impl From<Ec2Error> for Failure {
    fn from(error: Ec2Error) -> Self {
        Self::new(error.kind, error.to_string()).with_retry_after(error.retry_after)
    }
}

fn prefix(code: &Option<String>) -> String {
    match code {
        Some(code) => format!("{code}: "),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_classified_by_what_follows_from_them() {
        use FailureKind::*;
        let in_use = "Network interface 'eni-1' is currently in use.";
        let none_free = "There aren't sufficient free Ipv4 addresses or prefixes";
        let cases = [
            ("RequestLimitExceeded", "", Throttled),
            ("ConcurrentTagAccess", "", Throttled),
            ("InsufficientFreeAddressesInSubnet", "", SubnetFull),
            ("InsufficientAddressCapacity", "", SubnetFull),
            ("InvalidParameterValue", none_free, SubnetFull),
            ("InsufficientCidrBlocks", "", NoFreePrefix),
            ("InvalidParameterValue", "There aren't sufficient free prefixes", NoFreePrefix),
            ("PrivateIpAddressLimitExceeded", "", AddressLimit),
            ("InvalidInterface.IpAddressLimitExceeded", "", AddressLimit),
            ("AttachmentLimitExceeded", "", AttachmentLimit),
            ("NetworkInterfaceLimitExceeded", "", EniLimit),
            ("ResourceLimitExceeded", "", EniLimit),
            ("InvalidNetworkInterfaceID.NotFound", "", NotFound),
            ("InvalidNetworkInterface.NotFound", "", NotFound),
            ("InvalidAttachmentID.NotFound", "", NotFound),
            ("InvalidNetworkInterface.InUse", "", InUse),
            ("InvalidParameterValue", in_use, InUse),
            ("IncorrectState", "", WrongState),
            ("InvalidState", "", WrongState),
            ("IncorrectInstanceState", "", WrongState),
            ("UnauthorizedOperation", "", Denied),
            ("InvalidSecurity.RequestHasExpired", "", Denied),
            ("AccountDisabled", "", Denied),
            ("InternalError", "", Unanswered),
            ("ServerInternal", "", Unanswered),
            ("Server.InternalError", "", Unanswered),
            ("Client.RequestLimitExceeded", "", Throttled),
            ("Client.InvalidParameterValue", in_use, InUse),
            ("InvalidParameterValue", "Bad MAC", Rejected),
            ("InvalidSubnetID.NotFound", "", Rejected),
            ("TagLimitExceeded", "", Rejected),
            ("IdempotentParameterMismatch", "", Rejected),
        ];
        for (code, message, expected) in cases {
            let actual = Ec2Error::refused("CreateTags", code, message).kind;
            assert_eq!(actual, expected, "{code} {message}");
        }
    }

    #[test]
    fn text_of_any_length_makes_a_message_that_can_be_logged() {
        let long = "é".repeat(5_000_000);
        let refused = Ec2Error::refused("CreateTags", &long, &long);
        let silent = Ec2Error::unanswered("CreateTags", long);
        for error in [refused, silent] {
            let said = error.to_string();
            assert!(said.len() < 5000 && said.contains("(10000000 bytes)"), "{}", said.len());
        }
    }

    #[test]
    fn messages_name_operation_and_code() {
        let refused = Ec2Error::refused("CreateTags", "AuthFailure", "no");
        let silent = Ec2Error::unanswered("CreateTags", "connection refused");
        assert_eq!(refused.to_string(), "CreateTags: AuthFailure: no");
        assert_eq!(silent.to_string(), "CreateTags: connection refused");
        assert_eq!(Failure::from(refused).kind, FailureKind::Denied);
    }
}
