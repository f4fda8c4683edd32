//! Executes the actions of [`vpc_ipam_core`] on EC2, and plays EC2 where there is none.
//!
//! | to | use |
//! |---|---|
//! | carry out an [`Ec2Action`](vpc_ipam_core::Ec2Action) | [`execute`], on any [`Ec2Api`] |
//! | call EC2 and read the instance's metadata | `SdkEc2` (feature `sdk`, the default) |
//! | run without EC2, in the same process | `EmulatedEc2` on a `SharedCloud` (feature `emulator`) |
//! | let any EC2 client talk to that cloud | `HttpServer` (feature `emulator`) |
//!
//! The crate is thin: it translates, calls, translates back and classifies what went wrong. It neither retries nor
//! decides; both are core's business. Types of the AWS SDK and of the HTTP library stay inside.
//!
//! # In the loop of core
//!
//! For each [`Issued`](vpc_ipam_core::Issued) that [`Ipam::poll_action`](vpc_ipam_core::Ipam::poll_action) hands out, [`execute`] its
//! `Ec2Action`, as many at once as you like, and give the [`Outcome`](vpc_ipam_core::Outcome) to
//! [`Ipam::handle_outcome`](vpc_ipam_core::Ipam::handle_outcome) under the same id. At start, read the instance's metadata: they say which node this is.
//!
//! # What holds
//!
//! * One action is one call, with all pages of a list, and one outcome. [`execute`] always returns one, also where the call failed.
//! * An answer that did not come, or that a server failed to give, is
//!   [`FailureKind::Unanswered`](vpc_ipam_core::FailureKind::Unanswered): it may have taken effect, and core looks before it acts again.
//! * A list that is cut off or too long is a failure, never a shorter list.
//! * Calls, answers, pages and waits are bounded.
//!
//! The conformance suite of core (`vpc_ipam_core::testkit::conformance`) holds all executors here to that;
//! [docs/properties.md](https://github.com/vpc-ipam/vpc-ipam/blob/main/docs/properties.md) says what core makes of it.
//!
//! # Stopping
//!
//! Drop the futures of [`execute`]: a call that is under way goes on at EC2, and the next start asks what came of it. Nothing has to be closed.
//! To release what the node holds, see [docs/shutdown.md](https://github.com/vpc-ipam/vpc-ipam/blob/main/docs/shutdown.md).
//!
//! # Building
//!
//! The SDK takes minutes to compile; `--no-default-features --features emulator` builds without it.
//!
//! # An example without AWS
//!
//! ```
//! # #[cfg(feature = "emulator")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use vpc_ipam_aws::{EmulatedEc2, SharedCloud, execute};
//! use vpc_ipam_core::sim::{Cloud, CreateSubnet, RunInstance};
//! use vpc_ipam_core::{Ec2Action, Effect, Limits, Outcome, Scope, Timestamp};
//!
//! let now = Timestamp::from_secs(1_700_000_000);
//! let mut cloud = Cloud::new(1);
//! let vpc = cloud.create_vpc(vec!["10.0.0.0/16".parse()?], vec![]);
//! let subnet = cloud.create_subnet(CreateSubnet::new(vpc, "eu-west-1a".parse()?, "10.0.1.0/24".parse()?))?;
//! let instance = cloud.run_instance(RunInstance::new(Limits::lookup("m5.large".parse()?)?, subnet), now)?;
//! let node = cloud.metadata(instance, now)?.node;
//!
//! let ec2 = EmulatedEc2::new(SharedCloud::new(cloud, move || now), instance);
//! let action = Ec2Action::DescribeNetworkInterfaces(Scope::Attached);
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let outcome = execute(&ec2, &node, &action, now).await;
//! assert!(matches!(outcome, Outcome::Done(Effect::Observed(seen)) if seen.enis.len() == 1));
//! # });
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "emulator"))]
//! # fn main() {}
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod api;
#[cfg(feature = "emulator")]
mod emulator;
mod error;
mod execute;
#[cfg(feature = "sdk")]
mod sdk;

pub use api::Ec2Api;
#[cfg(feature = "emulator")]
pub use emulator::{EmulatedEc2, HttpServer, SharedCloud};
pub use error::Ec2Error;
pub use execute::execute;
#[cfg(feature = "sdk")]
pub use sdk::{
    ConnectError, Credentials, Ec2Request, RequestObserver, SdkEc2, SdkOptions, is_usable_proxy,
};
