//! Figures in columns.

use core::time::Duration;

use crate::Samples;

/// A table of figures, printed row by row.
#[derive(Debug)]
pub struct Table;

impl Table {
    /// Prints the heading of a table of times.
    pub fn of_times(title: &str) -> Self {
        println!("\n{title}");
        println!("  {:<52} {:>6} {:>10} {:>10} {:>7}", "", "rounds", "median", "p99", "x ref");
        Self
    }

    /// Prints the heading of a table of counts or sizes.
    pub fn of_figures(title: &str) -> Self {
        println!("\n{title}");
        Self
    }

    /// Prints times, and how their median relates to that of a reference.
    pub fn times(&self, what: &str, samples: &Samples, reference: Option<&Samples>) {
        let ratio = reference.map_or_else(String::new, |reference| {
            let ratio = samples.median().as_secs_f64() / reference.median().as_secs_f64();
            format!("{ratio:.2}")
        });
        println!(
            "  {what:<52} {:>6} {:>10} {:>10} {ratio:>7}",
            samples.count(),
            in_words(samples.median()),
            in_words(samples.p99()),
        );
    }

    /// Prints a figure, and what it is to be compared with.
    pub fn figure(&self, what: &str, figure: &str, compare: &str) {
        println!("  {what:<52} {figure:>18}   {compare}");
    }
}

/// Writes a time in the unit that suits it.
fn in_words(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    match time.as_nanos() {
        0..1_000 => format!("{nanos:.0} ns"),
        1_000..1_000_000 => format!("{:.1} us", nanos / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", nanos / 1e6),
        _ => format!("{:.2} s", nanos / 1e9),
    }
}
