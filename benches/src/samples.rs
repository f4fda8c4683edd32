//! Times, and what is printed of them.

use core::time::Duration;
use std::time::Instant;

/// How long something took, several times over.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Measures a call, and returns what it returned.
    pub fn measure<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let value = call();
        self.push(begun.elapsed());
        value
    }

    /// Adds a time that was measured elsewhere.
    pub fn push(&mut self, took: Duration) {
        let at = self.0.partition_point(|other| *other <= took);
        self.0.insert(at, took);
    }

    /// Adds the times of others.
    pub fn append(&mut self, others: Self) {
        self.0.extend(others.0);
        self.0.sort_unstable();
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the time that so many of a thousand do not exceed; zero of none.
    pub fn per_mille(&self, rank: usize) -> Duration {
        let last = self.0.len().saturating_sub(1);
        let place = (self.0.len() * rank).div_ceil(1000).saturating_sub(1).min(last);
        self.0.get(place).copied().unwrap_or_default()
    }

    /// Returns the time that half of them do not exceed.
    pub fn median(&self) -> Duration {
        self.per_mille(500)
    }

    /// Returns the time that 99 of a hundred do not exceed: of fewer than a hundred, the longest.
    pub fn p99(&self) -> Duration {
        self.per_mille(990)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_nearest_sample() {
        let cases: [(&[u64], u64, u64); 4] =
            [(&[], 0, 0), (&[7], 7, 7), (&[3, 1, 2], 2, 3), (&[4, 1, 3, 2], 2, 4)];
        for (millis, median, p99) in cases {
            let mut samples = Samples::default();
            millis.iter().for_each(|&it| samples.push(Duration::from_millis(it)));
            let actual = (samples.median(), samples.p99());
            let expected = (Duration::from_millis(median), Duration::from_millis(p99));
            assert_eq!(actual, expected, "{millis:?}");
        }
        let mut hundred = Samples::default();
        (1..=100).rev().for_each(|it| hundred.push(Duration::from_millis(it)));
        assert_eq!(hundred.p99(), Duration::from_millis(99));
    }
}
