//! What a move prints as it goes. Where that cannot be written, as to a pipe whose reader has gone, the move goes on all the same.

use core::fmt::Display;
use std::io::{self, Write as _};

use vpc_ipam_protocol::one_line::OneLine;

/// Prints a line.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{}", OneLine(line));
}

/// Prints a line for the operator on standard error.
pub(crate) fn warn(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "vpc-ipam: {}", OneLine(line));
}
