//! Whether the clock was set while the daemon ran, or runs behind what it wrote.

use core::time::Duration;
use std::fs;
use std::time::UNIX_EPOCH;

use vpc_ipam_core::Timestamp;

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "clock",
    about: "the wall clock against the daemon's, which does not jump, and against the times of its files",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

/// More than an answer takes, and than a clock that is kept is off.
const STEP: Duration = Duration::from_secs(5);
/// From where on EC2 refuses signatures.
const REFUSED: Duration = Duration::from_secs(300);
const REMEDY: &str = "chronyc tracking (or timedatectl) says how far the clock is off; keep it by 169.254.169.123; a restart of vpc-ipamd \
                      takes the new time in";

fn run(facts: &Facts) -> Vec<Finding> {
    let now = Timestamp::EPOCH + facts.now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut findings = Vec::new();
    match facts.probe() {
        Ok(probe) => {
            // One of the two is zero.
            let (ahead, behind) = (now.since(probe.now), probe.now.since(now));
            let off = ahead.max(behind);
            let way = if ahead > behind { "forward" } else { "back" };
            let evidence =
                format!("the clock was set {way} by {} s since vpc-ipamd started", off.as_secs());
            findings.push(match off {
                off if off >= REFUSED => Finding::failure(
                    format!("{evidence}: EC2 refuses signatures of a wrong time"),
                    REMEDY,
                ),
                off if off >= STEP => Finding::warning(evidence, REMEDY),
                _ => Finding::ok("the wall clock goes as the daemon's"),
            });
        }
        Err(error) => findings.push(Finding::not_checked(&error.why)),
    }
    let state = facts.files.at(&facts.socket().with_file_name("state.redb").to_string_lossy());
    if let Ok(written) = fs::metadata(state).and_then(|found| found.modified())
        && let Ok(later) = written.duration_since(facts.now)
        && later >= STEP
    {
        findings.push(Finding::warning(
            format!(
                "the state file was written {} s later than now: the clock was set back",
                later.as_secs()
            ),
            REMEDY,
        ));
    }
    findings
}
