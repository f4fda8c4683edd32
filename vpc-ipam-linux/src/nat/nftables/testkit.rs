//! Listings of our tables.

use super::{NatActual, NatDigest, SEAL, digest_of, recognise, seal_in, without_seal};
use crate::testkit::same;

/// Checks that a listing is told to be as it was sealed, and not if anything is added.
pub(crate) fn check_listing(listing: &str) -> Result<(), String> {
    if seal_in(listing).is_some() {
        let _ = recognise(listing);
        return Ok(());
    }
    same("what is not sealed", &recognise(listing), &NatActual::Altered)?;
    // The last line may have no end.
    let listing = format!("{listing}\n");
    let text = digest_of("the text");
    let (clean, _) = without_seal(&listing);
    let seal = format!("chain {SEAL}{text}-{} {{\n}}\n", digest_of(&clean));
    let intact = NatActual::Intact(NatDigest(text));
    same("what was sealed", &recognise(&format!("{listing}{seal}")), &intact)?;
    for altered in [format!("drop\n{listing}{seal}"), format!("{listing}{seal}drop\n")] {
        same("what was altered", &recognise(&altered), &NatActual::Altered)?;
    }
    Ok(())
}
