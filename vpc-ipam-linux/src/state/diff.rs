//! How a namespace differs from what it should hold, and the changes that put it right. Nothing here reads or writes.

use core::fmt;

use super::actual::Actual;
use super::{Claim, State};
use crate::datapath::nat::RuleSet;
use crate::{
    Family, KernelChange, LinkId, LinkIndex, Nat, NatActual, Object, Protocol, Route, Rule, Scope,
    SourceCheck,
};

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
    // An address goes before another is added: the kernel removes those of the same subnet along with the first.
    let (addresses, rest): (Vec<_>, Vec<_>) =
        unwanted.into_iter().partition(|object| matches!(object, Object::Address { .. }));
    let lost: Vec<_> = addresses.iter().collect();

    let mut differences: Vec<_> = addresses.iter().cloned().map(Difference::Unwanted).collect();
    let wanted = desired.wanted.iter();
    differences.extend(
        wanted.filter_map(|object| {
            difference_of(object, actual).or_else(|| goes_along(object, &lost))
        }),
    );
    differences.extend(rest.into_iter().map(Difference::Unwanted));
    differences
}

/// Returns how one wanted object differs from what is there.
pub(super) fn difference_of(wanted: &Object, actual: &Actual) -> Option<Difference> {
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
        Object::AwsCniNat(left) => actual.aws_cni_nat == *left,
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
                    let key =
                        |it: &Route| (it.table, it.destination) == (route.table, route.destination);
                    let mut rivals = actual.routes.iter().filter(|(of, _)| *of != link.index);
                    rivals.any(|(_, it)| key(it) && it.metric < route.metric)
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
                let ours_or_no_protocol =
                    |rule: &Rule| [Protocol::OURS, Protocol::UNSPECIFIED].contains(&rule.protocol);
                found.extend(rules_like(pattern, actual, ours_or_no_protocol));
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
        let index = self.rules.iter().rposition(before).map_or(0, |index| index + 1);
        self.rules.insert(index, rule.clone());
        self.changes.push(KernelChange::Set(Object::Rule(rule.clone())));
    }

    fn remove(&mut self, rule: &Rule) {
        let first = self.rules.iter().position(|candidate| rule.removes(candidate));
        match first.map(|index| (index, &self.rules[index])) {
            None => {}
            Some((index, first)) if first == rule => {
                self.rules.remove(index);
                self.changes.push(KernelChange::Remove(Object::Rule(rule.clone())));
            }
            Some((index, first)) if first.protocol == Protocol::OURS && first.is_twin_of(rule) => {
                let ours = self.rules.remove(index);
                self.changes.push(KernelChange::Remove(Object::Rule(ours.clone())));
                self.set(&ours);
                self.remove(rule);
            }
            // A rule of another program stands in front: to remove it would do more harm than to leave the other.
            Some(_) => {}
        }
    }
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
        let no_protocol = Rule { protocol: Protocol::UNSPECIFIED, ..ours.clone() };
        let foreign = Rule { protocol: Protocol(4), ..ours.clone() };
        let desired = State {
            wanted: vec![Object::Rule(ours.clone())],
            claims: vec![Claim::Rules(no_protocol.clone())],
        };
        let cases = [
            vec![],
            vec![&ours],
            vec![&no_protocol],
            vec![&no_protocol, &ours],
            vec![&ours, &no_protocol],
            vec![&ours, &foreign, &no_protocol],
        ];
        for rules in cases {
            let actual =
                Actual { rules: rules.into_iter().cloned().collect(), ..Actual::default() };
            let mut kernel = actual.rules.clone();
            for change in changes(&diff(&desired, &actual), &actual) {
                act(&mut kernel, &change);
                assert!(kernel.contains(&ours) || kernel.contains(&no_protocol), "{actual:?}");
            }
            let expected = if actual.rules.contains(&foreign) {
                // To the kernel it looks like the one that should go, and it stands in front of it.
                vec![&foreign, &no_protocol, &ours]
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
