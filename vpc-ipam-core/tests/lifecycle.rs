//! Every stage of an ENI's life, and what each thing that can happen makes of it: `tests/lifecycle.txt`.
//!
//! `UPDATE_LIFECYCLE=1 cargo test -p vpc-ipam-core --test lifecycle` writes the table anew; read the difference before you
//! commit it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where it stopped")]
#![allow(clippy::disallowed_methods, reason = "one variable lets the table be written")]

mod node;

use core::fmt::Write as _;
use core::time::Duration;

use node::{Node, call_of};
use vpc_ipam_core::{
    AttachmentStatus, EniId, Failure, FailureKind, Issued, Observation, Outcome, Scope, Source,
    Stage,
};

#[test]
fn what_happens_in_each_stage_leads_where_the_table_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lifecycle.txt");
    let actual = table();
    if std::env::var_os("UPDATE_LIFECYCLE").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    for (number, (written, actual)) in written.lines().zip(actual.lines()).enumerate() {
        assert_eq!(written, actual, "line {}", number + 1);
    }
    assert_eq!(written.lines().count(), actual.lines().count());
}

fn table() -> String {
    let mut table = String::from(
        "# What each thing that can happen makes of an ENI, stage by stage. Observations are of two minutes later, when EC2\n\
         # has settled; on the way is the call that its stage leads to.\n",
    );
    for stage in STAGES {
        writeln!(table, "\n{stage}").unwrap();
        for (name, event) in events() {
            let mut life = Life::at(stage);
            event(&mut life);
            writeln!(table, "  {name:<42} {}", life.stage()).unwrap();
        }
    }
    table
}

const STAGES: [&str; 7] = [
    "not attached",
    "attached, not set up",
    "ready",
    "leaving: to be removed from the node",
    "leaving: to be detached",
    "leaving: to be deleted",
    "gone from EC2",
];

/// An ENI in a stage, and the calls that are on their way.
struct Life {
    node: Node,
    eni: EniId,
    under_way: Vec<Issued>,
}

impl Life {
    fn at(stage: &str) -> Self {
        let mut node = Node::settled("m5.large", &[("WARM_ENI_TARGET", "1")]);
        assert!(node.ask("pod").unwrap().is_some());
        let tick = |node: &mut Node| {
            node.ipam.handle_timeout(node.now);
            node.issued()
        };
        // The subnets are listed before an ENI is made.
        let mut under_way = tick(&mut node);
        under_way.drain(..).for_each(|issued| node.execute(issued));
        under_way = node.issued();
        let create = |i: &Issued| call_of(&i.action) == "CreateNetworkInterface";
        let create = under_way.iter().position(create).unwrap();
        node.execute(under_way.remove(create));
        let primary = node.ipam.node().primary;
        let eni = node.enis().iter().find(|eni| eni.id != primary).unwrap().id;
        let mut life = Self { node, eni, under_way };
        life.under_way.extend(tick(&mut life.node));
        if stage == "gone from EC2" {
            life.until("ready");
            life.vanish();
            return life;
        }
        life.until(stage);
        life
    }

    /// Carries out what is under way until the ENI is in a stage.
    fn until(&mut self, stage: &str) {
        for _ in 0..12 {
            if self.stage_alone() == stage {
                return;
            }
            if self.stage_alone() == "ready" {
                let _ = self.node.ipam.release(&Node::key("pod"), self.node.now);
                self.node.now = self.node.now + Duration::from_secs(120);
            }
            for issued in core::mem::take(&mut self.under_way) {
                self.node.execute(issued);
            }
            if self.stage_alone() == "leaving: to be deleted" {
                self.node.now = self.node.now + Duration::from_secs(3);
            }
            self.node.ipam.handle_timeout(self.node.now);
            self.under_way.extend(self.node.issued());
        }
        panic!("never {stage}, but {}", self.stage());
    }

    fn vanish(&mut self) {
        let attachment = self.node.cloud.interface(&self.eni).unwrap().attachment.clone().unwrap();
        self.node.cloud.detach_network_interface(attachment.id, self.node.now).unwrap();
        self.node.cloud.delete_network_interface(self.eni, self.node.now).unwrap();
        self.see(|_| Vec::new());
        self.under_way = self.node.issued();
    }

    /// EC2 answers to a question about the ENI two minutes later.
    fn see(&mut self, shown: impl FnOnce(&Self) -> Vec<vpc_ipam_core::ObservedEni>) {
        self.node.now = self.node.now + Duration::from_secs(120);
        let enis = shown(self);
        let (as_of, source) = (self.node.now, Source::Ec2);
        let (scope, incomplete) = (Scope::Only(vec![self.eni]), Vec::new());
        let observation =
            Observation::new(as_of, source, scope).with_enis(enis).with_incomplete(incomplete);
        self.node.ipam.observe(&observation, self.node.now);
    }

    /// EC2 shows the ENI with an attachment in some state, or with none.
    fn show(&mut self, status: Option<AttachmentStatus>) {
        self.see(|life| {
            let primary = life.node.at(0);
            let own = life.node.cloud.interface(&life.eni);
            let mut shown = vpc_ipam_core::ObservedEni::from(own.unwrap_or(primary));
            shown.id = life.eni;
            if own.is_none() {
                shown.blocks.clear();
                shown.primary_ipv4 = None;
            }
            let mut attachment = vpc_ipam_core::ObservedEni::from(primary).attachment.unwrap();
            attachment.device = vpc_ipam_core::DeviceIndex(1);
            shown.attachment = status.map(|status| attachment.clone().with_status(status));
            vec![shown]
        });
    }

    /// Ends the call that the stage led to.
    fn end(&mut self, outcome: Option<FailureKind>) {
        let about = [
            "AttachNetworkInterface",
            "SetUpEni",
            "RemoveEni",
            "DetachNetworkInterface",
            "DeleteNetworkInterface",
        ];
        let index =
            self.under_way.iter().position(|i| about.contains(&call_of(&i.action).as_str()));
        let Some(index) = index else { return };
        let issued = self.under_way.remove(index);
        match outcome {
            None => self.node.execute(issued),
            Some(kind) => {
                let failure = Failure::new(kind, String::new());
                let outcome = Outcome::Failed(failure);
                self.node.ipam.handle_outcome(issued.id, outcome, self.node.now);
            }
        }
    }

    fn stage_alone(&self) -> String {
        self.node.eni(self.eni).map_or("forgotten".to_string(), |eni| eni.stage.to_string())
    }

    /// Returns the stage, and whether it is unconfirmed.
    fn stage(&self) -> String {
        let Some(eni) = self.node.eni(self.eni) else { return "forgotten".to_string() };
        match eni.unconfirmed {
            Some(unconfirmed) => format!("{}; {}", eni.stage, unconfirmed.cause),
            None => eni.stage.to_string(),
        }
    }
}

type Event = fn(&mut Life);

/// What can happen to an ENI.
fn events() -> [(&'static str, Event); 16] {
    use AttachmentStatus::{Attached, Detaching};
    [
        ("the call on its way is done", |life| life.end(None)),
        ("... is not answered", |life| life.end(Some(FailureKind::Unanswered))),
        ("... is throttled", |life| life.end(Some(FailureKind::Throttled))),
        ("... is denied by IAM", |life| life.end(Some(FailureKind::Denied))),
        ("... is rejected", |life| life.end(Some(FailureKind::Rejected))),
        ("... finds nothing", |life| life.end(Some(FailureKind::NotFound))),
        ("... finds it in use", |life| life.end(Some(FailureKind::InUse))),
        ("... finds the instance full", |life| life.end(Some(FailureKind::AttachmentLimit))),
        ("... is refused by the kernel", |life| life.end(Some(FailureKind::Kernel))),
        ("... finds no link", |life| life.end(Some(FailureKind::LinkMissing))),
        ("EC2 shows it attached", |life| life.show(Some(Attached))),
        ("EC2 shows it detaching", |life| life.show(Some(Detaching))),
        ("EC2 shows it attached to nothing", |life| life.show(None)),
        ("EC2 does not show it", |life| life.see(|_| Vec::new())),
        ("IMDS does not show it", |life| {
            life.node.now = life.node.now + Duration::from_secs(120);
            let mut shown = life.node.shown(Source::Imds);
            shown.enis.retain(|eni| eni.id != life.eni);
            life.node.ipam.observe(&shown, life.node.now);
        }),
        ("the node goes away", |life| life.node.ipam.handle_terminating(life.node.now)),
    ]
}

/// The table is about every stage there is: a new one does not compile here.
#[test]
fn every_stage_has_its_lines() {
    use vpc_ipam_core::Removing;
    let line = |stage: Stage| match stage {
        Stage::Available => 0,
        Stage::Attached => 1,
        Stage::Ready => 2,
        Stage::Removing(Removing::Host) => 3,
        Stage::Removing(Removing::Detach) => 4,
        Stage::Removing(Removing::Delete { .. }) => 5,
        Stage::Removing(Removing::Vanished) => 6,
        other => panic!("{other} has no line"),
    };
    for (index, name) in STAGES.iter().enumerate() {
        let life = Life::at(name);
        let stage = life.node.eni(life.eni).unwrap().stage;
        assert_eq!((line(stage), stage.to_string().as_str()), (index, *name));
    }
}
