use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::driver::Driver;
use super::rule::{Breach, Broken};
use super::setup::{SETUP_BYTES, Setup};
use super::step::{STEP_BYTES, Step};

/// A setup and what happens to it: any bytes are one, so that fuzzers can make them, and a corpus can keep them.
///
/// ```
/// use vpc_ipam_core::testkit::Scenario;
///
/// let scenario = Scenario::decode(b"whatever the fuzzer thought of");
/// scenario.run().map_err(|broken| format!("{broken}\n{}", scenario.transcript()))?;
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// The node, its cloud and its configuration at the start.
    pub setup: Setup,
    /// What happens, in this order, before everything heals.
    pub steps: Vec<Step>,
}

impl Scenario {
    /// The most steps of one scenario: bytes beyond are not read.
    pub const STEPS_MAX: usize = 400;

    /// Makes a scenario of any bytes: 16 for the setup, where 0 is the simplest choice of each, then 3 for each step.
    pub fn decode(bytes: &[u8]) -> Self {
        let (setup, steps) = bytes.split_at(bytes.len().min(SETUP_BYTES));
        let step = |bytes: &[u8]| Step::decode([bytes[0], bytes[1], bytes[2]]);
        let steps = steps.chunks_exact(STEP_BYTES).take(Self::STEPS_MAX).map(step).collect();
        Self { setup: Setup::decode(setup), steps }
    }

    /// Runs it, checks the rules after every step, then lets the node converge, and checks that it does.
    pub fn run(&self) -> Result<(), Broken> {
        self.drive(&mut Driver::new(&self.setup))
    }

    /// Runs it and returns what happened, a line for each input, action, outcome and event, until a rule did not hold.
    pub fn transcript(&self) -> String {
        let mut driver = Driver::new(&self.setup);
        driver.keep_log();
        let result = self.drive(&mut driver);
        let mut log = format!("{:#?}\n{}", self.setup, driver.into_log());
        if let Err(broken) = result {
            log.push_str(&format!("{broken}\n"));
        }
        log
    }

    fn drive(&self, driver: &mut Driver) -> Result<(), Broken> {
        let broken = |step| move |Breach(rule, what)| Broken { step, rule, what };
        for (step, what) in (1..).zip(&self.steps) {
            driver.step(*what).map_err(broken(step))?;
        }
        driver.converge().map_err(broken(self.steps.len() + 1))
    }
}
