use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use super::rng::Rng;
use crate::sim::Cloud;
use crate::{
    Ec2Action, Effect, EniId, Failure, FailureKind, Ipv4Amount, Node, Observation, Outcome,
    Timestamp,
};

/// One way in which EC2 or IMDS does not answer at once, wholly and truly.
///
/// What each does to which action:
///
/// | fault | a change | a question |
/// |---|---|---|
/// | `Throttled` | refused, nothing done | refused |
/// | `CallLost` | nothing done, no answer | no answer |
/// | `AnswerLost` | done, no answer | no answer |
/// | `Partial` | see [`Fault::Partial`] | every other ENI and block is missing |
/// | `Stale` | no effect | shows what was, and claims to be new |
/// | `Empty` | no effect | shows nothing |
/// | `Reordered` | no effect | ENIs, blocks and subnets in reverse order |
/// | `WithoutPrimary` | no effect | the primary ENI is missing |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Fault {
    /// The call is refused because too many came before: `RequestLimitExceeded`.
    Throttled,
    /// The call does not arrive.
    CallLost,
    /// The call takes effect; its answer does not arrive.
    AnswerLost,
    /// A part: of an assignment, half of what was asked for comes; of a creation, all comes but the answer shows half; of
    /// a release, half is taken back and no answer arrives; of an observation, every other ENI but the primary is missing,
    /// and every other block.
    Partial,
    /// An observation shows what was this long ago: as far back as [`Cloud::remember`] was told to reach.
    Stale(Duration),
    /// An observation shows no ENI, a list no subnet.
    Empty,
    /// What is listed comes in reverse order.
    Reordered,
    /// A list of ENIs lacks the primary one, as that of another account does.
    WithoutPrimary,
}

impl Fault {
    /// Returns whether it can happen to an action.
    pub fn fits(self, action: &Ec2Action) -> bool {
        let list = matches!(
            action,
            Ec2Action::DescribeNetworkInterfaces(_)
                | Ec2Action::DescribeSubnets
                | Ec2Action::ReadMetadata
        );
        match self {
            // The metadata service has no quota to speak of.
            Self::Throttled => !matches!(action, Ec2Action::ReadMetadata),
            Self::CallLost | Self::AnswerLost => true,
            Self::Partial => {
                list || matches!(
                    action,
                    Ec2Action::CreateNetworkInterface(_)
                        | Ec2Action::AssignPrivateIpAddresses(_)
                        | Ec2Action::UnassignPrivateIpAddresses(_)
                        | Ec2Action::UnassignIpv6Addresses(_)
                )
            }
            Self::Stale(_) | Self::Empty | Self::Reordered | Self::WithoutPrimary => list,
        }
    }
}

/// How often EC2 fails, and how late it is: data for [`World::with_faults`](super::World::with_faults).
///
/// Each field but the durations counts calls in a thousand; a call suffers at most one fault, and only one that
/// [fits](Fault::fits) it. The seed decides which call it is.
///
/// ```
/// use std::time::Duration;
/// use vpc_ipam_core::sim::Faults;
///
/// let rough = Faults { throttled: 200, answer_lost: 50, delay_max: Duration::from_secs(10), ..Faults::default() };
/// assert_eq!(rough.stale, 0);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Faults {
    /// [`Fault::Throttled`].
    pub throttled: u16,
    /// [`Fault::CallLost`].
    pub call_lost: u16,
    /// [`Fault::AnswerLost`].
    pub answer_lost: u16,
    /// [`Fault::Partial`].
    pub partial: u16,
    /// [`Fault::Stale`].
    pub stale: u16,
    /// [`Fault::Empty`].
    pub empty: u16,
    /// [`Fault::Reordered`].
    pub reordered: u16,
    /// How far back a stale answer reaches at most. Address management counts on EC2 being late by
    /// [`Timing::eventual_consistency`](crate::Timing::eventual_consistency) at most.
    pub stale_max: Duration,
    /// How long an answer takes at most to arrive; what it tells is as old as the call.
    pub delay_max: Duration,
}

impl Faults {
    /// Draws what happens to one call: its fault, and how long its answer takes.
    pub(super) fn draw(&self, action: &Ec2Action, rng: &mut Rng) -> (Option<Fault>, Duration) {
        let mut left = rng.below(1000);
        let part_of = |rng: &mut Rng, most: Duration| most / 256 * (rng.below(256) + 1);
        let stale = Fault::Stale(part_of(rng, self.stale_max));
        let delay = part_of(rng, self.delay_max);
        let kinds = [
            (self.throttled, Fault::Throttled),
            (self.call_lost, Fault::CallLost),
            (self.answer_lost, Fault::AnswerLost),
            (self.partial, Fault::Partial),
            (self.stale, stale),
            (self.empty, Fault::Empty),
            (self.reordered, Fault::Reordered),
        ];
        let mut drawn = None;
        for (of_thousand, fault) in kinds {
            match left.checked_sub(u32::from(of_thousand)) {
                Some(rest) => left = rest,
                None => {
                    drawn = Some(fault);
                    break;
                }
            }
        }
        (drawn.filter(|fault| fault.fits(action)), delay)
    }
}

impl Cloud {
    /// Carries out an action of a node with a fault, at once. A fault that does not [fit](Fault::fits) the action is none.
    pub fn execute_with(
        &mut self,
        node: &Node,
        action: &Ec2Action,
        fault: Option<Fault>,
        now: Timestamp,
    ) -> Outcome {
        let Some(fault) = fault.filter(|fault| fault.fits(action)) else {
            return self.execute(node, action, now);
        };
        match fault {
            Fault::Throttled => failed(FailureKind::Throttled, "RequestLimitExceeded"),
            Fault::CallLost => failed(FailureKind::Unanswered, "the call was lost"),
            Fault::AnswerLost => {
                let _ = self.execute(node, action, now);
                failed(FailureKind::Unanswered, "the answer was lost")
            }
            Fault::Partial => self.execute_partly(node, action, now),
            Fault::Stale(age) => {
                // Time does not run backwards from the epoch.
                let then = Timestamp::from_nanos(
                    now.as_nanos().saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(0)),
                );
                let Some(enis) = self.past.at(then).cloned() else {
                    return self.execute(node, action, now);
                };
                let attached = enis
                    .values()
                    .filter(|eni| {
                        eni.attachment.as_ref().is_some_and(|a| a.instance == node.instance)
                    })
                    .map(|eni| eni.id)
                    .collect();
                let present = core::mem::replace(&mut self.enis, enis);
                let present_attached = self.replace_attached(node, attached);
                let outcome = self.execute(node, action, now);
                self.replace_attached(node, present_attached);
                self.enis = present;
                outcome
            }
            Fault::Empty => altered(self.execute(node, action, now), |observation| {
                observation.enis.clear();
            }),
            Fault::WithoutPrimary => altered(self.execute(node, action, now), |observation| {
                observation.enis.retain(|eni| eni.id != node.primary);
            }),
            Fault::Reordered => altered(self.execute(node, action, now), |observation| {
                observation.enis.reverse();
                observation.enis.iter_mut().for_each(|eni| eni.blocks.reverse());
            }),
        }
        .listing(fault)
    }

    fn replace_attached(&mut self, node: &Node, enis: BTreeSet<EniId>) -> BTreeSet<EniId> {
        match self.instances.get_mut(&node.instance) {
            Some(instance) => core::mem::replace(&mut instance.enis, enis),
            None => enis,
        }
    }

    fn execute_partly(&mut self, node: &Node, action: &Ec2Action, now: Timestamp) -> Outcome {
        match action {
            Ec2Action::CreateNetworkInterface(_) => match self.execute(node, action, now) {
                Outcome::Done(Effect::Created(mut eni)) => {
                    halve(&mut eni.blocks);
                    Outcome::Done(Effect::Created(eni))
                }
                outcome => outcome,
            },
            Ec2Action::AssignPrivateIpAddresses(request) => {
                let mut request = request.clone();
                request.amount = match request.amount {
                    Ipv4Amount::Addresses(count) => Ipv4Amount::Addresses(count.div_ceil(2)),
                    Ipv4Amount::Prefixes(count) => Ipv4Amount::Prefixes(count.div_ceil(2)),
                };
                self.execute(node, &Ec2Action::AssignPrivateIpAddresses(request), now)
            }
            Ec2Action::UnassignPrivateIpAddresses(request) => {
                let mut request = request.clone();
                halve(&mut request.blocks);
                let _ = self.execute(node, &Ec2Action::UnassignPrivateIpAddresses(request), now);
                failed(FailureKind::Unanswered, "the answer was lost")
            }
            Ec2Action::UnassignIpv6Addresses(request) => {
                let mut request = request.clone();
                halve(&mut request.prefixes);
                let _ = self.execute(node, &Ec2Action::UnassignIpv6Addresses(request), now);
                failed(FailureKind::Unanswered, "the answer was lost")
            }
            _ => altered(self.execute(node, action, now), |observation| {
                let mut index = 0;
                observation.enis.retain(|eni| {
                    index += 1;
                    eni.id == node.primary || index % 2 == 0
                });
                observation.enis.iter_mut().for_each(|eni| halve(&mut eni.blocks));
            }),
        }
    }
}

impl Outcome {
    /// Applies a fault to a list of subnets, if it is one.
    fn listing(mut self, fault: Fault) -> Self {
        if let Self::Done(Effect::Subnets(subnets)) = &mut self {
            match fault {
                Fault::Empty => subnets.clear(),
                Fault::Partial => halve(subnets),
                Fault::Reordered => subnets.reverse(),
                _ => {}
            }
        }
        self
    }
}

fn altered(mut outcome: Outcome, change: impl FnOnce(&mut Observation)) -> Outcome {
    match &mut outcome {
        Outcome::Done(Effect::Observed(observation)) => change(observation),
        Outcome::Done(Effect::Metadata(metadata)) => change(&mut metadata.observation),
        Outcome::Done(_) | Outcome::Failed(_) => {}
    }
    outcome
}

/// Keeps every other item, the first included.
fn halve<T>(items: &mut Vec<T>) {
    let mut index = 0;
    items.retain(|_| {
        index += 1;
        index % 2 == 1
    });
}

fn failed(kind: FailureKind, message: &str) -> Outcome {
    Outcome::Failed(Failure { kind, retry_after: None, message: message.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{CreateInterface, CreateSubnet, Ipv4Request, RunInstance};
    use crate::{AssignPrivateIpAddresses, Limits, Scope};

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    struct Lab {
        cloud: Cloud,
        node: Node,
    }

    impl Lab {
        fn new() -> Self {
            let mut cloud = Cloud::new(7);
            let vpc = cloud.create_vpc([("10.0.0.0/16").parse().unwrap()].into(), Vec::new());
            let zone = "eu-west-1a".parse().unwrap();
            let subnet = CreateSubnet::new(vpc, zone, "10.0.1.0/24".parse().unwrap());
            let subnet = cloud.create_subnet(subnet).unwrap();
            let limits = Limits::lookup("m5.large".parse().unwrap()).unwrap();
            let instance = cloud.run_instance(RunInstance::new(limits, subnet), NOW).unwrap();
            cloud.remember(Duration::from_secs(60));
            let node = cloud.instance(&instance).unwrap().node.clone();
            Self { cloud, node }
        }

        fn assign(&mut self, count: u16, fault: Option<Fault>, now: Timestamp) -> Outcome {
            let amount = Ipv4Amount::Addresses(count);
            let request = AssignPrivateIpAddresses { eni: self.node.primary, amount };
            let action = Ec2Action::AssignPrivateIpAddresses(request);
            self.cloud.execute_with(&self.node.clone(), &action, fault, now)
        }

        fn blocks(&mut self, fault: Option<Fault>, now: Timestamp) -> Vec<usize> {
            let action = Ec2Action::DescribeNetworkInterfaces(Scope::Attached);
            match self.cloud.execute_with(&self.node.clone(), &action, fault, now) {
                Outcome::Done(Effect::Observed(observation)) => {
                    assert_eq!(observation.as_of, now, "a fault does not admit to be one");
                    observation.enis.iter().map(|eni| eni.blocks.len()).collect()
                }
                outcome => panic!("{outcome:?}"),
            }
        }

        fn held(&self) -> usize {
            self.cloud.interface(&self.node.primary).unwrap().ipv4.len()
        }
    }

    #[test]
    fn lost_answer_hides_what_was_done_and_a_lost_call_does_nothing() {
        let mut lab = Lab::new();
        for (fault, kind, held) in [
            (Fault::CallLost, FailureKind::Unanswered, 0),
            (Fault::Throttled, FailureKind::Throttled, 0),
            (Fault::AnswerLost, FailureKind::Unanswered, 4),
        ] {
            match lab.assign(4, Some(fault), NOW) {
                Outcome::Failed(failure) => assert_eq!(failure.kind, kind, "{fault:?}"),
                outcome => panic!("{fault:?}: {outcome:?}"),
            }
            assert_eq!(lab.held(), held, "{fault:?}");
        }
    }

    #[test]
    fn part_of_an_assignment_is_what_the_answer_says() {
        let mut lab = Lab::new();
        match lab.assign(5, Some(Fault::Partial), NOW) {
            Outcome::Done(Effect::Assigned(blocks)) => assert_eq!(blocks.len(), 3),
            outcome => panic!("{outcome:?}"),
        }
        assert_eq!(lab.held(), 3);
    }

    #[test]
    fn observations_can_be_old_partial_or_empty() {
        let mut lab = Lab::new();
        let at = |secs| NOW + Duration::from_secs(secs);
        let _ = lab.assign(2, None, at(10));
        let _ = lab.assign(2, None, at(20));
        let stale = |secs| Some(Fault::Stale(Duration::from_secs(secs)));
        assert_eq!(lab.blocks(None, at(30)), [4]);
        assert_eq!(lab.blocks(stale(5), at(30)), [4]);
        assert_eq!(lab.blocks(stale(11), at(30)), [2]);
        assert_eq!(lab.blocks(stale(25), at(30)), [0]);
        assert_eq!(lab.blocks(Some(Fault::Partial), at(30)), [2]);
        assert_eq!(lab.blocks(Some(Fault::Empty), at(30)), [0; 0]);
        assert_eq!(lab.blocks(None, at(30)), [4], "a look at the past changes nothing");
    }

    #[test]
    fn past_shows_an_eni_that_is_gone() {
        let mut lab = Lab::new();
        let request = CreateInterface {
            ipv4: Ipv4Request::Count(Ipv4Amount::Addresses(1)),
            ..CreateInterface::new(lab.node.subnet)
        };
        let at = |secs| NOW + Duration::from_secs(secs);
        let eni = lab.cloud.create_network_interface(&request, at(1)).unwrap().id;
        let attach = crate::AttachNetworkInterface {
            eni,
            instance: lab.node.instance,
            card: crate::Card(0),
            device: crate::DeviceIndex(1),
        };
        let attachment = lab.cloud.attach_network_interface(&attach, at(1)).unwrap();
        lab.cloud.detach_network_interface(attachment, at(20)).unwrap();
        lab.cloud.delete_network_interface(eni, at(21)).unwrap();
        assert_eq!(lab.blocks(None, at(30)).len(), 1);
        assert_eq!(lab.blocks(Some(Fault::Stale(Duration::from_secs(15))), at(30)).len(), 2);
    }

    #[test]
    fn faults_come_at_their_rates() {
        let faults = Faults {
            throttled: 100,
            stale: 300,
            stale_max: Duration::from_secs(9),
            ..Faults::default()
        };
        let mut rng = Rng::new(3);
        let action = Ec2Action::DescribeSubnets;
        let drawn: Vec<_> = (0..10_000).map(|_| faults.draw(&action, &mut rng).0).collect();
        let throttled = drawn.iter().filter(|fault| **fault == Some(Fault::Throttled)).count();
        let stale = drawn.iter().filter(|fault| matches!(fault, Some(Fault::Stale(_)))).count();
        assert!((900..1100).contains(&throttled), "{throttled}");
        assert!((2800..3200).contains(&stale), "{stale}");
        assert_eq!(faults.draw(&action, &mut Rng::new(1)), faults.draw(&action, &mut Rng::new(1)));
    }
}
