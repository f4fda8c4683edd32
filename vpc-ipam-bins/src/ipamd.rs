//! The daemon as a library function: one task owns the address management of a node, and everything else talks to it.
//!
//! ```text
//! plugin ──► server ──► requests ┐           ┌──► executor of EC2 calls (a task each)
//!                       outcomes ┼─► loop ───┼──► host thread (the kernel)
//!                       commits  ┘   (Ipam)  └──► store thread (many grants, one commit)
//! ```

mod clock;
mod conntrack;
mod fronts;
mod keeper;
mod link_names;
mod pending_links;
#[cfg(feature = "aws")]
pub mod program;
pub mod settings;
mod sources;
mod start;
pub mod store;
#[cfg(feature = "aws")]
mod telemetry;
mod threads;

use core::future::Future;
use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};
use vpc_ipam_aws::{Ec2Api, Ec2Error};
use vpc_ipam_core::{
    Action, ActionId, AssignError, Assigned, Budget, Config, Effect, EniLink, Event, Grant,
    HostAction, Ipam, Issued, KnownLimits, Lease, Metadata, Node, Observation, Outcome, Override,
    PodKey, Record, Released, Timestamp, Uncommitted, UnknownInstanceTypeError,
    UnusableConfigError,
};
use vpc_ipam_linux::host::HostFacts;
use vpc_ipam_linux::{
    ApplyError, ConntrackError, EniTable, HostConfig, Namespace, NetlinkError, Repaired,
    TableReason, WatchError, eni,
};

use crate::error_chain::chain;
use crate::ipamd::store::{Entry, Known, OpenError, WriteError};
use crate::protocol::{Answer, Assign, PodLinks, Refusal, RefusalKind, Request};

pub use self::clock::Clock;
use self::conntrack::Flush;
use self::keeper::NetworkKeeper;
use self::keeper::untracked::Changes;
use self::link_names::LinkNames;
use self::pending_links::{PendingLinks, Verdict};
use self::sources::Sources;
use self::sources::take_over::TakeOver;
use self::threads::departed::Departed;
use self::threads::host_thread::HostThread;
pub use self::threads::host_thread::HostThreadError;
use self::threads::translation::Translation;
use self::threads::writer::Writer;

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the operator wants of addresses.
    pub config: Config,
    /// What holds instead for some nodes.
    pub overrides: Vec<Override>,
    /// The node's labels, by which overrides may name it.
    pub labels: BTreeMap<String, String>,
    /// What is known of instance types besides the built-in table, and whom to believe first.
    pub limits: KnownLimits,
    /// What the operator wants of the node's network.
    pub host_config: HostConfig,
    /// How often EC2 may be called.
    pub budget: Budget,
    /// The node's network namespace.
    pub netns: Namespace,
    /// Where to listen.
    pub socket: PathBuf,
    /// Where to keep what must survive a restart.
    pub state: PathBuf,
    /// The id of this boot of the kernel.
    pub boot: String,
    /// Whether what amazon-vpc-cni-k8s made on the node is taken over.
    pub adopt: bool,
}

/// Something that happened, for whoever watches a daemon from within its process.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The node's network was set up, or found set up.
    HostReady {
        /// What had to be changed, in words.
        changed: Vec<String>,
    },
    /// An action was issued.
    Issued(Timestamp, Issued),
    /// An action ended.
    Ended(Timestamp, ActionId, Outcome),
    /// Something happened inside.
    Happened(Timestamp, Event),
}

/// Why a daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The instance's metadata could not be read.
    #[error(
        "read the instance's metadata (in a container: give it the host's network and leave the hop limit of IMDSv2 at 1, \
         since a larger one gives pods the role of the node; --imds-endpoint names another service)"
    )]
    Metadata(#[source] Ec2Error),
    /// The metadata are of another node than those that the state file keeps of this boot.
    #[error(
        "the metadata name {now}, and named {before} earlier in this boot; the next start goes by them (does the endpoint \
         belong to another instance?)"
    )]
    OtherNode {
        /// The node of before.
        before: String,
        /// The node that the metadata name.
        now: String,
    },
    /// The limits of the instance type are not known.
    #[error("ask EC2 for the limits of instance type {instance_type}")]
    Limits {
        /// The type.
        instance_type: String,
        /// Why EC2 did not tell.
        source: Ec2Error,
    },
    /// Nobody who is believed knows the limits of the instance type.
    #[error(transparent)]
    UnknownType(#[from] UnknownInstanceTypeError),
    /// The configuration does not go together with the instance type.
    #[error("start with this configuration")]
    Config(#[from] UnusableConfigError),
    /// The node's network could not be set up.
    #[error("set up the node's network")]
    Host(#[source] HostThreadError),
    /// The node's network could not be read.
    #[error("read which pods the node has")]
    Netlink(#[from] NetlinkError),
    /// The kernel does not tell of changes.
    #[error("watch the node's network")]
    Watch(#[from] WatchError),
    /// The state file could not be opened.
    #[error("open the state file")]
    State(#[from] OpenError),
    /// The socket could not be made.
    #[error("listen at {path}")]
    Listen {
        /// The socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A thread of the daemon ended, which it never should.
    #[error("the {0} ended unexpectedly")]
    Ended(&'static str),
}

/// After a write failed, until the next is tried.
const WRITE_PAUSE: Duration = Duration::from_millis(200);
/// How many inputs may queue up before those who bring them wait.
const INPUTS_MAX: usize = 1024;

/// How long an ADD may take that another plugin began before this daemon did.
const TRANSITION: Duration = Duration::from_secs(60);

/// Something that the loop is told.
enum Input {
    Request(Request, oneshot::Sender<Answer>),
    Outcome(ActionId, Outcome),
    Written(Result<(), WriteError>),
    HostSetUp(Result<(HostFacts, Vec<String>), HostThreadError>),
    /// The route table of an ENI that was set up.
    Table(EniLink, EniTable),
    Repaired(Result<Repaired, ApplyError>),
    Translated(Result<Repaired, ApplyError>),
    /// Nothing is left of a pod that is gone.
    Departed(PodKey),
    Flushed(Result<(), ConntrackError>),
    /// The metadata of this start, or why they were not read yet.
    Metadata(Result<Box<Metadata>, Ec2Error>),
    /// What was told of the node is in the state file, or why it is not.
    Remembered(Result<(), WriteError>),
}

/// Manages the addresses of the node until `shutdown` completes, also while it starts.
pub async fn run(
    options: Options,
    api: Arc<dyn Ec2Api>,
    notices: Option<std::sync::mpsc::Sender<Notice>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    tokio::pin!(shutdown);
    let (inputs, queue) = mpsc::channel(INPUTS_MAX);
    let started = tokio::select! {
        biased;
        () = &mut shutdown => {
            info!("stopped while it started");
            return Ok(());
        }
        started = start::start(options, api, notices, inputs) => started?,
    };
    let start::Started { mut daemon, server } = started;
    let result = daemon.run(queue, shutdown).await;
    // Who still waits hears that the daemon stops.
    let writer = daemon.end();
    server.stop().await;
    writer.stop().await;
    result
}

/// The one task that owns the state.
struct Loop {
    ipam: Ipam,
    clock: Clock,
    api: Arc<dyn Ec2Api>,
    host: HostThread,
    translation: Translation,
    departed: Departed,
    keeper: NetworkKeeper,
    pending_links: PendingLinks,
    /// When this daemon began to serve.
    started: Timestamp,
    /// When the node was taken over, while that matters.
    take_over: Option<TakeOver>,
    flush: Flush,
    writer: Writer,
    inputs: mpsc::Sender<Input>,
    notices: Option<std::sync::mpsc::Sender<Notice>>,
    /// How the links of pods are to be made.
    links: PodLinks,
    names: LinkNames,
    vpc_ipv4_cidrs: Vec<ipnet::Ipv4Net>,
    /// What the sources said since the start.
    sources: Sources,
    /// What the state file keeps of the node, or will.
    known: Known,
    /// How often the writer has yet to make that durable.
    remembering: usize,
    /// Why the daemon has to end.
    failed: Option<DaemonError>,
    /// Where the namespaces of pods are, as far as they are known.
    sandboxes: BTreeMap<PodKey, PathBuf>,
    /// Who waits for the address of a pod.
    callers: BTreeMap<PodKey, Vec<oneshot::Sender<Answer>>>,
    /// What has to be durable before somebody is answered.
    unwritten: Vec<PendingCommit>,
    /// What the writer is making durable now.
    being_written: Vec<Write>,
    /// Before which no further write is tried, after one failed.
    write_at: Option<tokio::time::Instant>,
}

/// Something to be made durable, and who is answered then.
enum Write {
    Grant(Uncommitted, Vec<oneshot::Sender<Answer>>),
    Release(Record, Answer, Vec<oneshot::Sender<Answer>>),
    /// A grant that could not be made durable may be in the file all the same.
    Undo(Record),
}

impl Write {
    fn record(&self) -> Record {
        match self {
            Self::Grant(uncommitted, _) => uncommitted.record(),
            Self::Release(record, ..) | Self::Undo(record) => record.clone(),
        }
    }
}

/// A write that the writer has yet to get.
enum PendingCommit {
    /// The grant of an address whose connections the kernel has yet to forget, or to a pod whose earlier links are still to be
    /// removed.
    AwaitingFlush(Write),
    /// Nothing keeps it from being written.
    Ready(Write),
}

impl PendingCommit {
    fn of(write: Write, flush: &Flush, departed: &Departed) -> Self {
        // As a rule there is nothing to wait for, and no record has to be made to see that.
        if flush.is_idle() && departed.is_idle() {
            return Self::Ready(write);
        }
        let record = write.record();
        if flush.holds_back(&record) || departed.holds_back(&record) {
            Self::AwaitingFlush(write)
        } else {
            Self::Ready(write)
        }
    }

    fn write(self) -> Write {
        let (Self::AwaitingFlush(write) | Self::Ready(write)) = self;
        write
    }

    fn write_mut(&mut self) -> &mut Write {
        let (Self::AwaitingFlush(write) | Self::Ready(write)) = self;
        write
    }

    fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }
}

impl Loop {
    async fn run(
        &mut self,
        mut queue: mpsc::Receiver<Input>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), DaemonError> {
        tokio::pin!(shutdown);
        loop {
            self.drain()?;
            let due = self.ipam.poll_timeout().map(|(at, _)| self.clock.instant(at));
            let tended = [
                self.keeper.due(),
                self.pending_links.due(),
                self.flush.due(),
                self.departed.due(),
            ];
            let tended = tended.into_iter().flatten().map(|at| self.clock.instant(at)).min();
            let due = due.into_iter().chain(self.write_at).chain(tended).min();
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => core::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                input = queue.recv() => match input {
                    Some(input) => self.on_input(input),
                    None => return Err(DaemonError::Ended("input queue")),
                },
                event = self.keeper.next() => self.on_kernel_event(&event)?,
                () = timer => self.ipam.handle_timeout(self.clock.now()),
            }
            while let Some(event) = self.keeper.next_now() {
                self.on_kernel_event(&event)?;
            }
            // What came in meanwhile is planned for together.
            while let Ok(input) = queue.try_recv() {
                self.on_input(input);
            }
            if self.failed.is_some() {
                break;
            }
        }
        self.finish(&mut queue).await;
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Drops everything but the thread that owns the state file.
    fn end(self) -> Writer {
        self.writer
    }

    /// Makes durable what was promised, and answers who waits for that.
    async fn finish(&mut self, queue: &mut mpsc::Receiver<Input>) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let finished = tokio::time::timeout(PATIENCE, async {
            while !self.being_written.is_empty()
                || !self.unwritten.is_empty()
                || self.remembering > 0
            {
                if self.flush().and_then(|()| self.write()).is_err() {
                    break;
                }
                let again = async {
                    match self.write_at {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => core::future::pending().await,
                    }
                };
                tokio::select! {
                    input = queue.recv() => match input {
                        Some(
                            input @ (Input::Written(_)
                            | Input::Flushed(_)
                            | Input::Departed(_)
                            | Input::Remembered(_)),
                        ) => self.on_input(input),
                        Some(_) => {}
                        None => break,
                    },
                    () = again => {}
                }
            }
        });
        if finished.await.is_err() {
            warn!("stopped while a write was under way");
        }
        info!("stopped");
    }

    /// Hands on everything that the state machine has to say.
    fn drain(&mut self) -> Result<(), DaemonError> {
        while let Some(Grant { key, result }) = self.ipam.poll_grant() {
            let callers = self.callers.remove(&key).unwrap_or_default();
            match result {
                Ok(uncommitted) => self.granted(uncommitted, callers),
                Err(error) => {
                    for caller in callers {
                        answer(caller, refused(&error));
                    }
                }
            }
        }
        while let Some(issued) = self.ipam.poll_action() {
            self.execute(issued)?;
        }
        while let Some(event) = self.ipam.poll_event() {
            log(&event);
            self.notice(Notice::Happened(self.clock.now(), event));
        }
        self.run_due()?;
        self.write()
    }

    /// Takes note of what the kernel told.
    fn on_kernel_event(&mut self, event: &vpc_ipam_linux::Event) -> Result<(), DaemonError> {
        self.keeper.on_kernel_event(event, self.clock.now());
        self.track(self.clock.now());
        if let vpc_ipam_linux::Event::Link { link, gone: false } = event {
            for (id, action) in
                link.mac.into_iter().flat_map(|mac| self.pending_links.appeared(mac))
            {
                self.host.execute(id, action).map_err(|_| DaemonError::Ended("host thread"))?;
            }
        }
        Ok(())
    }

    /// Takes note of pods that came or went and are in no state file.
    fn track(&mut self, now: Timestamp) {
        let Some(Changes { came, gone }) = self.keeper.untracked() else { return };
        for address in gone {
            info!(%address, "is free: the pod that was in no state file is gone");
            self.flush.released([address], now);
            self.ipam.handle_untracked(address, false, now);
        }
        for address in came {
            came_untracked(&mut self.ipam, &self.keeper, address, now);
            // An ADD that began before this daemon did is none of a daemon that goes on.
            let is_late = now.since(self.started) > TRANSITION;
            if let Some(what) = self.keeper.pod_of_aws_cni(address).filter(|_| is_late) {
                self.keeper.made_by_aws_cni(&what, "its plugin", now);
            }
        }
        self.remember(Known { adopted: self.keeper.adopted(), ..self.known.clone() });
    }

    /// Gives up the addresses of pods that have neither a link nor a route nor a namespace any more, of which no DEL told.
    fn give_up_lost(&mut self, now: Timestamp) {
        for key in self.keeper.given_up() {
            if let Some(path) = self.sandboxes.get(&key).filter(|path| path.exists()) {
                debug!(pod = %key, namespace = %path.display(), "has no link, but its namespace is there");
                continue;
            }
            warn!(pod = %key, "has neither a link nor a namespace any more, and no DEL told of it; its addresses are released");
            self.release(&key, None, now);
        }
    }

    /// Has the host thread do what it is time for.
    fn run_due(&mut self) -> Result<(), DaemonError> {
        let now = self.clock.now();
        self.give_up_lost(now);
        self.track(now);
        let ended = |_| DaemonError::Ended("host thread");
        for (id, action) in self.pending_links.give_up(now) {
            self.host.execute(id, action).map_err(ended)?;
        }
        let due = self.keeper.take(now);
        if let Some(extent) = due.kernel {
            self.host.repair(self.keeper.node(), extent).map_err(ended)?;
        }
        if due.translation {
            let ended = |_| DaemonError::Ended("translation thread");
            self.translation.repair(self.keeper.node()).map_err(ended)?;
        }
        let ended = |_| DaemonError::Ended("thread that removes links");
        self.departed.run_due(self.keeper.is_at_work(), now).map_err(ended)?;
        self.flush()
    }

    /// Has the host thread flush what somebody waits for.
    fn flush(&mut self) -> Result<(), DaemonError> {
        if let Some(addresses) = self.flush.begin(self.clock.now()) {
            self.host.flush_conntrack(addresses).map_err(|_| DaemonError::Ended("host thread"))?;
        }
        Ok(())
    }

    /// An address is granted, once that is durable.
    fn granted(&mut self, uncommitted: Uncommitted, callers: Vec<oneshot::Sender<Answer>>) {
        if let Record::Leased(lease) = uncommitted.record() {
            // While it waited for the address, another may have got one; and only the lease says how many interfaces there are.
            if let Some(taken) = self.names.taken(&lease.pod, lease.interfaces().count()) {
                let undone = self.ipam.abandon(uncommitted, self.clock.now());
                self.commit_later(undone.map(Write::Undo));
                for caller in callers {
                    answer(caller, taken.answer(&lease.pod));
                }
                return;
            }
            self.names.insert(&lease);
        }
        self.flush.granted(uncommitted.addresses());
        self.commit_later([Write::Grant(uncommitted, callers)]);
    }

    /// Has the writer make durable what is to be, unless it is at work or a failure was a moment ago.
    fn write(&mut self) -> Result<(), DaemonError> {
        if self.write_at.is_some_and(|at| at > tokio::time::Instant::now()) {
            return Ok(());
        }
        self.write_at = None;
        if !self.being_written.is_empty() {
            return Ok(());
        }
        let unwritten = core::mem::take(&mut self.unwritten).into_iter();
        let now = |it: PendingCommit| PendingCommit::of(it.write(), &self.flush, &self.departed);
        self.unwritten = unwritten.map(now).collect();
        if self.unwritten.iter().any(PendingCommit::is_ready) {
            let ready = self.unwritten.extract_if(.., |pending| pending.is_ready());
            self.being_written = ready.map(PendingCommit::write).collect();
            let entry = |write: &Write| {
                let record = write.record();
                let sandbox = match &record {
                    Record::Leased(lease) => self.sandboxes.get(&lease.key).cloned(),
                    Record::Released { .. } => None,
                };
                Entry { record, sandbox }
            };
            let entries = self.being_written.iter().map(entry).collect();
            self.writer.write(entries).map_err(|_| DaemonError::Ended("store thread"))?;
        }
        Ok(())
    }

    /// Has something made durable with the next write that it can be part of.
    fn commit_later(&mut self, writes: impl IntoIterator<Item = Write>) {
        let (flush, departed) = (&self.flush, &self.departed);
        let pending = writes.into_iter().map(|write| PendingCommit::of(write, flush, departed));
        self.unwritten.extend(pending);
    }

    /// Has something made durable before all that waits for that.
    fn commit_first(&mut self, writes: impl IntoIterator<Item = Write>) {
        let (flush, departed) = (&self.flush, &self.departed);
        let pending = writes.into_iter().map(|write| PendingCommit::of(write, flush, departed));
        self.unwritten.splice(..0, pending);
    }

    fn execute(&mut self, issued: Issued) -> Result<(), DaemonError> {
        debug!(id = %issued.id, action = ?issued.action, because = %issued.because, "issued");
        self.notice(Notice::Issued(self.clock.now(), issued.clone()));
        let Issued { id, action, .. } = issued;
        match action {
            Action::Host(action) => {
                if let HostAction::RemoveEni(link) = &action {
                    self.keeper.eni_removing(link.eni);
                    self.links.tables.remove(&link.eni);
                }
                self.pending_links.begin(id, &action);
                self.host.execute(id, action).map_err(|_| DaemonError::Ended("host thread"))?;
            }
            Action::Ec2(action) => {
                let (api, inputs) = (Arc::clone(&self.api), self.inputs.clone());
                let node = self.ipam.constraints().node.clone();
                let now = self.clock.now();
                tokio::spawn(async move {
                    let outcome = vpc_ipam_aws::execute(&*api, &node, &action, now).await;
                    // The loop is gone only when the daemon stops.
                    let _ = inputs.send(Input::Outcome(id, outcome)).await;
                });
            }
        }
        Ok(())
    }

    fn on_input(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Request(request, caller) => self.on_request(request, caller, now),
            Input::Outcome(id, outcome) => {
                if let (Outcome::Done(_), Some(link)) = (&outcome, self.pending_links.link(id)) {
                    self.keeper.eni_set_up(link.clone(), now);
                }
                let outcome = match self.pending_links.end(id, outcome, now) {
                    Verdict::Report(outcome) => outcome,
                    Verdict::Wait => return,
                    Verdict::Retry(action) => {
                        if self.host.execute(id, action).is_err() {
                            error!("the host thread is not there");
                        }
                        return;
                    }
                };
                if let Outcome::Done(Effect::Metadata(metadata)) = &outcome {
                    self.on_metadata(metadata);
                }
                if let Outcome::Done(Effect::Observed(shown)) = &outcome {
                    self.cool(shown, now);
                }
                self.sources.on_outcome(&outcome, &self.ipam.constraints().node);
                self.notice(Notice::Ended(now, id, outcome.clone()));
                self.ipam.handle_outcome(id, outcome, now);
            }
            Input::Written(result) => self.on_written(result, now),
            Input::Table(link, table) => self.on_table(&link, &table),
            Input::Metadata(Ok(metadata)) => self.on_first_metadata(*metadata, now),
            Input::Metadata(Err(error)) => self.sources.metadata_unread(chain(&error)),
            Input::Remembered(result) => {
                self.remembering -= 1;
                if let Err(error) = result {
                    warn!(
                        error = chain(&error),
                        "cannot keep what was told of the node for the next start"
                    );
                }
            }
            Input::Repaired(result) => self.keeper.repaired(result, now),
            Input::Translated(result) => self.keeper.translated(result, now),
            Input::Departed(key) => {
                self.departed.done(&key);
                self.keeper.departed(&key, now);
            }
            Input::Flushed(Ok(())) => self.flush.done(),
            Input::Flushed(Err(error)) => {
                if self.flush.failed() {
                    debug!(
                        error = chain(&error),
                        "trying again to have connections of released addresses forgotten"
                    );
                } else {
                    warn!(
                        error = chain(&error),
                        "connections of released addresses are not forgotten"
                    );
                }
            }
            Input::HostSetUp(Ok((facts, changed))) => {
                self.keeper.learned(facts, now);
                if !changed.is_empty() {
                    info!(?changed, "node network was put right");
                }
            }
            Input::HostSetUp(Err(error)) => {
                error!(
                    error = chain(&error),
                    "cannot set up the node's network; trying again with the next reading"
                );
                // So that the next reading counts as a change.
                self.vpc_ipv4_cidrs.clear();
            }
        }
    }

    fn on_request(&mut self, request: Request, caller: oneshot::Sender<Answer>, now: Timestamp) {
        match request {
            // Its addresses were durable before this start, and its links are there or are made anew: nothing is waited for
            // that the sources may take long to say.
            Request::Assign(Assign { request, .. })
                if !self.sources.answered() && self.ipam.pool().lease(&request.key).is_some() =>
            {
                let said = match self.ipam.pool().lease(&request.key).cloned() {
                    Some(lease) => {
                        self.keeper.leased(&lease, now);
                        self.lease(lease)
                    }
                    None => gone(),
                };
                answer(caller, said);
            }
            Request::Assign(Assign { request, .. })
                if let Some(taken) = self.names.taken(&request.pod, 1) =>
            {
                let refused = taken.answer(&request.pod);
                warn!(pod = %request.key, ?taken, "no address");
                answer(caller, refused);
            }
            Request::Assign(Assign { request, sandbox }) => {
                if let Some(sandbox) = sandbox {
                    self.sandboxes.insert(request.key.clone(), sandbox);
                }
                match self.ipam.assign(&request, now) {
                    Ok(Assigned::Now(uncommitted)) => self.granted(uncommitted, vec![caller]),
                    Ok(Assigned::Later { .. }) => {
                        self.callers.entry(request.key).or_default().push(caller);
                    }
                    Err(error) => {
                        warn!(pod = %request.key, error = %error, "no address");
                        answer(caller, refused(&error));
                    }
                }
            }
            Request::Find(key) => {
                let found = self.ipam.pool().lease(&key).cloned();
                answer(caller, found.map_or(Answer::Unknown, |lease| self.lease(lease)));
            }
            Request::Leave(key) => {
                self.keeper.leaving(&key);
                let found = self.ipam.pool().lease(&key).cloned();
                answer(caller, found.map_or(Answer::Unknown, |lease| self.lease(lease)));
            }
            Request::Release(key) => self.release(&key, Some(caller), now),
            Request::Status => {
                let problems = self.keeper.problems(now);
                let status = fronts::status::of(
                    &self.ipam,
                    &self.sources,
                    self.keeper.counts(),
                    problems,
                    now,
                );
                answer(caller, Answer::Status(status));
            }
            Request::NetDiff => {
                let kernel = self.host.diff(self.keeper.node());
                let translation = self.translation.diff(self.keeper.node());
                let told =
                    threads::net_report::answer("compare the node's network", kernel, translation);
                tokio::spawn(async move { answer(caller, told.await) });
            }
            Request::NetRepair => {
                let kernel = self.host.repair_now(self.keeper.node());
                let translation = self.translation.repair_now(self.keeper.node());
                let told = threads::net_report::answer(
                    "put the node's network right",
                    kernel,
                    translation,
                );
                tokio::spawn(async move { answer(caller, told.await) });
            }
        }
    }

    /// Releases the addresses of a pod that is gone, and answers who asked for it once that is durable.
    fn release(&mut self, key: &PodKey, caller: Option<oneshot::Sender<Answer>>, now: Timestamp) {
        self.sandboxes.remove(key);
        if let Some(left) = self.keeper.released(key) {
            self.departed.push(key, left, now);
        }
        for waiting in self.callers.remove(key).unwrap_or_default() {
            answer(waiting, gone());
        }
        match self.ipam.release(key, now) {
            Released::Lease { lease, at } => {
                self.names.remove(&lease);
                let record = Record::released(&lease, at);
                self.flush.released(lease.addresses(), now);
                self.keep_untracked(lease.addresses(), now);
                let lease = self.lease(lease);
                let callers = caller.into_iter().collect();
                self.commit_later([Write::Release(record, lease, callers)]);
            }
            Released::WasWaiting | Released::Unknown => {
                let Some(caller) = caller else { return };
                match self.release_of(key) {
                    // Asked again: the pod is gone for good once that is durable.
                    Some(callers) => callers.push(caller),
                    None => answer(caller, Answer::Unknown),
                }
            }
        }
    }

    /// Keeps addresses that a pod gave up for those which have them and are in no state file: the pool could not take note of them
    /// before.
    fn keep_untracked(&mut self, addresses: impl Iterator<Item = IpAddr>, now: Timestamp) {
        for address in addresses.filter(|it| self.keeper.is_untracked(core::iter::once(*it))) {
            self.ipam.handle_untracked(address, true, now);
        }
    }

    /// Takes a grant back whose address a pod that is in no state file turned out to have while it was made durable.
    fn withdraw(
        &mut self,
        uncommitted: Uncommitted,
        callers: Vec<oneshot::Sender<Answer>>,
        now: Timestamp,
    ) {
        let (key, addresses) = (uncommitted.key().clone(), uncommitted.addresses());
        let addresses: Vec<_> = addresses.collect();
        let record = uncommitted.record();
        warn!(pod = %key, ?addresses, "another program's pod has the address that was granted; another one is to be asked for");
        // Later grants of this pod are written after it.
        let undone = self.ipam.abandon(uncommitted, now).map(Write::Undo);
        self.commit_first(undone);
        for caller in callers {
            answer(
                caller,
                Answer::Refused(Refusal {
                    kind: RefusalKind::TryAgainLater,
                    message: "assign an address to the pod".to_string(),
                    details: "another program gave the address to a pod of its own meanwhile"
                        .to_string(),
                }),
            );
        }
        // A running pod that was added again keeps its own.
        if self.ipam.pool().lease(&key).is_none() {
            self.keep_untracked(addresses.into_iter(), now);
            if let Record::Leased(lease) = record {
                self.names.remove(&lease);
            }
        }
    }

    /// Lets addresses cool down that another daemon may have released a moment before the node was taken over; those that an answer
    /// is the first to show.
    fn cool(&mut self, shown: &Observation, now: Timestamp) {
        let Some(mut take_over) = self.take_over.take_if(|it| !it.is_over(now)) else {
            self.take_over = None;
            return;
        };
        let untracked = self.keeper.untracked_addresses();
        cool(&mut self.ipam, &mut self.flush, &mut take_over, shown, untracked, now);
        let taken_over = Some(take_over.taken_over().clone());
        self.remember(Known { taken_over, ..self.known.clone() });
        self.take_over = Some(take_over);
    }

    /// Takes note which route table an ENI got.
    fn on_table(&mut self, link: &EniLink, EniTable { table, because }: &EniTable) {
        self.keeper.eni_table(link.eni, *table);
        if let TableReason::Taken { by } = because {
            let by = by.as_deref().unwrap_or("nothing any more");
            let place = eni::table(link.card, link.device);
            warn!(eni = %link.eni, %table, instead_of = %place, by, "a route table is in use by another program");
        }
        if *because == TableReason::Place {
            self.links.tables.remove(&link.eni);
        } else {
            self.links.tables.insert(link.eni, table.0);
        }
        self.remember(Known { tables: self.links.tables.clone(), ..self.known.clone() });
    }

    /// Returns who waits until the release of a pod is durable, if it is not yet.
    fn release_of(&mut self, of: &PodKey) -> Option<&mut Vec<oneshot::Sender<Answer>>> {
        let unwritten = self.unwritten.iter_mut().map(PendingCommit::write_mut);
        self.being_written.iter_mut().chain(unwritten).find_map(|write| match write {
            Write::Release(Record::Released { key, .. }, _, callers) if key == of => Some(callers),
            _ => None,
        })
    }

    fn on_written(&mut self, result: Result<(), WriteError>, now: Timestamp) {
        let written = core::mem::take(&mut self.being_written);
        let error = match result {
            Ok(()) => {
                for write in written {
                    match write {
                        Write::Grant(uncommitted, callers)
                            if self.keeper.is_untracked(uncommitted.addresses()) =>
                        {
                            self.withdraw(uncommitted, callers, now);
                        }
                        Write::Grant(uncommitted, callers) => {
                            let said = match self.ipam.commit(uncommitted) {
                                Some(lease) => {
                                    self.keeper.leased(&lease, now);
                                    self.lease(lease)
                                }
                                None => gone(),
                            };
                            for caller in callers {
                                answer(caller, said.clone());
                            }
                        }
                        Write::Release(_, said, callers) => {
                            for caller in callers {
                                answer(caller, said.clone());
                            }
                        }
                        Write::Undo(_) => {}
                    }
                }
                return;
            }
            Err(error) => chain(&error),
        };
        error!(error, records = written.len(), "cannot make grants and releases durable");
        let refused = |message: &str| {
            Answer::Refused(Refusal {
                kind: RefusalKind::StateFile,
                message: message.to_string(),
                details: format!(
                    "{error}; is the file system of the state file full or read-only?"
                ),
            })
        };
        let mut again = Vec::new();
        for write in written {
            match write {
                Write::Grant(uncommitted, callers) => {
                    let (key, addresses) = (uncommitted.key().clone(), uncommitted.addresses());
                    let addresses: Vec<_> = addresses.collect();
                    let record = uncommitted.record();
                    again.extend(self.ipam.abandon(uncommitted, now).map(Write::Undo));
                    // A running pod that was added again keeps its own.
                    if self.ipam.pool().lease(&key).is_none() {
                        self.flush.released(addresses, now);
                        if let Record::Leased(lease) = record {
                            self.names.remove(&lease);
                        }
                    }
                    for caller in callers {
                        answer(caller, refused("make the pod's address durable"));
                    }
                }
                // The pod is gone whatever the file says; it is written with the next that can be.
                Write::Release(record, said, callers) => {
                    for caller in callers {
                        answer(caller, refused("make the release of the pod's address durable"));
                    }
                    again.push(Write::Release(record, said, Vec::new()));
                }
                Write::Undo(record) => again.push(Write::Undo(record)),
            }
        }
        self.commit_first(again);
        self.write_at = Some(self.clock.instant(now + WRITE_PAUSE));
    }

    /// Takes in the metadata of this start, where those that the state file keeps were gone by.
    fn on_first_metadata(&mut self, metadata: Metadata, now: Timestamp) {
        self.sources.metadata_read(&metadata);
        let before = &self.ipam.constraints().node;
        if metadata.node != *before {
            let name = |Node { instance, instance_type, primary, .. }: &Node| {
                format!("{instance} of type {instance_type} with primary ENI {primary}")
            };
            let (before, now) = (name(before), name(&metadata.node));
            self.remember(Known::new(metadata));
            self.failed = Some(DaemonError::OtherNode { before, now });
            return;
        }
        self.on_metadata(&metadata);
        self.cool(&metadata.observation, now);
        self.ipam.observe(&metadata.observation, now);
    }

    /// The ranges of the VPC decide what is translated.
    fn on_metadata(&mut self, metadata: &Metadata) {
        let told = Known::new(metadata.clone()).metadata;
        self.remember(Known { metadata: told, ..self.known.clone() });
        if metadata.vpc_ipv4_cidrs != self.vpc_ipv4_cidrs && !metadata.vpc_ipv4_cidrs.is_empty() {
            info!(cidrs = ?metadata.vpc_ipv4_cidrs, "the ranges of the VPC changed");
            self.vpc_ipv4_cidrs.clone_from(&metadata.vpc_ipv4_cidrs);
            if self.host.set_up(metadata.clone()).is_err() {
                error!("the host thread is not there");
            }
        }
    }

    /// Has the writer make durable what was told of the node, if it is something else than before.
    fn remember(&mut self, known: Known) {
        if !self.known.says_the_same(&known) {
            self.known = known.clone();
            self.remembering += usize::from(self.writer.remember(known).is_ok());
        }
    }

    fn lease(&self, lease: vpc_ipam_core::Lease) -> Answer {
        Answer::Lease { lease, links: self.links.clone() }
    }

    fn notice(&self, notice: Notice) {
        if let Some(notices) = &self.notices {
            // Whoever watched may have stopped.
            let _ = notices.send(notice);
        }
    }
}

/// Keeps an address for a pod that is in no state file.
fn came_untracked(ipam: &mut Ipam, keeper: &NetworkKeeper, address: IpAddr, now: Timestamp) {
    let link = keeper.untracked_link(address);
    let link = link.as_deref().unwrap_or("another program's");
    let holder = ipam.pool().leases().find(|lease| lease.addresses().any(|it| it == address));
    match holder {
        Some(Lease { key, .. }) => error!(
            %address, link, pod = %key,
            "is the address of a pod of the state file, and another pod has it: two daemons hand out the addresses of this node"
        ),
        None => {
            warn!(%address, link, "is in use by a pod that is in no state file; it is kept for it")
        }
    }
    ipam.handle_untracked(address, true, now);
}

/// Lets addresses that no pod has, and that an answer is the first to show, cool down since the node was taken over.
fn cool(
    ipam: &mut Ipam,
    flush: &mut Flush,
    take_over: &mut TakeOver,
    shown: &Observation,
    untracked: impl Iterator<Item = IpAddr>,
    now: Timestamp,
) {
    let in_use = ipam.pool().leases().flat_map(Lease::addresses).chain(untracked).collect();
    let addresses = take_over.cooling(shown, ipam.pool(), &in_use);
    let at = take_over.taken_over().at;
    if addresses.is_empty() {
        return;
    }
    info!(
        addresses = addresses.len(),
        "addresses without a pod cool down: another daemon may just have released them"
    );
    flush.released(addresses.iter().copied(), at);
    // Who held them is not known.
    let key = PodKey::new("-", "-", "-").expect("no part is empty");
    ipam.restore([Record::Released { key, addresses, at }], now);
}

fn answer(caller: oneshot::Sender<Answer>, said: Answer) {
    // A caller that hung up will ask again, or send DEL.
    let _ = caller.send(said);
}

fn refused(error: &AssignError) -> Answer {
    let details = match error.retry_at() {
        Some(at) => format!("{error}; try again at {at}"),
        None => error.to_string(),
    };
    Answer::Refused(Refusal {
        kind: RefusalKind::TryAgainLater,
        message: "assign an address to the pod".to_string(),
        details,
    })
}

fn gone() -> Answer {
    Answer::Refused(Refusal {
        kind: RefusalKind::PodDeleted,
        message: "assign an address to the pod".to_string(),
        details: "the pod was deleted while it waited".to_string(),
    })
}

fn log(event: &Event) {
    match event {
        // What fails is told once, when it begins and when it ends.
        Event::Failing { scope, failure, until } => {
            warn!(kind = %failure.kind, message = failure.message, again_at = %until, "{scope}");
        }
        Event::Recovered { scope, failures } => {
            info!(failures, "over: {scope}");
        }
        Event::ActionFailed { id, failure } => {
            debug!(%id, kind = %failure.kind, message = failure.message, "action failed");
        }
        Event::EniVanished { .. }
        | Event::AddressLost { .. }
        | Event::SourcesDisagree { .. }
        | Event::LeaseConflict { .. }
        | Event::ObservationPutAside { .. }
        | Event::BlocksRefused { .. }
        | Event::Dropped { .. } => warn!(?event, "unexpected"),
        _ => info!(?event, "changed"),
    }
}
