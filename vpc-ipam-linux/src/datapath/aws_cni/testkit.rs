//! Listings that may hold something of amazon-vpc-cni-k8s.

use super::listing::{self, TABLES, incompatible, recognise, signs_in_nft};
use super::{AwsCniListing, AwsCniSettings};

/// Checks that what is removed is in the listing, that no rule of another program is, and that a line stays one.
pub(crate) fn check_listing(listing: &str) -> Result<(), String> {
    let _ = (incompatible(listing), signs_in_nft(listing));
    let whole = AwsCniListing {
        iptables: vec![("iptables-nft".to_owned(), listing.to_owned())],
        nft: Some(listing.to_owned()),
        unlisted: Vec::new(),
    };
    let settings = AwsCniSettings::read(&whole, &[]);
    if settings.mark.values.iter().any(|(_, evidence)| !is_in(listing, evidence)) {
        return Err(format!("a mark that is not there: {settings:?}"));
    }
    let is_chain = |rule: &str| listing::is_chain(rule.split(' ').next().unwrap_or_default());
    for table in recognise(listing) {
        let fail = |what: &str| Err(format!("{what}: {table:?}"));
        let is_listed = |rule: &String| listing.lines().any(|line| line == format!("-A {rule}"));
        if !TABLES.contains(&table.name.as_str()) {
            return fail("another table");
        }
        if !table.rules.iter().chain(&table.users).all(is_listed) {
            return fail("a rule that is not there");
        }
        if table.rules.iter().any(|rule| is_chain(rule) || table.users.contains(rule)) {
            return fail("a rule that is in a chain which goes, or another program's");
        }
        if !table.chains.iter().all(|chain| listing::is_chain(chain)) {
            return fail("another program's chain");
        }
        let lines = 2 + table.rules.len() + 2 * table.chains.len();
        if table.removal().split_terminator('\n').count() != lines {
            return fail("a rule of several lines");
        }
    }
    Ok(())
}

/// Returns whether a line of a listing is what shows a value.
fn is_in(listing: &str, evidence: &str) -> bool {
    listing.lines().any(|line| evidence.ends_with(line.trim()))
}
