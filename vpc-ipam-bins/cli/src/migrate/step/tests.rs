//! Steps that change files alone, each done twice.

use std::fs;
use std::os::unix::fs::symlink;

use clap::Parser;
use vpc_ipam_core::Timestamp;
use vpc_ipamd::env_file as vars_file;

use super::*;
use crate::migrate::journal::Direction;

const OLD: &str =
    r#"{"cniVersion":"0.4.0","name":"aws-cni","plugins":[{"type":"aws-cni"},{"type":"portmap"}]}"#;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    paths: Paths,
}

/// A node of files.
struct Node {
    root: tempfile::TempDir,
    options: Options,
    journal: Journal,
}

impl Node {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().display().to_string();
        let state = format!("{folder}/run/state.redb");
        let arguments = ["program", "--root", &folder, "--state", &state];
        for folder in ["etc/cni/net.d", "run"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let options = Options {
            paths: Program::parse_from(arguments).paths,
            start: String::new(),
            stop: String::new(),
            wait: Duration::ZERO,
            conflist: None,
            vars: BTreeMap::new(),
        };
        let mut journal = Journal::open(&root.path().join("migration")).unwrap();
        journal.begin(Direction::To, "boot", Timestamp::from_secs(7)).unwrap();
        let node = Self { root, options, journal };
        fs::create_dir_all(node.run_folder()).unwrap();
        node
    }

    fn run_folder(&self) -> PathBuf {
        self.journal.folder().join("to-7")
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.root.path().join(path), text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.path().join(path)).unwrap_or_default()
    }

    /// Does a step, and does it again; returns what it said the second time.
    fn twice(&mut self, step: &Step) -> Result<String, String> {
        let Self { options, journal, .. } = self;
        let mut run = || (step.run)(&mut Context { options, journal }).map_err(|it| it.to_string());
        run()?;
        run()
    }

    fn conflists(&self) -> Vec<String> {
        let folder = fs::read_dir(self.root.path().join("etc/cni/net.d")).unwrap();
        let mut names: Vec<_> =
            folder.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn settings_are_added_once_and_read_back_as_they_were() {
    let mut node = Node::new();
    let odd = r#"a "quoted" \ value # of {json: true}"#;
    node.options.vars = [("ADDITIONAL_ENI_TAGS", odd), ("WARM_IP_TARGET", "5")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let before = "# mine\nWARM_IP_TARGET=5\nMAX_ENI=3";
    fs::create_dir_all(node.root.path().join("etc/vpc-ipam")).unwrap();
    node.write("etc/vpc-ipam/vpc-ipamd.env", before);

    assert!(node.twice(&env_file::STEP).unwrap().contains("has all settings"));

    let text = node.read("etc/vpc-ipam/vpc-ipamd.env");
    assert!(text.starts_with(&format!("{before}\n")), "{text}");
    let (vars, bad) = vars_file::parse(text.as_bytes());
    let expected = [("WARM_IP_TARGET", "5"), ("MAX_ENI", "3"), ("ADDITIONAL_ENI_TAGS", odd)];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!((vars, bad), (expected.to_vec(), vec![]), "{text}");
    assert_eq!(fs::read_to_string(node.run_folder().join("vpc-ipamd.env")).unwrap(), before);
}

#[test]
fn configuration_of_the_runtime_goes_and_comes_back() {
    let mut node = Node::new();
    // A link, as where configuration management has the file elsewhere; and one of an early version behind it.
    node.write("aws.conflist", OLD);
    let conflist = node.root.path().join("etc/cni/net.d/10-aws.conflist");
    symlink(node.root.path().join("aws.conflist"), &conflist).unwrap();
    node.write(
        "etc/cni/net.d/aws.conf",
        r#"{"cniVersion":"0.3.1","name":"aws-cni","type":"aws-cni"}"#,
    );
    node.write(
        "etc/cni/net.d/10-vpc-ipam.conflist",
        r#"{"cniVersion":"1.0.0","name":"ours","plugins":[{"type":"vpc-cni"}]}"#,
    );
    let saved = node.run_folder().join(back_up::CONFLISTS);
    fs::create_dir(&saved).unwrap();
    fs::write(saved.join("10-aws.conflist"), OLD).unwrap();
    let backup = node.run_folder();
    node.journal.backup_is(&backup).unwrap();

    node.twice(&conflist::TO).unwrap();
    assert_eq!(node.conflists(), ["10-vpc-ipam.conflist"]);
    let ours = node.read("etc/cni/net.d/10-vpc-ipam.conflist");
    assert!(
        ours.contains(r#""type":"vpc-cni""#) && ours.contains(r#"{"type":"portmap"}"#),
        "{ours}"
    );
    assert!(ours.contains(r#""name": "aws-cni""#), "{ours}");
    assert_eq!(node.read("aws.conflist"), OLD, "what the link led to");

    node.twice(&conflist::OUT).unwrap();
    assert_eq!(node.conflists(), [] as [&str; 0]);
    // Turned round there.
    node.twice(&conflist::TO).unwrap();
    assert_eq!(node.conflists(), ["10-vpc-ipam.conflist"]);
    node.twice(&conflist::OUT).unwrap();
    node.twice(&conflist::BACK).unwrap();
    assert_eq!(node.conflists(), ["10-aws.conflist"]);
    assert_eq!(node.read("etc/cni/net.d/10-aws.conflist"), OLD);
}

#[test]
fn configuration_of_another_program_is_not_hidden() {
    let foreign = r#"{"cniVersion":"0.4.0","name":"other","plugins":[{"type":"cilium-cni"}]}"#;
    // The files of amazon-vpc-cni-k8s and of the other program, and whether the runtime takes that now, or would.
    for (old, other, refused) in [
        ("10-aws.conflist", "05-cilium.conflist", true),
        ("99-aws.conflist", "50-cilium.conflist", true),
        ("10-aws.conflist", "10-b.conflist", true),
        ("10-aws.conflist", "50-cilium.conflist", false),
    ] {
        let mut node = Node::new();
        node.write(&format!("etc/cni/net.d/{old}"), OLD);
        node.write(&format!("etc/cni/net.d/{other}"), foreign);
        let result = node.twice(&conflist::TO);
        assert_eq!(result.is_err(), refused, "{old} and {other}: {result:?}");
        if let Err(why) = result {
            assert!(why.contains(other), "{why}");
            let mut expected = [old, other];
            expected.sort_unstable();
            assert_eq!(node.conflists(), expected);
        }
    }
}

#[test]
fn state_file_is_put_aside_and_kept() {
    let mut node = Node::new();
    node.write("run/state.redb", "state");
    assert_eq!(node.twice(&state_file::STEP).unwrap(), "there is none");
    assert_eq!(node.read("run/state.redb.back-7"), "state");
}
