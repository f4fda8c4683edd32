//! Log lines: one for each event, whatever its fields hold, and where they go.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{FormatFields, debug_fn};
use vpc_ipam_protocol::log_file::{LogBounds, LogFile};
use vpc_ipam_protocol::one_line::Escaping;

use crate::settings::LogLevel;

/// Which log lines there are, how they look and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogOptions {
    /// From which level on.
    pub level: LogLevel,
    /// Whether each is a JSON document.
    pub json: bool,
    /// Where they go.
    pub to: LogTo,
    /// How long a file gets, how many are kept, and for how long.
    pub bounds: LogBounds,
}

impl LogOptions {
    /// Returns log lines as text, within the default bounds.
    pub fn new(level: LogLevel, to: LogTo) -> Self {
        Self { level, json: false, to, bounds: LogBounds::default() }
    }

    /// Returns them with JSON in place of text, or text.
    #[must_use]
    pub fn with_json(self, json: bool) -> Self {
        Self { json, ..self }
    }

    /// Returns them with other bounds of files.
    #[must_use]
    pub fn with_bounds(self, bounds: LogBounds) -> Self {
        Self { bounds, ..self }
    }
}

/// Where log lines go: `AWS_VPC_K8S_CNI_LOG_FILE`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTo {
    /// To standard error.
    #[default]
    Stderr,
    /// To standard output.
    Stdout,
    /// To a file, which is followed by another one when it is long or old.
    File(PathBuf),
}

impl LogTo {
    /// Reads `stdout` or `stderr`, in any case, or a path.
    pub fn parse(text: &str) -> Self {
        match text.trim() {
            "" => Self::Stderr,
            text if text.eq_ignore_ascii_case("stderr") => Self::Stderr,
            text if text.eq_ignore_ascii_case("stdout") => Self::Stdout,
            text => Self::File(text.into()),
        }
    }
}

/// The log of this process.
#[derive(Clone, Debug)]
pub struct Log {
    to: LogTo,
    bounds: LogBounds,
    /// The file, if it could be opened; lines go to standard error otherwise.
    file: Arc<Mutex<Option<LogFile>>>,
}

impl Log {
    /// Sends the log lines of this process where the options say. A file that cannot be opened is a warning, and standard error stands in
    /// for it.
    pub fn start(options: &LogOptions) -> Self {
        let log = Self { to: options.to.clone(), bounds: options.bounds, file: Arc::default() };
        let opened = log.reopen();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(options.level))
            .with_ansi(log.is_terminal())
            .with_writer(log.clone());
        // JSON has escapes of its own. A program that embeds this may have a log already.
        let _ = if options.json {
            tracing::subscriber::set_global_default(subscriber.json().finish())
        } else {
            tracing::subscriber::set_global_default(subscriber.fmt_fields(fields()).finish())
        };
        if let Err(error) = opened {
            warn!(%error, "cannot open the log file {:?}; standard error is used instead", log.path());
        }
        log
    }

    /// Opens the file again, if lines go to one: another program, such as logrotate, may have renamed it. After an error lines go where they
    /// went before.
    pub fn reopen(&self) -> io::Result<()> {
        let LogTo::File(path) = &self.to else { return Ok(()) };
        let opened = LogFile::open(path, self.bounds)?;
        *lock(&self.file) = Some(opened);
        Ok(())
    }

    /// Returns the file that lines go to, if they are to go to one.
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.to {
            LogTo::File(path) => Some(path),
            LogTo::Stderr | LogTo::Stdout => None,
        }
    }

    fn is_terminal(&self) -> bool {
        match &self.to {
            LogTo::Stderr => io::stderr().is_terminal(),
            LogTo::Stdout => io::stdout().is_terminal(),
            LogTo::File(_) => false,
        }
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        match &self.to {
            LogTo::Stderr => Line(Target::Stderr),
            LogTo::Stdout => Line(Target::Stdout),
            LogTo::File(_) => Line(Target::File(lock(&self.file))),
        }
    }
}

/// Writes one line.
#[derive(Debug)]
pub struct Line<'a>(Target<'a>);

#[derive(Debug)]
enum Target<'a> {
    Stderr,
    Stdout,
    File(MutexGuard<'a, Option<LogFile>>),
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = match &mut self.0 {
            Target::Stderr => Err(io::ErrorKind::NotFound.into()),
            Target::Stdout => io::stdout().lock().write_all(line),
            Target::File(file) => match file.as_mut() {
                Some(file) => file.write_all(line),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        };
        // What the file does not take, of a full disk for example, is not lost.
        match written {
            Ok(()) => Ok(line.len()),
            Err(_) => io::stderr().lock().write_all(line).map(|()| line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn filter(level: LogLevel) -> EnvFilter {
    let level = level.as_str();
    EnvFilter::new(format!(
        "{level},hyper=warn,aws_config=warn,aws_smithy=warn,aws_sdk=warn,aws_runtime=warn"
    ))
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
    use std::path::Path;

    use tracing::{debug, error, info};

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

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    /// Runs something with a log of its own.
    fn logged(options: &LogOptions, run: impl FnOnce(&Log)) {
        let log = Log { to: options.to.clone(), bounds: options.bounds, file: Arc::default() };
        let _ = log.reopen();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(options.level))
            .with_ansi(false)
            .with_writer(log.clone());
        if options.json {
            tracing::subscriber::with_default(subscriber.json().finish(), || run(&log));
        } else {
            let subscriber = subscriber.fmt_fields(fields()).finish();
            tracing::subscriber::with_default(subscriber, || run(&log));
        }
    }

    #[test]
    fn lines_go_to_the_file_from_the_level_on() {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            (LogLevel::Off, 0),
            (LogLevel::Error, 1),
            (LogLevel::Warn, 2),
            (LogLevel::Info, 3),
            (LogLevel::Debug, 4),
            (LogLevel::Trace, 4),
        ];
        for (level, expected) in cases {
            let path = folder.path().join(level.as_str());
            logged(&LogOptions::new(level, LogTo::File(path.clone())), |_| {
                error!("one");
                warn!("two");
                info!("three");
                debug!("four");
            });
            assert_eq!(text(&path).lines().count(), expected, "{level:?}");
        }
    }

    #[test]
    fn each_line_is_a_json_document_if_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let options = LogOptions::new(LogLevel::Info, LogTo::File(path.clone())).with_json(true);
        logged(&options, |_| info!(pod = "a\nb", "ADD"));
        let line: serde_json::Value = serde_json::from_str(&text(&path)).unwrap();
        assert_eq!((&line["level"], &line["fields"]["pod"]), (&"INFO".into(), &"a\nb".into()));
    }

    #[test]
    fn a_renamed_file_is_made_anew_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        logged(&LogOptions::new(LogLevel::Info, LogTo::File(path.clone())), |log| {
            info!("before");
            std::fs::rename(&path, folder.path().join("log.old")).unwrap();
            log.reopen().unwrap();
            info!("after");
            // Where it cannot be opened, lines go on.
            std::fs::rename(&path, folder.path().join("log.second")).unwrap();
            std::fs::create_dir(&path).unwrap();
            assert!(log.reopen().is_err());
            info!("still");
        });
        assert!(text(&folder.path().join("log.old")).ends_with("before\n"));
        let second = text(&folder.path().join("log.second"));
        assert!(second.contains("after\n") && second.ends_with("still\n"), "{second}");
    }

    #[test]
    fn places_are_named_in_any_case() {
        let cases = [
            ("stdout", LogTo::Stdout),
            ("STDERR", LogTo::Stderr),
            (" Stdout ", LogTo::Stdout),
            ("", LogTo::Stderr),
            ("/var/log/ipamd.log", LogTo::File("/var/log/ipamd.log".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(LogTo::parse(text), expected, "{text:?}");
        }
    }
}
