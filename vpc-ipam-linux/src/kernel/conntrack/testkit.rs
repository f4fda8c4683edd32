//! Connections that the kernel lists.

use std::collections::BTreeSet;

use netlink_packet_core::NlasIterator;

use super::{CTA_ID, CTA_TUPLE_ORIG, CTA_ZONE, Entry, IpAddr, entry, source};
use crate::kernel::netlink::{Framed, frames};
use crate::testkit::check::{datagrams, same};

/// Reads datagrams as the connections that the kernel lists, of an IPv4 and an IPv6 address that the first bytes are.
///
/// What is asked to be forgotten of a connection is what distinguishes it, is well formed, and is the same when the kernel hands it
/// out again. Of no address there is no connection.
pub fn conntrack_answer(bytes: &[u8]) -> Result<(), String> {
    let Some((ipv4, rest)) = bytes.split_first_chunk::<4>() else { return Ok(()) };
    let Some((ipv6, rest)) = rest.split_first_chunk::<16>() else { return Ok(()) };
    let addresses = BTreeSet::from([IpAddr::from(*ipv4), IpAddr::from(*ipv6)]);
    for datagram in datagrams(rest) {
        for frame in frames(datagram) {
            let Framed::Message(payload) = frame else { break };
            if entry(payload, &BTreeSet::new()).is_some() {
                return Err("a connection of no address".to_owned());
            }
            if let Some(found) = entry(payload, &addresses) {
                check(&found)?;
            }
        }
    }
    Ok(())
}

fn check(found: &Entry) -> Result<(), String> {
    let mut len = 0;
    let mut origins = BTreeSet::new();
    for attribute in NlasIterator::new(found.attributes.as_slice()) {
        let attribute = attribute.map_err(|error| format!("an attribute: {error}"))?;
        if ![CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE].contains(&attribute.kind()) {
            return Err(format!("an attribute that tells nothing apart: {}", attribute.kind()));
        }
        if attribute.kind() == CTA_TUPLE_ORIG {
            origins.extend(source(attribute.value()));
        }
        len += usize::from(attribute.length()).next_multiple_of(4);
    }
    same("the length of all attributes", &len, &found.attributes.len())?;
    if origins.is_empty() {
        return Ok(());
    }
    let payload = [&[found.family, 0, 0, 0][..], &found.attributes].concat();
    let again = entry(&payload, &origins).ok_or("not found again")?;
    same("what is found again", &again.attributes, &found.attributes)?;
    let other = IpAddr::from([0; 4]);
    let of_other = entry(&payload, &BTreeSet::from([other])).is_some();
    same("of another address", &of_other, &origins.contains(&other))
}
