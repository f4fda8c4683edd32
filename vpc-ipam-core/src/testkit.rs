//! What we test address management with, for those who test theirs: a scenario driver, strategies, a conformance suite.
//!
//! * [`Scenario`]: any bytes, decoded into a node, its cloud and what happens to them: pods come and go, EC2 answers
//!   partly, late, wrongly or not at all, the process dies, the clock is set back, others meddle. [`Scenario::run`] checks
//!   every [`Rule`] after every step, then lets everything heal and checks that the node comes to rest at its target.
mod driver;
mod model;
mod rule;
mod scenario;
mod setup;
mod step;

pub use rule::{Broken, Rule};
pub use scenario::Scenario;
pub use setup::{Resident, Setup, Terrain};
pub use step::{Meddling, Step, Store};
