mod checks;
mod elapse;
mod environment;
mod executor;
mod pods;
mod steps;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::model::Model;
use super::rule::{Breach, Rule, hold};
use super::setup::{Launched, Setup};
use super::step::Store;
use crate::sim::{Call, Cloud, Refusals};
use crate::{
    ActionId, Config, EniConfig, EniId, Event, Ipam, Ipv4Amount, Issued, Lease, Node, Observation,
    Outcome, Timestamp,
};

/// A node under test: core, the model of EC2, and a [`Model`] that watches both.
///
/// Every method that does something checks the rules afterwards.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    setup: Setup,
    node: Node,
    pub(super) cloud: Cloud,
    pub(super) ipam: Ipam,
    model: Model,
    pub(super) now: Timestamp,
    /// The latest time ever told.
    latest: Timestamp,
    /// The time as it would be if the clock had not been set back.
    real: Timestamp,
    /// When the process started, by that time.
    started: Timestamp,
    config: Config,
    eni_config: Option<EniConfig>,
    schedulable: bool,
    terminating: bool,
    kernel_works: bool,
    starts: u64,
    store: Store,
    /// Leases that the slow store has not written.
    unwritten: VecDeque<Lease>,
    refusals: Refusals,
    /// Whether a subnet, or the instance, has less room than core was ever shown.
    unseen_shortage: bool,
    /// Whether this process never asked for a prefix: no list says whether a subnet has one.
    unseen_fragments: bool,
    /// Whether another program attached an ENI since EC2 last said what is attached.
    unseen_eni: bool,
    /// Actions that the executor lost.
    lost: Vec<ActionId>,
    /// Actions that were issued before the clock was set back: what they show is void.
    void: BTreeSet<ActionId>,
    /// Actions that core gave up because no outcome came in time.
    given_up: BTreeSet<ActionId>,
    /// Actions that were not carried out.
    issued: Vec<Issued>,
    /// Whether the instance changed its type.
    resized: bool,
    /// Whether an answer left out ENIs that are there.
    misled: bool,
    /// Actions that were carried out, and their answers, which are on their way.
    posted: Vec<(Issued, Outcome)>,
    /// Answers to questions of other programs.
    photographs: Vec<Observation>,
    crowds: Vec<EniId>,
    /// How many changes in EC2 and on the node were tried, and succeeded.
    changes: (u32, u32),
    /// How often each operation was called.
    calls: BTreeMap<Call, u32>,
    log: Option<String>,
}

/// How many pods a scenario has.
const PODS: u8 = 64;

impl Driver {
    pub(super) fn new(setup: &Setup) -> Self {
        let now = Setup::START;
        let launched = setup.launch();
        let eni_config = Setup::eni_config(&launched);
        let Launched { cloud, instance, foreign, .. } = launched;
        let node = cloud.instance(&instance).expect("it was launched").node.clone();
        let mut model = Model::default();
        model.links.insert(node.primary);
        // Tags and types tell what is whose, and IMDS has neither.
        if setup.config.ec2_reads {
            model.foreign.extend(foreign);
        }
        let (limits, config) = (setup.limits.clone(), setup.config.clone());
        let ipam = Ipam::new(node.clone(), limits, config, setup.budget.clone(), setup.seed, now)
            .expect("a setup's configuration is usable");
        let mut driver = Self {
            config: setup.config.clone(),
            setup: setup.clone(),
            node,
            cloud,
            ipam,
            model,
            now,
            latest: now,
            real: now,
            started: now,
            eni_config,
            schedulable: true,
            terminating: false,
            kernel_works: true,
            starts: 1,
            store: Store::Prompt,
            unwritten: VecDeque::new(),
            refusals: Refusals::default(),
            unseen_shortage: false,
            unseen_fragments: true,
            unseen_eni: false,
            lost: Vec::new(),
            void: BTreeSet::new(),
            given_up: BTreeSet::new(),
            issued: Vec::new(),
            resized: false,
            misled: false,
            posted: Vec::new(),
            photographs: Vec::new(),
            crowds: Vec::new(),
            changes: (0, 0),
            calls: BTreeMap::new(),
            log: None,
        };
        driver.ipam.handle_eni_config(driver.eni_config.clone(), now);
        driver
    }

    /// Writes down what happens from now on.
    pub(super) fn keep_log(&mut self) {
        self.log = Some(String::new());
    }

    pub(super) fn into_log(self) -> String {
        self.log.unwrap_or_default()
    }

    /// Returns a hash of everything that decides what comes next.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        let enis: Vec<_> = self.cloud.interfaces().collect();
        let open = (&self.issued, &self.posted, &self.unwritten, &self.photographs, &self.refusals);
        let told = (self.now, self.schedulable, self.terminating, self.kernel_works, self.store);
        let stored = (&self.model.leases, &self.model.released, &self.model.granted);
        let state = (self.ipam.essence(), enis, open, told, stored);
        let _ = write!(hash, "{state:?}");
        hash.0
    }

    /// Takes over what core has to say, as a daemon does after every input.
    fn drain(&mut self) -> Result<(), Breach> {
        // Where the store is broken, each pod that waits is granted what the one before did not get.
        for _ in 0..u32::from(PODS) + 3 {
            while let Some(grant) = self.ipam.poll_grant() {
                match grant.result {
                    Ok(uncommitted) => {
                        hold!(
                            *uncommitted.key() == grant.key,
                            OneOwner,
                            "{} for {}",
                            uncommitted.key(),
                            grant.key
                        );
                        self.granted(uncommitted)?;
                    }
                    Err(error) => self.note(|| format!("{}: {error}", grant.key)),
                }
            }
            while let Some(event) = self.ipam.poll_event() {
                match &event {
                    Event::EniAppeared { eni, .. } => {
                        self.model.known_since.insert(*eni, self.now);
                    }
                    Event::EniVanished { eni, .. } => self.check_vanished(*eni)?,
                    Event::ActionFailed { id, .. } => self.on_failed(*id),
                    _ => {}
                }
                self.note(|| format!("event {event:?}"));
            }
            while let Some(issued) = self.ipam.poll_action() {
                self.note(|| {
                    format!("issued {} {:?} because {}", issued.id, issued.action, issued.because)
                });
                self.check_action(&issued)?;
                self.issued.push(issued);
            }
            match self.ipam.poll_timeout() {
                Some((due, _)) if due <= self.now => self.ipam.handle_timeout(self.now),
                _ => return Ok(()),
            }
        }
        hold!(false, Bookkeeping, "{:?} is due again and again", self.ipam.poll_timeout());
        Ok(())
    }

    /// An action that failed while it is still open was given up.
    fn on_failed(&mut self, id: ActionId) {
        let posted = self.posted.iter().map(|(issued, _)| issued);
        if self.issued.iter().chain(posted).any(|issued| issued.id == id) {
            self.given_up.insert(id);
        }
        self.lost.retain(|lost| *lost != id);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{} {}", self.now, line());
        }
    }
}

/// The hash FNV-1a of what is written to it.
struct Fnv(u64);

impl core::fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

fn index(which: u8, len: usize) -> Option<usize> {
    usize::from(which).checked_rem(len)
}

fn blocks_of(amount: Ipv4Amount) -> u32 {
    match amount {
        Ipv4Amount::Addresses(count) | Ipv4Amount::Prefixes(count) => u32::from(count),
    }
}
