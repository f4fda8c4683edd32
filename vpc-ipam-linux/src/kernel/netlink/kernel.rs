//! The kernel's own answer to [`Netlink`].

use core::net::IpAddr;
use core::ops::Range;
use std::io;
use std::os::fd::AsFd as _;

use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::exchange::{Answer, Exchange, Request, Transport};
use super::nftables::nft_tables;
use super::settings::LinkSettings;
use super::{Netlink, NetlinkError, codec};
use crate::datapath::aws_cni;
use crate::datapath::nat::{RuleSetBackend, Set};
use crate::kernel::sysctl;
use crate::{
    Address, AwsCniNat, Family, KernelChange, KernelEffect, Leads, Link, LinkIndex, Namespace,
    NamespaceError, Nat, NatActual, NatPrograms, Neighbour, Object, Refusal, Route, RouteEntry,
    Rule, SourceCheck, Sysctl, SysctlKey,
};

/// A netlink socket to the kernel, bound for good to the namespace in which it was opened.
///
/// It may be used from any thread, in whichever namespace that is.
pub struct KernelNetlink {
    exchange: Exchange<KernelSocket>,
    namespace: Namespace,
    /// Whether the calling thread itself enters the namespace for what netlink cannot do.
    visits: bool,
    nat_programs: NatPrograms,
    /// Where the rules of address translation are, once it is known.
    nat_place: Option<RuleSetBackend>,
    /// Where those are that check sources.
    source_place: Option<RuleSetBackend>,
}

impl KernelNetlink {
    /// Opens a socket inside a namespace.
    pub fn open(namespace: &Namespace) -> Result<Self, NetlinkError> {
        let socket = namespace.run(KernelSocket::open)?;
        let socket = socket.map_err(|source| NetlinkError::Open { source })?;
        Ok(Self {
            exchange: Exchange::new(socket),
            namespace: namespace.clone(),
            visits: false,
            nat_programs: NatPrograms::default(),
            nat_place: None,
            source_place: None,
        })
    }

    /// Opens a socket in the namespace of the calling thread.
    pub fn current() -> Result<Self, NetlinkError> {
        Self::open(&Namespace::current()?)
    }

    /// Returns the socket with other programs for address translation than those that are found by `PATH`.
    #[must_use]
    pub fn with_nat_programs(self, nat_programs: NatPrograms) -> Self {
        Self { nat_programs, nat_place: None, source_place: None, ..self }
    }

    /// Returns the socket so that the calling thread itself enters the namespace where files have to be written there, instead of
    /// starting another for it: [`Namespace::visit`] says who may.
    #[must_use]
    pub fn visiting(self) -> Self {
        Self { visits: true, ..self }
    }

    fn inside<R: Send>(&self, act: impl FnOnce() -> R + Send) -> Result<R, NamespaceError> {
        if self.visits { self.namespace.visit(act) } else { self.namespace.run(act) }
    }

    /// Returns the port by which the kernel names the socket where it tells of changes that were asked for by it.
    pub fn port(&mut self) -> io::Result<u32> {
        self.exchange.wire_mut().port()
    }

    /// Returns the namespace to which it is bound.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn ask(&mut self, request: Request) -> Result<Answer, NetlinkError> {
        let answer = self.exchange.batch(vec![request])?.pop();
        answer.ok_or(NetlinkError::Decode { what: "no answer" })
    }

    /// Lists objects that belong to a link, which may be gone.
    fn list_of_link<T>(
        &mut self,
        what: &'static str,
        request: &Message,
        link: LinkIndex,
        decode: impl Fn(&[u8]) -> Result<Option<(LinkIndex, T)>, NetlinkError>,
    ) -> Result<Vec<T>, NetlinkError> {
        // A kernel that does not know the filter sends all.
        let decode = |payload: &[u8]| {
            let found = decode(payload)?.filter(|(index, _)| *index == link);
            Ok(found.map(|(_, object)| object))
        };
        match self.exchange.dump(what, request, decode) {
            Err(NetlinkError::Refused { refusal, .. })
                if refusal.is(&[Errno::NODEV]) || is_without_family(&refusal) =>
            {
                Ok(Vec::new())
            }
            other => other,
        }
    }

    /// Lists objects of one address family. A kernel that does not have the family has none of its objects.
    fn list_of_family<T>(
        &mut self,
        what: &'static str,
        request: &Message,
        decode: impl Fn(&[u8]) -> Result<Option<T>, NetlinkError>,
    ) -> Result<Vec<T>, NetlinkError> {
        // Asked for routes of a family that it does not have, the kernel lists those of all others.
        let family = codec::family_of(request);
        let decode = |payload: &[u8]| match payload.first() {
            Some(&other) if other != family => Ok(None),
            _ => decode(payload),
        };
        match self.exchange.dump(what, request, decode) {
            Err(NetlinkError::Refused { refusal, .. }) if is_without_family(&refusal) => {
                Ok(Vec::new())
            }
            other => other,
        }
    }

    /// Does something in the namespace with a set of rules that other programs list and load for us.
    fn with_rules<R: Send>(
        &mut self,
        set: Set,
        act: impl FnOnce(&mut RuleSetBackend) -> io::Result<R> + Send,
    ) -> Result<io::Result<R>, NamespaceError> {
        let Self { namespace, nat_programs: programs, .. } = self;
        let known = match set {
            Set::Translation => &mut self.nat_place,
            Set::Sources => &mut self.source_place,
        };
        let place = known.take();
        let (place, result) = namespace.run(|| {
            let mut place = match place.map_or_else(|| RuleSetBackend::find(set, programs), Ok) {
                Ok(place) => place,
                Err(error) => return (None, Err(error)),
            };
            let result = act(&mut place);
            // The program may have gone: next time it is looked for anew.
            (result.is_ok().then_some(place), result)
        })?;
        *known = place;
        Ok(result)
    }

    /// Makes a change that takes other programs.
    fn run_programs(&mut self, change: &KernelChange) -> Result<io::Result<()>, NamespaceError> {
        match change {
            KernelChange::Set(
                Object::Nat(Nat(rules)) | Object::SourceCheck(SourceCheck(rules)),
            ) => self.with_rules(rules.set(), |place| place.replace(rules)),
            KernelChange::Remove(Object::Nat(_)) => {
                self.with_rules(Set::Translation, |place| place.replace(&Nat::none().0))
            }
            KernelChange::Remove(Object::SourceCheck(_)) => {
                self.with_rules(Set::Sources, |place| place.replace(&SourceCheck::none().0))
            }
            KernelChange::Remove(Object::AwsCniNat(peer)) => {
                self.namespace.run(|| aws_cni::remove(&self.nat_programs.nft, peer))
            }
            // What has no absence, or no presence.
            _ => Ok(Ok(())),
        }
    }

    /// Sends what has gathered, and files what came of it.
    fn send(
        &mut self,
        gathered: &mut Vec<(Range<usize>, Request)>,
        changes: &[KernelChange],
        results: &mut [Result<KernelEffect, Refusal>],
    ) -> Result<(), NetlinkError> {
        if gathered.is_empty() {
            return Ok(());
        }
        let (places, requests): (Vec<_>, Vec<_>) = gathered.drain(..).unzip();
        for (places, answer) in places.into_iter().zip(self.exchange.batch(requests)?) {
            // Some changes take two requests; of a veth, that it be made, and what it became. The first refusal counts.
            match answer {
                Err(refusal) if is_alone(&changes[places.clone()]) => {
                    let result = &mut results[places.start];
                    if result.is_ok() {
                        *result = Err(refusal);
                    }
                }
                Err(_) => {
                    for place in places {
                        results[place] = self.set_alone(&changes[place])?;
                    }
                }
                Ok(payloads) => {
                    let result = &mut results[places.start];
                    if let (Some(payload), true) = (payloads.first(), result.is_ok()) {
                        *result = Ok(veth_effect(payload)?);
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes one of the settings that were refused together: which one that was for was not said, and variables have files too.
    fn set_alone(
        &mut self,
        change: &KernelChange,
    ) -> Result<Result<KernelEffect, Refusal>, NetlinkError> {
        let done = match change {
            KernelChange::Set(Object::Sysctl(sysctl)) => {
                let written = self.inside(|| sysctl::write(&[sysctl]))?;
                written.into_iter().collect::<io::Result<()>>().map_err(Refusal::from)
            }
            _ => match LinkSettings::of(core::slice::from_ref(change)) {
                Some((settings, _)) => self.ask(codec::set_link(&settings))?.map(drop),
                None => Ok(()),
            },
        };
        Ok(done.map(|()| KernelEffect::Done))
    }
}

/// Returns whether there is nothing else to be tried where a message is refused that makes these changes.
fn is_alone(changes: &[KernelChange]) -> bool {
    matches!(changes, [change] if !matches!(change, KernelChange::Set(Object::Sysctl(_))))
}

impl Namespace {
    /// Opens a netlink socket inside the namespace, usable from any thread.
    pub fn netlink(&self) -> Result<KernelNetlink, NetlinkError> {
        KernelNetlink::open(self)
    }
}

impl Netlink for KernelNetlink {
    fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        self.exchange.dump("links", &codec::list_links(), codec::link)
    }

    fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        match self.ask(codec::get_link(name))? {
            Ok(payloads) => payloads.first().map_or(Ok(None), |payload| codec::link(payload)),
            Err(refusal) if refusal.is(&[Errno::NODEV]) => Ok(None),
            Err(refusal) => Err(NetlinkError::Refused { what: "link", refusal }),
        }
    }

    fn addresses(&mut self, link: LinkIndex) -> Result<Vec<Address>, NetlinkError> {
        self.list_of_link("addresses", &codec::list_addresses(Some(link)), link, codec::address)
    }

    fn addresses_of_other_end(&mut self, link: LinkIndex) -> Result<Vec<Address>, NetlinkError> {
        let Ok(payloads) = self.ask(codec::get_link_by_index(link))? else { return Ok(Vec::new()) };
        let Some(payload) = payloads.first() else { return Ok(Vec::new()) };
        let Some(other) = codec::link(payload)?.and_then(|link| link.lower) else {
            return Ok(Vec::new());
        };
        let Some(namespace) = codec::namespace_of_other_end(payload) else {
            return self.addresses(other);
        };
        let request = codec::list_addresses_in(namespace, other);
        let decode = |payload: &[u8]| {
            let found = codec::address(payload)?.filter(|(index, _)| *index == other);
            Ok(found.map(|(_, address)| address))
        };
        match self.exchange.dump("addresses", &request, decode) {
            // Of a namespace that is gone, or that we may not look into; before Linux 4.20 one cannot.
            Err(NetlinkError::Refused { .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    fn routes(&mut self, link: LinkIndex) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            let request = codec::list_routes(family, Some(link));
            let decode = |payload: &[u8]| {
                Ok(match codec::route(payload)? {
                    Some(RouteEntry { route, leads: Leads::Over(link) }) => Some((link, route)),
                    _ => None,
                })
            };
            routes.extend(self.list_of_link("routes", &request, link, decode)?);
        }
        Ok(routes)
    }

    fn all_addresses(&mut self) -> Result<Vec<(LinkIndex, Address)>, NetlinkError> {
        self.exchange.dump("addresses", &codec::list_addresses(None), codec::address)
    }

    fn all_routes(&mut self, family: Family) -> Result<Vec<RouteEntry>, NetlinkError> {
        self.list_of_family("routes", &codec::list_routes(family, None), codec::route)
    }

    fn route_to(&mut self, address: IpAddr) -> Result<Option<(LinkIndex, Route)>, NetlinkError> {
        // No route, and what `unreachable`, `prohibit`, a missing table and `blackhole` are answered with.
        const NONE: [Errno; 5] =
            [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::SRCH, Errno::INVAL];
        match self.ask(codec::get_route(address))? {
            Ok(payloads) => {
                let entry = payloads.first().map(|payload| codec::route(payload)).transpose()?;
                Ok(match entry.flatten() {
                    Some(RouteEntry { route, leads: Leads::Over(link) }) => Some((link, route)),
                    _ => None,
                })
            }
            Err(refusal) if refusal.is(&NONE) || is_without_family(&refusal) => Ok(None),
            Err(refusal) => Err(NetlinkError::Refused { what: "route", refusal }),
        }
    }

    fn rules(&mut self, family: Family) -> Result<Vec<Rule>, NetlinkError> {
        self.list_of_family("rules", &codec::list_rules(family), codec::rule)
    }

    fn neighbours(&mut self, link: LinkIndex) -> Result<Vec<Neighbour>, NetlinkError> {
        self.list_of_link("neighbours", &codec::list_neighbours(link), link, codec::neighbour)
    }

    fn sysctls(&mut self, keys: &[SysctlKey]) -> Result<Vec<Option<String>>, NetlinkError> {
        let values = self.inside(|| sysctl::read(keys))?;
        let told = |(key, value): (&SysctlKey, io::Result<_>)| {
            value.map_err(|source| NetlinkError::Sysctl { key: key.clone(), source })
        };
        keys.iter().zip(values).map(told).collect()
    }

    fn nat(&mut self) -> Result<NatActual, NetlinkError> {
        let listed = self.with_rules(Set::Translation, |place| place.list())?;
        listed.map_err(|source| NetlinkError::Nat { source })
    }

    fn source_check(&mut self) -> Result<NatActual, NetlinkError> {
        let listed = self.with_rules(Set::Sources, |place| place.list())?;
        listed.map_err(|source| NetlinkError::SourceCheck { source })
    }

    fn spoofed_packets(&mut self) -> Result<u64, NetlinkError> {
        let counted = self.with_rules(Set::Sources, |place| place.count_dropped())?;
        counted.map_err(|source| NetlinkError::SourceCheck { source })
    }

    fn aws_cni_nat(&mut self) -> Result<AwsCniNat, NetlinkError> {
        let listed = self.namespace.run(|| aws_cni::list(&self.nat_programs, &nft_tables()?))?;
        listed.map_err(|source| NetlinkError::AwsCniNat { source })
    }

    fn change(
        &mut self,
        changes: &[KernelChange],
    ) -> Result<Vec<Result<KernelEffect, Refusal>>, NetlinkError> {
        let mut results = vec![Ok(KernelEffect::Done); changes.len()];
        let mut gathered = Vec::new();
        let mut next = 0;
        while let Some(change) = changes.get(next) {
            let first = next;
            if let Some((settings, count)) = LinkSettings::of(&changes[first..]) {
                next += count;
                gathered.push((first..next, codec::set_link(&settings)));
                continue;
            }
            next += 1;
            let requests = requests(change);
            if !requests.is_empty() {
                gathered.extend(requests.into_iter().map(|request| (first..next, request)));
                continue;
            }
            self.send(&mut gathered, changes, &mut results)?;
            if let KernelChange::Set(Object::Sysctl(_)) = change {
                // One visit to the namespace for all that follow each other.
                let sysctls: Vec<_> = changes[first..].iter().map_while(by_file).collect();
                next = first + sysctls.len();
                let written = self.inside(|| sysctl::write(&sysctls))?;
                for (result, written) in results[first..next].iter_mut().zip(written) {
                    *result = written.map(|()| KernelEffect::Done).map_err(Refusal::from);
                }
            } else {
                let done = self.run_programs(change)?;
                results[first] = done.map(|()| KernelEffect::Done).map_err(Refusal::from);
            }
        }
        self.send(&mut gathered, changes, &mut results)?;
        Ok(results)
    }
}

/// Returns the variable that a change sets, if that is done by its file.
fn by_file(change: &KernelChange) -> Option<&Sysctl> {
    match change {
        KernelChange::Set(Object::Sysctl(sysctl))
            if LinkSettings::of(core::slice::from_ref(change)).is_none() =>
        {
            Some(sysctl)
        }
        _ => None,
    }
}

/// Returns the messages that make a change; none where it takes something else.
fn requests(change: &KernelChange) -> Vec<Request> {
    match change {
        KernelChange::AddVeth(veth) => vec![codec::add_veth(veth), codec::get_link(&veth.name)],
        KernelChange::AddVlan(vlan) => vec![codec::add_vlan(vlan)],
        KernelChange::AddRoute { link, route } => vec![codec::add_route(link.index, route)],
        KernelChange::AddNeighbour { link, neighbour } => {
            vec![codec::add_neighbour(link.index, *neighbour)]
        }
        KernelChange::AddBridge(bridge) => vec![codec::add_bridge(bridge)],
        KernelChange::Join { port, bridge } => {
            vec![codec::join(port.index, bridge.index), codec::isolate(port.index)]
        }
        KernelChange::RemoveLink { name } => vec![codec::remove_link(name)],
        KernelChange::RemoveLinkByIndex(link) => vec![codec::remove_link_by_index(link.index)],
        KernelChange::Set(object) => set(object).into_iter().collect(),
        KernelChange::Remove(object) => remove(object).into_iter().collect(),
    }
}

fn set(object: &Object) -> Option<Request> {
    match object {
        Object::Address { link, address } => Some(codec::set_address(link.index, *address)),
        Object::Route { link, route } => Some(codec::set_route(link.index, route)),
        Object::Neighbour { link, neighbour } => Some(codec::set_neighbour(link.index, *neighbour)),
        Object::Rule(rule) => Some(codec::set_rule(rule)),
        // The first two by the settings of their links.
        Object::Link { .. }
        | Object::Alias { .. }
        | Object::Sysctl(_)
        | Object::Nat(_)
        | Object::SourceCheck(_)
        | Object::AwsCniNat(_) => None,
    }
}

fn remove(object: &Object) -> Option<Request> {
    match object {
        Object::Address { link, address } => Some(codec::remove_address(link.index, *address)),
        Object::Route { link, route } => Some(codec::remove_route(link.index, route)),
        Object::Neighbour { link, neighbour } => {
            Some(codec::remove_neighbour(link.index, *neighbour))
        }
        Object::Rule(rule) => Some(codec::remove_rule(rule)),
        Object::Link { .. }
        | Object::Alias { .. }
        | Object::Sysctl(_)
        | Object::Nat(_)
        | Object::SourceCheck(_)
        | Object::AwsCniNat(_) => None,
    }
}

/// Returns whether the kernel refused because it does not have the address family: IPv6 on a node that was booted with
/// `ipv6.disable=1`.
fn is_without_family(refusal: &Refusal) -> bool {
    refusal.is(&[Errno::AFNOSUPPORT, Errno::OPNOTSUPP])
}

fn veth_effect(payload: &[u8]) -> Result<KernelEffect, NetlinkError> {
    let link = codec::link(payload)?.and_then(|link| Some((link.id.index, link.lower?)));
    let (link, peer) = link.ok_or(NetlinkError::Decode { what: "veth without a peer" })?;
    Ok(KernelEffect::Veth { link, peer })
}

struct KernelSocket(Socket);

/// The kernel answers within the system call that asks, so waiting means that an answer was lost.
const RECEIVE_TIMEOUT: core::time::Duration = core::time::Duration::from_secs(10);

impl KernelSocket {
    fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        // Filters that the kernel does not know are refused instead of ignored, and what a message means is checked in
        // full. Kernels before 4.20 have no such option and send everything; what is not asked for is dropped here too.
        match socket.set_netlink_get_strict_chk(true) {
            Err(error) if error.raw_os_error() != Some(Errno::NOPROTOOPT.raw_os_error()) => {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(RECEIVE_TIMEOUT))?;
        Ok(Self(socket))
    }

    fn port(&mut self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.0.get_address(&mut address)?;
        // It gets one with the first request, if not before.
        let port = address.port_number();
        if port == 0 { self.0.bind_auto().map(|bound| bound.port_number()) } else { Ok(port) }
    }
}

impl Transport for KernelSocket {
    fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        let sent = self.0.send_to(requests, &SocketAddr::new(0, 0), 0)?;
        if sent == requests.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> io::Result<()> {
        /// Asks for the length of the whole datagram even if it did not fit; from bits/socket.h.
        const MSG_TRUNC: i32 = 0x20;
        loop {
            answer.clear();
            match self.0.recv_from(answer, MSG_TRUNC) {
                Ok((len, _)) if len > answer.len() => {
                    return Err(io::Error::other(format!("answer of {len} bytes does not fit")));
                }
                // Only the kernel, whose port is 0, is asked.
                Ok((_, from)) if from.port_number() == 0 => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::neighbour::NeighbourMessage;
    use netlink_packet_route::route::RouteMessage;
    use netlink_packet_route::rule::RuleMessage;

    use super::*;

    /// A family that Linux 6.1 took out, so that this kernel answers of it as one that was booted with `ipv6.disable=1`
    /// answers of IPv6.
    const ABSENT: AddressFamily = AddressFamily::Decnet;

    #[test]
    fn family_that_the_kernel_does_not_have_is_an_empty_list() {
        let mut netlink = KernelNetlink::current().unwrap();
        let (mut rules, mut routes) = (RuleMessage::default(), RouteMessage::default());
        rules.header.family = ABSENT;
        routes.header.address_family = ABSENT;
        let mut neighbours = NeighbourMessage::default();
        neighbours.header.family = ABSENT;
        for (what, request) in [
            ("rules", Message::GetRule(rules)),
            ("routes", Message::GetRoute(routes)),
            ("neighbours", Message::GetNeighbour(neighbours)),
        ] {
            let listed = netlink.list_of_family(what, &request, |payload| Ok(Some(payload.len())));
            assert_eq!(listed.unwrap(), [] as [usize; 0], "{what}");
        }
    }

    #[test]
    fn object_of_a_family_that_the_kernel_does_not_have_is_gone_already() {
        let mut netlink = KernelNetlink::current().unwrap();
        let mut rule = RuleMessage::default();
        rule.header.family = ABSENT;
        let request = Request { message: Message::DelRule(rule), flags: 0 };
        let refusal = netlink.ask(request).unwrap().unwrap_err();
        let of_ipv6 = crate::Rule::new(Family::Ipv6, 512, crate::Table::MAIN);
        let change = KernelChange::Remove(Object::Rule(of_ipv6));
        assert!(crate::state::change::is_so_already(&change, &refusal), "{refusal:?}");
    }
}
