//! Each request that the SDK makes to EC2, for logs: which operation, how long, and the id by which AWS's support finds it.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use tokio::time::Instant;

/// A request that was made to EC2, and whether it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ec2Request {
    /// The operation, as EC2 names it.
    pub operation: String,
    /// From the first byte sent to the end of the answer, or until none was waited for any more.
    pub took: Duration,
    /// The HTTP status of the answer, if there was one.
    pub status: Option<u16>,
    /// The id that EC2 gave the request, if it did.
    pub request_id: Option<String>,
}

/// What gets each request to EC2 once it is over. It is called where requests are made, and must not wait.
#[derive(Clone)]
pub struct RequestObserver(Arc<dyn Fn(Ec2Request) + Send + Sync>);

impl RequestObserver {
    /// Returns an observer that calls `tell` with each request.
    pub fn new(tell: impl Fn(Ec2Request) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for RequestObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestObserver")
    }
}

/// Observers are equal if they are the same one.
impl PartialEq for RequestObserver {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for RequestObserver {}

/// When a request was sent.
#[derive(Debug)]
struct Sent(Instant);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

impl Intercept for RequestObserver {
    fn name(&self) -> &'static str {
        "RequestObserver"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(Sent(Instant::now()));
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // One that was not sent is no request: the endpoint is none, or there are no credentials.
        let Some(Sent(at)) = config.load::<Sent>() else { return Ok(()) };
        let operation = config.load::<Metadata>().map_or("", Metadata::name).to_string();
        let response = context.response();
        let request_id = response.and_then(|it| it.headers().get("x-amzn-requestid"));
        (self.0)(Ec2Request {
            operation,
            took: at.elapsed(),
            status: response.map(|it| it.status().as_u16()),
            request_id: request_id.map(str::to_string),
        });
        Ok(())
    }
}
