//! Whether the daemon answers, and whether the next pod gets an address.

use super::check::{Check, Finding, Verdict};
use super::facts::{Facts, Unanswered};

pub(super) const CHECK: Check = Check {
    name: "daemon",
    about: "whether vpc-ipamd answers, is ready for the next pod, and what it reports as a problem",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

fn run(facts: &Facts) -> Vec<Finding> {
    let socket = facts.socket().display();
    let status = match facts.status() {
        Ok(status) => status,
        Err(Unanswered { denied: true, .. }) => {
            let why = format!("{socket} is for root and the daemon's user: run this as root");
            return vec![Finding::not_checked(why)];
        }
        Err(Unanswered { why, .. }) => {
            let remedy = "systemctl status vpc-ipamd; journalctl -u vpc-ipamd -n 20: its last line says why it does not serve";
            return vec![Finding::failure(why, remedy)];
        }
    };
    let mut findings = Vec::new();
    if status.ready {
        let version = &status.version;
        let ready =
            format!("vpc-ipamd {version} answers at {socket}: the next pod gets an address");
        findings.push(Finding::ok(ready));
    } else {
        let reason = facts.inventory().map_or_else(
            |_| format!("the node is not ready: {}", status.blocked.join("; ")),
            |inventory| inventory.reason.clone(),
        );
        let remedy = "vpc-ipam explain: what is blocked, by what, and until when";
        findings.push(Finding::failure(reason, remedy));
    }
    let problem = |problem: &String| {
        Finding::warning(problem, "docs/troubleshooting.md; journalctl -u vpc-ipamd -p warning")
    };
    findings.extend(status.problems.iter().map(problem));
    findings
}
