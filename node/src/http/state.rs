//! The state of the cluster as figures, taken when they are asked for.

pub(super) mod members;
mod storage;

use members::Members;
use storage::Storage;

use actors::System;
use actors::remote::{ClusterTransport, PeerState, PeerTransport as _};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts};
use protocol::jobs::{Priority, TaskState};

/// What Prometheus learns of Raft, peers and queues.
#[derive(Debug)]
pub struct ClusterState {
    system: System,
    transport: ClusterTransport,
    queue: IntGaugeVec,
    applied: IntGaugeVec,
    leads: IntGaugeVec,
    lag: IntGaugeVec,
    log: IntGaugeVec,
    storage: Storage,
    members: Members,
    mailbox: IntGaugeVec,
    outstanding: IntGauge,
    peers_up: IntGauge,
    active: IntGauge,
    certificate: IntGauge,
    cache: IntGauge,
    refused: IntCounterVec,
}

impl ClusterState {
    /// Looks at a tree that runs.
    pub fn new(system: System, transport: ClusterTransport) -> Result<Self, prometheus::Error> {
        let by =
            |name: &str, help: &str, label: &str| IntGaugeVec::new(Opts::new(name, help), &[label]);
        Ok(Self {
            system,
            transport,
            queue: by("job_queue_depth", "Tasks without a result of owned shards", "priority")?,
            applied: by("raft_applied_index", "Last applied entry, by group", "group")?,
            leads: by("raft_leader", "1 for each group that this node leads", "group")?,
            lag: by(
                "raft_lag_entries",
                "Entries that followers of led groups miss, at most",
                "group",
            )?,
            log: by("raft_log_entries", "Entries in the log, by group", "group")?,
            storage: Storage::new()?,
            members: Members::new()?,
            mailbox: by("mailbox_depth", "Messages that wait, by owned shard", "group")?,
            outstanding: IntGauge::new(
                "limit_slab_requests_outstanding",
                "Requests granted to nodes ahead of use, of owned shards",
            )?,
            peers_up: IntGauge::new("peers_up", "Peers that answer")?,
            active: IntGauge::new("worker_active_tasks", "Batches that wait for or hold a slot")?,
            certificate: IntGauge::new(
                "certificate_expiry_seconds",
                "Until the certificate that this node shows its peers ends",
            )?,
            cache: IntGauge::new("cache_size_bytes", "Of cached results in memory")?,
            refused: IntCounterVec::new(
                Opts::new("peer_connections_refused_total", "Connections between nodes refused"),
                &["reason"],
            )?,
        })
    }

    fn gauges(&self) -> Vec<&dyn Collector> {
        let mut gauges = self.storage.gauges().to_vec();
        gauges.extend([
            &self.lag as &dyn Collector,
            &self.log,
            &self.queue,
            &self.applied,
            &self.leads,
            &self.mailbox,
            &self.outstanding,
            &self.peers_up,
            &self.active,
            &self.certificate,
            &self.cache,
            &self.refused,
        ]);
        gauges.extend(self.members.gauges());
        gauges
    }

    fn look(&self) {
        for gauges in [&self.queue, &self.applied, &self.leads, &self.lag, &self.log, &self.mailbox]
        {
            gauges.reset();
        }
        self.storage.look(&self.system.host);
        self.cache.set(self.system.cache.bytes() as i64);
        self.members.look(&self.system, &self.transport);
        let mut outstanding = 0;
        for group in self.system.host.groups() {
            let id = group.id().to_string();
            self.applied.with_label_values(&[&id]).set(group.applied() as i64);
            let leads = group.leadership().borrow().owned.is_some();
            self.leads.with_label_values(&[&id]).set(i64::from(leads));
            self.log.with_label_values(&[&id]).set(group.log_entries() as i64);
            if leads {
                let lag = group.members().iter().filter_map(|member| member.lag).max();
                self.lag.with_label_values(&[&id]).set(lag.unwrap_or(0) as i64);
                self.count_tasks(&group);
                outstanding += group.view().limits.outstanding();
            }
        }
        self.outstanding.set(outstanding as i64);
        for (group, depth) in self.system.router.depths() {
            self.mailbox.with_label_values(&[&group.to_string()]).set(depth as i64);
        }
        let states = self.transport.states().borrow().clone();
        let up = states.values().filter(|state| matches!(state, PeerState::Up { .. })).count();
        self.peers_up.set(up as i64);
        self.active.set(self.system.slots.depth() as i64);
        self.look_at_trust();
    }

    fn look_at_trust(&self) {
        let trust = self.system.host.peers().trust();
        let left_ms = trust.expires_at().ms_since(actors::clock::wall());
        self.certificate.set((left_ms / 1000) as i64);
        self.refused.reset();
        for (reason, count) in trust.refusals().counts() {
            self.refused.with_label_values(&[reason.name()]).inc_by(count);
        }
    }

    fn count_tasks(&self, group: &raft::Group) {
        let view = group.view();
        for priority in [Priority::Low, Priority::Normal, Priority::High, Priority::Urgent] {
            let jobs = view.jobs.open().filter(|(_, job)| job.priority() == priority);
            let open =
                |state: &TaskState| matches!(state, TaskState::Queued | TaskState::Leased(_));
            let tasks = jobs.flat_map(|(_, job)| &job.tasks).filter(|task| open(&task.state));
            self.queue.with_label_values(&[priority.name()]).add(tasks.count() as i64);
        }
    }
}

impl Collector for ClusterState {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.look();
        self.gauges().into_iter().flat_map(Collector::collect).collect()
    }
}
