//! Lists and events of rtnetlink and nftables.

use std::collections::VecDeque;
use std::io;

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;

use super::exchange::{self, Exchange, Request, Transport};
use super::{decode, encode, event, nftables};
use crate::node::KernelEvent;
use crate::testkit::check::{datagrams, same};
use crate::{Family, Leads, LinkIndex, NetlinkError, Route, RouteEntry, Rule, RuleAction};

/// Reads datagrams as the answer to every list that this crate asks for, and as events.
///
/// What was read is read again as it was when it is written as a message of ours, and both readers of rtnetlink, that of lists and that
/// of events, read the same.
pub fn netlink_dump(bytes: &[u8]) -> Result<(), String> {
    let datagrams = datagrams(bytes);
    let _ = list(&datagrams, decode::link);
    for (link, address) in list(&datagrams, decode::address) {
        let again = decode::address(&payload(encode::set_address(link, address)));
        same("an address", &again.ok().flatten(), &Some((link, address)))?;
    }
    for entry in list(&datagrams, decode::route) {
        if let RouteEntry { route, leads: Leads::Over(link) } = entry {
            check_route(link, route)?;
        }
    }
    for rule in list(&datagrams, decode::rule) {
        check_rule(&rule)?;
    }
    for (link, neighbour) in list(&datagrams, decode::neighbour) {
        let again = decode::neighbour(&payload(encode::set_neighbour(link, neighbour)));
        same("a neighbour", &again.ok().flatten(), &Some((link, neighbour)))?;
    }
    let _ = list(&datagrams, |payload| Ok(nftables::name(payload)));
    let _ = exchange_with(&datagrams).batch(vec![encode::get_link("a"), encode::get_link("b")]);
    datagrams.iter().try_for_each(|datagram| check_events(datagram))
}

fn check_route(link: LinkIndex, route: Route) -> Result<(), String> {
    let again = decode::route(&payload(encode::set_route(link, &route))).ok().flatten();
    // The kernel reports networks alone.
    let route = Route { destination: route.destination.trunc(), ..route };
    same("a route", &again, &Some(RouteEntry { route, leads: Leads::Over(link) }))
}

/// Of rules that a message of ours can say.
fn check_rule(rule: &Rule) -> Result<(), String> {
    if rule.more || rule.inverted || rule.action != RuleAction::Lookup {
        return Ok(());
    }
    let again = decode::rule(&payload(encode::set_rule(rule))).ok().flatten();
    same("a rule", &again.as_ref(), &Some(rule))
}

fn check_events(datagram: &[u8]) -> Result<(), String> {
    let _ = event::setting_events(datagram);
    let _ = event::nft_events(datagram);
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) else {
        return Ok(());
    };
    let Some(Ok(frame)) = exchange::messages(datagram).next() else { return Ok(()) };
    match event::routing_event(&message) {
        Some(KernelEvent::Route { entry, .. }) => {
            same("a route of an event", &Some(entry), &decode::route(frame.payload).ok().flatten())
        }
        Some(KernelEvent::Rule { rule, .. }) => {
            same("a rule of an event", &Some(rule), &decode::rule(frame.payload).ok().flatten())
        }
        Some(KernelEvent::Address { link, address, .. }) => {
            let listed = decode::address(frame.payload).ok().flatten();
            same("an address of an event", &Some((link, address)), &listed)
        }
        Some(KernelEvent::Link { link, .. }) => {
            same("a link of an event", &Some(link), &decode::link(frame.payload).ok().flatten())
        }
        _ => Ok(()),
    }
}

/// Returns the objects of a list; none if it is not one.
fn list<T>(
    datagrams: &[&[u8]],
    decode: impl Fn(&[u8]) -> Result<Option<T>, NetlinkError>,
) -> Vec<T> {
    let list = exchange_with(datagrams).dump("objects", &encode::list_rules(Family::Ipv4), decode);
    list.unwrap_or_default()
}

fn exchange_with<'a>(datagrams: &[&'a [u8]]) -> Exchange<Script<'a>> {
    Exchange::new(Script(datagrams.iter().copied().collect()))
}

/// Returns a request without its header.
fn payload(request: Request) -> Vec<u8> {
    const HEADER_LEN: usize = 16;
    let mut message = NetlinkMessage::from(request.message);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes.split_off(HEADER_LEN)
}

/// Answers with datagrams, whatever is asked. The first request has the number 1.
struct Script<'a>(VecDeque<&'a [u8]>);

impl Transport for Script<'_> {
    fn send(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> io::Result<()> {
        let next = self.0.pop_front().ok_or(io::ErrorKind::TimedOut)?;
        answer.clear();
        answer.extend(next);
        Ok(())
    }
}
