//! What the kernel tells without being asked.

use netlink_packet_core::NlasIterator;

use super::{exchange, wire};
use crate::node::Event;

/// Reads a datagram of rtnetlink. What makes no sense is passed over: it is about no object of ours.
pub(crate) fn routing_events(datagram: &[u8]) -> Vec<Event> {
    // From linux/rtnetlink.h.
    const RTM_NEWLINK: u16 = 16;
    const RTM_DELLINK: u16 = 17;
    const RTM_NEWADDR: u16 = 20;
    const RTM_DELADDR: u16 = 21;
    const RTM_NEWROUTE: u16 = 24;
    const RTM_DELROUTE: u16 = 25;
    const RTM_NEWRULE: u16 = 32;
    const RTM_DELRULE: u16 = 33;

    let messages = exchange::messages(datagram).map_while(Result::ok);
    let event = |message: exchange::Message<'_>| {
        let payload = message.payload;
        let event = match message.kind {
            kind @ (RTM_NEWLINK | RTM_DELLINK) => {
                // Of a bridge's ports the kernel tells in the same group, with other attributes.
                const AF_UNSPEC: u8 = 0;
                let link = wire::link(payload).ok()?.filter(|_| payload[0] == AF_UNSPEC)?;
                Event::Link { link, gone: kind == RTM_DELLINK }
            }
            kind @ (RTM_NEWADDR | RTM_DELADDR) => {
                let (_, address) = wire::address(payload).ok()??;
                Event::Address { address, gone: kind == RTM_DELADDR }
            }
            kind @ (RTM_NEWROUTE | RTM_DELROUTE) => {
                let (_, route) = wire::route(payload).ok()??;
                Event::Route { route, gone: kind == RTM_DELROUTE }
            }
            kind @ (RTM_NEWRULE | RTM_DELRULE) => {
                let rule = wire::rule(payload).ok()??;
                Event::Rule { rule, gone: kind == RTM_DELRULE }
            }
            _ => return None,
        };
        Some(event)
    };
    messages.filter_map(event).collect()
}

/// Reads a datagram of nftables: whether it is about our table or the peer's.
pub(crate) fn nft_events(datagram: &[u8]) -> Vec<Event> {
    // From linux/netfilter/nf_tables.h: messages about tables, chains, rules, sets and their elements all begin with the
    // name of the table.
    const NFTA_TABLE: u16 = 1;
    const NFGENMSG_LEN: usize = 4;
    const NFT_MSG_NEWGEN: u16 = 15;

    let messages = exchange::messages(datagram).map_while(Result::ok);
    let concerns = |message: exchange::Message<'_>| {
        if message.kind & 0xff == NFT_MSG_NEWGEN {
            return false;
        }
        let attributes = NlasIterator::new(message.payload.get(NFGENMSG_LEN..).unwrap_or(&[]));
        let mut attributes = attributes.map_while(Result::ok);
        let table = attributes.find(|attribute| attribute.kind() == NFTA_TABLE);
        table.is_some_and(|table| {
            let name = table.value();
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            [b"vpc-ipam".as_slice(), b"aws-cni"].contains(&name)
        })
    };
    let any = messages.into_iter().any(concerns);
    any.then_some(Event::Nat).into_iter().collect()
}
