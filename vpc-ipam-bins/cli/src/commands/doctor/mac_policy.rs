//! Whether systemd-udevd changes MAC addresses of links of pods.

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;
use crate::node_files::systemd;

pub(super) const CHECK: Check = Check {
    name: "mac-policy",
    about: "the .link file that is about links of pods: MACAddressPolicy and MACAddress",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

fn run(facts: &Facts) -> Vec<Finding> {
    let link = format!("{}0a1b2c3d4e5", facts.veth_prefix());
    let units = match systemd::units(&facts.files, "network", ".link") {
        Ok(units) => units,
        Err(why) => return vec![Finding::not_checked(why)],
    };
    let about = units.iter().find(|unit| {
        let section = unit.section("Match");
        section.is_some_and(|section| systemd::is_about_veth(section, "OriginalName", &link))
    });
    let Some(unit) = about else {
        return vec![Finding::ok("no .link file is about links of pods")];
    };
    let path = &unit.path;
    let remedy = format!(
        "write [Match] OriginalName={}* and [Link] MACAddressPolicy=none to /etc/systemd/network/00-vpc-ipam.link",
        facts.veth_prefix()
    );
    let setting = |key| unit.section("Link").and_then(|section| section.get(key));
    if let Some(address) = setting("MACAddress") {
        let evidence =
            format!("{path} gives links of pods ({link}) the address {address}: all the same");
        return vec![Finding::failure(evidence, remedy)];
    }
    vec![match setting("MACAddressPolicy") {
        Some(policy @ ("persistent" | "random")) => Finding::warning(
            format!(
                "{path} has MACAddressPolicy={policy} for links of pods: the addresses that vpc-cni sets stay, those of other plugins' links \
                 change while they are set up"
            ),
            remedy,
        ),
        Some(policy) => {
            Finding::ok(format!("{path} has MACAddressPolicy={policy} for links of pods"))
        }
        None => Finding::ok(format!("{path} is about links of pods and sets no MAC address")),
    }]
}
