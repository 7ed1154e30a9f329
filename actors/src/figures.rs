//! What the actors of this process count. The HTTP layer shows it at `/metrics`.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
};
use protocol::BackupId;
use protocol::limits::Policy;

use crate::backup::{Manifest, began_ms};

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
    /// Batches of requests that wait, by where they were scored: `here`, `elsewhere`, or `back` here
    /// after another node declined or was silent.
    pub scans_placed: IntCounterVec,
    /// Submission to terminal status.
    pub job_seconds: Histogram,
    /// Jobs that ended, by status.
    pub jobs_completed: IntCounterVec,
    /// From when a task might have run to its first lease, by plan. Plans are few and bounded.
    pub task_wait_seconds: HistogramVec,
    /// Attempts that brought no result, by what went wrong.
    pub task_failures: IntCounterVec,
    /// Proposal to outcome, on the owner.
    pub proposal_seconds: Histogram,
    /// Commands that owners here proposed, by who wanted them: `request` or `system`. Divided by the
    /// requests, the log entries that a request costs.
    pub commands: IntCounterVec,
    /// Requests refused for a limit, by policy.
    pub rate_limit_hits: IntCounterVec,
    /// What policies in shadow mode would have refused.
    pub shadowed: IntCounterVec,
    /// Commit to confirmation by all holders, of what was called back.
    pub recall_seconds: Histogram,
    /// Refusals and reads that were written to an audit.
    pub audit_calls: IntCounter,
    /// Calls that could not be written.
    pub audit_uncounted: IntCounter,
    /// Heads of chains that this node has signed.
    pub audit_signatures: IntCounter,
    /// Calls without a credential that counts.
    pub auth_failures: IntCounter,
    /// Of the result cache.
    pub cache: CacheFigures,
    /// Of the models of the registry.
    pub models: ModelFigures,
    /// Of the grants.
    pub grants: GrantFigures,
    /// Of backups.
    pub backup: BackupFigures,
}

/// Figures of the backups that this node made, and of the newest that it saw.
#[derive(Debug)]
pub struct BackupFigures {
    pub failures: IntCounter,
    last: IntGauge,
    seconds: Gauge,
    bytes: IntGauge,
}

impl BackupFigures {
    fn new() -> Self {
        let gauge = |name: &str, help: &str| sound(IntGauge::new(name, help));
        Self {
            failures: counter("backup_failures_total", "Backups that were begun here and failed"),
            last: gauge(
                "backup_last_success_timestamp_seconds",
                "When the newest backup was begun",
            ),
            seconds: sound(Gauge::new("backup_seconds", "What the last backup made here took")),
            bytes: gauge("backup_bytes", "Bytes that the last backup made here consists of"),
        }
    }

    /// A backup was made here.
    pub fn succeeded(&self, backup: BackupId, manifest: &Manifest, took: Duration) {
        self.seen(began_ms(backup));
        self.seconds.set(took.as_secs_f64());
        self.bytes.set(manifest.bytes() as i64);
    }

    /// A complete backup was found that was begun then.
    pub fn seen(&self, began_ms: u64) {
        self.last.set((began_ms / 1000) as i64);
    }
}

/// Counters of the result cache. Totals alone: a tenant in a label would tell of another's documents.
#[derive(Debug)]
pub struct CacheFigures {
    hits: IntCounterVec,
    /// Results out of this node's memory,
    pub memory: IntCounter,
    /// out of what another node has,
    pub node: IntCounter,
    /// out of this node's disk,
    pub disk: IntCounter,
    /// and those that another request computed meanwhile.
    pub flight: IntCounter,
    /// Texts that were computed.
    pub misses: IntCounter,
    /// Times that the disk's part was deleted and begun anew.
    pub rebuilds: IntCounter,
}

impl CacheFigures {
    fn new() -> Self {
        let hits = counters("cache_hits_total", "Results found, by where", "cache_type");
        let [memory, node, disk, flight] =
            ["memory", "node", "disk", "flight"].map(|of| hits.with_label_values(&[of]));
        Self {
            hits,
            memory,
            node,
            disk,
            flight,
            misses: counter("cache_misses_total", "Texts that were computed"),
            rebuilds: counter("cache_rebuilds_total", "Times that the cache on disk began anew"),
        }
    }
}

/// Figures of the models of the registry on this node. Their versions are an operator's, few and bounded.
#[derive(Debug)]
pub struct ModelFigures {
    documents: IntCounterVec,
    processes_lost: IntCounterVec,
    /// From the fetch of its parts to warm.
    pub load_seconds: Histogram,
    /// Versions that are loaded,
    pub loaded: IntGauge,
    /// and the memory of their processes when they do nothing.
    pub memory_bytes: IntGauge,
}

impl ModelFigures {
    fn new() -> Self {
        let gauge = |name: &str, help: &str| sound(IntGauge::new(name, help));
        let documents = Opts::new("model_documents_total", "Documents by version and what became");
        let lost = Opts::new("model_processes_lost_total", "Processes that a batch ended");
        Self {
            documents: sound(IntCounterVec::new(documents, &["model", "version", "outcome"])),
            processes_lost: sound(IntCounterVec::new(lost, &["model", "version"])),
            load_seconds: timer("model_load_duration_seconds", "Loading a version until warm"),
            loaded: gauge("models_loaded", "Versions that are loaded"),
            memory_bytes: gauge("model_memory_bytes", "Memory of loaded versions at rest"),
        }
    }

    /// A version scored documents, or failed at them. Cached ones are not among them.
    pub fn scored(&self, model: &str, version: &str, done: u64, failed: u64) {
        for (outcome, count) in [("done", done), ("failed", failed)] {
            self.documents.with_label_values(&[model, version, outcome]).inc_by(count);
        }
    }

    /// A process of a version crashed, hung or took too much memory.
    pub fn process_lost(&self, model: &str, version: &str) {
        self.processes_lost.with_label_values(&[model, version]).inc();
    }
}

/// Counters of the front door. Those of the warm path are looked up once.
#[derive(Debug)]
pub struct GrantFigures {
    /// Requests whose key was known here.
    pub hits: IntCounter,
    /// Requests whose owner had to be asked who it is.
    pub misses: IntCounter,
    /// Units admitted by this node out of a slab, or without a limit.
    admitted: [IntCounter; 2],
    decisions: IntCounterVec,
}

impl GrantFigures {
    fn new() -> Self {
        let opts = Opts::new("limit_decisions_total", "Limit decisions of this node");
        let decisions = sound(IntCounterVec::new(opts, &["outcome", "policy"]));
        let admitted =
            ["none", "any"].map(|policy| decisions.with_label_values(&["admitted", policy]));
        Self {
            hits: counter("grant_hits_total", "Requests whose key was known here"),
            misses: counter("grant_misses_total", "Requests whose owner was asked for the key"),
            admitted,
            decisions,
        }
    }

    /// A request was admitted here.
    pub fn admitted(&self, limited: bool) {
        self.admitted[usize::from(limited)].inc();
    }

    /// A request was refused, here or by its owner.
    pub fn denied(&self, policy: Policy) {
        self.decisions.with_label_values(&["denied", policy.name()]).inc();
    }

    /// A request was admitted by its owner.
    pub fn admitted_by_owner(&self) {
        self.decisions.with_label_values(&["admitted", "owner"]).inc();
    }
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
            scans_placed: counters(
                "scan_batches_total",
                "Batches of waiting requests, by place",
                "place",
            ),
            job_seconds: timer("job_processing_duration_seconds", "Submission to the end"),
            jobs_completed: counters("jobs_completed_total", "Jobs that ended", "status"),
            task_wait_seconds: timers("task_wait_seconds", "Ready to leased, by plan", "plan"),
            task_failures: counters("task_failures_total", "Attempts without a result", "cause"),
            proposal_seconds: timer("proposal_duration_seconds", "Proposal to outcome"),
            commands: counters("commands_proposed_total", "Commands proposed", "of"),
            rate_limit_hits: counters("rate_limit_hits_total", "Limits met", "policy"),
            shadowed: counters("limit_shadowed_total", "Shadow limits met", "policy"),
            recall_seconds: timer("recall_duration_seconds", "Commit to confirmed everywhere"),
            audit_calls: counter("audit_calls_total", "Refusals and reads written"),
            audit_uncounted: counter("audit_calls_lost_total", "Calls that could not be written"),
            audit_signatures: counter("audit_signatures_total", "Heads of chains signed"),
            auth_failures: counter("auth_failures_total", "Calls without a credential that counts"),
            cache: CacheFigures::new(),
            models: ModelFigures::new(),
            grants: GrantFigures::new(),
            backup: BackupFigures::new(),
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
            Box::new(self.scans_placed.clone()),
            Box::new(self.job_seconds.clone()),
            Box::new(self.task_wait_seconds.clone()),
            Box::new(self.task_failures.clone()),
            Box::new(self.jobs_completed.clone()),
            Box::new(self.proposal_seconds.clone()),
            Box::new(self.commands.clone()),
            Box::new(self.rate_limit_hits.clone()),
            Box::new(self.shadowed.clone()),
            Box::new(self.recall_seconds.clone()),
            Box::new(self.audit_calls.clone()),
            Box::new(self.audit_uncounted.clone()),
            Box::new(self.audit_signatures.clone()),
            Box::new(self.auth_failures.clone()),
            Box::new(self.cache.hits.clone()),
            Box::new(self.cache.misses.clone()),
            Box::new(self.cache.rebuilds.clone()),
            Box::new(self.models.documents.clone()),
            Box::new(self.models.processes_lost.clone()),
            Box::new(self.models.load_seconds.clone()),
            Box::new(self.models.loaded.clone()),
            Box::new(self.models.memory_bytes.clone()),
            Box::new(self.grants.hits.clone()),
            Box::new(self.grants.misses.clone()),
            Box::new(self.grants.decisions.clone()),
            Box::new(self.backup.failures.clone()),
            Box::new(self.backup.last.clone()),
            Box::new(self.backup.seconds.clone()),
            Box::new(self.backup.bytes.clone()),
        ]
    }
}

fn timer(name: &str, help: &str) -> Histogram {
    let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
    sound(Histogram::with_opts(opts))
}

fn timers(name: &str, help: &str, label: &str) -> HistogramVec {
    let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
    sound(HistogramVec::new(opts, &[label]))
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
