//! The summary of amazon-vpc-cni-k8s, which has no quantiles; the library makes none itself.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType, Summary};

const NAME: &str = "awscni_aws_api_latency_ms";
const HELP: &str = "How long calls of EC2 and readings of the metadata took in milliseconds, by operation and whether they failed";

/// How long calls took, by operation and whether they failed.
#[derive(Clone, Debug)]
pub(super) struct Latency {
    desc: Desc,
    /// How many calls there were, and how many milliseconds they took.
    sums: Arc<Mutex<BTreeMap<(&'static str, bool), (u64, f64)>>>,
}

impl Default for Latency {
    fn default() -> Self {
        let labels = vec!["api".to_string(), "error".to_string()];
        let desc = Desc::new(NAME.to_string(), HELP.to_string(), labels, Default::default());
        Self { desc: desc.expect(super::WELL_FORMED), sums: Arc::default() }
    }
}

impl Latency {
    pub(super) fn observe(&self, api: &'static str, failed: bool, took: Duration) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, sum) = sums.entry((api, failed)).or_default();
        *count += 1;
        *sum += took.as_secs_f64() * 1000.0;
    }
}

impl Collector for Latency {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = sums.iter().map(|((api, failed), (count, sum))| {
            let label = |name: &str, value: &str| {
                let mut pair = LabelPair::default();
                pair.set_name(name.to_string());
                pair.set_value(value.to_string());
                pair
            };
            let mut summary = Summary::default();
            summary.set_sample_count(*count);
            summary.set_sample_sum(*sum);
            let mut metric = Metric::default();
            let failed = if *failed { "true" } else { "false" };
            metric.set_label(vec![label("api", api), label("error", failed)]);
            metric.set_summary(summary);
            metric
        });
        let metrics: Vec<Metric> = metrics.collect();
        if metrics.is_empty() {
            return Vec::new();
        }
        let mut family = MetricFamily::default();
        family.set_name(NAME.to_string());
        family.set_help(HELP.to_string());
        family.set_field_type(MetricType::SUMMARY);
        family.set_metric(metrics);
        vec![family]
    }
}
