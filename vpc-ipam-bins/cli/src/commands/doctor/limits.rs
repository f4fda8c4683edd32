//! Whether the limits of the instance type are known, and who says so.

use vpc_ipam_core::LimitsSource;
use vpc_ipam_protocol::LimitsTold;

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "limits",
    about: "the limits of the instance type, who says so, and whether EC2 holds them lower",
    verdicts: &[Verdict::Ok, Verdict::Warning, Verdict::NotChecked],
    run,
};

fn run(facts: &Facts) -> Vec<Finding> {
    let (probe, inventory) = match (facts.probe(), facts.inventory()) {
        (Ok(probe), Ok(inventory)) => (probe, inventory),
        (Err(error), _) | (_, Err(error)) => return vec![Finding::not_checked(&error.why)],
    };
    let LimitsTold { instance_type, source, enis, ipv4_per_eni } = &probe.limits;
    let says = match source {
        LimitsSource::Override => "the file of --limits",
        LimitsSource::Table => "the built-in table, made of EC2's answer",
        LimitsSource::Ec2 => "EC2",
        LimitsSource::OtherTables => "public tables of other tools",
        _ => "a source that this version does not know",
    };
    let evidence =
        format!("{instance_type}: {enis} ENIs with {ipv4_per_eni} IPv4 addresses, by {says}");
    let mut findings = vec![match source {
        LimitsSource::OtherTables => Finding::warning(
            evidence,
            "allow ec2:DescribeInstanceTypes, by which EC2 says them, or name them by --limits",
        ),
        _ => Finding::ok(evidence),
    }];
    findings.extend(inventory.explanation.learned.iter().map(|learned| {
        let remedy = "compare with aws ec2 describe-instance-types and the quota of ENIs of the account; name the lower limits by --limits";
        Finding::warning(format!("EC2 refused what they allow: {learned}"), remedy)
    }));
    findings
}
