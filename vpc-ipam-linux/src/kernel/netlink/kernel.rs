//! The kernel's own answer to [`Netlink`].

use core::net::IpAddr;
use core::ops::Range;
use std::io;

use netlink_packet_route::RouteNetlinkMessage as Message;
use rustix::io::Errno;

use super::exchange::{Answer, Exchange, Request};
use super::nftables::nft_tables;
use super::request::requests_of;
use super::settings::LinkSettings;
use super::socket::KernelSocket;
use super::{Netlink, NetlinkError, decode, encode};
use crate::datapath::aws_cni;
use crate::datapath::nat::{RuleSetBackend, Set};
use crate::kernel::sysctl;
use crate::{
    Address, AwsCniListing, AwsCniNat, Family, KernelChange, KernelEffect, Leads, Link, LinkIndex,
    Namespace, NamespaceError, Nat, NatActual, NatPrograms, Neighbour, Object, Refusal, Route,
    RouteEntry, Rule, SourceCheck, Sysctl, SysctlKey,
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
    nat_backend: Option<RuleSetBackend>,
    /// Where those are that check sources.
    source_backend: Option<RuleSetBackend>,
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
            nat_backend: None,
            source_backend: None,
        })
    }

    /// Opens a socket in the namespace of the calling thread.
    pub fn current() -> Result<Self, NetlinkError> {
        Self::open(&Namespace::current()?)
    }

    /// Returns the socket with other programs for address translation than those that are found by `PATH`.
    #[must_use]
    pub fn with_nat_programs(self, nat_programs: NatPrograms) -> Self {
        Self { nat_programs, nat_backend: None, source_backend: None, ..self }
    }

    /// Returns the socket so that the calling thread itself enters the namespace where files have to be written there, instead of
    /// starting another for it: [`Namespace::visit`] says who may.
    #[must_use]
    pub fn visiting(self) -> Self {
        Self { visits: true, ..self }
    }

    /// Returns what another program, amazon-vpc-cni-k8s, left of its address translation, and the listings that show it.
    pub fn aws_cni_listing(&self) -> Result<(AwsCniNat, AwsCniListing), NetlinkError> {
        let listed = self.namespace.run(|| aws_cni::listing(&self.nat_programs, &nft_tables()?))?;
        listed.map_err(|source| NetlinkError::AwsCniNat { source })
    }

    fn inside<R: Send>(&self, act: impl FnOnce() -> R + Send) -> Result<R, NamespaceError> {
        if self.visits { self.namespace.visit(act) } else { self.namespace.run(act) }
    }

    /// Returns the port by which the kernel names the socket in events of changes that were asked for by it.
    pub fn port(&mut self) -> io::Result<u32> {
        self.exchange.transport_mut().port()
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
        // Asked for routes of a family that it does not have, the kernel lists those of all other families.
        let family = encode::family_of(request);
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
            Set::Translation => &mut self.nat_backend,
            Set::Sources => &mut self.source_backend,
        };
        let backend = known.take();
        let (backend, result) = namespace.run(|| {
            let mut backend = match backend.map_or_else(|| RuleSetBackend::find(set, programs), Ok)
            {
                Ok(backend) => backend,
                Err(error) => return (None, Err(error)),
            };
            let result = act(&mut backend);
            // The program may have gone: next time it is looked for anew.
            (result.is_ok().then_some(backend), result)
        })?;
        *known = backend;
        Ok(result)
    }

    /// Makes a change that takes other programs.
    fn run_programs(&mut self, change: &KernelChange) -> Result<io::Result<()>, NamespaceError> {
        match change {
            KernelChange::Set(
                Object::Nat(Nat(rules)) | Object::SourceCheck(SourceCheck(rules)),
            ) => self.with_rules(rules.set(), |backend| backend.replace(rules)),
            KernelChange::Remove(Object::Nat(_)) => {
                self.with_rules(Set::Translation, |backend| backend.replace(&Nat::none().0))
            }
            KernelChange::Remove(Object::SourceCheck(_)) => {
                self.with_rules(Set::Sources, |backend| backend.replace(&SourceCheck::none().0))
            }
            KernelChange::Remove(Object::AwsCniNat(left)) => {
                self.namespace.run(|| aws_cni::remove(&self.nat_programs.nft, left))
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
        let (ranges, requests): (Vec<_>, Vec<_>) = gathered.drain(..).unzip();
        for (range, answer) in ranges.into_iter().zip(self.exchange.batch(requests)?) {
            // Some changes take two requests; of a veth, that it be made, and what it became. The first refusal counts.
            match answer {
                Err(refusal) if is_alone(&changes[range.clone()]) => {
                    let result = &mut results[range.start];
                    if result.is_ok() {
                        *result = Err(refusal);
                    }
                }
                Err(_) => {
                    for index in range {
                        results[index] = self.set_alone(&changes[index])?;
                    }
                }
                Ok(payloads) => {
                    let result = &mut results[range.start];
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
                Some((settings, _)) => self.ask(encode::set_link(&settings))?.map(drop),
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
        self.exchange.dump("links", &encode::list_links(), decode::link)
    }

    fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        match self.ask(encode::get_link(name))? {
            Ok(payloads) => payloads.first().map_or(Ok(None), |payload| decode::link(payload)),
            Err(refusal) if refusal.is(&[Errno::NODEV]) => Ok(None),
            Err(refusal) => Err(NetlinkError::Refused { what: "link", refusal }),
        }
    }

    fn addresses(&mut self, link: LinkIndex) -> Result<Vec<Address>, NetlinkError> {
        self.list_of_link("addresses", &encode::list_addresses(Some(link)), link, decode::address)
    }

    fn addresses_of_other_end(&mut self, link: LinkIndex) -> Result<Vec<Address>, NetlinkError> {
        let Ok(payloads) = self.ask(encode::get_link_by_index(link))? else {
            return Ok(Vec::new());
        };
        let Some(payload) = payloads.first() else { return Ok(Vec::new()) };
        let Some(other) = decode::link(payload)?.and_then(|link| link.lower) else {
            return Ok(Vec::new());
        };
        let Some(namespace) = decode::namespace_of_other_end(payload) else {
            return self.addresses(other);
        };
        let request = encode::list_addresses_in(namespace, other);
        let decode = |payload: &[u8]| {
            let found = decode::address(payload)?.filter(|(index, _)| *index == other);
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
            let request = encode::list_routes(family, Some(link));
            let decode = |payload: &[u8]| {
                Ok(match decode::route(payload)? {
                    Some(RouteEntry { route, leads: Leads::Over(link) }) => Some((link, route)),
                    _ => None,
                })
            };
            routes.extend(self.list_of_link("routes", &request, link, decode)?);
        }
        Ok(routes)
    }

    fn all_addresses(&mut self) -> Result<Vec<(LinkIndex, Address)>, NetlinkError> {
        self.exchange.dump("addresses", &encode::list_addresses(None), decode::address)
    }

    fn all_routes(&mut self, family: Family) -> Result<Vec<RouteEntry>, NetlinkError> {
        self.list_of_family("routes", &encode::list_routes(family, None), decode::route)
    }

    fn route_to(&mut self, address: IpAddr) -> Result<Option<(LinkIndex, Route)>, NetlinkError> {
        // No route, and what `unreachable`, `prohibit`, a missing table and `blackhole` are answered with.
        const NONE: [Errno; 5] =
            [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::SRCH, Errno::INVAL];
        match self.ask(encode::get_route(address))? {
            Ok(payloads) => {
                let entry = payloads.first().map(|payload| decode::route(payload)).transpose()?;
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
        self.list_of_family("rules", &encode::list_rules(family), decode::rule)
    }

    fn neighbours(&mut self, link: LinkIndex) -> Result<Vec<Neighbour>, NetlinkError> {
        self.list_of_link("neighbours", &encode::list_neighbours(link), link, decode::neighbour)
    }

    fn sysctls(&mut self, keys: &[SysctlKey]) -> Result<Vec<Option<String>>, NetlinkError> {
        let values = self.inside(|| sysctl::read(keys))?;
        let value_of = |(key, value): (&SysctlKey, io::Result<_>)| {
            value.map_err(|source| NetlinkError::Sysctl { key: key.clone(), source })
        };
        keys.iter().zip(values).map(value_of).collect()
    }

    fn nat(&mut self) -> Result<NatActual, NetlinkError> {
        let listed = self.with_rules(Set::Translation, |backend| backend.list())?;
        listed.map_err(|source| NetlinkError::Nat { source })
    }

    fn source_check(&mut self) -> Result<NatActual, NetlinkError> {
        let listed = self.with_rules(Set::Sources, |backend| backend.list())?;
        listed.map_err(|source| NetlinkError::SourceCheck { source })
    }

    fn spoofed_packets(&mut self) -> Result<u64, NetlinkError> {
        let counted = self.with_rules(Set::Sources, |backend| backend.count_dropped())?;
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
                gathered.push((first..next, encode::set_link(&settings)));
                continue;
            }
            next += 1;
            let requests = requests_of(change);
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

/// Returns whether the kernel refused because it does not have the address family: IPv6 on a node that was booted with
/// `ipv6.disable=1`.
fn is_without_family(refusal: &Refusal) -> bool {
    refusal.is(&[Errno::AFNOSUPPORT, Errno::OPNOTSUPP])
}

fn veth_effect(payload: &[u8]) -> Result<KernelEffect, NetlinkError> {
    let link = decode::link(payload)?.and_then(|link| Some((link.id.index, link.lower?)));
    let (link, peer) = link.ok_or(NetlinkError::Decode { what: "veth without a peer" })?;
    Ok(KernelEffect::Veth { link, peer })
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
        assert!(crate::state::refusal::is_so_already(&change, &refusal), "{refusal:?}");
    }
}
