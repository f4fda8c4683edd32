//! Whether NetworkManager takes links of pods for its own.

use wildmatch::WildMatch;

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;
use crate::node_files::systemd::{Section, parse};

pub(super) const CHECK: Check = Check {
    name: "network-manager",
    about: "NetworkManager: whether it leaves links of pods unmanaged",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::NotChecked],
    run,
};

const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/NetworkManager.service";
const MAIN: &str = "/etc/NetworkManager/NetworkManager.conf";
const DROP_INS: [&str; 3] =
    ["/usr/lib/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/etc/NetworkManager/conf.d"];

fn run(facts: &Facts) -> Vec<Finding> {
    look(facts).unwrap_or_else(|why| vec![Finding::not_checked(why)])
}

fn look(facts: &Facts) -> Result<Vec<Finding>, String> {
    let running =
        facts.files.processes().map(|all| all.iter().any(|it| it.name == "NetworkManager"));
    if !facts.files.exists(ENABLED) && !running? {
        return Ok(vec![Finding::ok("NetworkManager neither runs nor is enabled")]);
    }
    let mut paths = vec![MAIN.to_owned()];
    for folder in DROP_INS {
        let names = facts.files.names(folder)?.into_iter().filter(|name| name.ends_with(".conf"));
        paths.extend(names.map(|name| format!("{folder}/{name}")));
    }
    let prefix = facts.veth_prefix();
    let link = format!("{prefix}0a1b2c3d4e5");
    for path in paths {
        let Some(text) = facts.files.read(&path)? else { continue };
        if parse(&text).iter().any(|section| leaves_alone(section, &link)) {
            let evidence = format!("NetworkManager leaves links of pods alone, by {path}");
            return Ok(vec![Finding::ok(evidence)]);
        }
    }
    let remedy = format!(
        "write [keyfile] with unmanaged-devices=interface-name:{prefix}* to /etc/NetworkManager/conf.d/10-vpc-ipam.conf, then systemctl \
         reload NetworkManager"
    );
    let evidence = format!(
        "NetworkManager manages links of pods ({link}): it may remove their addresses and routes"
    );
    Ok(vec![Finding::warning(evidence, remedy)])
}

fn leaves_alone(section: &Section, link: &str) -> bool {
    let matches = |list: &str| {
        let mut specs = list.split([';', ',']).map(str::trim);
        specs.any(|spec| match spec.split_once(':') {
            Some(("interface-name", pattern)) => {
                let pattern = pattern.trim_start_matches(['=', '~']);
                WildMatch::new(pattern).matches(link)
            }
            Some(("type" | "driver", "veth")) => true,
            _ => spec == "*",
        })
    };
    if section.name == "keyfile" {
        return section.get("unmanaged-devices").is_some_and(matches);
    }
    let unmanaged = section.get("managed").is_some_and(|value| value == "0" || value == "false");
    section.name.starts_with("device")
        && unmanaged
        && section.get("match-device").is_some_and(matches)
}
