//! Settings from variables, read as amazon-vpc-cni-k8s reads them: with Go's rules for numbers and truth values.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::string::ToString as _;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use crate::{ConfigProblem, ConfigWarning};

/// Variables by name, and what was wrong with them as they were read.
///
/// An unset variable and an empty one mean the same: the default. A value that cannot be used never stops the node; the
/// default is used instead and a [`ConfigWarning`] says so.
///
/// ```
/// use vpc_ipam_core::Vars;
///
/// let mut vars = Vars::new([("WARM_ENI_TARGET", "two"), ("MAX_ENI", "4")]);
/// assert_eq!(vars.integer("WARM_ENI_TARGET", 0..=i64::MAX, "1"), None);
/// assert_eq!(vars.integer("MAX_ENI", 1..=i64::MAX, "the instance's limit"), Some(4));
/// let warnings = vars.into_warnings();
/// assert_eq!(warnings[0].to_string(), "WARM_ENI_TARGET=\"two\": not a whole number; using 1");
/// ```
#[derive(Debug, Default)]
pub struct Vars {
    values: BTreeMap<String, String>,
    warnings: Vec<ConfigWarning>,
}

impl Vars {
    /// Takes variables in any order; of two with one name the later wins.
    pub fn new<N: Into<String>, V: Into<String>>(vars: impl IntoIterator<Item = (N, V)>) -> Self {
        let values = vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { values, warnings: Vec::new() }
    }

    /// Returns the value of a variable, if it is set and not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns a truth value, or `default` for anything but Go's `1 t T TRUE true True 0 f F FALSE false False`.
    pub fn boolean(&mut self, name: &'static str, default: bool) -> bool {
        match self.text(name) {
            None => default,
            Some("1" | "t" | "T" | "TRUE" | "true" | "True") => true,
            Some("0" | "f" | "F" | "FALSE" | "false" | "False") => false,
            Some(_) => {
                self.warn(name, ConfigProblem::NotTrueOrFalse { used: default });
                default
            }
        }
    }

    /// Returns a whole number within `range`: decimal, an optional sign, no blanks.
    ///
    /// For anything else it adds a warning that `used` is used instead, which the caller then does.
    pub fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i64>,
        used: &str,
    ) -> Option<i64> {
        match self.text(name)?.parse::<i64>() {
            Ok(value) if range.contains(&value) => Some(value),
            Ok(_) => {
                self.warn(name, ConfigProblem::OutOfRange { range, used: used.to_owned() });
                None
            }
            Err(_) => {
                self.warn(name, ConfigProblem::NotWhole { used: used.to_owned() });
                None
            }
        }
    }

    /// Returns a whole number, moved to the nearer bound of `range` if it lies outside, and `default` if it is none.
    pub fn clamped(&mut self, name: &'static str, range: RangeInclusive<i64>, default: i64) -> i64 {
        let (low, high) = (*range.start(), *range.end());
        match self.text(name).map(str::parse::<i64>) {
            None => default,
            Some(Ok(value)) if range.contains(&value) => value,
            Some(Ok(value)) => {
                let used = value.clamp(low, high);
                self.warn(name, ConfigProblem::OutOfRange { range, used: used.to_string() });
                used
            }
            Some(Err(_)) => {
                self.warn(name, ConfigProblem::NotWhole { used: default.to_string() });
                default
            }
        }
    }

    /// Returns the items of a comma-separated list, trimmed, empty ones left out.
    pub fn list(&self, name: &str) -> Vec<String> {
        let items = self.text(name).unwrap_or_default().split(',').map(str::trim);
        items.filter(|item| !item.is_empty()).map(ToOwned::to_owned).collect()
    }

    /// Adds a warning about a variable as it is set.
    pub fn warn(&mut self, variable: &'static str, problem: ConfigProblem) {
        let value = self.values.get(variable).cloned();
        self.warnings.push(ConfigWarning { variable, value, problem });
    }

    /// Returns the warnings, in the order in which they were added.
    pub fn into_warnings(self) -> Vec<ConfigWarning> {
        self.warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_values_are_those_of_go() {
        let cases = [
            ("1", true),
            ("True", true),
            ("F", false),
            ("false", false),
            // Neither: the default counts, here true.
            ("TrUe", true),
            ("yes", true),
            (" true", true),
            ("", true),
        ];
        for (value, expected) in cases {
            let mut vars = Vars::new([("X", value)]);
            assert_eq!(vars.boolean("X", true), expected, "{value:?}");
        }
    }

    #[test]
    fn whole_numbers_are_strict() {
        for (value, expected) in
            [("5", Some(5)), ("+5", Some(5)), (" 5", None), ("5.0", None), ("0x5", None)]
        {
            let mut vars = Vars::new([("X", value)]);
            assert_eq!(vars.integer("X", 0..=9, "1"), expected, "{value:?}");
        }
    }

    #[test]
    fn every_unusable_value_is_noted_once() {
        let mut vars = Vars::new([("A", "x"), ("B", "x"), ("C", "99"), ("D", "")]);
        vars.boolean("A", false);
        vars.integer("B", 0..=9, "nothing");
        assert_eq!(vars.clamped("C", 0..=9, 1), 9);
        vars.boolean("D", false);
        let warnings: Vec<_> = vars.into_warnings().iter().map(ConfigWarning::to_string).collect();
        assert_eq!(
            warnings,
            [
                r#"A="x": neither true nor false; using false"#,
                r#"B="x": not a whole number; using nothing"#,
                r#"C="99": outside 0 to 9; using 9"#,
            ]
        );
    }
}
