//! The request of the EC2 Query protocol: a form whose names are paths, `Filter.1.Value.2`.

use core::str::FromStr;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use vpc_ipam_core::sim::CloudError;

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Cow<'static, str>,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }

    fn invalid(name: &str, value: &str, why: impl fmt::Display) -> Self {
        Self::new(
            "InvalidParameterValue",
            format!("Value ({value}) for parameter {name} is invalid. {why}"),
        )
    }
}

impl From<CloudError> for Refusal {
    fn from(error: CloudError) -> Self {
        Self { code: error.code.into(), message: error.message }
    }
}

/// The parameters that were not read yet. An operation takes what it heeds; what is left at the end is refused, so that
/// no client takes for accepted.
#[derive(Clone, Debug)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn parse(form: &[u8]) -> Self {
        Self(form_urlencoded::parse(form).into_owned().collect())
    }

    /// Takes the text of a parameter.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Takes a parameter that may be missing.
    pub(super) fn optional<T: FromStr<Err: fmt::Display>>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, Refusal> {
        self.text(name).map(|text| read(name, &text)).transpose()
    }

    /// Takes a parameter that must be there.
    pub(super) fn required<T: FromStr<Err: fmt::Display>>(
        &mut self,
        name: &str,
    ) -> Result<T, Refusal> {
        self.optional(name)?.ok_or_else(|| {
            Refusal::new(
                "MissingParameter",
                format!("The request must contain the parameter {name}"),
            )
        })
    }

    /// Takes a list of plain values, `name.1`, `name.2`, … in the order of their numbers.
    pub(super) fn list<T: FromStr<Err: fmt::Display>>(
        &mut self,
        name: &str,
    ) -> Result<Vec<T>, Refusal> {
        let mut values = Vec::new();
        for number in self.numbers(name) {
            values.extend(self.optional(&format!("{name}.{number}"))?);
        }
        Ok(values)
    }

    /// Takes a list of structures; each holds the parameters below `name.N.`.
    pub(super) fn structures(&mut self, name: &str) -> Vec<Self> {
        let numbers = self.numbers(name);
        let below = |number| {
            let prefix = format!("{name}.{number}.");
            let names: Vec<_> =
                (self.0.keys()).filter(|name| name.starts_with(&prefix)).cloned().collect();
            let fields = names.into_iter().filter_map(|name| {
                let value = self.0.remove(&name)?;
                Some((name[prefix.len()..].to_owned(), value))
            });
            Self(fields.collect())
        };
        numbers.into_iter().map(below).collect()
    }

    /// Checks that every parameter was taken.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(Refusal::new(
                "UnknownParameter",
                format!("The parameter {name} is not recognized"),
            )),
        }
    }

    /// Returns the numbers that follow `name.`, ascending.
    fn numbers(&self, name: &str) -> BTreeSet<u32> {
        self.0
            .keys()
            .filter_map(|key| key.strip_prefix(name)?.strip_prefix('.'))
            .filter_map(|rest| rest.split('.').next()?.parse().ok())
            .collect()
    }
}

fn read<T: FromStr<Err: fmt::Display>>(name: &str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error| Refusal::invalid(name, text, error))
}

/// Which part of a list to answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    size: usize,
    /// The last item of the page before: the list may change between two pages.
    after: Option<String>,
}

impl Page {
    /// Takes MaxResults and NextToken. EC2 does not page through what was named.
    pub(super) fn take(
        query: &mut Query,
        sizes: core::ops::RangeInclusive<usize>,
        named: Option<&str>,
    ) -> Result<Self, Refusal> {
        let size = query.optional::<usize>("MaxResults")?;
        if let (Some(_), Some(named)) = (size, named) {
            return Err(Refusal::new(
                "InvalidParameterCombination",
                format!("The parameter {named} cannot be used with the parameter maxResults"),
            ));
        }
        if let Some(size) = size.filter(|size| !sizes.contains(size)) {
            let (least, most) = (sizes.start(), sizes.end());
            let why = format!("Expecting a value between {least} and {most}.");
            return Err(Refusal::invalid("maxResults", &size.to_string(), why));
        }
        Ok(Self { size: size.unwrap_or(*sizes.end()), after: query.text("NextToken") })
    }

    /// Cuts the page out of a list that is sorted by `key`; returns the token of the next page, if there is one.
    pub(super) fn cut<T>(&self, items: &mut Vec<T>, key: impl Fn(&T) -> String) -> Option<String> {
        if let Some(after) = &self.after {
            items.retain(|item| key(item) > *after);
        }
        if items.len() <= self.size {
            return None;
        }
        items.truncate(self.size);
        items.last().map(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_in_the_order_of_their_numbers() {
        let mut query = Query::parse(b"Id.10=c&Id.2=b&Id.1=a&Identity=x");
        assert_eq!(query.list::<String>("Id").unwrap(), ["a", "b", "c"]);
        assert_eq!(query.clone().finish().unwrap_err().code, "UnknownParameter");
        assert_eq!(query.text("Identity").as_deref(), Some("x"));
        assert_eq!(query.finish(), Ok(()));
    }

    #[test]
    fn structures_nest() {
        let mut query = Query::parse(
            b"Filter.1.Name=tag%3Aa&Filter.1.Value.1=1&Filter.1.Value.2=2&Filter.2.Name=status",
        );
        let [mut first, mut second]: [Query; 2] = query.structures("Filter").try_into().unwrap();
        assert_eq!(first.required::<String>("Name").unwrap(), "tag:a");
        assert_eq!(first.list::<u8>("Value").unwrap(), [1, 2]);
        assert_eq!(second.required::<String>("Name").unwrap(), "status");
        assert_eq!(second.required::<u8>("Value").unwrap_err().code, "MissingParameter");
        assert_eq!(query.finish(), Ok(()));
    }

    #[test]
    fn pages_follow_the_last_item_rather_than_a_position() {
        let page = |form: &[u8]| Page::take(&mut Query::parse(form), 2..=3, None);
        let key = |item: &&str| item.to_string();

        let mut items = vec!["a", "b", "c", "d", "e"];
        let next = page(b"MaxResults=2").unwrap().cut(&mut items, key);
        assert_eq!((items, next.as_deref()), (vec!["a", "b"], Some("b")));

        // `b` went in between.
        let mut items = vec!["a", "c", "d", "e"];
        let next = page(b"NextToken=b").unwrap().cut(&mut items, key);
        assert_eq!((items, next), (vec!["c", "d", "e"], None));

        for size in ["1", "4", "x"] {
            let form = format!("MaxResults={size}");
            let code = page(form.as_bytes()).unwrap_err().code;
            assert_eq!(code, "InvalidParameterValue", "{size}");
        }
    }
}
