//! What a node wants, does and waits for, for people and for programs.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use ipnet::IpNet;

use super::Waiting;
use crate::{
    BlockState, Blocked, Card, CardDemand, DeviceIndex, EniId, InstanceId, InstanceType, Ipam,
    Issued, LearnedLimit, Management, Planned, Pod, PodKey, Readiness, RecentFailure, Stage,
    Timestamp, Unconfirmed, Wake,
};

/// What a node wants, does and waits for, at one moment: everything that an operator needs to tell why it has the
/// addresses it has.
///
/// [`Ipam::explain`] makes it; its `Display` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Explanation {
    /// The point in time that it explains.
    pub at: Timestamp,
    /// The id of the instance.
    pub instance: InstanceId,
    /// The type of the instance.
    pub instance_type: InstanceType,
    /// What the next ADD would be told.
    pub readiness: Readiness,
    /// What is held, ENI by ENI.
    pub enis: Vec<EniAccount>,
    /// What is wanted, for each network card.
    pub wanted: Vec<CardDemand>,
    /// What is being done, and why: its outcome is not known yet.
    pub doing: Vec<Issued>,
    /// What would be done next, and why.
    pub next: Vec<Planned>,
    /// What is blocked, by what, and until when.
    #[cfg_attr(feature = "serde", serde(alias = "held"))]
    pub blocked: Vec<Blocked>,
    /// What failed lately and is left alone for a while.
    pub failed: Vec<RecentFailure>,
    /// The limits that EC2 holds lower than those of the instance type.
    pub learned: Vec<LearnedLimit>,
    /// The pods that wait for an address, and until when, first come first.
    pub waiting: Vec<WaitingPod>,
    /// When something is due next, and why.
    pub due: Option<(Timestamp, Wake)>,
}

/// What one ENI contributes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct EniAccount {
    /// The id of the ENI.
    pub eni: EniId,
    /// The network card that it is on, or will be attached to.
    pub card: Card,
    /// Its index on that card.
    pub device: DeviceIndex,
    /// How far it is.
    pub stage: Stage,
    /// Whether we manage it, and if not, why.
    pub management: Management,
    /// Whether its subnet was taken out of use.
    pub excluded: bool,
    /// Whether what we believe of it needs EC2's word.
    #[cfg_attr(feature = "serde", serde(rename = "doubt"))]
    pub unconfirmed: Option<Unconfirmed>,
    /// IPv4 addresses for pods that it carries.
    pub ipv4: AddressCount,
    /// IPv6 addresses for pods that it carries; of a /80 prefix as many as we keep track of.
    pub ipv6: AddressCount,
}

/// How many addresses of one family an ENI carries for pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AddressCount {
    /// All addresses of its blocks.
    pub total: u32,
    /// Of these, addresses that pods hold.
    pub assigned: u32,
    /// Of these, addresses that cool.
    pub cooling: u32,
    /// Of these, addresses that an untracked owner uses.
    pub quarantined: u32,
    /// Of these, addresses that no pod gets, because a source did not show them or because they are being released.
    pub withheld: u32,
}

/// A pod that waits for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct WaitingPod {
    /// The interface of the pod that waits.
    pub key: PodKey,
    /// The pod, for people.
    pub pod: Arc<Pod>,
    /// When it gets an answer at the latest.
    pub deadline: Timestamp,
}

impl Ipam {
    /// Returns what is wanted, what is being done and why, and what is blocked, by what and until when. Changes nothing.
    pub fn explain(&self, now: Timestamp) -> Explanation {
        let plan = self.plan(now);
        let node = self.node();
        let cooldown = self.config().cooldown;
        let enis = self.pool().enis().iter().map(|eni| {
            let (mut ipv4, mut ipv6) = (AddressCount::default(), AddressCount::default());
            for block in eni.blocks() {
                let count = match block.net() {
                    IpNet::V4(_) => &mut ipv4,
                    IpNet::V6(_) => &mut ipv6,
                };
                count.total += block.capacity();
                count.assigned += block.assigned();
                let cooling = block.cooling(now, cooldown, Duration::ZERO);
                count.cooling += cooling;
                count.quarantined += block.quarantined();
                if block.state() != BlockState::Confirmed {
                    let taken = block.assigned() + block.quarantined() + cooling;
                    count.withheld += block.capacity() - taken;
                }
            }
            EniAccount {
                eni: eni.id,
                card: eni.card,
                device: eni.device,
                stage: eni.stage,
                management: eni.management,
                excluded: eni.excluded,
                unconfirmed: eni.unconfirmed,
                ipv4,
                ipv6,
            }
        });
        let doing = self.in_flight().map(|(id, Planned { action, because })| Issued {
            id,
            action: action.clone(),
            because: because.clone(),
        });
        let waiting = self.waiting.iter().map(|Waiting { request, deadline }| WaitingPod {
            key: request.key.clone(),
            pod: Arc::clone(&request.pod),
            deadline: *deadline,
        });
        Explanation {
            at: now,
            instance: node.instance,
            instance_type: node.instance_type,
            readiness: self.readiness(now),
            enis: enis.collect(),
            wanted: plan.demand,
            doing: doing.collect(),
            next: plan.actions,
            blocked: plan.blocked,
            failed: self.recent_failures(now).collect(),
            learned: self.learned_limits().collect(),
            waiting: waiting.collect(),
            due: self.poll_timeout(),
        }
    }
}

impl fmt::Display for Explanation {
    /// Writes a line for each fact: what kind of fact it is, then the fact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, instance, instance_type, readiness, .. } = self;
        write!(f, "{instance} ({instance_type}) at {at}: ")?;
        match readiness {
            Readiness::Ready | Readiness::Soon { .. } => writeln!(f, "{readiness}")?,
            Readiness::NotReady(error) => {
                writeln!(f, "not ready")?;
                write!(f, "  refuses  {error}")?;
                match error.retry_at() {
                    Some(at) => writeln!(f, "; may change at {at}")?,
                    None => writeln!(f)?,
                }
            }
        }
        for eni in &self.enis {
            writeln!(f, "  holds    {eni}")?;
        }
        for CardDemand { card, target, stock, demand, .. } in &self.wanted {
            writeln!(f, "  wants    {card}: {stock}, {target}: {demand}")?;
        }
        for Issued { id, action, because } in &self.doing {
            writeln!(f, "  does     {id} {action}: {because}")?;
        }
        for Planned { action, because } in &self.next {
            writeln!(f, "  next     {action}: {because}")?;
        }
        for blocked in self.blocked.iter().filter(|blocked| !blocked.is_next_reading()) {
            writeln!(f, "  blocked  {blocked}")?;
        }
        for RecentFailure { scope, last, in_a_row, until, .. } in &self.failed {
            writeln!(f, "  failed   {scope}, {in_a_row} in a row, until {until}: {last}")?;
        }
        for limit in &self.learned {
            writeln!(f, "  learned  {limit}")?;
        }
        for WaitingPod { key, deadline, .. } in &self.waiting {
            writeln!(f, "  waiting  {key} until {deadline}")?;
        }
        self.write_due(f)
    }
}

impl Explanation {
    /// Writes when something is due next, and what.
    fn write_due(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((due, ref why)) = self.due else { return Ok(()) };
        write!(f, "  due      {due}: ")?;
        let for_what = |waiting_on| {
            let blocked = self.blocked.iter().find(|blocked| blocked.waiting_on == waiting_on)?;
            Some(blocked.wanted.clone())
        };
        match why {
            Wake::Due(waiting_on) => match for_what(waiting_on.clone()) {
                Some(wanted) => writeln!(f, "{wanted}")?,
                None => writeln!(f, "{waiting_on}")?,
            },
            Wake::Changed => writeln!(f, "plan anew")?,
            Wake::Deadline => writeln!(f, "answer a pod that waits")?,
            Wake::Cooled => writeln!(f, "grant an address that cooled down to a pod that waits")?,
            Wake::Unanswered => writeln!(f, "give up an action that was not answered")?,
        }
        Ok(())
    }
}

impl fmt::Display for LearnedLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enis { card, most, until } => {
                write!(f, "EC2 attaches no more than {most} ENIs to {card}, tried again at {until}")
            }
            Self::NewEniSlots { most, until } => write!(
                f,
                "EC2 attaches no ENI with more than {most} addresses or prefixes, tried again at {until}"
            ),
            Self::EniSlots { eni, most, until } => write!(
                f,
                "EC2 assigns no more than {most} addresses or prefixes to {eni}, tried again at {until}"
            ),
        }
    }
}

impl fmt::Display for EniAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { eni, card, device, stage, .. } = self;
        match *device {
            DeviceIndex(u8::MAX) => write!(f, "{eni} {stage}")?,
            _ => write!(f, "{eni} ({card} {device}) {stage}")?,
        }
        if self.management != Management::Managed {
            return write!(f, ", {}", self.management);
        }
        for (family, count) in [("IPv4", self.ipv4), ("IPv6", self.ipv6)] {
            if count.total > 0 {
                write!(f, ", {} {family}, {} assigned", count.total, count.assigned)?;
            }
            let besides = [
                (count.cooling, "cooling"),
                (count.quarantined, "used by an untracked owner"),
                (count.withheld, "withheld"),
            ];
            for (count, what) in besides.into_iter().filter(|(count, _)| *count > 0) {
                write!(f, ", {count} {what}")?;
            }
        }
        if self.excluded {
            f.write_str(", its subnet is out of use")?;
        }
        if let Some(unconfirmed) = self.unconfirmed {
            write!(f, ", unconfirmed since {}: {}", unconfirmed.since, unconfirmed.cause)?;
        }
        Ok(())
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Available => "not attached",
            Self::Attached => "attached, not set up",
            Self::Ready => "ready",
            Self::Removing(crate::Removing::Host) => "leaving: to be removed from the node",
            Self::Removing(crate::Removing::Detach) => "leaving: to be detached",
            Self::Removing(crate::Removing::Delete { .. }) => "leaving: to be deleted",
            Self::Removing(crate::Removing::Vanished) => "gone from EC2",
        })
    }
}

impl fmt::Display for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Managed => "managed",
            Self::NoManageTag => "not managed: tagged no_manage",
            Self::Untagged => "not managed: without our tag",
            Self::OtherVpc => "not managed: in another VPC",
            Self::InterfaceType => "not managed: its type carries no pods",
            Self::Card => "not managed: its network card is not in use",
        })
    }
}
