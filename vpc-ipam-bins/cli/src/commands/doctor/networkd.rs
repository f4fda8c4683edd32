//! Whether systemd-networkd removes routes and rules that it did not make, or takes links of pods for its own.

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;
use crate::node_files::systemd;

pub(super) const CHECK: Check = Check {
    name: "networkd",
    about: "systemd-networkd: ManageForeignRoutes, ManageForeignRoutingPolicyRules, and .network files that match links of pods",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::NotChecked],
    run,
};

fn run(facts: &Facts) -> Vec<Finding> {
    look(facts).unwrap_or_else(|why| vec![Finding::not_checked(why)])
}

fn look(facts: &Facts) -> Result<Vec<Finding>, String> {
    let Some(foreign) = systemd::networkd_removes(&facts.files)? else {
        return Ok(vec![Finding::ok("systemd-networkd neither runs nor is enabled")]);
    };
    let mut findings = Vec::new();
    if !foreign.is_empty() {
        findings.push(Finding::warning(
            format!("systemd-networkd removes what it did not make when it starts: {}", foreign.join("; ")),
            "write [Network] with ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no to \
             /etc/systemd/networkd.conf.d/10-vpc-ipam.conf, then systemctl restart systemd-networkd",
        ));
    }
    let link = format!("{}0a1b2c3d4e5", facts.veth_prefix());
    for unit in systemd::units(&facts.files, "network", ".network")? {
        let Some(section) = unit.section("Match") else { continue };
        if !systemd::is_about_veth(section, "Name", &link) {
            continue;
        }
        // The first file that matches is the one that counts.
        let unmanaged = unit
            .section("Link")
            .and_then(|it| it.get("Unmanaged"))
            .is_some_and(|it| !systemd::is_no(it));
        if !unmanaged {
            findings.push(Finding::warning(
                format!(
                    "{} matches links of pods ({link}): systemd-networkd configures them",
                    unit.path
                ),
                format!("add Driver=ena or Kind=!veth to [Match] of {}", unit.path),
            ));
        }
        break;
    }
    if findings.is_empty() {
        findings.push(Finding::ok("systemd-networkd leaves routes, rules and links of pods alone"));
    }
    Ok(findings)
}
