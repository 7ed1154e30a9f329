//! Decides when the state of a replica is written to disk, and lets its log be purged behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::{debug, error};

use super::{Checkpoint, CheckpointError};
use crate::apply::{Counts, Shared};
use crate::types::Raft;

/// Checkpoints that a node writes at a time: they share a disk with the log.
pub(crate) const AT_ONCE: usize = 1;
/// Rows that are taken while apply waits.
const SLICE: usize = 256;
/// Checkpoints in a row behind which the log is not purged, because a peer is being sent a state: it goes
/// on with the log from there, and must not need the next state then.
const HOLDS_MAX: u32 = 8;
/// Pause after a checkpoint that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// What was written last.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// The entry that it is the state of.
    pub index: u64,
    pub at: Instant,
    pub took: Duration,
    /// Rows that had changed, and their bytes.
    pub rows: u64,
    pub bytes: u64,
}

/// Writes the checkpoints of one replica.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) shared: Shared,
    pub(crate) raft: Raft,
    /// Shared by all groups of the node.
    pub(crate) gate: Arc<Semaphore>,
    pub(crate) every: Duration,
    /// The last one failed, so the next is written anew as a whole.
    pub(crate) whole: AtomicBool,
    pub(crate) figures: watch::Sender<Option<Figures>>,
    pub(crate) hold: LogHold,
}

/// For whom the log is kept.
#[derive(Debug, Default)]
pub(crate) struct LogHold {
    /// Parts of states that had got across at the last look.
    parts: AtomicU64,
    looks: AtomicU32,
}

impl LogHold {
    /// Whether a peer is being sent a state, and takes it.
    fn look(&self, counts: &Counts) -> bool {
        let parts = counts.parts.load(Ordering::Relaxed);
        let goes_on = self.parts.swap(parts, Ordering::Relaxed) != parts;
        let held = counts.leaving.load(Ordering::Relaxed) > 0 && goes_on;
        let looks = if held { self.looks.load(Ordering::Relaxed) + 1 } else { 0 };
        self.looks.store(looks, Ordering::Relaxed);
        (1..=HOLDS_MAX).contains(&looks)
    }
}

impl Keeper {
    /// Runs until the replica's core ends.
    pub(crate) async fn run(self: Arc<Self>) {
        let group = self.checkpoint.group();
        // Groups that were started together are not due together.
        let mut wait = self.every.mul_f64(0.5 + f64::from(group.0 % 16) / 32.0);
        let mut ended = self.raft.server_metrics();
        loop {
            tokio::select! {
                () = self.shared.full().notified() => {}
                () = tokio::time::sleep(wait) => {}
                // An error means that the core is gone.
                () = async { while ended.changed().await.is_ok() {} } => return,
            }
            wait = match self.turn().await {
                Ok(()) => self.every,
                Err(failure) => {
                    // The log keeps everything meanwhile, so nothing is lost but room.
                    error!(%group, failure, "checkpoint not written");
                    AGAIN
                }
            };
        }
    }

    /// Makes what is applied durable, when no other group of the node does the same, and lets the log
    /// be purged behind it.
    pub(crate) async fn turn(self: &Arc<Self>) -> Result<(), String> {
        let group = self.checkpoint.group();
        let _one_of_few = self.gate.acquire().await.map_err(|closed| closed.to_string())?;
        let writer = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || writer.write()).await;
        let failure = match written {
            Ok(Ok(false)) => return Ok(()),
            Ok(Ok(true)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panicked) => Some(panicked.to_string()),
        };
        self.whole.store(failure.is_some(), Ordering::Relaxed);
        if let Some(failure) = failure {
            return Err(failure);
        }
        if self.hold.look(self.shared.counts()) {
            return Ok(());
        }
        if let Err(error) = self.raft.trigger().snapshot().await {
            debug!(%group, %error, "log not purged");
        }
        Ok(())
    }

    /// Whether there was anything to write. Blocks.
    fn write(&self) -> Result<bool, CheckpointError> {
        let (began, whole) = (Instant::now(), self.whole.load(Ordering::Relaxed));
        let _hold = self.checkpoint.hold();
        let Some(head) = self.shared.freeze(&self.checkpoint, whole) else { return Ok(false) };
        let index = head.applied.index;
        let mut rows = 0;
        let bytes = self.checkpoint.write(head, whole, || {
            let taken = self.shared.take(SLICE);
            rows += taken.len() as u64;
            taken
        })?;
        let figures = Figures { index, at: Instant::now(), took: began.elapsed(), rows, bytes };
        let group = self.checkpoint.group();
        debug!(%group, index, rows, bytes, took = ?figures.took, "checkpoint written");
        self.figures.send_replace(Some(figures));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_while_a_peer_takes_a_state_and_not_for_ever() {
        let (counts, held) = (Counts::default(), LogHold::default());
        assert!(!held.look(&counts), "nothing is sent");
        counts.leaving.store(1, Ordering::Relaxed);
        assert!(!held.look(&counts), "nothing gets across");
        for _ in 0..HOLDS_MAX {
            counts.parts.fetch_add(1, Ordering::Relaxed);
            assert!(held.look(&counts));
        }
        counts.parts.fetch_add(1, Ordering::Relaxed);
        assert!(!held.look(&counts), "too long");
        assert!(!held.look(&counts), "nothing more gets across");
        counts.parts.fetch_add(1, Ordering::Relaxed);
        assert!(held.look(&counts));
        counts.leaving.store(0, Ordering::Relaxed);
        counts.parts.fetch_add(1, Ordering::Relaxed);
        assert!(!held.look(&counts), "it is there");
    }
}
