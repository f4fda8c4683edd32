//! The instance metadata service, where an operator names it.

use vpc_ipam_aws::{Ec2Api as _, SdkEc2, SdkOptions};
use vpc_ipam_core::{Metadata, error_chain};

/// Asks it.
pub(super) fn read(endpoint: &str) -> Result<Metadata, String> {
    let options = SdkOptions { imds_endpoint: Some(endpoint.to_owned()), ..SdkOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start a runtime: {error}"))?;
    runtime.block_on(async {
        let client = SdkEc2::connect(options).await.map_err(|error| error_chain(&error))?;
        let now = super::super::now();
        client.metadata(now).await.map_err(|error| error_chain(&error))
    })
}
