//! The support archive of a node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use vpc_ipam_tests::program;
use vpc_ipamd::support::{self, SupportOptions};

use crate::daemon::{Daemon, node};
use crate::runtime::{Pod, address, netns};

/// What must not be in an archive, however it got to the node.
const SECRETS: [&str; 10] = [
    "planted-secret-key/of+a/variable",
    "planted-session-token-of-a-variable",
    "planted-proxy-password",
    "planted-key-of-the-credentials-file",
    "planted-web-identity-token",
    "planted-token-of-a-conflist",
    "planted-password-of-a-url",
    "ASIAPLANTEDPLANTED22",
    "planted-password-of-a-proxy-without-scheme",
    "planted/encoded@password",
];

fn unpack(archive: &Path, to: &Path) {
    let status = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(to).status().unwrap();
    assert!(status.success());
}

/// Returns every file below a folder, with its text.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
    files
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn archive_holds_what_happened_and_no_secret() {
    let node = node();
    let daemon = Daemon::start(&node);
    let pod = Pod::new(&node, "web");
    let kept = address(&pod.add(&node.address));
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    fs::create_dir(place("net.d")).unwrap();
    let conflist = format!(
        r#"{{"name": "aws-cni", "plugins": [{{"type": "vpc-cni"}}, {{"type": "x", "token": "{}",
            "server": "https://admin:{}@10.0.0.1/"}}]}}"#,
        SECRETS[5], SECRETS[6]
    );
    fs::write(place("net.d/10-x.conflist"), conflist).unwrap();
    fs::write(place("net.d/x-kubeconfig"), format!("token: {}", SECRETS[5])).unwrap();
    let secrets = SECRETS.join(" ") + " planted%2Fencoded%40password";
    fs::write(place("ipamd.log"), format!("served\nhttp://u:{}@p said {secrets}\n", SECRETS[6]))
        .unwrap();
    let credentials = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n[other]\ntoken={}\n",
        SECRETS[7], SECRETS[3], SECRETS[5]
    );
    fs::write(place("credentials"), credentials).unwrap();
    fs::write(place("identity"), SECRETS[4]).unwrap();
    let mut options = SupportOptions::new(
        node.address.socket.clone(),
        node.address.socket.with_file_name("state.redb"),
    );
    options.cni = place("net.d");
    options.log = Some(place("ipamd.log"));
    options.netns = Some(netns(&node));
    let vars = [
        ("AWS_SECRET_ACCESS_KEY", SECRETS[0].to_string()),
        ("AWS_SESSION_TOKEN", SECRETS[1].to_string()),
        ("HTTPS_PROXY", format!("http://me:{}@proxy.example:3128", SECRETS[2])),
        ("https_proxy", format!("me:{}@proxy.example:3128", SECRETS[8])),
        ("ALL_PROXY", "me:planted%2Fencoded%40password@proxy.example".to_string()),
        ("AWS_SHARED_CREDENTIALS_FILE", place("credentials").display().to_string()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", place("identity").display().to_string()),
        ("DB_URL", format!("postgres://x:{}@db/", SECRETS[6])),
        ("WARM_IP_TARGET", "5".to_string()),
    ];
    options.vars = Ok(vars.map(|(name, value)| (name.to_string(), value)).into());

    let archive = place("support.tar.gz");
    let missing = support::write(&options, &archive).unwrap();

    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    fs::create_dir(place("out")).unwrap();
    unpack(&archive, &place("out"));
    let files = files(&place("out"));
    for (name, text) in &files {
        for secret in SECRETS.into_iter().chain(["planted%2Fencoded%40password"]) {
            assert!(!text.contains(secret), "{secret} in {name}");
        }
    }
    let text = |name: &str| {
        let found = files.iter().find(|(path, _)| path.ends_with(name));
        found.unwrap_or_else(|| panic!("no {name}; {missing:?}")).1.clone()
    };
    let json = |name: &str| serde_json::from_str::<Value>(&text(name)).unwrap();
    assert_eq!(json("daemon/status.json")["status"]["ready"], true);
    assert_eq!(json("daemon/leases.json")["leases"][0]["pod"]["name"], "web");
    let settings = &json("daemon/inventory.json")["inventory"]["settings"];
    assert_eq!(settings["IP_COOLDOWN_PERIOD"], 1, "{settings}");
    assert!(json("daemon/plan.json").is_object() && json("daemon/net.json").is_object());
    assert!(text("daemon/explanation.txt").contains("holds    eni-"));
    assert_eq!(json("cni/10-x.conflist")["plugins"][1]["token"], "(removed)");
    assert_eq!(text("cni/files.txt"), "10-x.conflist\nx-kubeconfig\n");
    assert!(text("variables.txt").contains("\nWARM_IP_TARGET=5\n"));
    assert!(text("variables.txt").contains("HTTPS_PROXY=http://(removed)@proxy.example:3128\n"));
    assert!(text("variables.txt").contains("https_proxy=(removed)@proxy.example:3128\n"));
    assert!(text("variables.txt").contains("ALL_PROXY=(removed)@proxy.example\n"));
    assert!(text("logs/ipamd.log").starts_with("served\nhttp://(removed)@p said (removed)"));
    assert!(text("kernel/rule.txt").contains("512:"), "{}", text("kernel/rule.txt"));
    assert!(text("kernel/route.txt").contains(&kept));
    assert!(text("kernel/sysctl.txt").contains("net/ipv4/ip_forward = 1"));
    assert!(text("versions.txt").starts_with("vpc-ipam "));

    let output = Command::new(program("vpc-ipam")).arg("replay").arg(&archive).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let replayed = String::from_utf8(output.stdout).unwrap();
    assert!(replayed.contains(&format!("grants aws-cni/web/eth0 {kept} on eni-")), "{replayed}");

    // There is one already, which may be of use.
    assert!(support::write(&options, &archive).is_err());
    pod.del(&node.address);
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn archive_without_a_daemon_holds_what_there_is_and_names_the_rest() {
    let node = node();
    let daemon = Daemon::start(&node);
    let pod = Pod::new(&node, "web");
    pod.add(&node.address);
    daemon.crash();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("support.tar.gz");

    let support = |archive: &Path| {
        Command::new(program("vpc-ipam"))
            .args(["support", "--socket"])
            .arg(&node.address.socket)
            .arg("--cni")
            .arg(folder.path().join("missing"))
            .arg("--output")
            .arg(archive)
            .output()
            .unwrap()
    };
    let output = support(&archive);

    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\n", archive.display()));
    for what in ["missing: daemon: ", "missing: variables.txt: ", "missing: cni: "] {
        assert!(said(&output).contains(what), "{what} in {}", said(&output));
    }
    unpack(&archive, folder.path());
    let read = |name: &str| fs::read_to_string(folder.path().join("vpc-ipam-support").join(name));
    let state: Value = serde_json::from_str(&read("state.json").unwrap()).unwrap();
    assert_eq!(state[0]["Leased"]["pod"]["name"], "web", "{state}");
    assert!(read("missing.txt").unwrap().contains("daemon: "));
    assert!(read("journal/segment-000001.jsonl").is_ok());
    let refused = support(&archive);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("File exists"), "{}", said(&refused));

    // The state file is as it was.
    let daemon = Daemon::start(&node);
    pod.del(&node.address);
    pod.die();
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn daemon_keeps_the_last_three_archives_that_it_made() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        SupportOptions::new(folder.path().join("ipamd.sock"), folder.path().join("state.redb"));
    let paths: Vec<_> = (0..5).map(|_| support::write_beside_state(&options).unwrap().0).collect();
    assert!(paths.iter().take(2).all(|path| !path.exists()));
    assert!(paths.iter().skip(2).all(|path| path.exists()));
}

/// A folder on a file system of 5 MiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=5m,mode=0700", "vil-small"];
        let status = Command::new("mount").args(mount).arg(folder.path()).status().unwrap();
        assert!(status.success(), "mount {}", folder.path().display());
        Self(folder)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The archives, the oldest first.
    fn archives(&self) -> Vec<String> {
        let entries = fs::read_dir(self.place("support")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(self.0.path()).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Returns lines that hardly become shorter when they are compressed: half of their bytes stay.
fn noise(bytes: usize) -> String {
    let mut state = 1_u64;
    let mut text = String::with_capacity(bytes + 32);
    while text.len() < bytes {
        // The generator xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text += &format!("{state:016x}\n");
    }
    text
}

#[test]
fn archive_of_the_daemon_leaves_room_for_the_state_file_and_the_earlier_ones_where_they_are() {
    let disk = SmallDisk::mount();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut options = SupportOptions::new(disk.place("ipamd.sock"), disk.place("state.redb"));
    let log = elsewhere.path().join("ipamd.log");
    options.log = Some(log.clone());
    let mut earlier = Vec::new();
    for _ in 0..3 {
        let (path, _) = support::write_beside_state(&options).unwrap();
        earlier.push(path.file_name().unwrap().to_str().unwrap().to_string());
    }
    let expect_refusal = || {
        let error = support::write_beside_state(&options).unwrap_err();
        let why = vpc_ipam_core::error_chain(&error);
        assert!(why.contains("less than 4 MiB left, which are for the state file"), "{why}");
        assert_eq!(disk.archives(), earlier);
    };

    // There is room when it begins, and not for all of it.
    fs::write(&log, noise(6 << 20)).unwrap();
    expect_refusal();
    fs::write(&log, "served\n").unwrap();
    // There is none.
    fs::write(disk.place("filling"), vec![1; 3 << 20]).unwrap();
    expect_refusal();
    fs::remove_file(disk.place("filling")).unwrap();

    let (path, _) = support::write_beside_state(&options).unwrap();
    let new = path.file_name().unwrap().to_str().unwrap().to_string();
    assert_eq!(disk.archives(), [&earlier[1..], &[new]].concat());
}
