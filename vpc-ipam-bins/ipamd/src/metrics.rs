//! What is counted while the daemon works, and the numbers that a scraper reads: `docs/metrics.md` has a row for each.

mod adds;
mod gauges;
mod latency;
mod name;

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
};
use vpc_ipam_core::{Action, Ec2Action, Event, Issued, Outcome};
use vpc_ipam_protocol::Inventory;

pub(crate) use self::adds::AddTimer;
use self::latency::Latency;
use self::name::variant;

/// Seconds; an address that is free is granted in a fraction of a millisecond, one that EC2 is asked for in seconds, and an ADD waits
/// for 30 s at most.
const ADD_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Seconds; a call of EC2 takes 50 ms to some seconds, and is given up after `HTTP_TIMEOUT`.
const CALL_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Seconds, as in amazon-vpc-cni-k8s.
const START_BUCKETS: &[f64] = &[0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// Counters and histograms of one daemon. Cloning gives another handle on the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    registry: Registry,
    started: Instant,
    errors: IntCounterVec,
    reconciled: IntCounterVec,
    adds_asked: IntCounter,
    dels_asked: IntCounterVec,
    adds_without_address: IntCounter,
    enis_lost: IntCounter,
    addresses_lost: IntCounter,
    ec2_calls: IntCounterVec,
    ec2_errors: IntCounterVec,
    api_errors: IntCounterVec,
    api_latency: Latency,
    translations: IntCounterVec,
    startup: HistogramVec,
    node_initialization: HistogramVec,
    add_seconds: HistogramVec,
    adds: IntCounterVec,
    call_seconds: HistogramVec,
    decisions: IntCounterVec,
}

impl Metrics {
    /// Returns metrics that have counted nothing, of a daemon that starts at this moment.
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        register(&registry, ProcessCollector::for_self());
        let api_latency = Latency::default();
        register(&registry, api_latency.clone());
        let counter = |name, help| {
            let made = IntCounter::new(name, help).expect(WELL_FORMED);
            register(&registry, made.clone());
            made
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels).expect(WELL_FORMED);
            register(&registry, made.clone());
            made
        };
        let seconds = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let made = HistogramVec::new(options, labels).expect(WELL_FORMED);
            register(&registry, made.clone());
            made
        };
        let counted = Counted {
            errors: counters(
                "awscni_ipamd_error_count",
                "Actions on the node's network and writes of the state file that failed, by what was attempted",
                &["fn"],
            ),
            reconciled: counters(
                "awscni_reconcile_count",
                "ENIs and blocks of addresses that came to be known or went, as EC2 and the metadata service show them",
                &["fn"],
            ),
            adds_asked: counter("awscni_add_ip_req_count", "ADDs that reached the daemon"),
            dels_asked: counters(
                "awscni_del_ip_req_count",
                "Releases of a pod's addresses, by cause",
                &["reason"],
            ),
            adds_without_address: counter(
                "awscni_no_available_ip_addresses",
                "ADDs that were refused for want of an address",
            ),
            enis_lost: counter(
                "awscni_force_removed_enis",
                "ENIs that EC2 no longer shows though pods had their addresses",
            ),
            addresses_lost: counter(
                "awscni_force_removed_ips",
                "Addresses that EC2 no longer shows though pods had them",
            ),
            ec2_calls: counters("awscni_ec2api_req_count", "Calls of EC2 by operation", &["fn"]),
            ec2_errors: counters(
                "awscni_ec2api_error_count",
                "Calls of EC2 that failed, by operation",
                &["fn"],
            ),
            api_errors: counters(
                "awscni_aws_api_error_count",
                "Calls of EC2 and readings of the metadata that failed, by operation and kind of failure",
                &["api", "error"],
            ),
            api_latency,
            translations: counters(
                "awscni_connmark_reconcile_total",
                "Comparisons of address translation, connection marks included, with what it should be, each with its repair",
                &["result"],
            ),
            startup: seconds(
                "awscni_ipamd_startup_duration_seconds",
                "From the start of the daemon until it serves",
                &["success", "with_api_server", "failure_reason"],
                START_BUCKETS,
            ),
            node_initialization: seconds(
                "awscni_ipamd_node_initialization_duration_seconds",
                "From the start of the daemon until the node's network is set up",
                &["success"],
                START_BUCKETS,
            ),
            add_seconds: seconds(
                "vpc_ipam_add_duration_seconds",
                "How long an ADD that got an address took in the daemon: until the address was granted (wait), until that was durable (commit), and both (total)",
                &["phase"],
                ADD_BUCKETS,
            ),
            adds: counters(
                "vpc_ipam_adds_total",
                "ADDs that were answered, by result",
                &["result"],
            ),
            call_seconds: seconds(
                "vpc_ipam_ec2_call_duration_seconds",
                "How long calls of EC2 took, by operation, retries of the SDK included",
                &["operation"],
                CALL_BUCKETS,
            ),
            decisions: counters(
                "vpc_ipam_decisions_total",
                "Actions that were decided on, by action and reason",
                &["action", "because"],
            ),
            started: Instant::now(),
            registry,
        };
        Self(Arc::new(counted))
    }

    /// The node's network is set up.
    pub(crate) fn network_is_set_up(&self) {
        let took = self.0.started.elapsed().as_secs_f64();
        self.0.node_initialization.with_label_values(&["true"]).observe(took);
    }

    /// The daemon serves.
    pub(crate) fn serving(&self) {
        let took = self.0.started.elapsed().as_secs_f64();
        // No API server is asked.
        self.0.startup.with_label_values(&["true", "false", ""]).observe(took);
    }

    /// An ADD reached the daemon.
    pub(crate) fn add_asked(&self) -> AddTimer {
        self.0.adds_asked.inc();
        AddTimer::start(self.clone())
    }

    /// A pod's addresses are released, for a reason as amazon-vpc-cni-k8s names it.
    pub(crate) fn del_asked(&self, reason: &str) {
        self.0.dels_asked.with_label_values(&[reason]).inc();
    }

    /// An action was issued.
    pub(crate) fn issued(&self, issued: &Issued) {
        let (action, because) = (action_name(&issued.action), variant(&issued.because));
        self.0.decisions.with_label_values(&[action.as_str(), because.as_str()]).inc();
    }

    /// A call of EC2, or a reading of the metadata, ended.
    pub(crate) fn called(&self, action: &Ec2Action, outcome: &Outcome, took: Duration) {
        let counted = &*self.0;
        let failed = match outcome {
            Outcome::Failed(failure) => Some(failure.kind),
            Outcome::Done(_) => None,
        };
        let api = action.operation().map_or(METADATA, |operation| operation.name());
        counted.api_latency.observe(api, failed.is_some(), took);
        if let Some(kind) = failed {
            let kind = variant(&kind);
            counted.api_errors.with_label_values(&[api, kind.as_str()]).inc();
        }
        if let Some(operation) = action.operation() {
            let operation = operation.name();
            counted.call_seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
            counted.ec2_calls.with_label_values(&[operation]).inc();
            if failed.is_some() {
                counted.ec2_errors.with_label_values(&[operation]).inc();
            }
        }
    }

    /// The state file could not be written.
    pub(crate) fn write_failed(&self) {
        self.0.errors.with_label_values(&["WriteState"]).inc();
    }

    /// Address translation was compared with what it should be, and put right, or could not be.
    pub(crate) fn translated(&self, succeeded: bool) {
        let result = if succeeded { "success" } else { "error" };
        self.0.translations.with_label_values(&[result]).inc();
    }

    /// An action ended.
    pub(crate) fn ended(&self, action: &Action, outcome: &Outcome) {
        if let (Action::Host(_), Outcome::Failed(_)) = (action, outcome) {
            self.0.errors.with_label_values(&[action_name(action)]).inc();
        }
    }

    /// Something happened within the core.
    pub(crate) fn happened(&self, event: &Event) {
        let reconciled = |what: &str, count: usize| {
            self.0.reconciled.with_label_values(&[what]).inc_by(count as u64);
        };
        match event {
            Event::EniAppeared { .. } => reconciled("eniReconcileAdd", 1),
            Event::EniRemoved { .. } => reconciled("eniReconcileDel", 1),
            Event::EniVanished { pods, .. } => {
                reconciled("eniReconcileDel", 1);
                if !pods.is_empty() {
                    self.0.enis_lost.inc();
                    self.0.addresses_lost.inc_by(pods.len() as u64);
                }
            }
            Event::BlocksAdded { blocks, .. } => {
                reconciled("eniDataStorePoolReconcileAdd", blocks.len());
            }
            Event::BlocksRemoved { blocks, .. } => {
                reconciled("eniIPPoolReconcileDel", blocks.len());
            }
            Event::AddressLost { .. } => self.0.addresses_lost.inc(),
            _ => {}
        }
    }

    /// Returns all metrics in Prometheus's text format; those of the node only with its inventory.
    pub(crate) fn text(&self, inventory: Option<&Inventory>) -> String {
        let mut families = self.0.registry.gather();
        families.extend(gauges::gather(inventory));
        // As a scraper expects them: by name.
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families).expect(WELL_FORMED)
    }
}

/// What the metadata service is called in metrics, as in amazon-vpc-cni-k8s.
const METADATA: &str = "GetMetadata";

const WELL_FORMED: &str = "names and labels are well-formed constants, each registered once";

fn register(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect(WELL_FORMED);
}

/// Returns the name of an action: an operation of EC2, or what is done to the node's network.
fn action_name(action: &Action) -> String {
    match action {
        Action::Ec2(action) => action.operation().map_or(METADATA, |it| it.name()).to_string(),
        Action::Host(action) => variant(action),
    }
}

#[cfg(test)]
mod tests {
    use vpc_ipam_core::FailureKind;

    use super::*;

    #[test]
    fn counters_say_what_happened_before_the_node_is_known() {
        let metrics = Metrics::new();
        metrics.serving();
        metrics.del_asked("PodDeleted");
        metrics.called(
            &Ec2Action::DescribeSubnets,
            &Outcome::Failed(vpc_ipam_core::Failure::new(FailureKind::SubnetFull, "full")),
            Duration::from_millis(250),
        );
        metrics.called(
            &Ec2Action::ReadMetadata,
            &Outcome::Done(vpc_ipam_core::Effect::Done),
            Duration::from_millis(2),
        );

        let text = metrics.text(None);

        for line in [
            r#"awscni_del_ip_req_count{reason="PodDeleted"} 1"#,
            r#"awscni_aws_api_error_count{api="DescribeSubnets",error="subnet_full"} 1"#,
            r#"awscni_aws_api_latency_ms_sum{api="DescribeSubnets",error="true"} 250"#,
            r#"awscni_aws_api_latency_ms_count{api="GetMetadata",error="false"} 1"#,
            r#"awscni_ec2api_req_count{fn="DescribeSubnets"} 1"#,
            r#"awscni_ec2api_error_count{fn="DescribeSubnets"} 1"#,
            r#"vpc_ipam_ec2_call_duration_seconds_count{operation="DescribeSubnets"} 1"#,
            r#"awscni_ipamd_startup_duration_seconds_count{failure_reason="",success="true",with_api_server="false"} 1"#,
            "vpc_ipam_ready 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
        assert!(!text.contains("awscni_eni_max"), "{text}");
        assert!(!text.contains(r#"fn="GetMetadata""#), "{text}");
    }
}
