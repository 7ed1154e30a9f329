//! Words of backlog: which shards have tasks that nobody runs. Owners write, their nodes tell, and
//! every worker reads. The last word of a node counts, and only for a while.
//!
//! Invariant: while nothing waits nowhere, nothing is told and nobody is woken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use protocol::jobs::Worker;
use protocol::peer::{Backlog, Waiting};
use protocol::{GroupId, NodeId, codec};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use super::workers::Workers;
use crate::remote::{Envelope, PeerTransport};
use crate::standing::peers_up;

/// Envelope kind: a [`Backlog`], posted.
pub(crate) const KIND_BACKLOG: u16 = 8;
/// How often a node tells what waits, if that changed;
const INTERVAL: Duration = Duration::from_millis(100);
/// and if it did not, as long as anything waits.
const REPEAT: Duration = Duration::from_millis(400);
/// A word that is older counts no more.
const AGE_MAX: Duration = Duration::from_secs(1);

/// Clones are the same board.
#[derive(Clone)]
pub(crate) struct Board {
    inner: Arc<Inner>,
}

struct Inner {
    me: Worker,
    /// Of the shards that this node owns.
    own: Mutex<BTreeMap<GroupId, Waiting>>,
    heard: Mutex<BTreeMap<NodeId, (Backlog, Instant)>>,
    /// Something waits now where nothing waited: others should know at once.
    risen: Notify,
    /// Something may have come that this node's worker wants.
    stirred: Notify,
}

impl Board {
    pub(crate) fn new(me: Worker) -> Self {
        let inner = Inner {
            me,
            own: Mutex::default(),
            heard: Mutex::default(),
            risen: Notify::new(),
            stirred: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What waits at a shard that this node owns.
    pub(super) fn set(&self, group: GroupId, waiting: Waiting) {
        let mut own = self.own();
        let before = own.get(&group).map_or(0, |waiting| waiting.tasks);
        if waiting.tasks == 0 {
            own.remove(&group);
            return;
        }
        own.insert(group, waiting);
        drop(own);
        if before == 0 {
            self.inner.risen.notify_one();
        }
        if waiting.tasks > before {
            self.stir();
        }
    }

    /// The shard is another's now.
    pub(crate) fn clear(&self, group: GroupId) {
        self.own().remove(&group);
    }

    /// What another node says.
    pub(crate) fn hear(&self, node: NodeId, backlog: Backlog) {
        self.heard().insert(node, (backlog, Instant::now()));
        self.stir();
    }

    /// What an owner has left, told with its answer.
    pub(crate) fn correct(&self, group: GroupId, left: Waiting) {
        for (backlog, _) in self.heard().values_mut() {
            if let Some(waiting) = backlog.shards.get_mut(&group) {
                *waiting = left;
            }
        }
    }

    /// Everything that waits anywhere, as far as it is known here.
    pub(crate) fn waiting(&self) -> BTreeMap<GroupId, Waiting> {
        let mut all = BTreeMap::new();
        for (backlog, at) in self.heard().values() {
            if at.elapsed() < AGE_MAX {
                all.extend(backlog.shards.clone());
            }
        }
        // What is owned here is known best.
        all.extend(self.own().clone());
        all.retain(|_, waiting| waiting.tasks > 0);
        all
    }

    /// Whether this node owns the shard and something waits there.
    pub(crate) fn is_own(&self, group: GroupId) -> bool {
        self.own().contains_key(&group)
    }

    /// Wakes this node's worker.
    pub(crate) fn stir(&self) {
        self.inner.stirred.notify_one();
    }

    /// Returns when there may be something for this node's worker.
    pub(crate) async fn stirred(&self) {
        self.inner.stirred.notified().await;
    }

    /// Tells the others what waits here: at once those who should take it, and soon all.
    pub(crate) async fn tell(self, workers: Workers, transport: Arc<dyn PeerTransport>) {
        let mut ticks = raft::ticks::ticks(INTERVAL);
        let mut told = (Backlog::default(), Vec::new(), Instant::now());
        loop {
            let silent = told.0.shards.is_empty() && self.own().is_empty();
            tokio::select! {
                () = self.inner.risen.notified() => {
                    let backlog = self.backlog();
                    self.post(&transport, &self.takers(&workers, &backlog), &backlog);
                    continue;
                }
                _ = ticks.tick(), if !silent => {}
            }
            let (backlog, peers) = (self.backlog(), peers_up(&transport));
            let same = backlog == told.0 && peers == told.1;
            if same && told.2.elapsed() < REPEAT {
                continue;
            }
            self.post(&transport, &peers, &backlog);
            told = (backlog, peers, Instant::now());
        }
    }

    /// The nodes that would do it soonest, as many as have slots for it. Told to all at once, all
    /// would ask for the one task of a small job.
    fn takers(&self, workers: &Workers, backlog: &Backlog) -> Vec<u64> {
        let tasks: u32 = backlog.shards.values().map(|waiting| waiting.tasks).sum();
        let mut slots = 0;
        let mut takers = Vec::new();
        for (node, free) in workers.by_pressure() {
            if slots >= tasks {
                break;
            }
            slots += free;
            if node != self.inner.me.node {
                takers.push(node.0);
            }
        }
        takers
    }

    fn post(&self, transport: &Arc<dyn PeerTransport>, peers: &[u64], backlog: &Backlog) {
        let Ok(payload) = codec::encode(backlog) else { return };
        let envelope = Envelope::new(KIND_BACKLOG, self.inner.me.node.0, Bytes::from(payload));
        for &peer in peers {
            if let Err(error) = transport.post(peer, envelope.clone()) {
                // The next word replaces this one.
                debug!(peer, %error, "backlog not told");
            }
        }
    }

    fn backlog(&self) -> Backlog {
        Backlog { shards: self.own().clone() }
    }

    fn own(&self) -> MutexGuard<'_, BTreeMap<GroupId, Waiting>> {
        self.inner.own.lock().unwrap_or_else(|_| std::process::abort())
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, (Backlog, Instant)>> {
        self.inner.heard.lock().unwrap_or_else(|_| std::process::abort())
    }
}
