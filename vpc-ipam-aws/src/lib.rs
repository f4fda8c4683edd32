//! Executes the actions of [`vpc_ipam_core`] on EC2, and plays EC2 where there is none.
//!
//! | to | use |
//! |---|---|
//! | carry out an [`Ec2Action`](vpc_ipam_core::Ec2Action) | [`execute`], on any [`Ec2Api`] |
//!
//! The crate is thin: it translates, calls, translates back and classifies what went wrong. It neither retries nor
//! decides; both are core's business. Types of the AWS SDK and of the HTTP library stay inside.
#![forbid(unsafe_code)]

mod api;
mod error;
mod execute;

pub use api::Ec2Api;
pub use error::Ec2Error;
pub use execute::execute;
