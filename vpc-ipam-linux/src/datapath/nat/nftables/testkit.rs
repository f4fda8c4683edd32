//! Listings of our tables.

use super::{
    DIGEST_CHAIN, NatActual, NatDigest, digest_chain_in, digest_of, recognise, without_digest,
};
use crate::testkit::check::same;

/// Checks that a listing is recognised as it was when its digest was written, and not if anything is added.
pub(crate) fn check_listing(listing: &str) -> Result<(), String> {
    if digest_chain_in(listing).is_some() {
        let _ = recognise(listing);
        return Ok(());
    }
    same("no digest", &recognise(listing), &NatActual::Altered)?;
    // The last line may have no end.
    let listing = format!("{listing}\n");
    let text = digest_of("the text");
    let (clean, _) = without_digest(&listing);
    let digest_chain = format!("chain {DIGEST_CHAIN}{text}-{} {{\n}}\n", digest_of(&clean));
    let intact = NatActual::Intact(NatDigest(text));
    same("with its digest", &recognise(&format!("{listing}{digest_chain}")), &intact)?;
    for altered in
        [format!("drop\n{listing}{digest_chain}"), format!("{listing}{digest_chain}drop\n")]
    {
        same("what was altered", &recognise(&altered), &NatActual::Altered)?;
    }
    Ok(())
}
