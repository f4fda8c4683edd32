use core::fmt;
use core::time::Duration;

/// A point in time: nanoseconds since the Unix epoch.
///
/// The caller reads it once from the wall clock at start and advances it by the monotonic clock, so that it never runs
/// backwards within a process and still means the same after a restart. 64 bits reach to the year 2554.
///
/// ```
/// use core::time::Duration;
/// use vpc_ipam_core::Timestamp;
///
/// let start = Timestamp::from_secs(1_700_000_000);
/// assert_eq!((start + Duration::from_secs(30)).since(start), Duration::from_secs(30));
/// assert_eq!(start.to_string(), "2023-11-14T22:13:20Z");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(transparent))]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch, 1970-01-01T00:00:00Z: earlier than anything that happens.
    pub const EPOCH: Self = Self(0);

    /// Makes a point in time from nanoseconds since the Unix epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Makes a point in time from whole seconds since the Unix epoch; later than the year 2554 becomes that year.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// Returns the nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time that passed since `earlier`, or zero if `earlier` is later: a clock set back never makes a wait
    /// look over.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl core::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

/// Formats as RFC 3339 in UTC, with as many digits of a second as there are.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, nanos) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        let (year, month, day) = civil_date(secs / 86_400);
        let (hour, minute, second) = (secs / 3_600 % 24, secs / 60 % 60, secs % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match nanos {
            0 => {}
            n if n % 1_000_000 == 0 => write!(f, ".{:03}", n / 1_000_000)?,
            n if n % 1_000 == 0 => write!(f, ".{:06}", n / 1_000)?,
            n => write!(f, ".{n:09}")?,
        }
        f.write_str("Z")
    }
}

/// Returns year, month and day of a day counted from 1970-01-01 in the proleptic Gregorian calendar.
///
/// Years are counted from 1 March, so that the leap day is the last of its year, in eras of 400 years (146,097 days).
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_FROM_YEAR_0_TO_EPOCH: u64 = 719_468;
    let days = days + DAYS_FROM_YEAR_0_TO_EPOCH;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    #[test]
    fn display_is_rfc3339() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
            (1_795_392_000_500_000_000, "2026-11-23T00:00:00.500Z"),
            (4_107_542_399_000_001_000, "2100-02-28T23:59:59.000001Z"),
            (4_107_542_400_000_000_001, "2100-03-01T00:00:00.000000001Z"),
        ];
        for (nanos, expected) in cases {
            assert_eq!(Timestamp::from_nanos(nanos).to_string(), expected, "nanos {nanos}");
        }
    }

    #[test]
    fn clock_set_back_has_not_advanced() {
        assert_eq!(Timestamp::from_secs(5).since(Timestamp::from_secs(9)), Duration::ZERO);
    }
}
