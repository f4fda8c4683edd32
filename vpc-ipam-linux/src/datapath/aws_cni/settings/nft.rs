//! The table `ip aws-cni`, as nft lists it.

use core::num::NonZeroU32;
use std::collections::BTreeSet;

use ipnet::Ipv4Net;

/// What the table holds. Each value stands with the line that has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NftTable {
    pub(super) marks: Vec<(NonZeroU32, String)>,
    /// How the names of the links begin that it is about.
    pub(super) prefixes: Vec<(String, String)>,
    /// Ranges whose connections are not marked.
    pub(super) ranges: BTreeSet<Ipv4Net>,
    /// Rules of another form.
    pub(super) odd: Vec<String>,
}

impl NftTable {
    pub(super) fn read(listing: &str) -> Self {
        let mut table = Self::default();
        for line in listing.lines().map(str::trim) {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Counters are everywhere and tell nothing.
            let words = without_counter(&words);
            match &words[..] {
                [] | ["}"] | ["table" | "chain" | "type" | "policy", ..] => {}
                ["fib", "daddr", "type", .., "return"] => {}
                ["iifname", prefix, "jump", _] => {
                    match prefix.trim_matches('"').strip_suffix('*') {
                        Some(prefix) => table.prefixes.push((prefix.to_owned(), line.to_owned())),
                        None => table.odd.push(line.to_owned()),
                    }
                }
                ["ip", "daddr", range, "return"] => match super::range(range) {
                    Some(range) => drop(table.ranges.insert(range)),
                    None => table.odd.push(line.to_owned()),
                },
                // Of a range of all addresses nothing is left to compare.
                ["return"] => drop(table.ranges.insert(Ipv4Net::default())),
                // `ct mark set ct mark | 0x80`, `meta mark set ct mark & 0x80`, with `or` and `and` in versions before 1.0.
                [_, "mark", "set", "ct", "mark", operation @ ..] => match mark(operation) {
                    Some(mark) => table.marks.push((mark, line.to_owned())),
                    None => table.odd.push(line.to_owned()),
                },
                _ => table.odd.push(line.to_owned()),
            }
        }
        table
    }
}

/// Returns the bits that an operation sets or keeps: `| 0x80`, `& 0x80`, or `& 0xffffff7f ^ 0x80`, as the kernel has the first.
fn mark(operation: &[&str]) -> Option<NonZeroU32> {
    let bits = match operation {
        ["|" | "or" | "&" | "and", bits] => number(bits)?,
        ["&" | "and", kept, "^" | "xor", bits] if number(kept)? == !number(bits)? => number(bits)?,
        _ => return None,
    };
    NonZeroU32::new(bits)
}

/// Reads `0x80` or `128`.
pub(super) fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn without_counter<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut rest = Vec::with_capacity(words.len());
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        if *word != "counter" {
            rest.push(*word);
            continue;
        }
        // `packets N bytes N`, unless the listing is without state.
        for name in ["packets", "bytes"] {
            if words.next_if(|it| **it == name).is_some() {
                words.next();
            }
        }
    }
    rest
}
