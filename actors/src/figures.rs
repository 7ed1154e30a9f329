//! What the actors of this process count. The HTTP layer shows it at `/metrics`.

use std::sync::LazyLock;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts};

/// From one short text to a job of ten thousand.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// One set per process, as a process is a node.
static FIGURES: LazyLock<Figures> = LazyLock::new(Figures::new);

/// Counters and timers of the actors.
#[derive(Debug)]
pub struct Figures {
    /// One batch through the model.
    pub inference_seconds: Histogram,
    /// Documents with a verdict.
    pub documents_scanned: IntCounter,
    /// Of these, at or over the threshold.
    pub documents_quarantined: IntCounter,
    /// One task on the node that ran it.
    pub task_seconds: Histogram,
    /// Submission to terminal status.
    pub job_seconds: Histogram,
    /// Jobs that ended, by status.
    pub jobs_completed: IntCounterVec,
    /// Proposal to outcome, on the owner.
    pub proposal_seconds: Histogram,
    /// Requests refused for their rate, by policy.
    pub rate_limit_hits: IntCounterVec,
}

/// The figures of this process.
#[must_use]
pub fn figures() -> &'static Figures {
    &FIGURES
}

impl Figures {
    fn new() -> Self {
        Self {
            inference_seconds: timer("inference_duration_seconds", "One batch through the model"),
            documents_scanned: counter("documents_scanned_total", "Documents with a verdict"),
            documents_quarantined: counter(
                "documents_quarantined_total",
                "Documents at or over the threshold",
            ),
            task_seconds: timer("worker_task_duration_seconds", "One task on its node"),
            job_seconds: timer("job_processing_duration_seconds", "Submission to the end"),
            jobs_completed: counters("jobs_completed_total", "Jobs that ended", "status"),
            proposal_seconds: timer("proposal_duration_seconds", "Proposal to outcome"),
            rate_limit_hits: counters("rate_limit_hits_total", "Rates met", "policy"),
        }
    }

    /// All of them, for a registry.
    #[must_use]
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.inference_seconds.clone()),
            Box::new(self.documents_scanned.clone()),
            Box::new(self.documents_quarantined.clone()),
            Box::new(self.task_seconds.clone()),
            Box::new(self.job_seconds.clone()),
            Box::new(self.jobs_completed.clone()),
            Box::new(self.proposal_seconds.clone()),
            Box::new(self.rate_limit_hits.clone()),
        ]
    }
}

fn timer(name: &str, help: &str) -> Histogram {
    let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
    sound(Histogram::with_opts(opts))
}

fn counter(name: &str, help: &str) -> IntCounter {
    sound(IntCounter::new(name, help))
}

fn counters(name: &str, help: &str, label: &str) -> IntCounterVec {
    sound(IntCounterVec::new(Opts::new(name, help), &[label]))
}

fn sound<T>(made: Result<T, prometheus::Error>) -> T {
    // The names above are constants, and a test makes them all.
    made.unwrap_or_else(|error| unreachable!("a figure with a bad name: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_can_be_registered() {
        let registry = prometheus::Registry::new();
        for collector in figures().collectors() {
            registry.register(collector).unwrap();
        }
    }
}
