//! The daemon with no more rights than it needs.

use std::process::Command;

use vpc_ipam::lab::PluginCall;
use vpc_ipam_linux::Namespace;
use vpc_ipam_linux::lab;
use vpc_ipam_tests::program;

use crate::alone::{Fronts, Ipamd};
use crate::support::{kernel_state, run, settled_state, spec, start, wait_until};

/// As root with CAP_NET_ADMIN alone, no way to gain more, and a root file system that only the folder of socket and state can be
/// written in.
#[test]
fn daemon_needs_no_right_but_to_administer_the_network() {
    let mut spec = spec("m5.large");
    spec.daemon = false;
    let node = start(&spec);
    let netns = Namespace::named(&node.address.node_netns).unwrap();
    let fronts = Fronts::serve(&netns, node.cloud().clone(), node.address.instance_id);
    let folder = node.address.socket.parent().unwrap();

    let confine = format!(
        "mount --bind {0} {0} && mount -o remount,bind,ro / && exec setpriv --no-new-privs \
         --inh-caps=-all --ambient-caps=-all --bounding-set=-all,+net_admin {1} \"$@\"",
        folder.display(),
        program("vpc-ipamd").display()
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-ec", &confine, "sh"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", "lab-1")
        .env("IP_COOLDOWN_PERIOD", "1")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &fronts.imds)
        .env("AWS_ENDPOINT_URL_EC2", &fronts.ec2);
    let ipamd = Ipamd::spawn(&netns, command, folder);
    ipamd.wait_until_ready();
    let status = std::fs::read_to_string(format!("/proc/{}/status", ipamd.id())).unwrap();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    // CAP_NET_ADMIN is bit 12.
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(u64::from_str_radix(line(set), 16).unwrap(), 1 << 12, "{set}\n{status}");
    }
    assert_eq!((line("NoNewPrivs:"), line("Uid:").split('\t').next()), ("1", Some("0")));

    // The plugin has the rights of the runtime, as always.
    let name = node.with_lab(|lab| lab.name().clone());
    let call = |command, pod, netns: Option<&Namespace>| {
        let netns = netns.map(Namespace::path);
        let call = PluginCall { command, pod, netns, annotations: Default::default() };
        node.address.call_plugin(&call).unwrap()
    };
    // Until a second ENI carries pods.
    let pods: Vec<(String, Namespace)> = (0..12)
        .map(|n| (format!("pod{n}"), lab::add_pod(&name, &format!("pod{n}")).unwrap()))
        .collect();
    for (pod, netns) in &pods {
        call("ADD", pod, Some(netns));
        call("CHECK", pod, Some(netns));
    }
    // Rules of one priority stand in the order in which they were made.
    let sorted = |state: String| {
        let mut lines: Vec<String> = state.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let whole = sorted(settled_state(&node));
    let damages = [
        "ip rule del pref 512",
        "ip rule del pref 1024",
        "nft flush ruleset",
        "ip route flush table 2",
    ];
    for damage in damages {
        run(&netns, &damage.split(' ').collect::<Vec<_>>());
        wait_until(damage, || {
            let now = sorted(kernel_state(&node));
            let missing: Vec<_> = whole.iter().filter(|line| !now.contains(line)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:#?}\n{}", ipamd.said())) }
        });
    }
    // Of which the kernel does not tell.
    run(&netns, &["sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1"]);
    let socket = node.address.socket.to_str().unwrap();
    wait_until("nothing to differ", || {
        let output = Command::new(program("vpc-ipam"))
            .args(["net", "repair", "--socket", socket])
            .output()
            .unwrap();
        if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
    });
    for (pod, _) in &pods {
        call("DEL", pod, None);
        lab::remove_pod(&name, pod).unwrap();
    }
    let said = ipamd.said();
    assert!(!said.contains("Operation not permitted") && !said.contains("Read-only"), "{said}");
    ipamd.terminate();
    node.stop().unwrap();
}
