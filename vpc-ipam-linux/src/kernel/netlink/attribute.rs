//! The attributes that messages of netlink carry, and the numbers of address families in them.

use netlink_packet_core::NlasIterator;

// From bits/socket.h.
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;

/// Reads the words that the kernel attached to an error.
pub(super) fn text_of_extended_acknowledgement(bytes: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    attributes(bytes).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, value)| text(value))
}

/// Returns the attributes up to the first that is cut short.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const HEADER_LEN: usize = 4;
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, len) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(HEADER_LEN..len)?))
    })
}

pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}
