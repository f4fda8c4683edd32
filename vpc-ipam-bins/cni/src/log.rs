//! The plugin's log: a line a call, where the configuration names a file for it.
//!
//! amazon-vpc-cni-k8s writes its variables `AWS_VPC_K8S_PLUGIN_LOG_FILE` and `AWS_VPC_K8S_PLUGIN_LOG_LEVEL` into the configuration as
//! `pluginLogFile` and `pluginLogLevel`; a runtime hands no variables of the daemon on. What is wrong with the log keeps no pod from its network.

use core::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use vpc_ipam_core::Timestamp;
use vpc_ipam_protocol::log_file::{LogBounds, LogFile};
use vpc_ipam_protocol::one_line::OneLine;

use crate::{CniVersion, Error, addresses, salvage};

/// As much of a configuration is searched for the keys, in bytes.
const SEARCHED_MAX: usize = 1 << 20;

/// What a call leaves in the log.
pub(crate) struct CallLog<R> {
    stdin: R,
    /// What was read of the configuration.
    text: Vec<u8>,
    began: Instant,
}

/// Which calls get a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Off,
    /// Those that failed.
    Failures,
    All,
}

impl Level {
    fn parse(text: Option<&str>) -> Self {
        match text.unwrap_or("debug").to_lowercase().as_str() {
            "off" => Self::Off,
            "critical" | "fatal" | "error" | "warn" => Self::Failures,
            // An unknown one means `debug`, as in amazon-vpc-cni-k8s.
            _ => Self::All,
        }
    }
}

impl<R> CallLog<R> {
    /// Listens to a configuration that is read.
    pub(crate) fn of(stdin: R) -> Self {
        Self { stdin, text: Vec::new(), began: Instant::now() }
    }

    /// Writes the line of the call, given its environment and what came of it.
    pub(crate) fn write(
        self,
        env: impl Fn(&str) -> Option<String>,
        outcome: &Result<Option<Value>, (CniVersion, Error)>,
    ) {
        let keys = ["pluginLogFile", "pluginLogLevel"];
        let Ok([file, level]) = salvage::texts_of(self.text.as_slice(), keys) else { return };
        let Some(file) = file.filter(|file| !file.is_empty()) else { return };
        let wanted = match Level::parse(level.as_deref()) {
            Level::Off => false,
            Level::Failures => outcome.is_err(),
            Level::All => true,
        };
        if !wanted {
            return;
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = line(Timestamp::EPOCH + since_epoch, env, outcome, self.began);
        // Standard output is the runtime's.
        if ["stdout", "stderr"].iter().any(|name| file.eq_ignore_ascii_case(name)) {
            let _ = io::stderr().lock().write_all(line.as_bytes());
            return;
        }
        let mut log = LogFile::open(Path::new(&file), LogBounds::default());
        let written = log.as_mut().map(|log| log.write_all(line.as_bytes()));
        if !matches!(written, Ok(Ok(()))) {
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
    }
}

impl<R: Read> Read for CallLog<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stdin.read(buffer)?;
        let kept = read.min(SEARCHED_MAX.saturating_sub(self.text.len()));
        self.text.extend_from_slice(&buffer[..kept]);
        Ok(read)
    }
}

fn line(
    now: Timestamp,
    env: impl Fn(&str) -> Option<String>,
    outcome: &Result<Option<Value>, (CniVersion, Error)>,
    began: Instant,
) -> String {
    let level = if outcome.is_ok() { " INFO" } else { "ERROR" };
    let command = env("CNI_COMMAND").unwrap_or_else(|| "call without a command".to_string());
    let mut line = format!("{now} {level} {}", OneLine(command));
    let args = env("CNI_ARGS").unwrap_or_default();
    let arg =
        |name: &str| args.split(';').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    // Writing to text never fails.
    if let (Some(namespace), Some(name)) = (arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME")) {
        let _ = write!(line, " pod={}/{}", OneLine(namespace), OneLine(name));
    }
    for (field, name) in
        [("container", "CNI_CONTAINERID"), ("ifname", "CNI_IFNAME"), ("netns", "CNI_NETNS")]
    {
        if let Some(value) = env(name).filter(|value| !value.is_empty()) {
            let _ = write!(line, " {field}={}", OneLine(value));
        }
    }
    match outcome {
        Ok(result) => {
            let addresses = result.as_ref().map(addresses).unwrap_or_default();
            if !addresses.is_empty() {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let _ = write!(line, " addresses={}", addresses.join(","));
            }
        }
        Err((_, Error { code, message, details })) => {
            let _ = write!(line, " code={} error={}", u32::from(*code), OneLine(message));
            if !details.is_empty() {
                let _ = write!(line, ": {}", OneLine(details));
            }
        }
    }
    let _ = writeln!(line, " ms={}", began.elapsed().as_millis());
    line
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::Code;

    fn env(name: &str) -> Option<String> {
        let value = match name {
            "CNI_COMMAND" => "ADD",
            "CNI_CONTAINERID" => "c0ffee",
            "CNI_IFNAME" => "eth0",
            "CNI_NETNS" => "/run/netns/pod\nforged",
            "CNI_ARGS" => "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web",
            _ => return None,
        };
        Some(value.to_string())
    }

    /// Returns what a call of this outcome leaves in the file.
    fn logged(
        level: Option<&str>,
        outcome: &Result<Option<Value>, (CniVersion, Error)>,
    ) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/plugin.log");
        let mut config = json!({"cniVersion": "1.0.0", "pluginLogFile": path});
        if let Some(level) = level {
            config["pluginLogLevel"] = level.into();
        }
        let text = config.to_string();
        let mut log = CallLog::of(text.as_bytes());
        let mut read = String::new();
        log.read_to_string(&mut read).unwrap();
        assert_eq!(read, text);
        log.write(env, outcome);
        fs::read_to_string(&path).ok()
    }

    fn failed() -> Result<Option<Value>, (CniVersion, Error)> {
        let mut error = Error::new(Code::TryAgainLater, "ask vpc-ipamd");
        error.details = "no answer\nfor 60 s".to_string();
        Err((CniVersion::default(), error))
    }

    #[test]
    fn each_call_has_a_line_that_says_what_came_of_it() {
        let result = json!({"ips": [{"address": "10.0.0.5/32"}, {"address": "2001:db8::5/128"}]});
        let line = logged(None, &Ok(Some(result))).unwrap();
        let (at, rest) = line.split_once("Z ").unwrap();
        assert!(at.starts_with("20"), "{line}");
        let (rest, ms) = rest.split_once(" ms=").unwrap();
        assert!(ms.trim_end().parse::<u64>().is_ok(), "{line}");
        assert_eq!(
            rest,
            r" INFO ADD pod=default/web container=c0ffee ifname=eth0 netns=/run/netns/pod\nforged addresses=10.0.0.5,2001:db8::5"
        );
        let line = logged(None, &failed()).unwrap();
        let expected = r" code=11 error=ask vpc-ipamd: no answer\nfor 60 s ms=";
        assert!(line.contains("ERROR ADD ") && line.contains(expected), "{line}");
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn level_decides_which_calls_have_a_line() {
        let levels = [
            ("trace", true, true),
            ("Debug", true, true),
            ("info", true, true),
            ("WARN", false, true),
            ("error", false, true),
            ("critical", false, true),
            ("off", false, false),
            ("loud", true, true),
        ];
        for (level, done, fails) in levels {
            assert_eq!(logged(Some(level), &Ok(None)).is_some(), done, "{level}");
            assert_eq!(logged(Some(level), &failed()).is_some(), fails, "{level}");
        }
    }

    #[test]
    fn nothing_is_written_where_no_file_is_named_or_none_can_be() {
        for text in ["", "{", "{}", r#"{"pluginLogFile": ""}"#, r#"{"pluginLogFile": 7}"#] {
            let mut log = CallLog::of(text.as_bytes());
            log.read_to_string(&mut String::new()).unwrap();
            log.write(env, &Ok(None));
        }
        let mut log = CallLog::of(r#"{"pluginLogFile": "/proc/nowhere/x"}"#.as_bytes());
        log.read_to_string(&mut String::new()).unwrap();
        log.write(env, &failed());
    }
}
