//! What we test address management with, for those who test theirs: a scenario driver, strategies, a conformance suite.
//!
//! * [`conformance`]: whether your executor does what core asks of one. Implement [`Executor`] for it, and read the report.
//! * [`Scenario`]: any bytes, decoded into a node, its cloud and what happens to them: pods come and go, EC2 answers
//!   partly, late, wrongly or not at all, the process dies, the clock is set back, other programs meddle. [`Scenario::run`] checks
//!   every [`Rule`] after every step, then lets everything heal and checks that the node converges at its target.
//!   Hand it a fuzzer's bytes, or those of a corpus.
//!
//! * [`exhaust`]: every sequence of some steps up to a length, on a node as small as you like.
//! * [`lease`] and [`leased`]: leases of which a test says only what matters to it.
//! * [`strategy`]: proptest strategies for limits, configurations, numbers of pods, and whole scenarios, with a bias for
//!   where numbers go wrong.
//!
//! What each rule says, and which test holds each of our properties, is in `docs/properties.md`.

mod conformance;
mod driver;
mod exhaust;
mod lease;
mod model;
mod rule;
mod scenario;
mod setup;
mod step;
pub mod strategy;

pub use conformance::{Check, Executor, Verdict, conformance};
pub use exhaust::{Exhausted, exhaust};
pub use lease::{lease, leased};
pub use rule::{Broken, Rule};
pub use scenario::Scenario;
pub use setup::{Resident, Setup, Terrain};
pub use step::{Meddling, Place, Step, Store};
