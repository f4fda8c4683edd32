//! What the checks of all readers share.

/// Returns the datagrams that bytes stand for: each is two bytes of its length, little-endian, and what there is of it.
pub(crate) fn datagrams(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut datagrams = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk() {
        let (datagram, rest) = rest.split_at(rest.len().min(u16::from_le_bytes(*len).into()));
        datagrams.push(datagram);
        bytes = rest;
    }
    datagrams
}

/// Returns an error that names two values unless they are the same.
pub(crate) fn same<T: PartialEq + core::fmt::Debug>(
    what: &str,
    one: &T,
    other: &T,
) -> Result<(), String> {
    if one == other { Ok(()) } else { Err(format!("{what}: {one:?} is not {other:?}")) }
}
