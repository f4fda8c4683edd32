//! What became of calls that did not succeed.

use core::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use vpc_ipam_core::{FailureKind, error_chain};

use crate::Ec2Error;

/// The longest wait that an endpoint may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Classifies what became of a call that did not succeed.
pub(super) fn failed<E>(operation: &str, error: SdkError<E>) -> Ec2Error
where
    E: ProvideErrorMetadata + core::error::Error + Send + Sync + 'static,
{
    let retry_after = error.raw_response().and_then(retry_after);
    if let Some(error) = no_credentials(operation, &error) {
        return error;
    }
    let error = match &error {
        // EC2 answers with a code of its own. Without one, a proxy or a gateway on the way answered.
        SdkError::ServiceError(context) => match context.err().code() {
            Some(code) => {
                let message = context.err().message().unwrap_or("no message");
                Ec2Error::refused(operation, code, message)
            }
            None => Ec2Error::unanswered(operation, error_chain(&error)),
        },
        // Nothing was sent, and never will be: the request is wrong in itself.
        SdkError::ConstructionFailure(_) => Ec2Error {
            kind: FailureKind::Rejected,
            ..Ec2Error::unanswered(operation, error_chain(&error))
        },
        _ => Ec2Error::unanswered(operation, error_chain(&error)),
    };
    Ec2Error { retry_after, ..error }
}

/// Returns how long an answer asks to wait, five minutes at most.
pub(super) fn retry_after(answer: &HttpResponse) -> Option<Duration> {
    // Milliseconds in AWS's own header, seconds in HTTP's.
    let number = |name| answer.headers().get(name)?.parse().ok();
    let millis = number("x-amz-retry-after").map(Duration::from_millis);
    let asked = millis.or_else(|| number("retry-after").map(Duration::from_secs))?;
    Some(asked.min(RETRY_AFTER_MAX))
}

/// Returns the error of a call for which there are no credentials; nothing was sent.
fn no_credentials(operation: &str, error: &(dyn core::error::Error + 'static)) -> Option<Ec2Error> {
    const HELP: &str = "attach a role to the instance and let this program reach its metadata service (host network, \
                        hop limit 1), or set AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, AWS_PROFILE, or \
                        AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
    let mut causes = core::iter::successors(Some(error), |error| error.source());
    let error: &CredentialsError = causes.find_map(|error| error.downcast_ref())?;
    let why = error_chain(error);
    // The metadata service would issue them, and does not answer: that passes.
    let away = why.contains("could not communicate with IMDS");
    let (kind, message) = match error {
        CredentialsError::CredentialsNotLoaded(_) if !away => {
            (FailureKind::Denied, format!("there are no credentials: {HELP} ({why})"))
        }
        CredentialsError::InvalidConfiguration(_) => (
            FailureKind::Denied,
            format!("the credentials that are configured cannot be used: {why}"),
        ),
        _ => (FailureKind::Unanswered, format!("no credentials could be fetched: {why}")),
    };
    Some(Ec2Error { kind, ..Ec2Error::unanswered(operation, message) })
}
