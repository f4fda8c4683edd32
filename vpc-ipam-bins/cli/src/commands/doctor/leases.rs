//! Leases of pods that are gone, or whose link is.

use vpc_ipam_linux::VethPrefix;
use vpc_ipam_linux::pod::links_of_lease;

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "leases",
    about: "leases whose pod has no link on the node, or no network namespace any more",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

fn run(facts: &Facts) -> Vec<Finding> {
    let (leases, probe) = match (facts.leases(), facts.probe()) {
        (Ok(leases), Ok(probe)) => (leases, probe),
        (Err(error), _) | (_, Err(error)) => return vec![Finding::not_checked(&error.why)],
    };
    let links = match links(facts) {
        Ok(links) => links,
        Err(why) => return vec![Finding::not_checked(why)],
    };
    let Ok(prefix) = facts.veth_prefix().parse::<VethPrefix>() else {
        let why = format!("the daemon's prefix of links is {:?}", facts.veth_prefix());
        return vec![Finding::not_checked(why)];
    };
    let mut findings = Vec::new();
    for lease in leases {
        let (key, pod) = (&lease.key, &lease.pod);
        let name = format!("{}/{} ({key})", pod.namespace, pod.name);
        let sandbox = probe.sandboxes.iter().find(|it| it.key == *key);
        let sandbox = sandbox.and_then(|it| it.path.as_deref());
        let gone = sandbox.filter(|path| !facts.files.exists(&path.to_string_lossy()));
        let expected = links_of_lease(lease, &prefix);
        let missing = expected.into_iter().find(|link| !links.contains(link));
        let release = format!(
            "make sure that the container is gone (crictl ps -a), then vpc-ipam release {key}; the daemon releases it by itself after a while"
        );
        match (missing, gone) {
            (None, None) => {}
            (Some(link), None) => findings.push(Finding::failure(
                format!("{name} has a lease and no link {link} in this network namespace"),
                "delete the pod, so that it is made again: its link cannot be made anew from outside",
            )),
            (link, Some(path)) => {
                let link = link.map(|link| format!(", nor a link {link}")).unwrap_or_default();
                findings.push(Finding::warning(
                    format!("{name} has a lease and no namespace {}{link}: DEL was lost", path.display()),
                    release,
                ));
            }
        }
    }
    if findings.is_empty() {
        let count = leases.len();
        findings.push(Finding::ok(format!("{count} leases, each with its links and namespace")));
    }
    findings
}

/// Returns the names of the links of this network namespace.
fn links(facts: &Facts) -> Result<Vec<String>, String> {
    let text = facts.files.read("/proc/net/dev")?.ok_or("there is no /proc/net/dev")?;
    let names = text.lines().filter_map(|line| line.split_once(':'));
    Ok(names.map(|(name, _)| name.trim().to_owned()).collect())
}
