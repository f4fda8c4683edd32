//! A metadata service that refuses, or does not tell all, in a namespace with loopback alone.

use core::time::Duration;

use crate::alone::{Alone, Ipamd};
use crate::support::wait_until;

const SAID: &str = "cannot read the instance's metadata";

fn ipamd(alone: &Alone) -> Ipamd {
    let ipamd = alone.ipamd(&[
        ("AWS_ACCESS_KEY_ID", "AKIDOFVARIABLES"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL_EC2", &alone.fronts.ec2),
    ]);
    ipamd.wait_until_ready();
    ipamd
}

/// Waits until the status has a problem that says all this. Before the first answer it says that they are being read.
fn wait_for_problem(ipamd: &Ipamd, expected: &[&str]) {
    wait_until("the problem", || {
        let problems = ipamd.status()?.problems;
        let says = |problem: &&String| expected.iter().all(|part| problem.contains(part));
        let found = problems.iter().any(|problem| says(&problem)).then_some(());
        found.ok_or_else(|| format!("{problems:?}\n{}", ipamd.said()))
    })
}

#[test]
fn metadata_that_are_refused_for_good_are_asked_for_seldom_and_told_once() {
    for (status, kind) in [(429, "429"), (503, "503"), (401, "401"), (403, "403")] {
        let alone = Alone::new();
        ipamd(&alone).terminate();
        alone.cloud.refuse_metadata(Some(status));

        let ipamd = ipamd(&alone);

        wait_for_problem(&ipamd, &["the instance's metadata cannot be read", kind]);
        let before = alone.cloud.metadata_requests();
        std::thread::sleep(Duration::from_secs(5));
        let asked = alone.cloud.metadata_requests() - before;
        // Each try is a token and a value, and with 401 once more; they are a second apart, then two, and so on.
        assert!(asked <= 24, "{status}: {asked} requests in five seconds");
        let lines = ipamd.said();
        assert_eq!(lines.matches(SAID).count(), 1, "{status}: {lines}");
        assert_eq!(lines.matches("action failed").count(), 0, "{status}: {lines}");
        alone.cloud.refuse_metadata(None);
        wait_until("the metadata", || match ipamd.status()?.problems {
            problems if problems.is_empty() => Ok(()),
            problems => Err(format!("{problems:?}\n{}", ipamd.said())),
        });
        ipamd.terminate();
    }
}
