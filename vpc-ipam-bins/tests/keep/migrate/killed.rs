//! A move that is killed, or finds a full disk, at each step of what it does: the same command goes on, the other one turns round, and the
//! node ends as one of a move without.

use std::collections::BTreeSet;
use std::process::{Child, Command, Output, Stdio};

use super::{Moving, kernel, said};

/// What happens to the program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// At which calls of the system.
    calls: &'static str,
    /// What happens at the n-th of them, in strace's words.
    what: &'static str,
    /// And at those that follow.
    lasts: bool,
}

const KILL: &str = "signal=KILL";
pub(crate) const FAULTS: [Fault; 4] = [
    // As a file begins to be made durable, and as it gets its name.
    Fault { calls: "fsync", what: KILL, lasts: false },
    Fault { calls: "rename,renameat,renameat2,unlink,unlinkat", what: KILL, lasts: false },
    // As it sends, to the kernel or to the daemon.
    Fault { calls: "sendto,sendmsg", what: KILL, lasts: false },
    Fault { calls: "fsync", what: "error=ENOSPC", lasts: true },
];

impl Fault {
    /// Returns a command that runs another with the fault at the n-th call.
    pub(crate) fn of(self, command: &Command, number: u32) -> Command {
        let Self { calls, what, lasts } = self;
        let on = if lasts { "+" } else { "" };
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e"]);
        strace.arg(format!("inject={calls}:{what}:when={number}{on}"));
        strace.arg(command.get_program()).args(command.get_args()).env_clear();
        strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        strace
    }
}

/// Returns the number of the call to try after this one: of the many, fewer the later they are.
fn next(number: u32) -> u32 {
    number * 2
}

/// How a node is once it is with vpc-ipam.
fn moved(moving: &Moving) -> BTreeSet<String> {
    let noise = |line: &String| line.contains("alias") || line.contains("fe80::");
    moving.ours().into_iter().filter(|line| !noise(line)).collect()
}

#[test]
fn node_ends_alike_wherever_the_way_to_vpc_ipam_is_cut_off() {
    let mut moving = Moving::start(3);
    let before = kernel(&moving);
    moving.to();
    let expected = moved(&moving);
    go_back(&mut moving, &before, "without a fault");
    for fault in FAULTS {
        let (mut number, mut cuts) = (1, 0);
        loop {
            let case = format!("{fault:?}, call {number}");
            let mut command = fault.of(&moving.move_command(&["to"]), number);
            let output = moving.node.run(&mut command);
            if output.status.success() {
                break;
            }
            cuts += 1;
            // Whether it goes on or turns round.
            if cuts % 3 == 0 {
                let output = moving.run(&["back"]);
                assert!(output.status.success(), "{case}: {}", said(&output));
                assert_eq!(kernel(&moving), before, "{case}: turned round");
                assert_eq!(moving.conflists(), ["10-aws.conflist"], "{case}");
            }
            let output = moving.run(&["to"]);
            assert!(output.status.success(), "{case}: {}", said(&output));
            is_moved(&moving, &expected, &case);
            go_back(&mut moving, &before, &case);
            number = next(number);
        }
        println!("to: cut off at {cuts} calls of {fault:?}");
        assert!(cuts > 0, "{fault:?}");
        is_moved(&moving, &expected, "beyond the end");
        go_back(&mut moving, &before, "beyond the end");
    }
}

#[test]
fn node_ends_alike_wherever_the_way_back_is_cut_off() {
    let mut moving = Moving::start(3);
    let before = kernel(&moving);
    moving.to();
    let expected = moved(&moving);
    for fault in FAULTS {
        let (mut number, mut cuts) = (1, 0);
        loop {
            let case = format!("{fault:?}, call {number}");
            let command = moving.move_command(&["back", "--wait", "60"]);
            let output = finish_back(&mut moving, fault.of(&command, number));
            let ended = output.status.success();
            if !ended {
                cuts += 1;
                if cuts % 3 == 0 {
                    moving.node.stop_old_daemon_if_it_runs();
                    let output = moving.run(&["to"]);
                    assert!(output.status.success(), "{case}: {}", said(&output));
                    is_moved(&moving, &expected, &case);
                }
                let command = moving.move_command(&["back", "--wait", "60"]);
                let output = finish_back(&mut moving, command);
                assert!(output.status.success(), "{case}: {}", said(&output));
            }
            is_back(&mut moving, &before, &case);
            let output = moving.run(&["to"]);
            assert!(output.status.success(), "{case}: {}", said(&output));
            is_moved(&moving, &expected, &case);
            if ended {
                break;
            }
            number = next(number);
        }
        println!("back: cut off at {cuts} calls of {fault:?}");
        assert!(cuts > 0, "{fault:?}");
    }
}

fn is_moved(moving: &Moving, expected: &BTreeSet<String>, case: &str) {
    assert_eq!(moved(moving), *expected, "{case}");
    assert_eq!(moving.conflists(), ["10-vpc-ipam.conflist"], "{case}");
}

fn go_back(moving: &mut Moving, before: &BTreeSet<String>, case: &str) {
    let command = moving.move_command(&["back", "--wait", "60"]);
    let output = finish_back(moving, command);
    assert!(output.status.success(), "{case}: {}", said(&output));
    is_back(moving, before, case);
}

fn is_back(moving: &mut Moving, before: &BTreeSet<String>, case: &str) {
    assert_eq!(moving.ours(), [] as [&str; 0], "{case}");
    assert_eq!(moving.conflists(), ["10-aws.conflist"], "{case}");
    assert_eq!(moving.node.checkpoint_addresses(), moving.addresses(), "{case}");
    assert_eq!(kernel(moving), *before, "{case}");
    moving.node.stop_old_daemon_if_it_runs();
}

/// Runs a way back to its end, and lets amazon-vpc-cni-k8s run when it is waited for.
pub(crate) fn finish_back(moving: &mut Moving, mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Child = moving.node.netns().run(|| command.spawn()).unwrap().unwrap();
    while child.try_wait().unwrap().is_none() {
        if moving.waits_for_old_daemon() && !moving.node.old_daemon_runs() {
            moving.node.start_old_daemon();
        }
        std::thread::sleep(core::time::Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}
