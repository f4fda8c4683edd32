//! What an operator installs: the script, the unit of systemd, the image, and the rights at EC2.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]
#![allow(clippy::disallowed_methods, reason = "programs are found by variables")]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A root file system to install into, and a folder with something in the place of each program.
struct Node {
    folder: TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { folder: TempDir::new().unwrap() };
        fs::create_dir(node.root()).unwrap();
        fs::create_dir(node.programs()).unwrap();
        for program in ["vpc-cni", "vpc-ipamd", "vpc-ipam"] {
            node.build(program, "#!/bin/sh\n");
        }
        node
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn programs(&self) -> PathBuf {
        self.folder.path().join("programs")
    }

    fn build(&self, program: &str, text: &str) {
        let path = self.programs().join(program);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    fn script() -> PathBuf {
        workspace().join("scripts/install-node.sh")
    }

    fn install(&self) -> Output {
        Command::new(Self::script()).args([self.root(), self.programs()]).output().unwrap()
    }

    fn conflist(&self) -> PathBuf {
        self.root().join("etc/cni/net.d/10-vpc-ipam.conflist")
    }

    /// Returns every file under the root.
    fn files(&self) -> BTreeSet<String> {
        let (mut files, mut folders) = (BTreeSet::new(), vec![self.root()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    let path = entry.path();
                    files.insert(path.strip_prefix(self.root()).unwrap().display().to_string());
                }
            }
        }
        files
    }
}

const INSTALLED: [(&str, u32); 6] = [
    ("etc/cni/net.d/10-vpc-ipam.conflist", 0o644),
    ("etc/vpc-ipam/vpc-ipamd.env", 0o600),
    ("opt/cni/bin/vpc-cni", 0o755),
    ("usr/bin/vpc-ipam", 0o755),
    ("usr/bin/vpc-ipamd", 0o755),
    ("usr/lib/systemd/system/vpc-ipamd.service", 0o644),
];

#[test]
fn everything_is_installed_in_its_place_as_often_as_one_likes() {
    let node = Node::new();
    for text in ["#!/bin/sh\n", "#!/bin/sh\n", "#!/bin/sh\n# another version\n"] {
        node.build("vpc-ipamd", text);
        let output = node.install();
        assert!(output.status.success(), "{}", said(&output));
        let mut expected: BTreeSet<String> =
            INSTALLED.iter().map(|(path, _)| (*path).to_string()).collect();
        expected.insert("opt/cni/bin/vpc-cni-ipam".to_string());
        assert_eq!(node.files(), expected);
        for (path, mode) in INSTALLED {
            let found = fs::metadata(node.root().join(path)).unwrap();
            assert_eq!(found.permissions().mode() & 0o777, mode, "{path}");
        }
        assert_eq!(fs::read_to_string(node.root().join("usr/bin/vpc-ipamd")).unwrap(), text);
        let link = fs::read_link(node.root().join("opt/cni/bin/vpc-cni-ipam")).unwrap();
        assert_eq!(link, Path::new("vpc-cni"));
    }
}

#[test]
fn settings_that_an_operator_changed_stay_and_the_new_ones_are_beside_them() {
    let node = Node::new();
    node.install();
    let env = node.root().join("etc/vpc-ipam/vpc-ipamd.env");
    for path in [&env, &node.conflist()] {
        fs::write(path, "mine\n").unwrap();
    }
    let output = node.install();
    assert!(output.status.success(), "{}", said(&output));
    for path in [&env, &node.conflist()] {
        assert_eq!(fs::read_to_string(path).unwrap(), "mine\n");
        let beside = format!("{}.dist", path.display());
        assert!(Path::new(&beside).exists());
        assert!(said(&output).contains(&beside), "{}", said(&output));
    }
}

#[test]
fn configuration_that_the_runtime_would_take_first_is_named() {
    let node = Node::new();
    let folder = node.root().join("etc/cni/net.d");
    fs::create_dir_all(&folder).unwrap();
    for (name, is_first) in [
        ("10-aws.conflist", true),
        ("00-bridge.conf", true),
        ("05.json", true),
        ("10-vpc-ipam.conf", true),
        ("10-aws.conflist.old", false),
        ("87-podman-bridge.conflist", false),
    ] {
        fs::write(folder.join(name), "{}").unwrap();
        let output = node.install();
        let warned = said(&output).contains(&format!("{name} sorts before"));
        assert_eq!(
            (output.status.success(), warned),
            (true, is_first),
            "{name}: {}",
            said(&output)
        );
        fs::remove_file(folder.join(name)).unwrap();
    }
}

#[test]
fn plugin_of_the_configuration_that_is_not_there_is_named() {
    let node = Node::new();
    let warned = |output: &Output| said(output).contains("names the plugin portmap");
    assert!(warned(&node.install()));
    fs::write(node.root().join("opt/cni/bin/portmap"), "").unwrap();
    assert!(!warned(&node.install()));
}

#[test]
fn what_cannot_be_installed_whole_is_not_installed_at_all() {
    let node = Node::new();
    fs::remove_file(node.programs().join("vpc-cni")).unwrap();
    let output = node.install();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("vpc-cni is not there: make build"), "{}", said(&output));
    assert_eq!(node.files(), BTreeSet::new());

    // A full disk, at each of the files.
    for program in ["vpc-ipamd", "vpc-ipam", "vpc-cni"] {
        let node = Node::new();
        node.build(program, &"#".repeat(200 << 10));
        let script = format!(
            "mount -t tmpfs -o size=128k tmpfs {0}; {1} {0} {2} && exit 3; find {0} -type f -o -type l",
            node.root().display(),
            Node::script().display(),
            node.programs().display()
        );
        let output =
            Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
        let (left, why) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(left), "", "{program}: {why}");
        assert!(
            output.status.success() && why.contains("nothing was installed"),
            "{program}: {why}"
        );
    }
}

#[test]
fn script_says_how_it_is_called() {
    let output = Command::new(Node::script()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("usage: install-node.sh DIR"), "{}", said(&output));
}

#[test]
fn unit_is_understood_by_systemd_and_gives_few_rights() {
    let node = Node::new();
    node.install();
    let unit = fs::read_to_string(workspace().join("deploy/vpc-ipamd.service")).unwrap();
    let installed = node.root().join("usr/bin/vpc-ipamd").display().to_string();
    let here = node.folder.path().join("vpc-ipamd.service");
    fs::write(
        &here,
        unit.replace("ExecStart=/usr/bin/vpc-ipamd", &format!("ExecStart={installed}")),
    )
    .unwrap();

    let verified = Command::new("systemd-analyze").arg("verify").arg(&here).output().unwrap();
    assert!(verified.status.success() && said(&verified).is_empty(), "{}", said(&verified));

    // From 0, for a service that can do nothing, to 100; 26 with the rights that it needs.
    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=30", "--no-pager"])
        .arg(&here)
        .output()
        .unwrap();
    assert!(security.status.success(), "{}", said(&security));
    for needed in
        ["CapabilityBoundingSet=CAP_NET_ADMIN\n", "Type=notify\n", "ProtectSystem=strict\n"]
    {
        assert!(unit.contains(needed), "{needed}");
    }
}

/// The options with which the unit and the documentation start the program.
#[cfg(feature = "aws")]
#[test]
fn unit_starts_the_program_with_options_that_it_has() {
    let help = Command::new(vpc_ipam_tests::program("vpc-ipamd")).arg("--help").output().unwrap();
    let help = said(&help);
    let unit = fs::read_to_string(workspace().join("deploy/vpc-ipamd.service")).unwrap();
    let start = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    for option in start.split(' ').filter(|word| word.starts_with("--")) {
        assert!(help.contains(&format!("{option} <")), "{option} is not in {help}");
    }
}

#[test]
fn image_has_the_programs_nft_certificates_and_nothing_else() {
    let file = fs::read_to_string(workspace().join("deploy/Dockerfile")).unwrap();
    let joined = file.replace("\\\n", " ");
    let lines: Vec<Vec<&str>> = joined
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    let mut stages = BTreeSet::new();
    let (mut base, mut copied) = ("", Vec::new());
    for line in &lines {
        match line[..] {
            ["FROM", image, "AS", stage] => {
                base = image;
                stages.insert(stage);
            }
            ["FROM", image] => base = image,
            ["COPY", from, ..] if from.starts_with("--from=") => {
                let stage = from.trim_start_matches("--from=");
                assert!(stages.contains(stage), "{line:?}");
                copied.extend(line[2..].iter().map(ToString::to_string));
            }
            ["COPY", ref sources @ .., _place] => {
                for source in sources {
                    assert!(workspace().join(source).exists(), "{source} is not there");
                }
            }
            ["WORKDIR" | "RUN" | "ENV" | "ENTRYPOINT", ..] => {}
            ref other => panic!("{other:?} is not known here"),
        }
    }
    assert_eq!(base, "scratch", "the image itself");
    for program in ["vpc-ipamd", "vpc-ipam", "vpc-cni"] {
        assert!(copied.contains(&format!("/src/target/dist/{program}")), "{program}: {copied:?}");
    }
    let link = "ln -s vpc-cni /image/opt/cni/bin/vpc-cni-ipam";
    for needed in ["/usr/sbin/nft", "ca-certificates.crt", "scripts/build.sh", link] {
        assert!(joined.contains(needed), "{needed}");
    }
    assert!(joined.contains("ENTRYPOINT [\"/usr/bin/vpc-ipamd\"]"));
}

#[test]
fn runtimes_configuration_names_the_plugin() {
    let text = fs::read(workspace().join("deploy/10-vpc-ipam.conflist")).unwrap();
    let conflist: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(conflist["name"], "aws-cni");
    assert_eq!(conflist["plugins"][0]["type"], "vpc-cni");
}

/// The statements of a policy.
fn statements(policy: &str) -> Vec<Value> {
    let text = fs::read(workspace().join("deploy/iam").join(policy)).unwrap();
    let policy: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(policy["Version"], "2012-10-17");
    policy["Statement"].as_array().unwrap().clone()
}

/// The operations of EC2 that a statement allows.
fn operations(statement: &Value) -> Vec<String> {
    let actions = statement["Action"].as_array().unwrap().iter();
    actions.map(|it| it.as_str().unwrap().strip_prefix("ec2:").unwrap().to_string()).collect()
}

/// The operations of EC2 that a policy allows.
fn allowed(policy: &str) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for statement in statements(policy) {
        assert_eq!(statement["Effect"], "Allow");
        assert!(statement["Resource"].is_string() || statement["Resource"].is_array());
        allowed.extend(operations(&statement));
    }
    allowed
}

#[test]
fn policy_of_one_cluster_allows_no_change_without_a_condition() {
    const CLUSTER: &str =
        "/Condition/StringEquals/aws:ResourceTag~1cluster.k8s.amazonaws.com~1name";
    const UPON_CREATION: &str = "/Condition/StringEquals/ec2:CreateAction";
    let mut tagging = BTreeSet::new();
    for statement in statements("scoped-to-cluster.json") {
        let operations = operations(&statement);
        if operations.iter().all(|operation| operation.starts_with("Describe")) {
            continue;
        }
        let conditions = statement["Condition"].as_object();
        let compared: Vec<&Value> = conditions
            .into_iter()
            .flat_map(|operators| operators.values())
            .flat_map(|keys| keys.as_object().unwrap().values())
            .collect();
        let is_limited = !compared.is_empty() && compared.iter().all(|value| *value != "*");
        assert!(is_limited, "{operations:?} without a condition: {}", statement["Sid"]);
        if operations.iter().any(|operation| operation == "CreateTags") {
            for key in [CLUSTER, UPON_CREATION] {
                let value = statement.pointer(key).and_then(Value::as_str);
                tagging.extend(value.map(|value| (key, value.to_string())));
            }
        }
    }
    // Who may tag any ENI may give it the cluster's tag, and then delete it.
    let expected = [(CLUSTER, "CLUSTER_NAME"), (UPON_CREATION, "CreateNetworkInterface")];
    assert_eq!(tagging, expected.map(|(key, value)| (key, value.to_string())).into());
}

#[test]
fn policies_allow_what_the_code_calls_and_no_more() {
    let sdk = fs::read_to_string(workspace().join("vpc-ipam-aws/src/sdk.rs")).unwrap();
    let quoted = sdk.split('"');
    let is_operation = |text: &&str| {
        let verbs =
            ["Assign", "Attach", "Create", "Delete", "Describe", "Detach", "Modify", "Unassign"];
        verbs.iter().any(|verb| text.starts_with(verb)) && text.chars().all(char::is_alphanumeric)
    };
    let mut called: BTreeSet<String> = quoted.filter(is_operation).map(str::to_string).collect();
    assert!(called.len() > 12, "{called:?}");
    // For controllers of many nodes; the daemon does not ask.
    for daemon in ["vpc-ipam-aws/src/execute.rs", "vpc-ipam-bins/ipamd/src/start.rs"] {
        let source = fs::read_to_string(workspace().join(daemon)).unwrap();
        assert!(!source.contains("describe_instances("), "{daemon}");
    }
    assert!(called.remove("DescribeInstances"));

    let without = |words: &[&str]| -> BTreeSet<String> {
        called.iter().filter(|name| !words.iter().any(|it| name.contains(it))).cloned().collect()
    };
    let reads: BTreeSet<String> =
        called.iter().filter(|name| name.starts_with("Describe")).cloned().collect();
    assert_eq!(allowed("ipv4.json"), without(&["Ipv6"]));
    assert_eq!(allowed("ipv6.json"), without(&["PrivateIp"]));
    assert_eq!(allowed("dual-stack.json"), called);
    assert_eq!(allowed("scoped-to-cluster.json"), called);
    assert_eq!(allowed("read-only.json"), reads);
    let files: BTreeSet<String> = fs::read_dir(workspace().join("deploy/iam"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let guide = fs::read_to_string(workspace().join("docs/install.md")).unwrap();
    for file in &files {
        assert!(guide.contains(&format!("deploy/iam/{file}")), "{file} is not in docs/install.md");
    }
}
