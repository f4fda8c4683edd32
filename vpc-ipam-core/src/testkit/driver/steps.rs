use alloc::format;
use core::time::Duration;

use crate::sim::{CreateInterface, Ipv4Request};
use crate::testkit::driver::{Driver, index};
use crate::testkit::rule::Breach;
use crate::testkit::setup::{Setup, config_of};
use crate::testkit::step::Step;
use crate::{Config, Ipv4Amount, Timestamp};

/// What happens to the node, one step at a time.
impl Driver {
    /// Takes one step, and checks the rules.
    pub(in crate::testkit) fn step(&mut self, step: Step) -> Result<(), Breach> {
        self.drain()?;
        self.note(|| format!("{step:?}"));
        match step {
            Step::UntilDue => {
                let due = self.ipam.poll_timeout().map(|(at, _)| at);
                let later = due.unwrap_or(self.now + Duration::from_secs(300));
                self.wait_until(later)?;
            }
            Step::Wait(duration) => self.wait_until(self.now + duration)?,
            Step::Add { pod, every_card } => self.add(pod, every_card)?,
            Step::Del { pod } => self.del(pod)?,
            Step::Store(store) => self.store = store,
            Step::Written { durable } => self.written(durable)?,
            Step::Answer { which, fault } => {
                if let Some((issued, outcome)) = self.execute(which, fault) {
                    self.deliver(&issued, outcome)?;
                }
            }
            Step::Execute { which, fault } => {
                let posted = self.execute(which, fault);
                self.posted.extend(posted);
            }
            Step::Deliver { which } => {
                if let Some(index) = index(which, self.posted.len()) {
                    let (issued, outcome) = self.posted.remove(index);
                    self.deliver(&issued, outcome)?;
                }
            }
            Step::Cooperate => self.cooperate()?,
            Step::Observe { source, fault } => {
                if let Some(observation) = self.photograph(source, fault) {
                    self.observe(&observation)?;
                }
            }
            Step::Photograph { source, fault } => {
                let photograph = self.photograph(source, fault);
                self.photographs.extend(photograph);
            }
            Step::Show { which } => {
                if let Some(index) = index(which, self.photographs.len()) {
                    let observation = self.photographs.remove(index);
                    self.observe(&observation)?;
                }
            }
            Step::Crash => self.crash(),
            Step::ClockBack(duration) => {
                let back = self.now.as_nanos().saturating_sub(duration.as_nanos() as u64);
                self.now = Timestamp::from_nanos(back);
                self.model.on_clock_set_back(self.now);
                // The cloud's past goes by the same clock.
                self.cloud.remember(Setup::REACH);
                // What was shown before has no age by this clock: it is void.
                self.photographs.clear();
                let posted = self.posted.iter().map(|(issued, _)| issued);
                self.void.extend(self.issued.iter().chain(posted).map(|issued| issued.id));
                self.ipam.handle_timeout(self.now);
            }
            Step::Configure { bytes: [target, families] } => {
                let was = &self.setup.config;
                let wanted = config_of(&self.setup.limits, &[target, families]);
                self.config = Config {
                    families: if was.custom_networking { was.families } else { wanted.families },
                    target: wanted.target,
                    ..was.clone()
                };
                let config = self.config.clone();
                let usable = self.ipam.handle_config(config, self.now);
                usable.expect("a setup's configurations are usable");
            }
            Step::Cordon(cordoned) => {
                self.schedulable = !cordoned;
                self.ipam.handle_schedulable(!cordoned, self.now);
            }
            Step::Terminate => {
                self.terminating = true;
                self.ipam.handle_terminating(self.now);
            }
            Step::Untracked { which, in_use } => self.untracked(which, in_use),
            Step::Meddle { how, which } => self.meddle(how, which),
            Step::Crowd { addresses } => {
                let request = CreateInterface {
                    ipv4: Ipv4Request::Count(Ipv4Amount::Addresses(u16::from(addresses))),
                    ..CreateInterface::new(self.node.subnet)
                };
                if let Ok(eni) = self.cloud.create_network_interface(&request, self.now) {
                    self.crowds.push(eni.id);
                    self.on_space_taken();
                }
            }
            Step::Disperse => {
                if let Some(eni) = self.crowds.pop() {
                    let _ = self.cloud.delete_network_interface(eni, self.now);
                }
            }
            Step::Kernel { works } => self.kernel_works = works,
            Step::Refuse { call, about, kind, lasts } => self.refuse(call, about, kind, lasts),
            Step::Heal => self.refusals.heal(),
            Step::Fill { leave } => self.fill(leave),
            Step::Reserve { which, explicit } => self.reserve(which, explicit),
            Step::AttachOtherVpc => self.attach_other_vpc(),
            Step::Resize { slots, enis } => self.resize(slots, enis),
            Step::Lose { which } => {
                if let Some(index) = index(which, self.issued.len()) {
                    let issued = self.issued.remove(index);
                    self.note(|| format!("lost {} {:?}", issued.id, issued.action));
                    self.lost.push(issued.id);
                }
            }
            Step::Hour => self.hour()?,
            Step::Probe => self.probe()?,
        }
        self.drain()?;
        self.check()
    }
}
