//! The whole node: what it should hold for itself, its ENIs and its pods, together, so that what no
//! ENI or pod needs any more is found too.

mod adopted;
mod conflict;
mod desired;
mod diff;
mod event;
mod extent;
mod guard;
mod hand_back;
mod network;
mod orphans;
mod repair;
mod seen;
#[cfg(feature = "watch")]
pub(crate) mod watch;

pub use adopted::link::{Adopted, AdoptedLink, is_of_aws_cni};
pub use desired::AbsentLink;
pub use diff::NodeDifferences;
pub use event::{KernelEvent, OfLinks};
pub use extent::Extent;
pub use guard::Guard;
pub use hand_back::{HandBack, sweep_rules};
pub use network::{NodeNetwork, Seen, SeenLink};
pub use repair::Repaired;
