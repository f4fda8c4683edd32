//! Whether the daemon reads the instance metadata service.

use vpc_ipam_protocol::{MetadataTold, Told};

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "metadata",
    about: "whether the daemon reads the instance metadata service whole, and the hop limit of its answers",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::NotChecked],
    run,
};

/// How long a reading of ten ENIs takes on a quiet node is a few hundred milliseconds.
const SLOW_MS: u64 = 5_000;

fn run(facts: &Facts) -> Vec<Finding> {
    let probe = match facts.probe() {
        Ok(probe) => probe,
        Err(error) => return vec![Finding::not_checked(&error.why)],
    };
    let told = match &probe.metadata {
        Told::Told(told) => told,
        Told::NotAsked(why) => return vec![Finding::not_checked(why)],
        Told::Failed(why) => {
            let remedy = "let vpc-ipamd run in the host's network (hostNetwork in a container), allow 169.254.169.254 from it, and keep \
                          the metadata service on: aws ec2 modify-instance-metadata-options --http-endpoint enabled";
            return vec![Finding::failure(format!("no answer: {why}"), remedy)];
        }
    };
    let MetadataTold { instance, instance_type, zone, incomplete, ms, .. } = told;
    let mut findings = Vec::new();
    if *ms < SLOW_MS {
        let evidence = format!("read in {ms} ms: {instance}, {instance_type}, {zone}");
        findings.push(Finding::ok(evidence));
    } else {
        let remedy = "another program may ask it too often: the service answers about 1,000 requests a second and ENI";
        findings.push(Finding::warning(format!("reading it took {ms} ms"), remedy));
    }
    findings.extend(incomplete.iter().map(|eni| {
        let remedy = "an ENI that EC2 is still attaching is whole within seconds; otherwise detach it and let another one be made";
        Finding::warning(format!("it shows an ENI only in part: {eni}"), remedy)
    }));
    let hop_limit = Finding::not_checked(
        "the hop limit of IMDSv2 cannot be seen from the instance: 1 is enough for the daemon, and a larger one lets pods get the role of \
         the node",
    );
    findings.push(hop_limit.with_remedy(format!(
        "aws ec2 describe-instances --instance-ids {instance} --query \
         'Reservations[].Instances[].MetadataOptions.HttpPutResponseHopLimit'"
    )));
    findings
}
