//! What was checked, and with what result.

use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// What was checked, and with what result.
#[derive(Default)]
pub(super) struct Report {
    /// Passed and tried, by what was checked.
    connections: BTreeMap<String, (u32, u32)>,
    /// What was found and what was expected, by what was counted.
    counts: Vec<(String, usize, usize)>,
    /// How many packets the source/destination check dropped, once that was asked.
    pub(super) drops: Option<u64>,
}

impl Report {
    pub(super) fn connection(&mut self, what: String, passed: bool) {
        let (good, all) = self.connections.entry(what).or_default();
        *good += u32::from(passed);
        *all += 1;
    }

    pub(super) fn count(&mut self, what: impl Into<String>, found: usize, expected: usize) {
        self.counts.push((what.into(), found, expected));
    }

    /// Returns how many connections passed, and how many were tried.
    pub(super) fn checks(&self) -> (u32, u32) {
        let sum = |(a, b): (u32, u32), (c, d): &(u32, u32)| (a + c, b + d);
        self.connections.values().fold((0, 0), sum)
    }

    pub(super) fn passed(&self) -> bool {
        let (passed, done) = self.checks();
        passed == done
            && done > 0
            && self.counts.iter().all(|(_, found, expected)| found == expected)
            && self.drops == Some(0)
    }

    pub(super) fn print(&self, took: Duration) {
        // A reader that closed early has seen what it wanted; the exit code tells the rest.
        let _ = self.write(&mut io::stdout().lock(), took);
    }

    fn write(&self, out: &mut dyn Write, took: Duration) -> io::Result<()> {
        const DROPS: &str = "source/dest. check drops";
        let names = self.connections.keys().chain(self.counts.iter().map(|(what, ..)| what));
        let width = names.map(String::len).max().unwrap_or(0).max(DROPS.len()) + 4;
        writeln!(out, "\n{:<width$} {:>9} {:>9}", "check", "result", "expected")?;
        let mut row = |what: &str, found: String, expected: String| {
            let verdict = if found == expected { "ok" } else { "FAILED" };
            writeln!(out, "{what:<width$} {found:>9} {expected:>9}  {verdict}")
        };
        for (what, (passed, tried)) in &self.connections {
            row(what, passed.to_string(), tried.to_string())?;
        }
        for (what, found, expected) in &self.counts {
            row(what, found.to_string(), expected.to_string())?;
        }
        let drops = self.drops.map_or("unknown".to_string(), |drops| drops.to_string());
        row(DROPS, drops, "0".to_string())?;
        let verdict = if self.passed() { "all passed" } else { "FAILED" };
        writeln!(out, "\n{verdict} in {:.1} s", took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_needs_all_that_was_expected() {
        let good = || {
            let mut report = Report { drops: Some(0), ..Report::default() };
            report.connection("pod to node".to_string(), true);
            report.count("pods with an address", 19, 19);
            report
        };
        assert!(good().passed());
        let spoil: [(&str, fn(&mut Report)); 5] = [
            ("a connection", |report| report.connection("pod to node".to_string(), false)),
            ("a count", |report| report.count("ENIs with pods", 2, 3)),
            ("dropped packets", |report| report.drops = Some(1)),
            ("packets that were not counted", |report| report.drops = None),
            ("nothing tried", |report| report.connections.clear()),
        ];
        for (what, spoil) in spoil {
            let mut report = good();
            spoil(&mut report);
            assert!(!report.passed(), "{what}");
        }
    }
}
