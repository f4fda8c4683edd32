//! The one task that owns the state: what comes in, what is due, what goes out.

pub(super) mod addresses;
mod answers;
mod commit;
pub(super) mod event_log;
mod import;
mod inventory;
mod pod_lines;
mod reload;
mod requests;

use core::future::Future;
use core::time::Duration;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};
use vpc_ipam_aws::Ec2Api;
use vpc_ipam_core::{
    Action, ActionId, Effect, EniLink, Event, Grant, HostAction, Ipam, Issued, LimitsSource,
    Metadata, Node, Outcome, Pod, PodKey, Timestamp, error_chain,
};
use vpc_ipam_linux::host::HostFacts;
use vpc_ipam_linux::{
    ApplyError, ConntrackError, EniTable, HostConfig, Repaired, TableReason, eni,
};
use vpc_ipam_protocol::{NodeEventKind, PodLinks};

use self::answers::{Caller, refused};
use self::commit::{PendingCommit, Write};
use self::event_log::EventLog;
use super::clock::Clock;
use super::conntrack::Flush;
use super::error::{DaemonError, HostThreadError};
use super::fronts::status;
use super::input::Input;
use super::keeper::NetworkKeeper;
use super::link_names::LinkNames;
use super::metrics::Metrics;
use super::network_policy::NetworkPolicies;
use super::options::Notice;
use super::pending_links::{PendingLinks, Verdict};
use super::service::Service;
use super::sources::Sources;
use super::sources::take_over::TakeOver;
use super::store::Known;
use super::threads::departed::Departed;
use super::threads::flight_recorder::FlightRecorder;
use super::threads::host_thread::HostThread;
use super::threads::translation::Translation;
use super::threads::writer::Writer;

/// How long an ADD may take that another plugin began before this daemon did.
const TRANSITION: Duration = Duration::from_secs(60);

/// The one task that owns the state.
pub(super) struct Loop {
    pub(super) ipam: Ipam,
    pub(super) clock: Clock,
    pub(super) api: Arc<dyn Ec2Api>,
    /// Who says what the instance type holds.
    pub(super) limits_source: LimitsSource,
    /// The state file.
    pub(super) state: PathBuf,
    pub(super) host: HostThread,
    pub(super) translation: Translation,
    pub(super) departed: Departed,
    pub(super) keeper: NetworkKeeper,
    pub(super) pending_links: PendingLinks,
    /// When this daemon began to serve.
    pub(super) started: Timestamp,
    /// When the node was taken over, while that matters.
    pub(super) take_over: Option<TakeOver>,
    pub(super) flush: Flush,
    pub(super) service: Service,
    pub(super) writer: Writer,
    pub(super) recorder: Option<FlightRecorder>,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) notices: Option<std::sync::mpsc::Sender<Notice>>,
    pub(super) metrics: Metrics,
    /// How the links of pods are to be made.
    pub(super) links: PodLinks,
    pub(super) names: LinkNames,
    /// Who hears of pods for the sake of network policies, if an agent is there.
    pub(super) policies: Option<NetworkPolicies>,
    /// What the operator wants of the node's network.
    pub(super) host_config: HostConfig,
    pub(super) vpc_ipv4_cidrs: Vec<ipnet::Ipv4Net>,
    /// What the sources said since the start.
    pub(super) sources: Sources,
    /// What the state file keeps of the node, or will.
    pub(super) known: Known,
    /// How often the writer has yet to make that durable.
    pub(super) remembering: usize,
    /// Why the daemon has to end.
    pub(super) failed: Option<DaemonError>,
    /// Where the namespaces of pods are, as far as they are known.
    pub(super) sandboxes: BTreeMap<PodKey, PathBuf>,
    /// Who waits for the address of a pod.
    pub(super) callers: BTreeMap<PodKey, Vec<Caller>>,
    /// What has to be durable before its callers are answered.
    pub(super) unwritten: Vec<PendingCommit>,
    /// What the writer is making durable now.
    pub(super) being_written: Vec<Write>,
    /// Before which no further write is tried, after one failed.
    pub(super) write_at: Option<tokio::time::Instant>,
    /// What happened lately.
    pub(super) event_log: EventLog,
}

impl Loop {
    pub(super) async fn run(
        &mut self,
        mut queue: mpsc::Receiver<Input>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), DaemonError> {
        tokio::pin!(shutdown);
        self.service.serving();
        loop {
            self.drain()?;
            let due = self.ipam.poll_timeout().map(|(at, _)| self.clock.instant(at));
            let tended = [
                self.keeper.due(),
                self.pending_links.due(),
                self.flush.due(),
                self.departed.due(),
                self.event_log.due(),
                self.service.due(),
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
                () = timer => self.on_time(),
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
        self.service.stopping();
        self.finish(&mut queue).await;
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Drops everything but the threads that write files.
    pub(super) fn end(mut self) -> (Writer, Option<FlightRecorder>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&mut self.ipam, self.clock.now());
        }
        (self.writer, self.recorder)
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
        // First: what it finds, a pod that is lost or one of another program, is planned for.
        self.run_due()?;
        while let Some(Grant { key, result, .. }) = self.ipam.poll_grant() {
            let callers = self.callers.remove(&key).unwrap_or_default();
            match result {
                Ok(uncommitted) => self.granted(uncommitted, callers),
                Err(error) => {
                    warn!(pod = %key, error = %error, "no address");
                    let pod = callers.iter().find_map(|caller| caller.pod.clone());
                    self.refused(&key, pod, error.to_string());
                    for caller in callers {
                        caller.answer(refused(&error));
                    }
                }
            }
        }
        while let Some(issued) = self.ipam.poll_action() {
            self.execute(issued)?;
        }
        while let Some(event) = self.ipam.poll_event() {
            log(&event);
            let now = self.clock.now();
            // What failed is in the log already, with the outcome.
            if !matches!(event, Event::ActionFailed { .. }) {
                self.event_log.push(now, NodeEventKind::Event(event.clone()));
            }
            self.metrics.happened(&event);
            self.notice(Notice::Happened(now, event));
        }
        self.flush()?;
        self.event_log.run_due(self.clock.now());
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&mut self.ipam, self.clock.now());
        }
        self.write()
    }

    /// Time has passed.
    fn on_time(&mut self) {
        let now = self.clock.now();
        if self.ipam.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.service.changed(now);
        }
        self.ipam.handle_timeout(now);
    }

    /// Takes note of what the kernel told.
    fn on_kernel_event(&mut self, event: &vpc_ipam_linux::KernelEvent) -> Result<(), DaemonError> {
        self.service.changed(self.clock.now());
        self.keeper.on_kernel_event(event, self.clock.now());
        self.track(self.clock.now());
        if let vpc_ipam_linux::KernelEvent::Link { link, gone: false } = event {
            for (id, action) in
                link.mac.into_iter().flat_map(|mac| self.pending_links.appeared(mac))
            {
                self.host.execute(id, action).map_err(|_| DaemonError::Ended("host thread"))?;
            }
        }
        Ok(())
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
        let (ipam, sources) = (&self.ipam, &self.sources);
        self.service.run_due(now, || status::in_words(ipam, sources, now));
        let ended = |_| DaemonError::Ended("thread that removes links");
        self.departed.run_due(self.keeper.is_at_work(), now).map_err(ended)
    }

    /// Has the host thread flush the addresses for which grants wait.
    fn flush(&mut self) -> Result<(), DaemonError> {
        if let Some(addresses) = self.flush.begin(self.clock.now()) {
            self.host.flush_conntrack(addresses).map_err(|_| DaemonError::Ended("host thread"))?;
        }
        Ok(())
    }

    fn execute(&mut self, issued: Issued) -> Result<(), DaemonError> {
        debug!(id = %issued.id, action = ?issued.action, because = %issued.because, "issued");
        self.event_log.push(self.clock.now(), NodeEventKind::Issued(issued.clone()));
        self.metrics.issued(&issued);
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
                let node = self.ipam.node().clone();
                let (now, metrics) = (self.clock.now(), self.metrics.clone());
                tokio::spawn(async move {
                    let began = Instant::now();
                    let outcome = vpc_ipam_aws::execute(&*api, &node, &action, now).await;
                    metrics.called(&action, &outcome, began.elapsed());
                    // The loop is gone only when the daemon stops.
                    let _ = inputs.send(Input::Outcome(id, outcome)).await;
                });
            }
        }
        Ok(())
    }

    fn on_input(&mut self, input: Input) {
        let now = self.clock.now();
        self.service.changed(now);
        match input {
            Input::Reload(reload) => self.on_reload(*reload, now),
            Input::Request(request, caller) => self.on_request(request, caller, now),
            Input::Outcome(id, outcome) => self.on_outcome(id, outcome, now),
            Input::Written(result) => self.on_written(result, now),
            Input::Table(link, table) => self.on_table(&link, &table),
            Input::Metadata(Ok(metadata)) => self.on_first_metadata(*metadata, now),
            Input::Metadata(Err(error)) => self.sources.metadata_unread(error_chain(&error)),
            Input::Remembered(result) => {
                self.remembering -= 1;
                if let Err(error) = result {
                    warn!(
                        error = error_chain(&error),
                        "cannot store what is known of the node for the next start"
                    );
                }
            }
            Input::Repaired(result) => {
                self.put_right(&result, now);
                self.keeper.repaired(result, now);
            }
            Input::Translated(result) => {
                self.put_right(&result, now);
                self.metrics.translated(result.is_ok());
                self.keeper.translated(result, now);
            }
            Input::Departed(key) => {
                self.departed.done(&key);
                self.keeper.departed(&key, now);
            }
            Input::Flushed(Ok(())) => self.flush.done(),
            Input::Flushed(Err(error)) => self.on_flush_failed(&error),
            Input::HostSetUp(result) => self.on_host_set_up(result, now),
        }
    }

    /// An action ended; one that sets up an ENI whose link is missing waits for the link instead.
    fn on_outcome(&mut self, id: ActionId, outcome: Outcome, now: Timestamp) {
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
        if let Some((_, planned)) = self.ipam.in_flight().find(|(it, _)| *it == id) {
            self.metrics.ended(&planned.action, &outcome);
        }
        self.sources.on_outcome(&outcome, self.ipam.node());
        self.event_log.push(
            now,
            match &outcome {
                Outcome::Done(_) => NodeEventKind::Done { id },
                Outcome::Failed(failure) => NodeEventKind::Failed { id, failure: failure.clone() },
            },
        );
        self.notice(Notice::Ended(now, id, outcome.clone()));
        self.ipam.handle_outcome(id, outcome, now);
    }

    fn on_flush_failed(&mut self, error: &ConntrackError) {
        if self.flush.failed() {
            debug!(
                error = error_chain(error),
                "trying again to have connections of released addresses forgotten"
            );
        } else {
            warn!(
                error = error_chain(error),
                "connections of released addresses are not forgotten"
            );
        }
    }

    fn on_host_set_up(
        &mut self,
        result: Result<(HostFacts, Vec<String>), HostThreadError>,
        now: Timestamp,
    ) {
        match result {
            Ok((facts, changed)) => {
                self.keeper.learned(facts, now);
                if !changed.is_empty() {
                    info!(?changed, "node network was put right");
                }
            }
            Err(error) => {
                error!(
                    error = error_chain(&error),
                    "cannot set up the node's network; trying again with the next reading"
                );
                // So that the next reading counts as a change.
                self.vpc_ipv4_cidrs.clear();
            }
        }
    }

    /// Takes note which route table an ENI got.
    fn on_table(&mut self, link: &EniLink, EniTable { table, because }: &EniTable) {
        self.keeper.eni_table(link.eni, *table);
        if let TableReason::Taken { by } = because {
            let by = by.as_deref().unwrap_or("nothing any more");
            let place = eni::table(link.card, link.device);
            warn!(eni = %link.eni, %table, instead_of = %place, by, "a route table is in use by another program");
        }
        if *because == TableReason::Attachment {
            self.links.tables.remove(&link.eni);
        } else {
            self.links.tables.insert(link.eni, table.0);
        }
        self.remember(Known { tables: self.links.tables.clone(), ..self.known.clone() });
    }

    /// Takes in the metadata of this start, after those of the state file served meanwhile.
    fn on_first_metadata(&mut self, metadata: Metadata, now: Timestamp) {
        self.sources.metadata_read(&metadata);
        let before = self.ipam.node();
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

    /// Has the writer make durable what is known of the node, if that changed.
    pub(super) fn remember(&mut self, known: Known) {
        if !self.known.says_the_same(&known) {
            self.known = known.clone();
            self.remembering += usize::from(self.writer.remember(known).is_ok());
        }
    }

    /// Takes note of what a repair of the node's network changed.
    fn put_right(&mut self, result: &Result<Repaired, ApplyError>, now: Timestamp) {
        if let Ok(Repaired { differences, .. }) = result
            && !differences.is_empty()
        {
            let changed = differences.iter().map(ToString::to_string).collect();
            self.event_log.push(now, NodeEventKind::Repaired { changed });
        }
    }

    /// Takes note that a pod gets no address.
    pub(super) fn refused(&mut self, key: &PodKey, pod: Option<Arc<Pod>>, why: String) {
        self.event_log
            .push(self.clock.now(), NodeEventKind::Refused { key: key.clone(), pod, why });
    }

    pub(super) fn notice(&self, notice: Notice) {
        if let Some(notices) = &self.notices {
            // The watcher may have stopped.
            let _ = notices.send(notice);
        }
    }
}

pub(super) fn log(event: &Event) {
    match event {
        // A failure is logged when it begins and when it ends.
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
