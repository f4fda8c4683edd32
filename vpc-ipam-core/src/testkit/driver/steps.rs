use alloc::format;

use crate::testkit::driver::Driver;
use crate::testkit::rule::Breach;
use crate::testkit::step::Step;

/// What happens to the node, one step at a time.
impl Driver {
    /// Takes one step, and checks the rules.
    pub(in crate::testkit) fn step(&mut self, step: Step) -> Result<(), Breach> {
        self.drain()?;
        self.note(|| format!("{step:?}"));
        match step {
            Step::UntilDue => self.wait_until_due()?,
            Step::Wait(duration) => self.wait_until(self.now + duration)?,
            Step::Add { pod, every_card } => self.add(pod, every_card)?,
            Step::Del { pod } => self.del(pod)?,
            Step::Store(store) => self.store = store,
            Step::Written { durable } => self.written(durable)?,
            Step::Answer { which, fault } => self.answer(which, fault)?,
            Step::Execute { which, fault } => self.post(which, fault),
            Step::Deliver { which } => self.deliver_posted(which)?,
            Step::Cooperate => self.cooperate()?,
            Step::Observe { source, fault } => self.observe_at_once(source, fault)?,
            Step::Photograph { source, fault } => self.keep_photograph(source, fault),
            Step::Show { which } => self.show(which)?,
            Step::Crash => self.crash(),
            Step::ClockBack(duration) => self.set_clock_back(duration),
            Step::Configure { bytes } => self.configure(bytes),
            Step::Cordon(cordoned) => self.cordon(cordoned),
            Step::Terminate => self.terminate(),
            Step::Untracked { which, in_use } => self.untracked(which, in_use),
            Step::Import { pod, which } => self.import(pod, which)?,
            Step::Meddle { how, which } => self.meddle(how, which),
            Step::Crowd { addresses } => self.crowd(addresses),
            Step::Disperse => self.disperse(),
            Step::Kernel { works } => self.kernel_works = works,
            Step::Refuse { call, about, kind, lasts } => self.refuse(call, about, kind, lasts),
            Step::Heal => self.refusals.heal(),
            Step::Fill { leave } => self.fill(leave),
            Step::Reserve { which, explicit } => self.reserve(which, explicit),
            Step::AttachOtherVpc => self.attach_other_vpc(),
            Step::Resize { slots, enis } => self.resize(slots, enis),
            Step::Lose { which } => self.lose(which),
            Step::Hour => self.hour()?,
            Step::Probe => self.probe()?,
        }
        self.drain()?;
        self.check()
    }
}
