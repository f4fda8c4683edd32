use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;

use super::driver::Driver;
use super::rule::{Breach, Broken};
use super::setup::Setup;
use super::step::Step;

/// What [`exhaust`] went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// How many states were reached that differ.
    pub states: usize,
    /// How many steps were taken, each checked.
    pub steps: usize,
}

/// Takes every sequence of these steps up to a length, after others that come first, and checks every rule after each step.
///
/// Sequences that lead to the same state are followed once. From every state reached in up to `settled` steps the node is
/// let converge, which is checked as well.
///
/// Work grows with the number of steps to the power of `depth`.
pub fn exhaust(
    setup: &Setup,
    first: &[Step],
    steps: &[Step],
    depth: usize,
    settled: usize,
) -> Result<Exhausted, Broken> {
    let mut driver = Driver::new(setup);
    let broken = |path: &[Step]| {
        let (step, path) = (path.len(), format!("{path:?}"));
        move |Breach(rule, what)| Broken { step, rule, what: format!("{what}\nafter {path}") }
    };
    for step in first {
        driver.step(*step).map_err(broken(first))?;
    }
    let mut seen = BTreeSet::from([driver.fingerprint()]);
    let mut frontier = Vec::from([(driver, Vec::new())]);
    let mut taken = 0;
    for length in 1..=depth {
        let mut next = Vec::new();
        for (driver, path) in &frontier {
            for step in steps {
                let mut driver: Driver = driver.clone();
                let mut path: Vec<Step> = path.clone();
                path.push(*step);
                driver.step(*step).map_err(broken(&path))?;
                taken += 1;
                if !seen.insert(driver.fingerprint()) {
                    continue;
                }
                if length <= settled {
                    driver.clone().converge().map_err(broken(&path))?;
                }
                if length < depth {
                    next.push((driver, path));
                }
            }
        }
        frontier = next;
    }
    Ok(Exhausted { states: seen.len(), steps: taken })
}
