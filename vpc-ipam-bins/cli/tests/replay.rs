//! `vpc-ipam replay` as a shell sees it: what it prints of a journal, to which stream, and its exit code.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use core::time::Duration;
use std::fs;
use std::path::Path;
use std::process::Command;

use expect_test::expect_file;
use vpc_ipam_core::journal::{Hashes, Step};
use vpc_ipam_core::sim::{Cloud, CreateSubnet, Faults, RunInstance, World};
use vpc_ipam_core::{Config, Limits, Timestamp};
use vpc_ipamd::journal::{Begins, Head};

const START: Timestamp = Timestamp::from_secs(1_700_000_000);

/// A node that gets pods while EC2 throttles: the segments of its journal, as text.
fn journal() -> Vec<String> {
    let mut cloud = Cloud::new(7);
    let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse().unwrap()], vec![]);
    let zone = "eu-west-1a".parse().unwrap();
    let subnet = CreateSubnet::new(vpc, zone, "10.0.0.0/24".parse().unwrap());
    let subnet = cloud.create_subnet(subnet).unwrap();
    let limits = Limits::lookup("m5.large".parse().unwrap()).unwrap();
    let instance = cloud.run_instance(RunInstance::new(limits.clone(), subnet), START).unwrap();
    let (config, _) = Config::from_vars([("WARM_IP_TARGET", "2")]);
    let world = World::new(cloud, instance, limits, config, 7, START).unwrap();
    let mut world = world.with_faults(Faults { throttled: 300, ..Faults::default() });

    let mut segments = Vec::new();
    for segment in 0..2 {
        let begins = if segment == 0 { Begins::Started } else { Begins::GoesOn };
        let head = Head::new(world.now, begins, world.ipam.begin_journal(Hashes::EveryStep));
        let mut lines = vec![serde_json::to_string(&head).unwrap()];
        for pod in 0..4 {
            world.add_pod(&format!("pod-{segment}-{pod}"));
            world.run_for(Duration::from_secs(5));
        }
        let _ = world.remove_pod(&format!("pod-{segment}-1"));
        world.run_for(Duration::from_secs(60));
        let steps: Vec<Step> = core::iter::from_fn(|| world.ipam.poll_step()).collect();
        lines.extend(steps.iter().map(|step| serde_json::to_string(step).unwrap()));
        segments.push(lines.join("\n") + "\n");
    }
    segments
}

fn folder(segments: &[String]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (segment, number) in segments.iter().zip(1..) {
        fs::write(folder.path().join(format!("segment-{number:06}.jsonl")), segment).unwrap();
    }
    folder
}

/// Exit code, standard output, standard error.
fn replay(path: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vpc-ipam"));
    let output = command.arg("replay").arg(path).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn each_decision_is_shown_with_its_reason() {
    let folder = folder(&journal());
    let (code, out, err) = replay(folder.path(), &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    expect_file!["replay/decisions.txt"].assert_eq(&out);
}

#[test]
fn state_at_a_time_is_explained() {
    let folder = folder(&journal());
    for (at, file) in
        [("2023-11-14T22:13:27Z", "replay/early.txt"), ("2023-11-14T22:15:00Z", "replay/late.txt")]
    {
        let (code, out, err) = replay(folder.path(), &["--at", at]);
        assert_eq!((code, err.as_str()), (0, ""), "{at}");
        expect_file![file].assert_eq(&out);
    }
    // The same moment where the reader is.
    let local = replay(folder.path(), &["--at", "2023-11-14T23:15:00+01:00"]);
    assert_eq!(local, replay(folder.path(), &["--at", "2023-11-14T22:15:00Z"]));
    let (code, out, err) = replay(folder.path(), &["--at", "2023-11-14T22:13:19Z"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert_eq!(err, "vpc-ipam: the journal begins later than 2023-11-14T22:13:19Z\n");
    assert_eq!(replay(folder.path(), &["--at", "yesterday"]).0, 2);
}

#[test]
fn explanations_follow_the_decisions() {
    let folder = folder(&journal());
    let (code, out, _) = replay(folder.path(), &["--explain"]);
    let (_, without, _) = replay(folder.path(), &[]);
    assert_eq!(code, 0);
    let explained = out.lines().filter(|line| line.starts_with("    | "));
    let heads = explained.clone().filter(|line| line.contains(" (m5.large) at ")).count();
    assert!(heads > 8, "{out}");
    assert_eq!(out.lines().count() - explained.count(), without.lines().count());
}

#[test]
fn json_has_a_document_for_each_step() {
    let segments = journal();
    let folder = folder(&segments);
    let (code, out, _) = replay(folder.path(), &["--json", "--explain"]);
    assert_eq!(code, 0);
    let lines: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), segments.iter().map(|it| it.lines().count()).sum::<usize>());
    assert_eq!(lines[0]["segment"]["instance_type"], "m5.large");
    let steps: Vec<_> = lines.iter().filter_map(|line| line.get("step")).collect();
    assert_eq!(steps.len(), lines.len() - 2);
    assert!(steps.iter().all(|step| step["step"]["number"].is_u64()));
    assert!(steps.iter().any(|step| step["replies"][0]["Granted"]["key"]["ifname"] == "eth0"));
    assert!(steps.iter().any(|step| step["explanation"]["instance_type"] == "m5.large"));

    let (code, out, _) = replay(folder.path(), &["--json", "--at", "2023-11-14T22:15:00Z"]);
    assert_eq!((code, out.lines().count()), (0, 1));
    let explanation: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(explanation["explanation"]["instance_type"], "m5.large");
}

#[test]
fn another_decision_is_named_and_fails() {
    let mut segments = journal();
    // Recorded was another action than follows.
    let was = segments[0].clone();
    segments[0] = was.replacen("\"issued\":[{\"id\":4,", "\"issued\":[{\"id\":99,", 1);
    assert!(segments[0] != was, "the segment has no such action");
    let folder = folder(&segments);
    let (code, out, err) = replay(folder.path(), &[]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("leads to state") && err.contains("#99"), "{err}");
    // The segment after it stands for itself.
    assert!(out.contains("segment-000002.jsonl") && out.contains(" differs "), "{out}");
    let (code, out, _) = replay(folder.path(), &["--json"]);
    assert_eq!(code, 1);
    assert!(out.lines().any(|line| line.starts_with("{\"diverged\":{\"recorded\":")), "{out}");
}

#[test]
fn what_cannot_be_read_is_named() {
    let segments = journal();
    let (first, second) = (&segments[0], &segments[1]);
    let other_release = first.replacen("\"release\":\"0.1.0\"", "\"release\":\"0.9.0\"", 1);
    let other_shape =
        other_release.replacen("\"snapshot\":{\"config\"", "\"snapshot\":{\"settings\"", 1);
    let head: Head = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    let state = head.state.0;
    let other_build = first.replacen(&format!("\"state\":{state}"), "\"state\":1", 1);
    let torn = &first[..first.len() - 20];
    let gap: Vec<&str> = first.lines().enumerate().filter(|it| it.0 != 3).map(|it| it.1).collect();
    let gap = gap.join("\n") + "\n";
    let damaged = first.replacen("{\"number\":4", "{number:4", 1);
    let cases: [(&str, &str, i32, &str); 8] = [
        ("another release", &other_release, 0, ""),
        (
            "a state of another release",
            &other_shape,
            2,
            "release 0.9.0 wrote it, and this is release 0.1.0, which cannot read it",
        ),
        ("another build", &other_build, 0, "hashes of the state are not"),
        ("torn", torn, 0, "its last line has no end and is left out"),
        ("without a head", &first[..100], 0, "it has no head"),
        ("a gap", &gap, 2, "step 4 follows step 2: steps between them are missing"),
        ("damaged", &damaged, 2, "line 5 cannot be read"),
        ("no journal", "hello\n", 2, "is not the head of a journal"),
    ];
    for (name, text, expected, words) in cases {
        let folder = folder(&[text.to_string(), second.clone()]);
        let (code, out, err) = replay(folder.path(), &[]);
        assert_eq!(code, expected, "{name}: {err}");
        assert!(err.contains(words) && (words.is_empty() == err.is_empty()), "{name}: {err}");
        assert!(out.contains("segment-000002.jsonl"), "{name}: {out}");
    }
    let empty = folder(&[]);
    let (code, _, err) = replay(empty.path(), &[]);
    assert_eq!(code, 2);
    assert!(err.contains("there is no segment of a journal"), "{err}");
    let (code, _, err) = replay(&empty.path().join("missing"), &[]);
    assert_eq!(code, 2);
    assert!(err.contains("missing: No such file"), "{err}");
    let alone = folder(&[first[..100].to_string()]);
    assert_eq!(replay(alone.path(), &[]).0, 2);
}

/// A name of a pod may hold anything, and so may a message of EC2.
#[test]
fn nothing_of_a_journal_reaches_the_terminal_unescaped() {
    let segments: Vec<String> =
        journal().iter().map(|it| it.replace("pod-0-0", "pod\\u001b[2J\\n")).collect();
    let folder = folder(&segments);
    let (_, out, err) = replay(folder.path(), &[]);
    assert!(!(out + &err).replace('\n', "").contains(char::is_control));
}
