//! How a daemon starts: with metadata that it reads now, or with those that an earlier start in this boot stored.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{error, info, warn};
use vpc_ipam_aws::{Ec2Api, Ec2Error};
use vpc_ipam_core::{
    Config, EniConfig, InstanceType, Ipam, KnownLimits, Lease, Limits, LimitsSource, Metadata,
    Record, Released, Timestamp, error_chain,
};
use vpc_ipam_linux::host::{HostFacts, egress};
use vpc_ipam_linux::pod::PodSettings;
use vpc_ipam_linux::{Family, Netlink as _, NodeNetwork, Table, Watch, is_of_aws_cni};
use vpc_ipam_protocol::PodLinks;
use vpc_ipam_protocol::pending_release::{self, PendingRelease};

use crate::clock::Clock;
use crate::conntrack::Flush;
use crate::error::DaemonError;
use crate::event_loop::Loop;
use crate::event_loop::addresses::{came_untracked, cool};
use crate::event_loop::event_log::EventLog;
use crate::fronts::grpc;
use crate::fronts::socket::claim::Claim;
use crate::fronts::socket::{self, Server};
use crate::input::Input;
use crate::keeper::rivals::Rivals;
use crate::keeper::{NetworkKeeper, latest};
use crate::link_names::LinkNames;
use crate::metrics::Metrics;
use crate::network_policy::NetworkPolicies;
use crate::options::{Notice, Options};
use crate::pending_links::PendingLinks;
use crate::service::Service;
use crate::sources::Sources;
use crate::sources::take_over::TakeOver;
use crate::store::{Found, Known, Store, TakenOver};
use crate::threads::flight_recorder::FlightRecorder;
use crate::threads::writer::Writer;
use crate::threads::{SetUpNode, Threads};

/// How often the start asks the metadata service or EC2 before it gives up, where it cannot do without an answer.
const TRIES: u32 = 10;
/// How far apart that is; the longest that a service may ask for instead.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How far apart the metadata are asked for where those of before do meanwhile: twice as far each time, up to this.
const LATER_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long a pod may be without a link, or without the route that alone shows it, before its address is released. Twice the
/// cooldown, in which the runtime calls DEL for a pod that died; at least so long.
const GRACE_MIN: Duration = Duration::from_secs(2);

/// A daemon that serves.
pub(super) struct Started {
    pub(super) daemon: Loop,
    pub(super) server: Server,
    pub(super) grpc: grpc::Server,
}

/// What was found out, and done to the node's network, before anything is served.
struct Prepared {
    metadata: Metadata,
    limits: Limits,
    limits_source: LimitsSource,
    /// What holds on this node.
    config: Config,
    watch: Watch,
    threads: Threads,
    set_up: SetUpNode,
}

/// Starts a daemon, from the first look at the state file until it serves.
///
/// Metadata that the state file keeps of this boot stand in for those that are still to be read, so that pods of before are
/// served at once, whether or not the metadata service answers. They tell what the node is and not what its ENIs hold:
/// nothing is granted by them.
// Longer than others: each step takes what several earlier ones found, and their order is what it is about.
pub(super) async fn start(
    mut options: Options,
    api: Arc<dyn Ec2Api>,
    notices: Option<std::sync::mpsc::Sender<Notice>>,
    inputs: mpsc::Sender<Input>,
    metrics: Metrics,
) -> Result<Started, DaemonError> {
    let clock = Clock::start();
    // Before anything is touched, the state file above all.
    let claim = Claim::take(&options.socket)?;
    let grpc = grpc::Claims::take(&options)?;
    let service = Service::new(options.service.clone(), clock.now());
    let (mut store, found) = Store::open(&options.state, &options.boot, clock.now())?;
    let traces = Traces::before(&options, &found)?;
    let kept = store.known().unwrap_or_else(|error| {
        warn!(error = error_chain(&error), "cannot read what an earlier start stored of the node");
        None
    });
    let (prepared, fresh) = find_out(&mut options, &*api, &inputs, &clock, kept.as_ref()).await?;
    metrics.network_is_set_up();
    let mut known = known_now(&options, &prepared, kept.clone());
    let Restored { mut ipam, mut flush, recorder } = restore(&options, &prepared, found, &clock)?;
    let Prepared { metadata, limits_source, config, watch, threads, set_up, .. } = prepared;
    let Threads { host, translation, mut departed, ports } = threads;
    let SetUpNode { facts, changed, took_over } = set_up;
    let links = links(&options, &config, &known);
    let settings = pod_settings(&options, &config, &metadata, &links);
    let mut names = LinkNames::new(options.host_config.veth_prefix.clone(), ipam.pool().leases());
    let node = node_network(&options, facts, &known);
    let grace = GRACE_MIN.max(2 * config.cooldown);
    let mut keeper =
        NetworkKeeper::start(node, settings, watch, Rivals::new(ports), grace, clock.now());
    for (eni, table) in &known.tables {
        keeper.eni_table(*eni, Table(*table));
    }
    for lease in ipam.pool().leases() {
        keeper.found(lease);
    }
    let came = look(&options, &mut keeper)?;
    for address in &came {
        came_untracked(&mut ipam, &keeper, *address, clock.now());
    }
    let known_before = |address: &IpAddr| {
        known.adopted.values().any(|link| link.destinations().any(|it| it == *address))
    };
    if traces.are_of_another_daemon(changed.of_aws_cni, came.iter().any(|it| !known_before(it))) {
        known.taken_over = Some(TakenOver { at: clock.now(), blocks: BTreeSet::new() });
    }
    known.took_over |= took_over;
    known.adopted = keeper.adopted();
    // The clock may have been set back since.
    if let Some(taken_over) = &mut known.taken_over {
        taken_over.at = taken_over.at.min(clock.now());
    }
    let take_over = TakeOver::new(known.taken_over.clone(), config.cooldown);
    let mut take_over = take_over.filter(|it| !it.is_over(clock.now()));
    if let (true, Some(take_over)) = (fresh, &mut take_over) {
        let (shown, untracked) = (&metadata.observation, keeper.untracked_addresses());
        cool(&mut ipam, &mut flush, take_over, shown, untracked, clock.now());
        known.taken_over = Some(take_over.taken_over().clone());
    }
    if !kept.is_some_and(|kept| kept.says_the_same(&known)) {
        remember(&mut store, &known);
    }
    let mut sources = Sources::new(fresh);
    if fresh {
        ipam.observe(&metadata.observation, clock.now());
        sources.metadata_read(&metadata);
    } else {
        tokio::spawn(read_metadata_later(Arc::clone(&api), clock, inputs.clone()));
    }
    let server = socket::listen(claim, inputs.clone()).map_err(|source| DaemonError::Listen {
        path: options.socket.display().to_string(),
        source,
    })?;
    let grpc = grpc.listen(inputs.clone())?;
    info!(
        instance = %metadata.node.instance,
        instance_type = %metadata.node.instance_type,
        socket = %options.socket.display(),
        "serving"
    );
    let gone =
        take_pending_releases(&options.socket, &mut ipam, &mut store, &mut flush, clock.now());
    for lease in &gone {
        names.remove(lease);
        // The plugin does not know the links of imported pods, and leaves them.
        if let Some(left) = keeper.released(&lease.key) {
            departed.push(&lease.key, left, clock.now());
        }
    }

    let sandboxes = store.sandboxes();
    let mut policies = options.network_policy.map(NetworkPolicies::new);
    if let Some(policies) = &mut policies {
        for lease in gone {
            let replaced = ipam.pool().leases().any(|other| other.pod == lease.pod);
            policies.gone(&lease, replaced);
        }
    }
    let daemon = Loop {
        ipam,
        clock,
        api,
        limits_source,
        state: options.state,
        host,
        translation,
        departed,
        keeper,
        pending_links: PendingLinks::default(),
        started: clock.now(),
        take_over,
        flush,
        service,
        writer: Writer::start(store, inputs.clone()),
        recorder,
        inputs,
        notices,
        metrics,
        links,
        names,
        policies,
        host_config: options.host_config,
        vpc_ipv4_cidrs: metadata.vpc_ipv4_cidrs,
        sources,
        known,
        remembering: 0,
        failed: None,
        sandboxes,
        callers: BTreeMap::new(),
        unwritten: Vec::new(),
        being_written: Vec::new(),
        write_at: None,
        event_log: EventLog::new(clock.now()),
    };
    daemon.notice(Notice::HostReady { changed: changed.in_words });
    Ok(Started { daemon, server, grpc })
}

/// Prepares the node by what an earlier start stored, or else by what the metadata service says; returns whether it was asked.
async fn find_out(
    options: &mut Options,
    api: &dyn Ec2Api,
    inputs: &mpsc::Sender<Input>,
    clock: &Clock,
    kept: Option<&Known>,
) -> Result<(Prepared, bool), DaemonError> {
    if let Some(kept) = kept
        && let Some(prepared) = prepare_by_kept(options, api, inputs, kept).await
    {
        return Ok((prepared, false));
    }
    let metadata = metadata(api, clock).await?;
    let took_over = kept.is_some_and(|kept| kept.took_over);
    Ok((prepare(options, api, inputs, metadata, took_over).await?, true))
}

/// Returns what is known of the node with the metadata and limits of this start.
fn known_now(options: &Options, prepared: &Prepared, kept: Option<Known>) -> Known {
    let known = Known::new(prepared.metadata.clone());
    let metadata = known.metadata.clone();
    Known { metadata, limits: options.limits.ec2.clone(), ..kept.unwrap_or(known) }
}

/// Stores what is known of the node. Without it the next start asks again.
fn remember(store: &mut Store, known: &Known) {
    if let Err(error) = store.remember(known) {
        warn!(
            error = error_chain(&error),
            "cannot store what is known of the node for the next start"
        );
    }
}

/// Returns what the node's network should hold before its pods and further ENIs are known.
fn node_network(options: &Options, facts: HostFacts, known: &Known) -> NodeNetwork {
    let mut node = NodeNetwork::new(options.host_config.clone(), facts);
    node.beside_aws_cni = !options.adopt;
    node.adopted.links.clone_from(&known.adopted);
    node
}

/// Returns how the networks of pods are made on this node.
fn pod_settings(
    options: &Options,
    config: &Config,
    metadata: &Metadata,
    links: &PodLinks,
) -> PodSettings {
    PodSettings {
        egress: egress(&options.host_config, config, metadata),
        ipv6_disabled: links.ipv6_disabled,
        source_check: links.source_check,
        ..PodSettings::new(options.host_config.veth_prefix.clone(), links.mtu)
    }
}

/// The state machine of a node, and what belongs to it.
struct Restored {
    ipam: Ipam,
    flush: Flush,
    recorder: Option<FlightRecorder>,
}

/// Makes the state machine of the node, with the pods that the state file and the kernel show.
fn restore(
    options: &Options,
    prepared: &Prepared,
    found: Found,
    clock: &Clock,
) -> Result<Restored, DaemonError> {
    let Prepared { metadata, limits, config, .. } = prepared;
    for note in config.warnings_on(limits) {
        warn!("{note}");
    }
    // The time tells one start from another.
    let seed = clock.now().as_nanos();
    let (node, budget) = (metadata.node.clone(), options.budget.clone());
    let mut ipam = Ipam::new(node, limits.clone(), config.clone(), budget, seed, clock.now())?;
    // Before its first input.
    let journal = options.journal.clone();
    let recorder = journal.map(|it| FlightRecorder::start(it, &mut ipam, clock.now()));
    let eni_config = EniConfig::for_node(&options.overrides, &metadata.node, &options.labels);
    if let Some(eni_config) = eni_config {
        ipam.handle_eni_config(Some(eni_config), clock.now());
    }
    let records = records(found);
    let mut flush = Flush::new(config.cooldown);
    for record in &records {
        if let Record::Released { addresses, at, .. } = record {
            flush.released(addresses.iter().copied(), *at);
        }
    }
    ipam.restore(records, clock.now());
    Ok(Restored { ipam, flush, recorder })
}

/// Finds the pods that are in no state file, and returns their addresses.
fn look(options: &Options, keeper: &mut NetworkKeeper) -> Result<Vec<IpAddr>, DaemonError> {
    let seen = latest(&keeper.node()).look(&mut options.netns.netlink()?)?;
    keeper.looked(&seen);
    Ok(keeper.untracked().unwrap_or_default().came)
}

/// What tells that another daemon handed out the node's addresses before this start, or this one of whose state nothing is left.
struct Traces {
    /// Of what was there the state file tells nothing.
    is_new: bool,
    /// It was there, and cannot be used.
    is_lost: bool,
    /// amazon-vpc-cni-k8s's rules of the routing policy.
    rules: bool,
}

impl Traces {
    /// Looks for them before anything is changed.
    fn before(options: &Options, found: &Found) -> Result<Self, DaemonError> {
        let mut netlink = options.netns.netlink()?;
        let mut rules = netlink.rules(Family::Ipv4)?;
        rules.extend(netlink.rules(Family::Ipv6)?);
        Ok(Self {
            is_new: !matches!(found, Found::Records(_)),
            is_lost: matches!(found, Found::Damaged { .. }),
            rules: rules.iter().any(is_of_aws_cni),
        })
    }

    /// Returns whether addresses may have been released of which this daemon does not know, given whether something of
    /// amazon-vpc-cni-k8s was removed, and whether there are pods that were in no state file at the last start either.
    fn are_of_another_daemon(&self, removed: bool, has_new_pods: bool) -> bool {
        self.is_lost || removed || has_new_pods || self.is_new && self.rules
    }
}

/// Prepares the node by what an earlier start stored; `None` if that does not suffice.
async fn prepare_by_kept(
    options: &mut Options,
    api: &dyn Ec2Api,
    inputs: &mpsc::Sender<Input>,
    kept: &Known,
) -> Option<Prepared> {
    options.limits.ec2.extend(kept.limits.iter().cloned());
    let prepared = prepare(options, api, inputs, kept.metadata.clone(), kept.took_over).await;
    prepared
        .inspect_err(|error| {
            warn!(
                error = error_chain(error),
                "cannot start by what an earlier start stored of the node; asking again"
            );
        })
        .ok()
}

/// Finds out what holds for the node, and sets its network up.
async fn prepare(
    options: &mut Options,
    api: &dyn Ec2Api,
    inputs: &mpsc::Sender<Input>,
    metadata: Metadata,
    took_over: bool,
) -> Result<Prepared, DaemonError> {
    let (limits, limits_source) =
        limits(api, &mut options.limits, metadata.node.instance_type).await?;
    let config = options.config.for_node(&options.overrides, &metadata.node, &options.labels);
    // Before the first look, so that nothing that happens after it is missed.
    let watch = Watch::open(&options.netns)?;
    let threads = Threads::start(options, &config, inputs).map_err(DaemonError::Host)?;
    let set_up = threads.set_up(options, &metadata, took_over).await;
    let set_up = set_up.map_err(DaemonError::Host)?;
    Ok(Prepared { metadata, limits, limits_source, config, watch, threads, set_up })
}

/// Returns how the links of pods are to be made on this node.
fn links(options: &Options, config: &Config, known: &Known) -> PodLinks {
    let (host_config, report_wired) = (&options.host_config, options.network_policy.is_some());
    let egress = egress(host_config, config, &known.metadata);
    PodLinks {
        veth_prefix: host_config.veth_prefix.to_string(),
        mtu: host_config.pod_mtu.unwrap_or(config.eni_mtu),
        ipv4_egress: egress == Some(Family::Ipv4),
        ipv6_egress: egress == Some(Family::Ipv6),
        ipv6_disabled: !host_config.pod_ipv6 && egress != Some(Family::Ipv6),
        tables: known.tables.clone(),
        source_check: host_config.source_check,
        report_wired,
    }
}

async fn metadata(api: &dyn Ec2Api, clock: &Clock) -> Result<Metadata, DaemonError> {
    let ask = || api.metadata(clock.now());
    tries("the instance's metadata", ask).await.map_err(DaemonError::Metadata)
}

/// Asks until there is an answer, as often as a start may.
async fn tries<T, F: Future<Output = Result<T, Ec2Error>>>(
    what: &str,
    ask: impl Fn() -> F,
) -> Result<T, Ec2Error> {
    let mut tried = 1;
    loop {
        match ask().await {
            Err(error) if tried < TRIES => {
                let pause = error.retry_after.unwrap_or(PAUSE).clamp(PAUSE, PAUSE_MAX);
                warn!(error = error_chain(&error), tried, ?pause, "cannot read {what} yet");
                tried += 1;
                tokio::time::sleep(pause).await;
            }
            other => return other,
        }
    }
}

/// Asks for the metadata until they are read, with growing pauses, and sends every answer to the loop.
async fn read_metadata_later(api: Arc<dyn Ec2Api>, clock: Clock, inputs: mpsc::Sender<Input>) {
    let mut pause = PAUSE;
    loop {
        let (answer, wait) = match api.metadata(clock.now()).await {
            Ok(metadata) => (Ok(Box::new(metadata)), None),
            Err(error) => {
                let wait = error.retry_after.unwrap_or_default().min(LATER_PAUSE_MAX).max(pause);
                (Err(error), Some(wait))
            }
        };
        let ended = inputs.send(Input::Metadata(answer)).await.is_err();
        let Some(wait) = wait.filter(|_| !ended) else { return };
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(LATER_PAUSE_MAX);
    }
}

/// Returns the limits of a type; EC2 is asked if its word counts.
async fn limits(
    api: &dyn Ec2Api,
    known: &mut KnownLimits,
    instance_type: InstanceType,
) -> Result<(Limits, LimitsSource), DaemonError> {
    if known.needs_ec2(instance_type) {
        let types = [instance_type];
        let ask = || api.describe_instance_types(&types);
        // Where another source suffices, one more answer is not worth a wait.
        let told = match known.find(instance_type) {
            Ok(_) => ask().await,
            Err(_) => tries("the limits of the instance type", ask).await,
        };
        match told {
            Ok(answer) => known.ec2.extend(answer),
            // Who is believed after EC2 may know it.
            Err(source) if known.find(instance_type).is_err() => {
                let instance_type = instance_type.to_string();
                return Err(DaemonError::Limits { instance_type, source });
            }
            Err(error) => warn!(%error, "EC2 does not tell the limits of {instance_type}"),
        }
    }
    let (limits, source) = known.find(instance_type)?;
    info!(?source, enis = limits.enis(limits.default_card), "limits are known");
    Ok((limits, source))
}

fn records(found: Found) -> Vec<Record> {
    match found {
        Found::Nothing => Vec::new(),
        Found::OtherBoot => {
            info!("state of an earlier boot was discarded: its pods are gone");
            Vec::new()
        }
        Found::Records(records) => {
            info!(records = records.len(), "state was restored");
            records
        }
        Found::Damaged { moved_to, why } => {
            error!(moved_to = %moved_to.display(), why, "the state file cannot be used and was put aside");
            Vec::new()
        }
    }
}

/// Releases the addresses of pods that were deleted while there was no daemon, and returns their leases. What cannot be read or removed is
/// logged and delays nothing.
///
/// The socket is there already: a plugin that leaves a pending release after this finds it.
fn take_pending_releases(
    socket: &Path,
    ipam: &mut Ipam,
    store: &mut Store,
    flush: &mut Flush,
    now: Timestamp,
) -> Vec<Lease> {
    let pending_release::Found { releases, ignored } = pending_release::read(socket);
    for error in ignored {
        warn!(
            error = error_chain(&error),
            "is no pending release of a deleted pod; it is left alone"
        );
    }
    let (mut released, mut leases) = (Vec::new(), Vec::new());
    for (_, PendingRelease { key }) in &releases {
        if let Released::Lease { lease, at } = ipam.release(key, now) {
            info!(pod = %key, "was deleted while there was no daemon");
            flush.released(lease.addresses(), now);
            released.push(Record::released(&lease, at));
            leases.push(lease);
        }
    }
    if let Err(error) = store.write(&released) {
        error!(
            error = error_chain(&error),
            "cannot make releases durable; the pending releases stay"
        );
        return leases;
    }
    for (path, _) in &releases {
        if let Err(error) = pending_release::remove(path) {
            warn!(path = %path.display(), %error, "cannot remove the pending release of a deleted pod");
        }
    }
    leases
}
