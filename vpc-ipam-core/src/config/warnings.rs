//! What an operator should know about the settings of a node.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use crate::{Config, Ipv4Kind, Limits};

/// What an operator should know about one variable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigWarning {
    /// The name of the variable.
    pub variable: &'static str,
    /// Its value, if it is set.
    pub value: Option<String>,
    /// What is wrong with it.
    pub problem: ConfigProblem,
}

/// What is wrong with the value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigProblem {
    /// The value is neither true nor false.
    NotTrueOrFalse {
        /// The value that is used instead.
        used: bool,
    },
    /// The value is no whole number.
    NotWhole {
        /// What is used instead, in words.
        used: String,
    },
    /// The value is a whole number, but too small or too large.
    OutOfRange {
        /// The values that are allowed; up to `i64::MAX` where there is no upper bound.
        range: RangeInclusive<i64>,
        /// What is used instead, in words.
        used: String,
    },
    /// The value is none of the words that are known, or does not have the form it should.
    Unusable {
        /// What would be understood, in words.
        expected: &'static str,
        /// What is used instead, in words.
        used: String,
    },
    /// The value has no effect, because another variable is set.
    Overridden {
        /// The variable that counts.
        by: &'static str,
    },
    /// The value is used as it is, and probably not what is meant.
    Advice(&'static str),
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?}: ", self.variable)?,
            None => write!(f, "{} unset: ", self.variable)?,
        }
        f.write_str(&match &self.problem {
            ConfigProblem::NotTrueOrFalse { used } => {
                format!("neither true nor false; using {used}")
            }
            ConfigProblem::NotWhole { used } => format!("not a whole number; using {used}"),
            ConfigProblem::OutOfRange { range, used } if *range.end() == i64::MAX => {
                format!("less than {}; using {used}", range.start())
            }
            ConfigProblem::OutOfRange { range, used } => {
                format!("outside {} to {}; using {used}", range.start(), range.end())
            }
            ConfigProblem::Unusable { expected, used } => {
                format!("expected {expected}; using {used}")
            }
            ConfigProblem::Overridden { by } => format!("has no effect while {by} is set"),
            ConfigProblem::Advice(advice) => (*advice).to_owned(),
        })
    }
}

impl Config {
    /// Returns what an instance type cannot follow and what is done instead; an unusable configuration is
    /// [`Ipam::new`](crate::Ipam::new)'s to refuse.
    ///
    /// ```
    /// use vpc_ipam_core::{Config, Limits};
    ///
    /// let (config, _) = Config::from_vars([("ENABLE_PREFIX_DELEGATION", "true")]);
    /// let warnings = config.warnings_on(&Limits::lookup("m4.4xlarge".parse()?)?);
    /// assert_eq!(
    ///     warnings[0].to_string(),
    ///     "ENABLE_PREFIX_DELEGATION=\"true\": the instance type takes no prefixes; single addresses are used"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn warnings_on(&self, limits: &Limits) -> Vec<ConfigWarning> {
        let mut warnings = Vec::new();
        let mut advise = |variable, value: String, advice| {
            warnings.push(ConfigWarning {
                variable,
                value: Some(value),
                problem: ConfigProblem::Advice(advice),
            });
        };
        if self.families.ipv4() == Some(Ipv4Kind::Prefixes) && !limits.prefixes() {
            let advice = "the instance type takes no prefixes; single addresses are used";
            advise("ENABLE_PREFIX_DELEGATION", "true".into(), advice);
        }
        if let Some(most) = self.enis_max.filter(|most| *most > limits.enis(limits.default_card)) {
            let advice = "the instance type takes fewer ENIs; its own limit counts";
            advise("MAX_ENI", most.to_string(), advice);
        }
        if self.target.bounded(limits) != self.target {
            let (variable, value) = self.target.largest();
            let advice = "more than the ENIs of the instance type can hold: the node takes all that it can get";
            advise(variable, value.to_string(), advice);
        }
        if self.trunk && limits.branch_enis == Some(0) {
            let advice = "the instance type takes no trunk; no ENI is kept for one";
            advise("ENABLE_POD_ENI", "true".into(), advice);
        }
        if self.multi_nic && limits.enis_per_card.len() < 2 {
            let advice = "the instance type has one network card";
            advise("ENABLE_MULTI_NIC", "true".into(), advice);
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors V017 to V023 and V185.
    #[test]
    fn what_a_type_cannot_follow_is_noted() {
        let cases: [(&str, &[(&str, &str)], &[&str]); 7] = [
            ("m5.large", &[("ENABLE_PREFIX_DELEGATION", "true")], &[]),
            ("m5.metal", &[("ENABLE_PREFIX_DELEGATION", "true")], &[]),
            ("m4.4xlarge", &[("ENABLE_PREFIX_DELEGATION", "true")], &["ENABLE_PREFIX_DELEGATION"]),
            ("m4.4xlarge", &[("MAX_ENI", "8")], &[]),
            ("m4.4xlarge", &[("MAX_ENI", "20")], &["MAX_ENI"]),
            ("t3.large", &[("ENABLE_POD_ENI", "true")], &["ENABLE_POD_ENI"]),
            ("m5.large", &[("ENABLE_MULTI_NIC", "true")], &["ENABLE_MULTI_NIC"]),
        ];
        for (name, vars, expected) in cases {
            let limits = Limits::lookup(name.parse().unwrap()).unwrap();
            let warnings = Config::from_vars(vars.iter().copied()).0.warnings_on(&limits);
            let actual: Vec<_> = warnings.iter().map(|warning| warning.variable).collect();
            assert_eq!(actual, expected, "{name} {vars:?}");
        }
    }
}
