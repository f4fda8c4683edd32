//! Whether the daemon has credentials, and the right to each operation that it calls.

use vpc_ipam_protocol::{Permission, Permitted};

use super::check::{Check, Finding, Verdict};
use super::facts::Facts;

pub(super) const CHECK: Check = Check {
    name: "permissions",
    about: "credentials, and the right to each operation of EC2 that is called with these settings: by a read or a dry run",
    verdicts: &[Verdict::Ok, Verdict::Failure, Verdict::NotChecked],
    run,
};

fn run(facts: &Facts) -> Vec<Finding> {
    let probe = match facts.probe() {
        Ok(probe) => probe,
        Err(error) => return vec![Finding::not_checked(&error.why)],
    };
    if probe.permissions.is_empty() {
        return vec![Finding::not_checked("ENABLE_IMDS_ONLY_MODE is set: EC2 is not called")];
    }
    let (mut allowed, mut findings): (Vec<&str>, Vec<Finding>) = (Vec::new(), Vec::new());
    for Permission { operation, permitted } in &probe.permissions {
        match permitted {
            Permitted::Yes => allowed.push(operation.name()),
            Permitted::No(why) => findings.push(Finding::failure(
                format!("ec2:{operation} is refused: {}", without_name(why, operation.name())),
                remedy(why, operation.name()),
            )),
            Permitted::Unknown(why) => {
                let why = without_name(why, operation.name());
                findings.push(Finding::not_checked(format!("ec2:{operation}: {why}")));
            }
        }
    }
    if !allowed.is_empty() {
        findings.insert(0, Finding::ok(format!("EC2 allows {}", allowed.join(", "))));
    }
    findings
}

fn without_name<'a>(why: &'a str, operation: &str) -> &'a str {
    why.strip_prefix(operation).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(why)
}

fn remedy(why: &str, operation: &str) -> String {
    if ["RequestExpired", "SignatureDoesNotMatch", "not yet current"]
        .iter()
        .any(|it| why.contains(it))
    {
        return "set the clock: EC2 refuses signatures that are five minutes off (chronyc makestep)".to_owned();
    }
    if why.contains("credentials") || why.contains("AuthFailure") {
        return "attach a role to the instance, or set AWS_PROFILE or AWS_WEB_IDENTITY_TOKEN_FILE"
            .to_owned();
    }
    format!("add ec2:{operation} to the policy of the node's role: deploy/iam has the policies")
}
