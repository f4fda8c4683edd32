//! One thing keeps failing, and the node keeps serving: every call, refused in every way, once or for ever, everywhere or at one
//! place, on nodes of every kind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]

use core::fmt;
use core::time::Duration;
use std::borrow::Cow;
use std::collections::BTreeMap;

use vpc_ipam_core::sim::{About, Call, Lasts, Refusal, World};
use vpc_ipam_core::testkit::{Place, Scenario, Setup, Step, Terrain};
use vpc_ipam_core::{
    Action, Card, Ec2Action, Ec2Operation, EniId, FailureKind, Families, HostAction, Ipv4Amount,
    Ipv4Kind, SubnetId, Timestamp, WarmTarget,
};

const MINUTE: Duration = Duration::from_secs(60);
/// How long pods may have to wait until the node has found a way round what fails.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

const ATTACH: Call = Call::Ec2(Ec2Operation::AttachNetworkInterface);

/// What a node gives its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Addresses,
    Prefixes,
    Ipv6,
    Dual,
    CustomNetworking,
    SeveralCards,
}

impl Mode {
    /// A node of 4 ENIs of 3 addresses or 2 prefixes each, or of 2 cards with 3 and 2 such ENIs.
    fn setup(self, terrain: Terrain) -> Setup {
        let cards = if self == Self::SeveralCards { vec![3, 2] } else { vec![4] };
        let slots = if self == Self::Prefixes { 2 } else { 3 };
        let plain = Setup::decode(&[]);
        let families = match self {
            Self::Prefixes => Families::Ipv4(Ipv4Kind::Prefixes),
            Self::Ipv6 => Families::Ipv6,
            Self::Dual => Families::Dual(Ipv4Kind::Addresses),
            _ => Families::Ipv4(Ipv4Kind::Addresses),
        };
        Setup {
            limits: plain
                .limits
                .clone()
                .with_enis_per_card(Cow::Owned(cards))
                .with_ipv4_per_eni(slots + 1)
                .with_ipv6_per_eni(slots + 1),
            config: plain
                .config
                .clone()
                .with_families(families)
                .with_target(WarmTarget::Ips { warm: 1, minimum: 0 })
                .with_custom_networking(self == Self::CustomNetworking)
                .with_multi_nic(self == Self::SeveralCards),
            terrain,
            ..plain
        }
    }

    /// How many pods are started: as many as the ENIs besides the primary one can serve.
    fn pods(self) -> usize {
        if self == Self::Prefixes { 50 } else { 9 }
    }

    /// How many of them can be served by an ENI fewer than the type takes.
    fn without_one_eni(self) -> usize {
        match self {
            Self::Prefixes => 32,
            Self::CustomNetworking => 6,
            _ => self.pods(),
        }
    }

    /// How many pods the primary ENI can serve.
    fn of_primary(self) -> usize {
        match self {
            Self::Prefixes => 32,
            Self::Ipv6 => self.pods(),
            Self::CustomNetworking => 0,
            Self::Addresses | Self::Dual | Self::SeveralCards => 3,
        }
    }
}

/// Where calls are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Everywhere,
    /// On the primary ENI.
    Primary,
    /// In the primary ENI's subnet, where there is another.
    PrimarySubnet,
    /// On the second network card.
    SecondCard,
}

/// What is refused of a node, how, where and for how long.
#[derive(Clone, Copy)]
struct Case {
    mode: Mode,
    call: Call,
    kind: FailureKind,
    place: Where,
    lasting: bool,
    /// Whether the node is after it converged when it begins, or starts into it.
    settled: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, call, kind, place, lasting, settled } = self;
        let times = if *lasting { "for ever" } else { "once" };
        let when = if *settled { "after it converged" } else { "at start" };
        write!(f, "{mode:?}, {call:?} fails {times} ({kind:?}), {place:?}, {when}")
    }
}

impl Case {
    /// Returns all of a mode.
    fn all(mode: Mode) -> impl Iterator<Item = Self> {
        let places = [Where::Everywhere, Where::Primary, Where::PrimarySubnet, Where::SecondCard];
        let fits = move |place: &Where| match place {
            Where::Everywhere | Where::Primary => true,
            Where::PrimarySubnet => mode != Mode::CustomNetworking,
            Where::SecondCard => mode == Mode::SeveralCards,
        };
        let of_call = move |call: Call| {
            let kinds = call.kinds().iter().copied();
            kinds.flat_map(move |kind| {
                places.into_iter().filter(fits).flat_map(move |place| {
                    [(false, false), (false, true), (true, false), (true, true)].map(
                        move |(lasting, settled)| Self {
                            mode,
                            call,
                            kind,
                            place,
                            lasting,
                            settled,
                        },
                    )
                })
            })
        };
        Call::ALL.into_iter().flat_map(of_call)
    }

    fn terrain(self) -> Terrain {
        if self.place == Where::PrimarySubnet { Terrain::Tagged } else { Terrain::Wide }
    }

    /// Returns how many pods can be served all the same.
    fn expected(self) -> usize {
        let pods = self.mode.pods();
        // These speak of more than the ENI that refuses.
        let wide = match self.kind {
            FailureKind::Throttled => true,
            FailureKind::SubnetFull | FailureKind::NoFreePrefix => self.place == Where::Primary,
            // Another cause than prefixes is not told.
            FailureKind::Denied | FailureKind::Rejected => {
                self.place == Where::Primary && self.mode == Mode::Prefixes
            }
            _ => false,
        };
        // What one refusal teaches of a limit is believed for an hour.
        if self.kind == FailureKind::AttachmentLimit && self.call == ATTACH && !self.lasting {
            return self.mode.without_one_eni();
        }
        if !self.lasting || self.place != Where::Everywhere && !wide {
            return pods;
        }
        match self.call {
            // An ENI that was made before it was known had as many as were missing then, and takes no more.
            Call::Ec2(Ec2Operation::AssignPrivateIpAddresses) => match (self.mode, self.kind) {
                (Mode::Ipv6, _) => pods,
                // As EC2 words it, ENIs cannot be made with any prefix either.
                (
                    Mode::Prefixes,
                    FailureKind::SubnetFull
                    | FailureKind::NoFreePrefix
                    | FailureKind::Denied
                    | FailureKind::Rejected,
                ) => 32,
                (Mode::Prefixes, _) => pods,
                _ => pods - 2,
            },
            // An ENI more cannot be had, or not be used.
            Call::Ec2(
                Ec2Operation::CreateNetworkInterface | Ec2Operation::AttachNetworkInterface,
            )
            | Call::SetUpEni => self.mode.of_primary(),
            // No source says which ENIs there are, so that none is made; IMDS shows the primary one.
            Call::Ec2(Ec2Operation::DescribeNetworkInterfaces) if !self.settled => {
                self.mode.of_primary()
            }
            // ENIs are made with addresses, and their /80.
            _ => pods,
        }
    }

    /// Plays it on a world, and returns what is not as it should be.
    fn judge(self) -> Result<(), String> {
        let mut world = self.mode.setup(self.terrain()).world();
        if self.settled {
            world.run_for(10 * MINUTE);
        }
        let node = world.ipam.node().clone();
        world.refuse(Refusal {
            call: self.call,
            about: match self.place {
                Where::Everywhere => None,
                Where::Primary => Some(About::Eni(node.primary)),
                Where::PrimarySubnet => Some(About::Subnet(node.subnet)),
                Where::SecondCard => Some(About::Card(Card(1))),
            },
            kind: self.kind,
            lasts: if self.lasting { Lasts::ForEver } else { Lasts::Calls(1) },
        });
        let names: Vec<String> = (0..self.mode.pods()).map(|pod| format!("pod-{pod}")).collect();
        names.iter().for_each(|name| world.add_pod(name));
        world.run_for(PATIENCE);
        let served = world.leases().len();
        let expected = self.expected();
        if served < expected {
            let why = world.ipam.explain(world.now);
            return Err(format!("{served} of {expected} pods served\n{why}"));
        }
        let from = world.now + 60 * MINUTE;
        world.run_for(120 * MINUTE);
        let (call, thing, times) = most_called(&world, from);
        let reads = matches!(call, Call::Ec2(operation) if operation.reads());
        let most = match () {
            () if self.passes() && served < names.len() => HURRIED_MAX,
            () if reads => READS_MAX,
            () => CALLS_MAX,
        };
        if times > most {
            let call = format!("{call:?} about {thing:?}");
            return Err(format!("{call}: {times} times in an hour, {most} at most"));
        }
        Ok(())
    }

    /// Returns whether the failure is one that passes by itself, so that what pods wait for is tried again sooner.
    fn passes(self) -> bool {
        !matches!(
            self.kind,
            FailureKind::Denied
                | FailureKind::Rejected
                | FailureKind::AddressLimit
                | FailureKind::AttachmentLimit
                | FailureKind::EniLimit
                | FailureKind::SubnetFull
                | FailureKind::NoFreePrefix
        )
    }

    /// Returns the same as a scenario, for the rules of the driver.
    fn scenario(self) -> Scenario {
        let pods = u8::try_from(self.mode.pods().min(12)).unwrap();
        let add = |pod| Step::Add { pod, every_card: false };
        let mut steps = Vec::new();
        if self.settled {
            steps.push(Step::Cooperate);
        }
        steps.push(Step::Refuse {
            call: self.call,
            about: match self.place {
                Where::Everywhere => Place::Anywhere,
                Where::Primary => Place::Eni(0),
                Where::PrimarySubnet => Place::PrimarySubnet,
                Where::SecondCard => Place::Card(1),
            },
            kind: self.kind,
            lasts: if self.lasting { Duration::MAX } else { Duration::ZERO },
        });
        steps.extend((0..pods).map(add));
        steps.extend([Step::Cooperate, Step::Probe, Step::Wait(MINUTE), Step::Cooperate]);
        steps.extend([Step::Probe, Step::Hour, Step::Probe]);
        steps.extend((0..pods / 2).map(|pod| Step::Del { pod }));
        steps.extend([Step::Cooperate, Step::Wait(MINUTE), Step::Cooperate, Step::Probe]);
        steps.extend((0..pods).map(add));
        steps.extend([Step::Cooperate, Step::Probe, Step::Terminate, Step::Wait(MINUTE)]);
        steps.push(Step::Cooperate);
        Scenario { setup: self.mode.setup(self.terrain()), steps }
    }
}

/// How often one call is made about one thing in the second hour of a failure: every 5 minutes.
const CALLS_MAX: usize = 12;
/// The same of a question to EC2, which other calls that fail make the node ask too.
const READS_MAX: usize = 20;
/// The same of a call while pods wait for what it would bring: every 30 s.
const HURRIED_MAX: usize = 121;

/// What a call is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Eni(EniId),
    PrefixesOf(EniId),
    Subnet(SubnetId),
    Question(String),
}

/// Returns what was called most often about one thing since then, and how often.
fn most_called(world: &World, since: Timestamp) -> (Call, Thing, usize) {
    let mut calls: BTreeMap<(Call, Thing), usize> = BTreeMap::new();
    for (_, issued) in world.issued().iter().filter(|(at, _)| *at > since) {
        let call = Call::of(&issued.action);
        if call == Call::ReadMetadata {
            continue;
        }
        let thing = match &issued.action {
            Action::Host(HostAction::SetUpEni(link) | HostAction::RemoveEni(link)) => {
                Thing::Eni(link.eni)
            }
            Action::Ec2(action) => match action {
                Ec2Action::CreateNetworkInterface(call) => Thing::Subnet(call.subnet),
                Ec2Action::AttachNetworkInterface(call) => Thing::Eni(call.eni),
                Ec2Action::ModifyNetworkInterfaceAttribute(call) => Thing::Eni(call.eni),
                Ec2Action::AssignPrivateIpAddresses(call) => match call.amount {
                    Ipv4Amount::Addresses(_) => Thing::Eni(call.eni),
                    Ipv4Amount::Prefixes(_) => Thing::PrefixesOf(call.eni),
                },
                Ec2Action::AssignIpv6Addresses(call) => Thing::Eni(call.eni),
                Ec2Action::UnassignPrivateIpAddresses(call) => Thing::Eni(call.eni),
                Ec2Action::UnassignIpv6Addresses(call) => Thing::Eni(call.eni),
                Ec2Action::DetachNetworkInterface(call) => Thing::Eni(call.eni),
                Ec2Action::DeleteNetworkInterface(call) => Thing::Eni(call.eni),
                Ec2Action::CreateTags(call) => Thing::Eni(call.eni),
                Ec2Action::DescribeNetworkInterfaces(scope) => {
                    Thing::Question(format!("{scope:?}"))
                }
                Ec2Action::DescribeSubnets | Ec2Action::ReadMetadata => {
                    Thing::Question(String::new())
                }
            },
        };
        *calls.entry((call, thing)).or_default() += 1;
    }
    let most = calls.into_iter().max_by_key(|(_, times)| *times);
    let ((call, thing), times) = most.unwrap();
    (call, thing, times)
}

fn sweep(mode: Mode) {
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in Case::all(mode) {
        count += 1;
        if let Err(what) = case.judge() {
            wrong.push(format!("{case}: {what}"));
        }
        let scenario = case.scenario();
        if let Err(broken) = scenario.run() {
            wrong.push(format!("{case}: {broken}\n{}", scenario.transcript()));
        }
    }
    println!("{mode:?}: {count} cases");
    assert!(count > 600, "{count}");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_node_of_single_addresses_keeps_serving() {
    sweep(Mode::Addresses);
}

#[test]
fn a_node_of_prefixes_keeps_serving() {
    sweep(Mode::Prefixes);
}

#[test]
fn a_node_of_ipv6_keeps_serving() {
    sweep(Mode::Ipv6);
}

#[test]
fn a_node_of_both_families_keeps_serving() {
    sweep(Mode::Dual);
}

#[test]
fn a_node_of_custom_networking_keeps_serving() {
    sweep(Mode::CustomNetworking);
}

#[test]
fn a_node_of_several_cards_keeps_serving() {
    sweep(Mode::SeveralCards);
}
