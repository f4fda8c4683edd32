//! What `vpc-ipam` prints of a live daemon, held against golden files, and how it exits.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use expect_test::expect_file;
use serde_json::Value;
use vpc_ipam::lab::LabNode;
use vpc_ipam_core::Timestamp;
use vpc_ipam_tests::program;

use crate::daemon::{Daemon, node};
use crate::runtime::{Pod, call, spec, start, wait_until};

/// Asks the daemon of a node.
fn ask(node: &LabNode, arguments: &[&str]) -> Output {
    command(node, arguments).output().unwrap()
}

fn command(node: &LabNode, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("vpc-ipam"));
    command.args(arguments).arg("--socket").arg(&node.address.socket);
    command
}

/// Returns what was printed, with what differs from run to run masked, and the exit code.
fn printed(output: &Output) -> String {
    let text = |bytes: &[u8]| masked(core::str::from_utf8(bytes).unwrap());
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    let code = output.status.code().unwrap();
    format!("{out}{}exit code {code}\n", if err.is_empty() { err } else { format!("--- {err}") })
}

/// Masks points in time, and how long things took.
fn masked(text: &str) -> String {
    let word = |word: &str| {
        let is_time =
            |word: &str| word.len() >= 20 && word.as_bytes()[10] == b'T' && word.ends_with('Z');
        let bare = word.trim_end_matches([':', ',', ';', '"']).trim_start_matches('"');
        if is_time(bare) { word.replace(bare, "TIME") } else { word.to_string() }
    };
    let line = |line: &str| {
        let words: Vec<String> = line.split(' ').map(word).collect();
        let line = words.join(" ");
        // Which number an event has depends on how often something was looked at.
        if let Some((number, rest)) = line.trim_start().split_once("  TIME  ")
            && number.parse::<u64>().is_ok()
        {
            return format!("    N  TIME  {}", masked_duration(rest));
        }
        // One more every second.
        if line.starts_with("  calls left ") {
            return line.split(|it: char| it.is_ascii_digit()).collect();
        }
        masked_duration(&line)
    };
    text.lines().map(|it| line(it) + "\n").collect()
}

fn masked_duration(line: &str) -> String {
    match (line.find(" in "), line.ends_with(" ms")) {
        (Some(at), true) => format!("{} in MS ms", &line[..at]),
        _ => line.to_owned(),
    }
}

/// Asks while the daemon does nothing: it reads its metadata again every now and then.
fn ask_while_idle(node: &LabNode, arguments: &[&str]) -> Output {
    let explained = || -> Value {
        let explained = ask(node, &["explain", "--json"]);
        serde_json::from_slice(&explained.stdout).unwrap()
    };
    wait_until("a moment in which nothing is done", || {
        let before = explained();
        let output = ask(node, arguments);
        let after = explained();
        match before["doing"] == serde_json::json!([]) && before["due"] == after["due"] {
            true => Ok(output),
            false => Err(format!("{before:#}, {after:#}")),
        }
    })
}

/// A node with two pods that wants nothing more.
pub(crate) fn node_with_pods() -> (LabNode, [Pod; 2]) {
    let node = start(&spec("m5.large"));
    let pods = ["web", "db"].map(|name| Pod::new(&node, name));
    for pod in &pods {
        pod.add(&node.address);
    }
    wait_until("what the node wants", || {
        let plan = ask(&node, &["plan", "--json"]);
        let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
        let explained = ask(&node, &["explain", "--json"]);
        let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
        match plan["actions"] == serde_json::json!([])
            && explained["doing"] == serde_json::json!([])
        {
            true => Ok(()),
            false => Err(format!("{plan:#}, {explained:#}")),
        }
    });
    (node, pods)
}

#[test]
fn commands_show_what_the_daemon_has_and_does() {
    let (node, _pods) = node_with_pods();
    for (arguments, golden) in [
        (&["status"][..], expect_file!["asked/status.txt"]),
        (&["pods"], expect_file!["asked/pods.txt"]),
        (&["pods", "db"], expect_file!["asked/pods-db.txt"]),
        (&["pods", "none"], expect_file!["asked/pods-none.txt"]),
        (&["explain"], expect_file!["asked/explain.txt"]),
        (&["explain", "web"], expect_file!["asked/explain-web.txt"]),
        (&["explain", "none"], expect_file!["asked/explain-none.txt"]),
        (&["plan"], expect_file!["asked/plan.txt"]),
        (&["pods", "--json"], expect_file!["asked/pods.json.txt"]),
    ] {
        golden.assert_eq(&printed(&ask_while_idle(&node, arguments)));
    }
    for arguments in
        [["status", "--json"], ["explain", "--json"], ["plan", "--json"], ["events", "--json"]]
    {
        let output = ask(&node, &arguments);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(document.is_object() && output.status.success(), "{arguments:?}: {document}");
    }
    node.stop().unwrap();
}

#[test]
fn pod_is_found_by_each_of_its_names() {
    let (node, _pods) = node_with_pods();
    let all: Value = serde_json::from_slice(&ask(&node, &["pods", "--json"]).stdout).unwrap();
    let web = all.as_array().unwrap().iter().find(|pod| pod["name"] == "web").unwrap();
    let text = |key: &str| web[key].as_str().unwrap().to_owned();
    let names = [
        text("name"),
        format!("{}/web", text("namespace")),
        text("container"),
        web["interfaces"][0]["addresses"][0].as_str().unwrap().to_owned(),
        format!("{}/{}/{}", text("network"), text("container"), text("ifname")),
    ];
    for name in names {
        let found = ask(&node, &["pods", &name, "--json"]);
        let found: Value = serde_json::from_slice(&found.stdout).unwrap();
        assert_eq!(found, serde_json::json!([web]), "{name}");
    }
    node.stop().unwrap();
}

#[test]
fn events_tell_what_happened_after_a_number() {
    let (node, pods) = node_with_pods();
    let events = |after: &str| -> Value {
        let output = ask(&node, &["events", "--json", "--after", after]);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let before = events("0");
    let assigned = |events: &Value| {
        let all = events["events"].as_array().unwrap().iter();
        all.filter_map(|it| it["what"]["assigned"]["lease"]["pod"]["name"].as_str())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(assigned(&before), ["web", "db"]);
    pods[0].del(&node.address);
    let after = events(&before["last"].to_string());
    let happened = after["events"].as_array().unwrap();
    let released = |it: &&Value| it["what"]["released"]["lease"]["pod"]["name"] == "web";
    assert_eq!(happened.iter().filter(released).count(), 1, "{after:#}");
    assert_eq!(assigned(&after), [""; 0]);
    let text = printed(&ask(&node, &["events"]));
    for words in ["because", "assigned 10.", "to default/web", "released 10.", "is ready"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    node.stop().unwrap();
}

#[test]
fn watch_shows_what_happens_and_outlives_the_daemon() {
    let node = node();
    let daemon = Daemon::start(&node);
    let mut watch = command(&node, &["watch", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut errors = BufReader::new(watch.stderr.take().unwrap()).lines();
    let mut until = |pod: &str| {
        let shows = |line: &String| {
            let event: Value = serde_json::from_str(line).unwrap();
            event["what"]["assigned"]["lease"]["pod"]["name"] == pod
        };
        lines.by_ref().map(Result::unwrap).find(shows).unwrap();
    };
    // It may not watch yet while the first pods come.
    let mut pods = Vec::new();
    let early = Pod::new(&node, "early");
    early.add(&node.address);
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| until("seen"));
        while !seen.is_finished() {
            let pod = Pod::again(&node, &format!("p{}", pods.len()), "seen");
            pod.add(&node.address);
            pod.del(&node.address);
            pods.push(pod);
        }
    });
    daemon.crash();
    let away = errors.next().unwrap().unwrap();
    assert!(away.ends_with("; asked again every second"), "{away}");
    let daemon = Daemon::start(&node);
    assert_eq!(errors.next().unwrap().unwrap(), "vpc-ipam: the daemon answers again");
    let late = Pod::new(&node, "late");
    late.add(&node.address);
    until("late");
    watch.kill().unwrap();
    watch.wait().unwrap();
    daemon.crash();
    node.stop().unwrap();
}

#[test]
fn release_asks_and_frees_what_a_lost_del_left() {
    let (node, [web, db]) = node_with_pods();
    // The runtime lost the pod; nothing told the plugin.
    web.die();
    let refused = ask(&node, &["release", "web"]);
    expect_file!["asked/release-without-yes.txt"].assert_eq(&printed(&refused));
    expect_file!["asked/release.txt"]
        .assert_eq(&printed(&ask(&node, &["release", "web", "--yes"])));
    expect_file!["asked/release-again.txt"]
        .assert_eq(&printed(&ask(&node, &["release", "web", "--yes"])));
    assert_eq!(ask(&node, &["pods", "web"]).status.code(), Some(1));
    // Its sibling is as it was.
    db.del(&node.address);
    node.stop().unwrap();
}

#[test]
fn daemon_that_is_not_there_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("ipamd.sock");
    let ask = |arguments: &[&str], socket: &Path| {
        Command::new(program("vpc-ipam"))
            .args(arguments)
            .arg("--socket")
            .arg(socket)
            .output()
            .unwrap()
    };
    let all = [
        &["status"][..],
        &["pods"],
        &["explain"],
        &["explain", "web"],
        &["plan"],
        &["events"],
        &["watch"],
        &["release", "web", "--yes"],
    ];
    for arguments in all {
        let output = ask(arguments, &socket);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let err = String::from_utf8(output.stderr).unwrap();
        let path = socket.display().to_string();
        assert!(
            err.contains(&path) && err.contains("is vpc-ipamd running?"),
            "{arguments:?}: {err}"
        );
        assert_eq!(err.lines().count(), 1, "{err}");
    }
    fs::write(&socket, "no socket").unwrap();
    assert_eq!(ask(&["pods"], &socket).status.code(), Some(2));
}

#[test]
fn pod_that_got_no_address_is_explained_by_its_name() {
    let mut spec = spec("m5.large");
    spec.vars.push(("MAX_ENI".to_owned(), "1".to_owned()));
    let node = start(&spec);
    for pod in 0..9 {
        Pod::new(&node, &format!("p{pod}")).add(&node.address);
    }
    let late = Pod::again(&node, "sandbox", "late");
    assert!(!call(&node.address, "ADD", &late, "1.0.0", None).status.success());
    for name in ["late", "default/late", "sandbox"] {
        let explained = printed(&ask(&node, &["explain", name]));
        assert!(
            explained.contains("no address for default/late (aws-cni/sandbox/eth0): "),
            "{name}: {explained}"
        );
        assert!(explained.ends_with("exit code 0\n"), "{name}: {explained}");
    }
    node.stop().unwrap();
}

#[test]
fn times_are_masked() {
    let at = Timestamp::from_secs(1_700_000_000);
    let text = format!("    1  {at}  took until {at}, in 12 ms\n\"at\": \"{at}\",\nstays in 3 s\n");
    assert_eq!(
        masked(&text),
        "    N  TIME  took until TIME, in MS ms\n\"at\": \"TIME\",\nstays in 3 s\n"
    );
}
