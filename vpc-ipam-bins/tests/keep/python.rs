//! Programs in Python, by libraries that share nothing with ours.

use core::time::Duration;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use vpc_ipam_linux::Namespace;

/// A program that talks in lines of JSON; it ends with this.
pub(crate) struct Python {
    child: Child,
    lines: Receiver<Value>,
}

impl Python {
    /// Starts a program of `keep/grpc`, in a namespace.
    pub(crate) fn start(netns: &Namespace, program: &str, arguments: &[&str]) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = std::env::var_os("VPC_IPAM_TEST_PYTHON")
            .map_or(here.join("../../target/venv/bin/python"), PathBuf::from);
        assert!(python.is_file(), "{} is missing: `make test-deps` makes it", python.display());
        let spawn = || {
            Command::new(python)
                .arg(here.join("keep/grpc").join(program))
                .args(arguments)
                .env_clear()
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut child = netns.run(spawn).unwrap();
        let lines = read(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Writes a line, and returns the line that the program answers.
    pub(crate) fn ask(&mut self, line: &Value) -> Value {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        self.hear()
    }

    /// Waits for the program's next line.
    pub(crate) fn hear(&mut self) -> Value {
        self.lines.recv_timeout(Duration::from_secs(90)).expect("the program says something")
    }

    /// Returns the lines that the program wrote and that were not read yet.
    pub(crate) fn heard(&mut self) -> Vec<Value> {
        self.lines.try_iter().collect()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(stdout: ChildStdout) -> Receiver<Value> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(serde_json::from_str(&line).unwrap()).is_err() {
                break;
            }
        }
    });
    lines
}
