//! What a namespace should hold, compared with what it holds, and made so.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::datapath::nat::RuleSet;
use crate::state::change::is_so_already;
use crate::{
    Address, AwsCniNat, Family, KernelChange, Leads, Link, LinkId, LinkIndex, Nat, NatActual,
    Neighbour, Netlink, NetlinkError, Object, Protocol, Refused, Route, RouteEntry, Rule, Scope,
    SourceCheck, SysctlKey,
};

/// What a namespace should hold: the objects that should be there, and the ones that should not unless they are among
/// them. Whatever is neither belongs to another program, and is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What should be there, in the order in which it is made.
    pub wanted: Vec<Object>,
    /// Which objects are ours to remove where they are not wanted.
    pub claims: Vec<Claim>,
}

impl State {
    /// Adds what another state says.
    pub fn append(&mut self, other: Self) {
        self.wanted.extend(other.wanted);
        self.claims.extend(other.claims);
    }

    /// Returns whether an object is wanted; of a route its maker does not count.
    fn wants(&self, object: &Object) -> bool {
        self.wanted.iter().any(|wanted| match (wanted, object) {
            (Object::Route { link, route }, Object::Route { link: other_link, route: other }) => {
                link.index == other_link.index && route.is_twin_of(other)
            }
            _ => wanted == object,
        })
    }
}

/// Objects that are ours to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The global addresses of a link.
    Addresses {
        /// The link.
        link: LinkId,
        /// The family.
        family: Family,
    },
    /// The routes over a link that carry our protocol.
    OurRoutes {
        /// The link.
        link: LinkId,
    },
    /// The routes over a link that are like this one, whichever program made them: its metric and protocol do not count. One of which the kernel
    /// makes no use, since a route over another link has a lower metric, is left.
    Routes {
        /// The link.
        link: LinkId,
        /// The route.
        like: Route,
    },
    /// The rules that this one, taken as a pattern, would remove and that carry our protocol.
    OurRules(Rule),
    /// Besides ours, those that carry no protocol at all, as amazon-vpc-cni-k8s makes them.
    Rules(Rule),
    /// This very rule, although it is the kernel's.
    KernelRule(Rule),
    /// The address translation that amazon-vpc-cni-k8s left.
    AwsCniNat,
}

/// What a namespace holds, as far as a state has to do with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// The links.
    pub links: Vec<Link>,
    /// Their addresses.
    pub addresses: Vec<(LinkIndex, Address)>,
    /// The unicast routes over one link alone.
    pub routes: Vec<(LinkIndex, Route)>,
    /// All that there is in route tables, if all of them were read, each table's in the order in which it has them.
    pub entries: Vec<RouteEntry>,
    /// Their permanent neighbours.
    pub neighbours: Vec<(LinkIndex, Neighbour)>,
    /// The rules, in the order in which they are tried.
    pub rules: Vec<Rule>,
    /// The kernel variables; `None` for those that the kernel does not have.
    pub sysctls: BTreeMap<SysctlKey, Option<String>>,
    /// The address translation.
    pub nat: Option<NatActual>,
    /// The check of the sources of what pods send.
    pub source_check: Option<NatActual>,
    /// The address translation that amazon-vpc-cni-k8s left.
    pub aws_cni_nat: AwsCniNat,
}

impl Actual {
    /// Reads what a state has to do with.
    pub fn read(netlink: &mut dyn Netlink, state: &State) -> Result<Self, NetlinkError> {
        let scope = ToRead::of(state);
        let mut actual = Self::default();
        for name in &scope.links {
            actual.links.extend(netlink.link(name)?);
        }
        for &link in &scope.addresses {
            actual.addresses.extend(netlink.addresses(link)?.into_iter().map(|it| (link, it)));
        }
        for &link in &scope.routes {
            actual.routes.extend(netlink.routes(link)?.into_iter().map(|it| (link, it)));
        }
        for &family in &scope.rival_routes {
            let entries = netlink.all_routes(family)?;
            let rivals = entries.into_iter().filter_map(|entry| match entry.leads {
                Leads::Over(link) if !scope.routes.contains(&link) => Some((link, entry.route)),
                _ => None,
            });
            actual.routes.extend(rivals);
        }
        for &link in &scope.neighbours {
            actual.neighbours.extend(netlink.neighbours(link)?.into_iter().map(|it| (link, it)));
        }
        for &family in &scope.rules {
            actual.rules.extend(netlink.rules(family)?);
        }
        if !scope.sysctls.is_empty() {
            let values = netlink.sysctls(&scope.sysctls)?;
            actual.sysctls = scope.sysctls.into_iter().zip(values).collect();
        }
        if scope.nat {
            actual.nat = Some(netlink.nat()?);
        }
        if scope.source_check {
            actual.source_check = Some(netlink.source_check()?);
        }
        if scope.aws_cni_nat {
            actual.aws_cni_nat = netlink.aws_cni_nat()?;
        }
        Ok(actual)
    }
}

impl Actual {
    /// Reads links, rules and every route table.
    pub(crate) fn read_tables(netlink: &mut dyn Netlink) -> Result<Self, NetlinkError> {
        let mut actual = Self { links: netlink.links()?, ..Self::default() };
        for family in [Family::Ipv4, Family::Ipv6] {
            actual.rules.extend(netlink.rules(family)?);
            actual.add_routes(netlink.all_routes(family)?);
        }
        Ok(actual)
    }

    /// Adds entries of route tables.
    pub(crate) fn add_routes(&mut self, entries: Vec<RouteEntry>) {
        let over_one = |entry: &RouteEntry| match entry.leads {
            Leads::Over(link) => Some((link, entry.route)),
            Leads::Here | Leads::Nowhere | Leads::Back | Leads::Otherwise => None,
        };
        self.routes.extend(entries.iter().filter_map(over_one));
        self.entries.extend(entries);
    }
}

/// Which lists have to be read to know about a state.
#[derive(Default)]
struct ToRead {
    links: BTreeSet<String>,
    addresses: BTreeSet<LinkIndex>,
    routes: BTreeSet<LinkIndex>,
    /// Of all links, since they may come before those of one.
    rival_routes: BTreeSet<Family>,
    neighbours: BTreeSet<LinkIndex>,
    rules: BTreeSet<Family>,
    sysctls: Vec<SysctlKey>,
    nat: bool,
    source_check: bool,
    aws_cni_nat: bool,
}

impl ToRead {
    fn of(state: &State) -> Self {
        let mut scope = Self::default();
        for object in &state.wanted {
            match object {
                Object::Link { link, .. } | Object::Alias { link, .. } => {
                    scope.links.insert(link.name.to_string());
                }
                Object::Address { link, .. } => {
                    scope.addresses.insert(link.index);
                }
                Object::Route { link, .. } => {
                    scope.routes.insert(link.index);
                }
                Object::Neighbour { link, .. } => {
                    scope.neighbours.insert(link.index);
                }
                Object::Rule(rule) => {
                    scope.rules.insert(rule.family);
                }
                Object::Sysctl(sysctl) => scope.sysctls.push(sysctl.key.clone()),
                Object::Nat(_) => scope.nat = true,
                Object::SourceCheck(_) => scope.source_check = true,
                Object::AwsCniNat(_) => scope.aws_cni_nat = true,
            }
        }
        for claim in &state.claims {
            match claim {
                Claim::Addresses { link, .. } => {
                    scope.addresses.insert(link.index);
                }
                Claim::OurRoutes { link } => {
                    scope.routes.insert(link.index);
                }
                Claim::Routes { link, like } => {
                    scope.routes.insert(link.index);
                    scope.rival_routes.insert(Family::of(like.destination.addr()));
                }
                Claim::OurRules(rule) | Claim::Rules(rule) | Claim::KernelRule(rule) => {
                    scope.rules.insert(rule.family);
                }
                Claim::AwsCniNat => scope.aws_cni_nat = true,
            }
        }
        scope
    }
}

/// One way in which a namespace is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It should be there and is not.
    Missing(Object),
    /// It is there, but not as it should be.
    Different {
        /// What it should be.
        wanted: Object,
        /// What it is, in the kernel's words.
        actual: String,
    },
    /// It is there and should not be.
    Unwanted(Object),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(object) => write!(f, "missing: {object}"),
            Self::Different { wanted, actual } => write!(f, "different: {wanted}, is {actual}"),
            Self::Unwanted(object) => write!(f, "unwanted: {object}"),
        }
    }
}

impl Difference {
    /// Returns whether it is something of amazon-vpc-cni-k8s, which is to be replaced or removed: it looked after the node until now.
    pub fn is_of_aws_cni(&self) -> bool {
        match self {
            Self::Unwanted(Object::AwsCniNat(_)) => true,
            Self::Unwanted(Object::Rule(rule)) => rule.protocol == Protocol::UNSPECIFIED,
            Self::Unwanted(_) | Self::Missing(_) | Self::Different { .. } => false,
        }
    }

    /// Returns the object that differs, as it should be or should not be.
    pub fn object(&self) -> &Object {
        match self {
            Self::Missing(object) | Self::Unwanted(object) => object,
            Self::Different { wanted, .. } => wanted,
        }
    }
}

/// Lists how a namespace differs from what it should be, in the order in which it is to be put right.
#[must_use]
pub fn diff(desired: &State, actual: &Actual) -> Vec<Difference> {
    let unwanted = unwanted(desired, actual);
    // An address goes before another takes its place: the kernel removes those of the same subnet along with the first.
    let (addresses, others): (Vec<_>, Vec<_>) =
        unwanted.into_iter().partition(|object| matches!(object, Object::Address { .. }));
    let lost: Vec<_> = addresses.iter().collect();

    let mut differences: Vec<_> = addresses.iter().cloned().map(Difference::Unwanted).collect();
    let wanted = desired.wanted.iter();
    differences.extend(
        wanted.filter_map(|object| {
            difference_of(object, actual).or_else(|| goes_along(object, &lost))
        }),
    );
    differences.extend(others.into_iter().map(Difference::Unwanted));
    differences
}

/// Returns how one wanted object differs from what is there.
fn difference_of(wanted: &Object, actual: &Actual) -> Option<Difference> {
    let missing = || Some(Difference::Missing(wanted.clone()));
    let different = |actual: String| Some(Difference::Different { wanted: wanted.clone(), actual });
    let is_there = match wanted {
        Object::Link { link, mtu, up } => {
            let there = actual.links.iter().find(|there| there.id.index == link.index);
            let Some(there) = there else { return missing() };
            if (there.mtu, there.up) == (*mtu, *up) {
                return None;
            }
            let up = if there.up { "up" } else { "down" };
            return different(format!("mtu {} {up}", there.mtu));
        }
        Object::Alias { link, .. } => {
            let there = actual.links.iter().find(|there| there.id.index == link.index);
            there.is_some_and(|there| there.alias.is_some())
        }
        Object::Address { link, address } => actual.addresses.contains(&(link.index, *address)),
        // Whichever program made it: a route that leads the same way serves as well.
        Object::Route { link, route } => {
            let over = |(index, there): &(LinkIndex, Route)| {
                *index == link.index && there.is_twin_of(route)
            };
            actual.routes.iter().any(over)
        }
        Object::Neighbour { link, neighbour } => {
            actual.neighbours.contains(&(link.index, *neighbour))
        }
        Object::Rule(rule) => actual.rules.contains(rule),
        Object::Sysctl(sysctl) => match actual.sysctls.get(&sysctl.key) {
            Some(Some(value)) if *value == sysctl.value => true,
            Some(Some(value)) => return different(value.clone()),
            Some(None) => sysctl.optional,
            None => false,
        },
        Object::Nat(Nat(rules)) => return rules_differ(wanted, rules, actual.nat.as_ref()),
        Object::SourceCheck(SourceCheck(rules)) => {
            return rules_differ(wanted, rules, actual.source_check.as_ref());
        }
        Object::AwsCniNat(peer) => actual.aws_cni_nat == *peer,
    };
    if is_there { None } else { missing() }
}

fn rules_differ(
    wanted: &Object,
    rules: &RuleSet,
    actual: Option<&NatActual>,
) -> Option<Difference> {
    let different = |actual: &str| {
        Some(Difference::Different { wanted: wanted.clone(), actual: actual.to_owned() })
    };
    match actual {
        Some(there) if rules.is(there) => None,
        Some(NatActual::Altered) => different("altered"),
        Some(NatActual::Intact(_)) => different("another"),
        Some(NatActual::Absent) | None => Some(Difference::Missing(wanted.clone())),
    }
}

/// Returns that an address is missing which the kernel may remove along with one that is unwanted.
fn goes_along(wanted: &Object, lost: &[&Object]) -> Option<Difference> {
    let Object::Address { link, address } = wanted else {
        return None;
    };
    let with_it = |lost: &&Object| {
        matches!(lost, Object::Address { link: of, address: gone }
            if of == link && gone.net.contains(&address.net.addr()))
    };
    lost.iter().any(with_it).then(|| Difference::Missing(wanted.clone()))
}

fn unwanted(desired: &State, actual: &Actual) -> Vec<Object> {
    let mut found: Vec<Object> = Vec::new();
    for claim in &desired.claims {
        match claim {
            Claim::Addresses { link, family } => {
                let of_link = actual.addresses.iter().filter(|(index, address)| {
                    *index == link.index
                        && address.scope == Scope::Global
                        && Family::of(address.net.addr()) == *family
                });
                found.extend(
                    of_link.map(|&(_, address)| Object::Address { link: link.clone(), address }),
                );
            }
            Claim::OurRoutes { link } => {
                let ours = |route: &Route| route.protocol == Protocol::OURS;
                found.extend(routes_of(link, actual, ours));
            }
            Claim::Routes { link, like } => {
                let beaten = |route: &Route| {
                    let place =
                        |it: &Route| (it.table, it.destination) == (route.table, route.destination);
                    let mut rivals = actual.routes.iter().filter(|(of, _)| *of != link.index);
                    rivals.any(|(_, it)| place(it) && it.metric < route.metric)
                };
                let alike = |route: &Route| {
                    let like_it = Route { metric: like.metric, protocol: like.protocol, ..*route };
                    like_it == *like && !beaten(route)
                };
                found.extend(routes_of(link, actual, alike));
            }
            Claim::OurRules(pattern) => {
                let ours = |rule: &Rule| rule.protocol == Protocol::OURS;
                found.extend(rules_like(pattern, actual, ours));
            }
            Claim::Rules(pattern) => {
                let ours_or_nobodys =
                    |rule: &Rule| [Protocol::OURS, Protocol::UNSPECIFIED].contains(&rule.protocol);
                found.extend(rules_like(pattern, actual, ours_or_nobodys));
            }
            Claim::KernelRule(rule) => {
                found.extend(rules_like(rule, actual, |candidate| candidate == rule));
            }
            Claim::AwsCniNat if !actual.aws_cni_nat.is_removable() => {}
            Claim::AwsCniNat => found.push(Object::AwsCniNat(actual.aws_cni_nat.clone())),
        }
    }
    // Two claims may be to the same object.
    let mut unwanted: Vec<Object> = Vec::new();
    for object in found {
        if !desired.wants(&object) && !unwanted.contains(&object) {
            unwanted.push(object);
        }
    }
    unwanted
}

fn routes_of<'a>(
    link: &'a LinkId,
    actual: &'a Actual,
    claimed: impl Fn(&Route) -> bool + 'a,
) -> impl Iterator<Item = Object> + 'a {
    let of_link = actual.routes.iter().filter(|(index, _)| *index == link.index);
    let claimed = of_link.map(|&(_, route)| route).filter(move |route| claimed(route));
    claimed.map(|route| Object::Route { link: link.clone(), route })
}

fn rules_like<'a>(
    pattern: &'a Rule,
    actual: &'a Actual,
    claimed: impl Fn(&Rule) -> bool + 'a,
) -> impl Iterator<Item = Object> + 'a {
    let any = Rule { protocol: Protocol::UNSPECIFIED, ..pattern.clone() };
    let like = move |rule: &&Rule| any.removes(rule) && rule.is_plain() && claimed(rule);
    actual.rules.iter().filter(like).cloned().map(Object::Rule)
}

/// What [`apply`] changed.
pub type Applied = Vec<Difference>;

/// A failure to make a namespace as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// What it holds could not be read, or the changes could not be sent.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel refused some of the changes; the others are made.
    #[error("{}", in_words(refused))]
    Refused {
        /// Those that it refused.
        refused: Vec<Refused>,
    },
}

impl ApplyError {
    /// Returns whether the same may succeed the next time because only time was lacking: a program that writes rules
    /// did not end, or something else held its lock.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused { refused } => refused.iter().all(|it| it.refusal.may_pass()),
            Self::Netlink(
                NetlinkError::Nat { source }
                | NetlinkError::SourceCheck { source }
                | NetlinkError::AwsCniNat { source },
            ) => {
                matches!(source.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ResourceBusy)
            }
            Self::Netlink(_) => false,
        }
    }

    /// Returns what was refused if a node goes on without: kernel variables, and the check of sources where the kernel lacks what it
    /// needs.
    pub fn dispensable(&self) -> Option<&[Refused]> {
        let is_dispensable = |it: &Refused| {
            let (KernelChange::Set(object) | KernelChange::Remove(object)) = &*it.change else {
                return false;
            };
            match object {
                Object::Sysctl(_) => true,
                Object::SourceCheck(_) => !it.refusal.may_pass(),
                _ => false,
            }
        };
        match self {
            Self::Refused { refused } if refused.iter().all(is_dispensable) => Some(refused),
            Self::Refused { .. } | Self::Netlink(_) => None,
        }
    }

    /// Returns what was refused if that was kernel variables alone: in a container `/proc/sys` is often read-only, and the rest
    /// works as well as the variables let it.
    pub fn kernel_variables(&self) -> Option<&[Refused]> {
        let of_sysctl = |it: &Refused| matches!(*it.change, KernelChange::Set(Object::Sysctl(_)));
        match self {
            Self::Refused { refused } if refused.iter().all(of_sysctl) => Some(refused),
            Self::Refused { .. } | Self::Netlink(_) => None,
        }
    }
}

pub(crate) fn in_words(refused: &[Refused]) -> String {
    let words: Vec<_> = refused.iter().map(|it| format!("{it}: {}", it.refusal)).collect();
    words.join("; ")
}

/// Makes a namespace as it should be, and returns what it found that was not.
///
/// It reads first and changes what differs: applied twice, it changes nothing the second time.
pub fn apply(netlink: &mut dyn Netlink, desired: &State) -> Result<Applied, ApplyError> {
    let actual = Actual::read(netlink, desired)?;
    let differences = diff(desired, &actual);
    carry_out(netlink, &changes(&differences, &actual))?;
    Ok(differences)
}

/// Removes what a state wants and what it claims; the settings of links and kernel variables stay.
///
/// What is not there any more is no failure. A change that is refused stops none of the others.
pub fn remove(netlink: &mut dyn Netlink, state: &State) -> Result<Applied, ApplyError> {
    let absent = State { wanted: Vec::new(), claims: state.claims.clone() };
    let actual = Actual::read(netlink, state)?;
    let unclaimed = state.wanted.iter().filter(|object| match object {
        Object::Link { .. } | Object::Alias { .. } | Object::Sysctl(_) => false,
        Object::Nat(_) => actual.nat != Some(NatActual::Absent),
        Object::SourceCheck(_) => actual.source_check != Some(NatActual::Absent),
        Object::Address { .. } | Object::Route { .. } | Object::Neighbour { .. } => {
            difference_of(object, &actual).is_none()
        }
        Object::Rule(_) | Object::AwsCniNat(_) => difference_of(object, &actual).is_none(),
    });
    let mut differences: Vec<_> = unclaimed.cloned().map(Difference::Unwanted).collect();
    for difference in diff(&absent, &actual) {
        if !differences.contains(&difference) {
            differences.push(difference);
        }
    }
    carry_out(netlink, &changes(&differences, &actual))?;
    Ok(differences)
}

/// Returns the changes that put differences right.
pub(crate) fn changes(differences: &[Difference], actual: &Actual) -> Vec<KernelChange> {
    let mut rules = RuleList { rules: actual.rules.clone(), changes: Vec::new() };
    let mut changes = Vec::new();
    for difference in differences {
        match difference {
            Difference::Missing(Object::Rule(rule)) => rules.set(rule),
            Difference::Unwanted(Object::Rule(rule)) => rules.remove(rule),
            Difference::Missing(object) | Difference::Different { wanted: object, .. } => {
                changes.push(KernelChange::Set(object.clone()));
            }
            Difference::Unwanted(object) => changes.push(KernelChange::Remove(object.clone())),
        }
        changes.append(&mut rules.changes);
    }
    changes
}

/// The rules as the changes so far leave them.
///
/// To remove a rule is to name what it looks like, and the kernel removes the first that does. One without a protocol
/// looks like its twin of ours. So we keep track of which one will go; where it is ours, it comes back behind the other,
/// which then goes: at no time is there neither.
struct RuleList {
    rules: Vec<Rule>,
    changes: Vec<KernelChange>,
}

impl RuleList {
    fn set(&mut self, rule: &Rule) {
        let before = |other: &Rule| (other.family, other.priority) <= (rule.family, rule.priority);
        let place = self.rules.iter().rposition(before).map_or(0, |place| place + 1);
        self.rules.insert(place, rule.clone());
        self.changes.push(KernelChange::Set(Object::Rule(rule.clone())));
    }

    fn remove(&mut self, rule: &Rule) {
        let first = self.rules.iter().position(|candidate| rule.removes(candidate));
        match first.map(|place| (place, &self.rules[place])) {
            None => {}
            Some((place, first)) if first == rule => {
                self.rules.remove(place);
                self.changes.push(KernelChange::Remove(Object::Rule(rule.clone())));
            }
            Some((place, first)) if first.protocol == Protocol::OURS && first.is_twin_of(rule) => {
                let ours = self.rules.remove(place);
                self.changes.push(KernelChange::Remove(Object::Rule(ours.clone())));
                self.set(&ours);
                self.remove(rule);
            }
            // A rule of another program stands in front: to remove it would do more harm than to leave the other.
            Some(_) => {}
        }
    }
}

/// Makes changes and returns an error that names all that were refused.
pub(crate) fn carry_out(
    netlink: &mut dyn Netlink,
    changes: &[KernelChange],
) -> Result<(), ApplyError> {
    if changes.is_empty() {
        return Ok(());
    }
    let results = netlink.change(changes)?;
    let refused = refused(changes, results);
    if refused.is_empty() { Ok(()) } else { Err(ApplyError::Refused { refused }) }
}

/// Returns the changes that were refused, but for those that were so already.
pub(crate) fn refused<T>(
    changes: &[KernelChange],
    results: Vec<Result<T, crate::Refusal>>,
) -> Vec<Refused> {
    let refused = changes.iter().zip(results).filter_map(|(change, result)| {
        let refusal = result.err().filter(|refusal| !is_so_already(change, refusal))?;
        Some(Refused::new(change, refusal))
    });
    refused.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mark, Table};

    #[test]
    fn one_of_two_twins_is_there_at_any_time() {
        let ours = Rule {
            mark: Some(Mark { value: 0x80, mask: 0x80 }),
            ..Rule::new(Family::Ipv4, 1024, Table::MAIN)
        };
        let nobodys = Rule { protocol: Protocol::UNSPECIFIED, ..ours.clone() };
        let others = Rule { protocol: Protocol(4), ..ours.clone() };
        let desired = State {
            wanted: vec![Object::Rule(ours.clone())],
            claims: vec![Claim::Rules(nobodys.clone())],
        };
        let cases = [
            vec![],
            vec![&ours],
            vec![&nobodys],
            vec![&nobodys, &ours],
            vec![&ours, &nobodys],
            vec![&ours, &others, &nobodys],
        ];
        for rules in cases {
            let actual =
                Actual { rules: rules.into_iter().cloned().collect(), ..Actual::default() };
            let mut kernel = actual.rules.clone();
            for change in changes(&diff(&desired, &actual), &actual) {
                act(&mut kernel, &change);
                assert!(kernel.contains(&ours) || kernel.contains(&nobodys), "{actual:?}");
            }
            let expected = if actual.rules.contains(&others) {
                // To the kernel it looks like the one that should go, and it stands in front of it.
                vec![&others, &nobodys, &ours]
            } else {
                vec![&ours]
            };
            let mut expected: Vec<_> = expected.into_iter().cloned().collect();
            expected.sort();
            kernel.sort();
            assert_eq!(kernel, expected, "{actual:?}");
        }
    }

    /// Does what the kernel does.
    fn act(rules: &mut Vec<Rule>, change: &KernelChange) {
        match change {
            KernelChange::Set(Object::Rule(rule)) => rules.push(rule.clone()),
            KernelChange::Remove(Object::Rule(rule)) => {
                let first = rules.iter().position(|candidate| rule.removes(candidate));
                rules.remove(first.unwrap());
            }
            other => panic!("{other}"),
        }
    }
}
