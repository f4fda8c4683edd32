use std::time::Instant;

use vpc_ipam_protocol::{Answer, RefusalKind};

use super::Metrics;

/// Times one ADD, from its arrival in the event loop to its answer.
#[derive(Debug)]
pub(crate) struct AddTimer {
    metrics: Metrics,
    asked: Instant,
    granted: Option<Instant>,
}

impl AddTimer {
    pub(super) fn start(metrics: Metrics) -> Self {
        Self { metrics, asked: Instant::now(), granted: None }
    }

    /// An address was granted; the grant is not durable yet.
    pub(crate) fn granted(&mut self) {
        self.granted = Some(Instant::now());
    }

    /// The ADD is answered. One that has an address already is answered at once, and times nothing.
    pub(crate) fn answered(self, answer: &Answer) {
        let counted = &*self.metrics.0;
        let result = match answer {
            Answer::Lease { .. } => "ok",
            Answer::Refused(refusal) => match refusal.kind {
                RefusalKind::TryAgainLater => "no_address",
                RefusalKind::PodDeleted => "pod_deleted",
                RefusalKind::StateFile => "state_file",
                RefusalKind::LinkTaken => "link_taken",
                _ => "other",
            },
            _ => "other",
        };
        counted.adds.with_label_values(&[result]).inc();
        if result == "no_address" {
            counted.adds_without_address.inc();
        }
        if let (Some(granted), "ok") = (self.granted, result) {
            let now = Instant::now();
            let phases = [
                ("wait", granted - self.asked),
                ("commit", now - granted),
                ("total", now - self.asked),
            ];
            for (phase, took) in phases {
                counted.add_seconds.with_label_values(&[phase]).observe(took.as_secs_f64());
            }
        }
    }
}
