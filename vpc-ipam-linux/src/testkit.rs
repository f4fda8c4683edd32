//! What the readers of this crate are tested with, whatever the kernel and other programs say.
//!
//! Each function reads bytes as one of them would, and checks what holds for any bytes; none of them panics or goes on for ever.
//! The error says which rule does not hold.

pub(crate) mod check;

pub use crate::kernel::conntrack::testkit::conntrack_answer;
pub use crate::kernel::netlink::testkit::netlink_dump;

/// Reads a listing of nft or iptables-save: what is ours in it, and what amazon-vpc-cni-k8s's.
pub fn nft_listing(bytes: &[u8]) -> Result<(), String> {
    let listing = String::from_utf8_lossy(bytes);
    crate::datapath::nat::check_listing(&listing)?;
    crate::datapath::aws_cni::check_listing(&listing)
}
