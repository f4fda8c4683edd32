//! What a runtime hears from the plugin when things are not as they should be, and what is left in the kernel then.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use vpc_ipam::lab::{LabNode, LabSpec};
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab;
use vpc_ipam_tests::program;

use crate::support::{kernel_state, printed, run, settled_state, spec, start, wait_for_state};

/// A call as a runtime makes it; tests leave parts out or spoil them.
struct Call {
    vars: Vec<(&'static str, String)>,
    stdin: String,
}

impl Call {
    fn new(node: &LabNode, command: &str, container: &str, netns: &Path) -> Self {
        let vars = [
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", container.to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_NETNS", netns.display().to_string()),
            ("CNI_PATH", node.address.cni_bin_dir.display().to_string()),
        ];
        let config = json!({
            "cniVersion": "1.0.0",
            "name": "aws-cni",
            "type": "vpc-cni",
            "socket": node.address.socket,
        });
        Self { vars: vars.into(), stdin: config.to_string() }
    }

    fn without(mut self, name: &str) -> Self {
        self.vars.retain(|(var, _)| *var != name);
        self
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self = self.without(name);
        self.vars.push((name, value.to_owned()));
        self
    }

    fn stdin(mut self, text: &str) -> Self {
        text.clone_into(&mut self.stdin);
        self
    }

    fn output(&self, node: &LabNode) -> Output {
        let run = || {
            let mut child = Command::new(program("vpc-cni"))
                .env_clear()
                .envs(self.vars.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(self.stdin.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        Namespace::named(&node.address.node_netns).unwrap().run(run).unwrap()
    }

    fn succeed(&self, node: &LabNode) -> Value {
        let output = self.output(node);
        assert!(output.status.success(), "{}", printed(&output));
        if output.stdout.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&output.stdout).unwrap()
        }
    }

    /// Returns the error object, whose form the specification gives.
    fn fail(&self, node: &LabNode) -> Value {
        let output = self.output(node);
        assert!(!output.status.success(), "it succeeded: {}", printed(&output));
        let error: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", printed(&output)));
        assert!(error["cniVersion"].is_string() && error["msg"].is_string(), "{error}");
        error
    }
}

fn pod(node: &LabNode, name: &str) -> Pod {
    let lab_name = node.with_lab(|lab| lab.name().clone());
    let netns = lab::add_pod(&lab_name, name).unwrap();
    Pod { path: netns.path().to_path_buf(), netns }
}

struct Pod {
    netns: Namespace,
    path: PathBuf,
}

impl Pod {
    /// Removes the namespace, as the runtime does after DEL.
    fn remove(self, node: &LabNode) {
        let name = node.with_lab(|lab| lab.name().clone());
        lab::remove_pod(&name, self.path.to_str().unwrap().rsplit('-').next().unwrap()).unwrap();
    }

    fn links(&self) -> String {
        run(&self.netns, &["ip", "-o", "-br", "link"])
    }
}

#[test]
fn add_twice_gives_the_same_address_and_changes_nothing() {
    let node = start(&spec("m5.large"));
    let pod = pod(&node, "a");
    let add = Call::new(&node, "ADD", "a", &pod.path);

    let first = add.succeed(&node);
    let state = (settled_state(&node), pod.links());
    let second = add.succeed(&node);

    assert_eq!(first, second);
    assert_eq!((kernel_state(&node), pod.links()), state);
    assert_eq!(first["cniVersion"], "1.0.0");
    assert_eq!(first["interfaces"][1]["sandbox"], pod.path.display().to_string());
    let address = first["ips"][0]["address"].as_str().unwrap();
    let inside = run(&pod.netns, &["ip", "-o", "-4", "address", "show", "dev", "eth0"]);
    assert!(inside.contains(&format!("inet {address} ")), "{address} is not in {inside}");
    node.stop().unwrap();
}

#[test]
fn del_leaves_nothing_and_may_be_repeated() {
    let node = start(&spec("m5.large"));
    let before = kernel_state(&node);
    let pod = pod(&node, "a");
    Call::new(&node, "ADD", "a", &pod.path).succeed(&node);
    assert_ne!(kernel_state(&node), before);

    let del = Call::new(&node, "DEL", "a", &pod.path);
    assert_eq!(del.succeed(&node), Value::Null);
    assert_eq!(del.succeed(&node), Value::Null);
    pod.remove(&node);
    assert_eq!(del.succeed(&node), Value::Null, "the namespace is gone too");
    assert_eq!(del.without("CNI_NETNS").succeed(&node), Value::Null);

    wait_for_state(&node, &before);
    node.stop().unwrap();
}

#[test]
fn del_of_an_unknown_container_succeeds() {
    let node = start(&spec("m5.large"));
    let before = kernel_state(&node);

    let gone = Path::new("/run/netns/vil-there-never-was");
    assert_eq!(Call::new(&node, "DEL", "no-pod", gone).succeed(&node), Value::Null);

    assert_eq!(kernel_state(&node), before);
    node.stop().unwrap();
}

#[test]
fn what_is_asked_wrongly_is_refused_with_the_code_for_it() {
    let node = start(&spec("m5.large"));
    let before = kernel_state(&node);
    let there = pod(&node, "a");
    let missing = Path::new("/run/netns/vil-there-never-was");
    let own = PathBuf::from("/proc/self/ns/net");
    let add = |netns: &Path| Call::new(&node, "ADD", "a", netns);
    let ok = || add(&there.path);
    let cases = [
        ("stdin is no JSON", ok().stdin("{"), 6),
        ("stdin is empty", ok().stdin(""), 6),
        ("stdin is a list", ok().stdin("[]"), 6),
        ("the network has no name", ok().stdin(r#"{"cniVersion": "1.0.0", "type": "vpc-cni"}"#), 7),
        ("a version of the future", ok().stdin(r#"{"cniVersion": "9.0.0", "name": "n"}"#), 1),
        ("no CNI_COMMAND", ok().without("CNI_COMMAND"), 4),
        ("CNI_COMMAND=PUT", ok().with("CNI_COMMAND", "PUT"), 4),
        ("no CNI_CONTAINERID", ok().without("CNI_CONTAINERID"), 4),
        ("no CNI_IFNAME", ok().without("CNI_IFNAME"), 4),
        ("CNI_IFNAME too long", ok().with("CNI_IFNAME", "a-name-of-17-char"), 4),
        ("no CNI_NETNS", ok().without("CNI_NETNS"), 4),
        ("the namespace does not exist", add(missing), 3),
        ("the namespace is a folder", add(Path::new("/run")), 4),
        ("the namespace is the host's", add(&own), 8),
    ];
    for (case, call, code) in cases {
        let error = call.fail(&node);
        assert_eq!(error["code"], code, "{case}: {error}");
        assert_eq!(kernel_state(&node), before, "{case}");
        assert!(!there.links().contains("eth0"), "{case}");
    }

    assert_eq!(assigned(&node), 0, "no refused call keeps an address");
    node.stop().unwrap();
}

/// Kubernetes takes 256 KiB of annotations, which the runtime passes on escaped, and to DEL and CHECK along with the result of ADD.
#[test]
fn long_annotations_and_broken_results_keep_no_pod_from_coming_and_going() {
    let node = start(&spec("m5.large"));
    let before = kernel_state(&node);
    let pod = pod(&node, "a");
    let call = |command: &str| Call::new(&node, command, "a", &pod.path);
    let config: Value = serde_json::from_str(&call("ADD").stdin).unwrap();
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config.to_string()
    };
    let annotated = |bytes: usize| {
        let annotations = json!({ "a": "\u{1}".repeat(bytes / 6), "b": ["no text"] });
        with("runtimeConfig", json!({ "io.kubernetes.cri.pod-annotations": annotations }))
    };

    let result = call("ADD").stdin(&annotated(6 << 20)).succeed(&node);
    let error = call("ADD").stdin(&annotated(9 << 20)).fail(&node);
    assert_eq!((&error["code"], &error["cniVersion"]), (&json!(7), &json!("1.0.0")), "{error}");
    assert!(error["msg"].as_str().unwrap().contains("8 MiB"), "{error}");
    let with_result = with("prevResult", result);
    assert_eq!(call("CHECK").stdin(&with_result).succeed(&node), Value::Null);
    let error = call("CHECK").stdin(&with("prevResult", json!("nonsense"))).fail(&node);
    assert_eq!(error["code"], 100, "the address that it should have is not in it: {error}");

    let broken = with_result.replace(r#""ips":["#, r#""ips":[[{,"#);
    serde_json::from_str::<Value>(&broken).unwrap_err();
    for stdin in [broken, with("prevResult", json!(7)), annotated(9 << 20)] {
        call("ADD").succeed(&node);
        assert_eq!(assigned(&node), 1);
        let deleted = call("DEL").stdin(&stdin).with("CNI_ARGS", "K8S").succeed(&node);
        assert_eq!(deleted, Value::Null);
        assert_eq!(assigned(&node), 0, "{:.200}", stdin);
    }
    pod.remove(&node);
    wait_for_state(&node, &before);
    node.stop().unwrap();
}

#[test]
fn add_that_fails_once_it_has_an_address_gives_it_back() {
    let node = start(&spec("m5.large"));
    let pod = pod(&node, "a");
    let add = Call::new(&node, "ADD", "a", &pod.path);
    let mut config: Value = serde_json::from_str(&add.stdin).unwrap();
    config["vethPrefix"] = "cali".into();

    let error = add.stdin(&config.to_string()).fail(&node);

    assert_eq!(error["code"], 7, "{error}");
    assert!(error["details"].as_str().unwrap().contains("AWS_VPC_K8S_CNI_VETHPREFIX"), "{error}");
    assert_eq!(assigned(&node), 0);
    assert!(!pod.links().contains("eth0"));
    node.stop().unwrap();
}

fn assigned(node: &LabNode) -> u32 {
    node_status(node).enis.iter().map(|eni| eni.assigned).sum()
}

fn node_status(node: &LabNode) -> vpc_ipam_protocol::Status {
    use vpc_ipam_protocol::{Answer, Request, ask};

    let Answer::Status(status) = ask(&node.address.socket, &Request::Status).unwrap() else {
        panic!("the daemon did not answer with its status")
    };
    status
}

#[test]
fn add_without_a_daemon_says_so_and_leaves_nothing() {
    let mut node = start(&spec("m5.large"));
    let before = kernel_state(&node);
    let pod = pod(&node, "a");
    node.stop_daemon().unwrap();

    let error = Call::new(&node, "ADD", "a", &pod.path).fail(&node);

    assert_eq!(error["code"], 11, "{error}");
    assert!(error["details"].as_str().unwrap().contains("is vpc-ipamd running?"), "{error}");
    assert_eq!(kernel_state(&node), before);
    assert!(!pod.links().contains("eth0"));
    node.stop().unwrap();
}

/// The folder of a node in a box, on a file system of a few megabytes.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=4m,mode=0700", "vil-small"];
        let status = Command::new("mount").args(mount).arg(&folder).status().unwrap();
        assert!(status.success(), "mount {}", folder.display());
        Self(folder)
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filling")).unwrap();
        while file.write(&[1; 4096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filling")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn full_disk_refuses_pods_until_there_is_room_and_loses_nothing() {
    let spec = spec("m5.large");
    let disk = SmallDisk::mount(vpc_ipam::lab::folder(&spec.name));
    let node = start(&spec);
    let a = pod(&node, "a");
    Call::new(&node, "ADD", "a", &a.path).succeed(&node);

    disk.fill();
    // What the file itself has freed is used up first: each lease takes a page of it.
    let long = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", "x".repeat(3000));
    let mut served = Vec::new();
    let (refused, add_refused) = loop {
        let name = format!("b{}", served.len());
        let next = pod(&node, &name);
        let before = settled_state(&node);
        let add = Call::new(&node, "ADD", &name, &next.path).with("CNI_ARGS", &long);
        if add.output(&node).status.success() {
            served.push(next);
            assert!(served.len() < 20, "the file system is full, and pods are served for ever");
            continue;
        }
        let error = add.fail(&node);
        assert_eq!(error["code"], 5, "{error}");
        assert!(error["details"].as_str().unwrap().contains("full"), "{error}");
        assert_eq!(kernel_state(&node), before);
        break (next, add);
    };
    let del_a = Call::new(&node, "DEL", "a", &a.path);
    for _ in 0..2 {
        let error = del_a.fail(&node);
        assert_eq!(error["code"], 5, "a release that is not durable is no release: {error}");
    }

    disk.free();
    crate::support::wait_until("an ADD once there is room", || {
        let output = add_refused.output(&node);
        if output.status.success() { Ok(()) } else { Err(printed(&output)) }
    });
    del_a.succeed(&node);
    drop((a, served, refused));
    node.stop().unwrap();
}

/// A t3.nano has two ENIs of two addresses, the first of which is each ENI's own.
#[test]
fn add_on_a_full_node_is_refused_until_a_pod_goes() {
    let node = start(&spec("t3.nano"));
    let pods = ["a", "b", "c"].map(|name| pod(&node, name));
    Call::new(&node, "ADD", "a", &pods[0].path).succeed(&node);
    Call::new(&node, "ADD", "b", &pods[1].path).succeed(&node);
    let full = settled_state(&node);

    let error = Call::new(&node, "ADD", "c", &pods[2].path).fail(&node);

    assert_eq!(error["code"], 11, "{error}");
    assert!(
        error["details"].as_str().unwrap().contains("all 2 ENIs that the instance type takes"),
        "{error}"
    );
    assert_eq!(kernel_state(&node), full);
    assert!(!pods[2].links().contains("eth0"));

    Call::new(&node, "DEL", "a", &pods[0].path).succeed(&node);
    crate::support::wait_until("an ADD once an address is free", || {
        let output = Call::new(&node, "ADD", "c", &pods[2].path).output(&node);
        if output.status.success() { Ok(()) } else { Err(printed(&output)) }
    });
    node.stop().unwrap();
}

#[test]
fn version_needs_no_daemon() {
    let mut node = start(&spec("m5.large"));
    node.stop_daemon().unwrap();
    let version = Call {
        vars: vec![("CNI_COMMAND", "VERSION".to_owned())],
        stdin: r#"{"cniVersion": "1.0.0"}"#.to_owned(),
    };

    assert_eq!(
        version.succeed(&node),
        json!({"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
    );
    node.stop().unwrap();
}

#[test]
fn settings_of_the_network_reach_the_node_and_its_pods() {
    let vars = [
        ("POD_MTU", "1400"),
        ("DISABLE_POD_V6", "true"),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", "pod"),
        ("AWS_EXTERNAL_SERVICE_CIDRS", "172.20.0.0/16"),
        ("AWS_VPC_K8S_CNI_CONNMARK", "0x200"),
        ("DISABLE_TCP_EARLY_DEMUX", "true"),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let node = start(&LabSpec { vars: vars.into(), ..spec("m5.large") });
    let pod = pod(&node, "a");

    let result = Call::new(&node, "ADD", "a", &pod.path).succeed(&node);

    assert!(result["interfaces"][0]["name"].as_str().unwrap().starts_with("pod"), "{result}");
    assert!(pod.links().contains("eth0"), "{}", pod.links());
    let inside = run(&pod.netns, &["ip", "link", "show", "dev", "eth0"]);
    assert!(inside.contains("mtu 1400"), "{inside}");
    let ipv6 = run(&pod.netns, &["cat", "/proc/sys/net/ipv6/conf/all/disable_ipv6"]);
    assert_eq!(ipv6.trim(), "1");
    let host = Namespace::named(&node.address.node_netns).unwrap();
    let rules = run(&host, &["ip", "rule"]);
    assert!(rules.contains("1535:\tfrom all to 172.20.0.0/16 lookup main"), "{rules}");
    assert!(rules.contains("1024:\tfrom all fwmark 0x200/0x200 lookup main"), "{rules}");
    let nat = run(&host, &["nft", "list", "table", "ip", "vpc-ipam"]);
    assert!(nat.contains(r#"iifname "pod*""#) && nat.contains("0x00000200"), "{nat}");
    let demux = run(&host, &["cat", "/proc/sys/net/ipv4/tcp_early_demux"]);
    assert_eq!(demux.trim(), "0");
    node.stop().unwrap();
}
