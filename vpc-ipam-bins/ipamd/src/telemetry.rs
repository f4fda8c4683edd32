//! Log lines: one for each event, whatever its fields hold.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{FormatFields, debug_fn};
use vpc_ipam_protocol::one_line::Escaping;

use crate::settings::LogLevel;

/// Sends log lines of this level and above to standard error.
pub(crate) fn start(level: LogLevel, json: bool) {
    let level = level.as_str();
    let filter = EnvFilter::new(format!(
        "{level},hyper=warn,aws_config=warn,aws_smithy=warn,aws_sdk=warn,aws_runtime=warn"
    ));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // JSON has escapes of its own.
    if json { log.json().init() } else { log.fmt_fields(fields()).init() }
}

/// Writes fields as `name=value`, and the message alone.
fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    use core::fmt::Write as _;

    debug_fn(|writer, field, value| {
        let mut writer = Escaping(writer);
        match field.name() {
            "message" => write!(writer, "{value:?}"),
            name => write!(writer, "{}={value:?}", name.strip_prefix("r#").unwrap_or(name)),
        }
    })
    .delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::{error, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_field_forges_a_line() {
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .fmt_fields(fields())
            .finish();
        let forged = "no\n2026-01-01T00:00:00Z  INFO forged\r\x1b[2J";

        tracing::subscriber::with_default(log, || {
            info!(pod = %forged, "as Display");
            warn!(error = forged, "as text");
            error!(message = forged, kind = 1);
            info!(because = ?forged, id = 7, "as Debug");
            warn!("{forged}");
        });

        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(!text.replace('\n', "").contains(char::is_control), "{text:?}");
        let lines: Vec<&str> = text.lines().collect();
        let escaped = r"no\n2026-01-01T00:00:00Z  INFO forged\r\u{1b}[2J";
        assert!(lines[0].ends_with(&format!("as Display pod={escaped}")), "{}", lines[0]);
        assert!(lines[2].contains(escaped) && lines[2].ends_with("kind=1"), "{}", lines[2]);
        assert!(lines[3].ends_with(" id=7"), "{}", lines[3]);
    }
}
