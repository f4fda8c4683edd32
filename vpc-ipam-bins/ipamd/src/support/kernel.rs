//! What the kernel and the programs of a node say, for the support archive.

use core::time::Duration;
use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use vpc_ipam_linux::Namespace;

/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(15);
/// As much of what a program prints is taken, in bytes.
const OUTPUT_MAX: u64 = 32 << 20;

/// A file of the archive, and its text, or why there is none.
type Told = (&'static str, Result<String, String>);

/// Returns what the kernel holds for the network of a node.
pub(super) fn state(netns: Option<&Namespace>) -> Vec<Told> {
    let look = || {
        let commands: [(&'static str, &[&str]); 11] = [
            ("link.txt", &["ip", "-details", "-statistics", "link"]),
            ("address.txt", &["ip", "address"]),
            ("rule.txt", &["ip", "rule"]),
            ("rule6.txt", &["ip", "-6", "rule"]),
            ("route.txt", &["ip", "route", "show", "table", "all"]),
            ("route6.txt", &["ip", "-6", "route", "show", "table", "all"]),
            ("neighbour.txt", &["ip", "neighbour"]),
            ("nft.txt", &["nft", "list", "ruleset"]),
            ("iptables.txt", &["iptables-save"]),
            ("ip6tables.txt", &["ip6tables-save"]),
            ("sockets.txt", &["ss", "-lntup"]),
        ];
        let mut told: Vec<Told> =
            commands.into_iter().map(|(name, command)| (name, run(command))).collect();
        told.push(("sysctl.txt", Ok(sysctls())));
        told
    };
    match netns {
        None => look(),
        Some(netns) => netns
            .run(look)
            .unwrap_or_else(|error| vec![("*", Err(vpc_ipam_core::error_chain(&error)))]),
    }
}

/// Returns the versions of what is at work.
pub(super) fn versions(release: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| format!("{error}\n"));
    let mut text = format!("vpc-ipam {release}\n{}", read("/proc/version"));
    text += &read("/etc/os-release");
    for command in [["nft", "--version"], ["iptables", "--version"], ["ip", "-Version"]] {
        text += &match run(&command) {
            Ok(said) => format!("{}: {said}", command[0]),
            Err(why) => format!("{}: {why}\n", command[0]),
        };
    }
    text
}

/// Returns the end of what the service manager keeps of the daemon's log.
pub(super) fn service_log() -> Result<String, String> {
    run(&["journalctl", "--unit=vpc-ipamd", "--lines=20000", "--no-pager"])
}

/// Returns the kernel variables of the network that change where packets go, and how many connections are tracked.
fn sysctls() -> String {
    let mut lines = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let conf = format!("/proc/sys/net/{family}/conf");
        let links = fs::read_dir(&conf).into_iter().flatten().filter_map(Result::ok);
        for link in links {
            for name in [
                "rp_filter",
                "forwarding",
                "arp_ignore",
                "proxy_arp",
                "accept_ra",
                "disable_ipv6",
                "src_valid_mark",
            ] {
                push(&mut lines, &link.path().join(name));
            }
        }
    }
    for path in [
        "net/ipv4/ip_forward",
        "net/ipv4/tcp_early_demux",
        "net/ipv4/ip_local_port_range",
        "net/netfilter/nf_conntrack_count",
        "net/netfilter/nf_conntrack_max",
        "net/ipv4/neigh/default/gc_thresh3",
    ] {
        push(&mut lines, &Path::new("/proc/sys").join(path));
    }
    lines.sort();
    lines.concat()
}

fn push(lines: &mut Vec<String>, path: &Path) {
    if let Ok(value) = fs::read_to_string(path) {
        let name = path.strip_prefix("/proc/sys").unwrap_or(path);
        lines.push(format!("{} = {}\n", name.display(), value.trim()));
    }
}

/// Runs a program, and returns what it prints.
fn run(command: &[&str]) -> Result<String, String> {
    let name = command.join(" ");
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("run {}: {error}", command[0]))?;
    let read = |from: Option<Box<dyn io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(from) = from {
                // As much as there is.
                let _ = from.take(OUTPUT_MAX).read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|it| Box::new(it) as Box<dyn io::Read + Send>));
    let stderr = read(child.stderr.take().map(|it| Box::new(it) as Box<dyn io::Read + Send>));
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{name}: no end after {} s", LIMIT.as_secs()));
            }
        }
    };
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    if status.success() { Ok(stdout) } else { Err(format!("{name}: {}", stderr.trim())) }
}

/// A folder of our own, removed at the end.
pub(super) struct PrivateFolder(PathBuf);

impl PrivateFolder {
    pub(super) fn make() -> io::Result<Self> {
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let name = format!("vpc-ipam-support-{}-{nanos}", std::process::id());
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // The system clears the place of such folders.
        let _ = fs::remove_dir_all(&self.0);
    }
}
