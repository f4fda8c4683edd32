//! Nodes that are moved over from amazon-vpc-cni-k8s and back, while traffic of every kind goes on.
//!
//! Each mode in which amazon-vpc-cni-k8s may be set up is one of the stand-in for it; `VPC_IPAM_PROOF_MODES=all` tries all of them.

use core::time::Duration;
use std::fs;
use std::path::Path;

use vpc_ipam_linux::Guard;
use vpc_ipam_tests::flows::{Flows, Tally};
use vpc_ipam_tests::old_node::{MODES, Mode, OldNode};

use crate::daemon::try_status;
use crate::old_node::pods_with_a_port;
use crate::runtime::wait_until;

/// How long traffic goes on before and after what is tried.
const LULL: Duration = Duration::from_millis(300);

/// Returns the modes to try: the one without any variable, or those that a variable names.
fn modes() -> Vec<&'static Mode> {
    match std::env::var("VPC_IPAM_PROOF_MODES") {
        Ok(all) if all == "all" => MODES.iter().collect(),
        Ok(names) => names.split(',').map(Mode::named).collect(),
        Err(_) => vec![&MODES[0]],
    }
}

/// Asserts that nothing was lost on the way.
fn nothing_is_lost(case: &str, tallies: &[Tally]) {
    let lost: Vec<String> = tallies
        .iter()
        .filter(|tally| tally.lost > 0 || !tally.wrong.is_empty() || tally.sent == 0)
        .map(ToString::to_string)
        .collect();
    assert!(lost.is_empty(), "{case}: {lost:#?}");
}

/// Starts our daemon as a service manager does, with the settings of the one before, and waits until it serves.
fn start_ours(node: &OldNode) {
    let settings: String =
        node.mode.vars.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    fs::write(node.env_file(), settings).unwrap();
    let output = node.run(&mut node.command(Path::new(&node.start_command())));
    assert!(output.status.success(), "{output:?}");
    wait_until("our daemon", || match try_status(&node.lab)? {
        status if status.ready && !status.enis.is_empty() => Ok(()),
        status => Err(format!("{status:?}: {}", node.our_log())),
    });
}

/// What amazon-vpc-cni-k8s removes at its start and makes anew is led on by the guard.
#[test]
fn start_of_the_daemon_before_loses_nothing_behind_a_guard() {
    for mode in modes() {
        let mut node = OldNode::start(mode, "m5.xlarge", 3);
        let pods = pods_with_a_port(&node, 8);
        node.stop_old_daemon();
        start_ours(&node);
        let flows = Flows::start(&node.traffic(&pods));
        std::thread::sleep(LULL);
        node.kill_our_daemon();
        for _ in 0..5 {
            let mut netlink = node.netns().netlink().unwrap();
            Guard::find(&mut netlink).unwrap().raise(&mut netlink).unwrap();
            node.start_old_daemon();
            Guard::lower(&mut netlink).unwrap();
            node.stop_old_daemon();
        }
        std::thread::sleep(LULL);
        nothing_is_lost(mode.name, &flows.stop());
    }
}
