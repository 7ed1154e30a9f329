//! What of the groups is on disk, and what went to peers as a whole.

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntGauge, IntGaugeVec, Opts};

/// Figures of checkpoints.
#[derive(Debug)]
pub(super) struct Storage {
    index: IntGaugeVec,
    age: GaugeVec,
    seconds: GaugeVec,
    bytes: IntGaugeVec,
    sent: IntGaugeVec,
    taken: IntGaugeVec,
    damage: IntGauge,
}

impl Storage {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let whole = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["group"]);
        let exact = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &["group"]);
        Ok(Self {
            index: whole("checkpoint_index", "Entry that the checkpoint written last is of")?,
            age: exact("checkpoint_age_seconds", "Since this process wrote a checkpoint")?,
            seconds: exact("checkpoint_seconds", "What the last checkpoint took")?,
            bytes: whole("checkpoint_bytes", "Bytes of rows in the last checkpoint")?,
            sent: whole("raft_states_sent", "States sent to peers since the start")?,
            taken: whole("raft_states_installed", "States taken from peers since the start")?,
            damage: IntGauge::new(
                "storage_damage_total",
                "Logs and states that were found damaged at the start",
            )?,
        })
    }

    pub(super) fn gauges(&self) -> [&dyn Collector; 7] {
        [&self.index, &self.age, &self.seconds, &self.bytes, &self.sent, &self.taken, &self.damage]
    }

    pub(super) fn look(&self, host: &raft::Host) {
        self.damage.set(host.damage().len() as i64);
        for gauges in [&self.index, &self.bytes, &self.sent, &self.taken] {
            gauges.reset();
        }
        for gauges in [&self.age, &self.seconds] {
            gauges.reset();
        }
        for group in host.groups() {
            let id = group.id().to_string();
            let (sent, taken) = group.states_moved();
            self.sent.with_label_values(&[&id]).set(sent as i64);
            self.taken.with_label_values(&[&id]).set(taken as i64);
            let Some(written) = group.checkpoint() else { continue };
            self.index.with_label_values(&[&id]).set(written.index as i64);
            self.bytes.with_label_values(&[&id]).set(written.bytes as i64);
            self.age.with_label_values(&[&id]).set(written.at.elapsed().as_secs_f64());
            self.seconds.with_label_values(&[&id]).set(written.took.as_secs_f64());
        }
    }
}
