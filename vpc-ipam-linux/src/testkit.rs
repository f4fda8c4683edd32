//! What the readers of this crate are tested with, whatever the kernel and other programs say.
//!
//! Each function reads bytes as one of them would, and checks what holds for any bytes; none of them panics or goes on for ever.
//! The error says which rule does not hold.

pub use crate::kernel::conntrack::testkit::conntrack_answer;
pub use crate::kernel::netlink::testkit::netlink_dump;

/// Reads a listing of nft or iptables-save: what is ours in it, and what amazon-vpc-cni-k8s's.
pub fn nft_listing(bytes: &[u8]) -> Result<(), String> {
    let listing = String::from_utf8_lossy(bytes);
    crate::datapath::nat::check_listing(&listing)?;
    crate::datapath::aws_cni::check_listing(&listing)
}

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
