use alloc::string::{String, ToString as _};
use core::error::Error;

/// Returns an error and its causes in one line, the error first. A cause that a message already ends with is not repeated.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        // Errors of the AWS SDK repeat their causes.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{message}")]
    struct Because {
        message: &'static str,
        source: Option<alloc::boxed::Box<Self>>,
    }

    #[test]
    fn each_cause_is_told_once() {
        let cases: [(&[&'static str], &str); 3] = [
            (&["read /etc/x"], "read /etc/x"),
            (&["start", "open the file", "no such file"], "start: open the file: no such file"),
            (&["call EC2: timed out", "timed out"], "call EC2: timed out"),
        ];
        for (messages, expected) in cases {
            let mut error = None;
            for message in messages.iter().rev() {
                error = Some(Because { message, source: error.map(alloc::boxed::Box::new) });
            }
            assert_eq!(error_chain(&error.unwrap()), expected);
        }
    }
}
