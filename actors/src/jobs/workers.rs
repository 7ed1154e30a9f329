//! The nodes that run tasks, as a coordinator sees them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use protocol::jobs::Worker;
use protocol::{GroupId, NodeId, Time};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::board::Board;
use crate::remote::{PeerState, PeerTransport};

/// Envelope kind: a [`Load`], posted.
pub(crate) const KIND_LOAD: u16 = 3;
/// A node that said nothing for this long gets nothing new.
const LOAD_AGE_MAX: Duration = Duration::from_secs(1);

/// What a node does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    #[default]
    Working,
    /// It takes no new tasks.
    Resting,
    /// Its process is about to end: it takes nothing, and what it has is to be done elsewhere.
    Stopping,
}

/// What a node says of itself every 100 ms, or 400 when nothing changes; the last word counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    pub slots: u32,
    /// Documents that wait or run.
    pub documents: u64,
    /// Microseconds for which one holds a slot, as measured.
    pub document_us: u64,
    /// What its wall clock shows.
    pub wall: Time,
    pub standing: Standing,
    /// Log index of each group up to which this node has every blob.
    pub blobs: BTreeMap<GroupId, u64>,
    /// Groups that it leads.
    pub leads: Vec<GroupId>,
}

impl Load {
    /// Whether nothing but the time is different.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        let Self { slots, documents, document_us, wall: _, standing, blobs, leads } = self;
        let figures = (*slots, *documents, *document_us, *standing);
        let others = (other.slots, other.documents, other.document_us, other.standing);
        figures == others && *blobs == other.blobs && *leads == other.leads
    }

    /// Whether it takes new work.
    #[must_use]
    pub fn works(&self) -> bool {
        self.standing == Standing::Working
    }

    /// Queue pressure: seconds until what waits and runs is done.
    #[must_use]
    pub fn pressure_s(&self) -> f64 {
        let work_s = self.documents as f64 * self.document_us as f64 / 1e6;
        work_s / f64::from(self.slots.max(1))
    }

    /// Documents that it can do in a second.
    #[must_use]
    pub fn documents_per_s(&self) -> f64 {
        f64::from(self.slots.max(1)) * 1e6 / self.document_us.max(1) as f64
    }
}

/// Clones see the same nodes.
#[derive(Clone)]
pub struct Workers {
    inner: Arc<Inner>,
}

struct Inner {
    me: Worker,
    loads: Mutex<BTreeMap<NodeId, (u64, Load, Instant)>>,
    transport: OnceLock<Arc<dyn PeerTransport>>,
    board: Board,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "workers seen by {}", self.inner.me.node)
    }
}

impl Workers {
    /// Nobody yet.
    #[must_use]
    pub fn new(me: Worker) -> Self {
        let (transport, board) = (OnceLock::new(), Board::new(me));
        Self { inner: Arc::new(Inner { me, loads: Mutex::default(), transport, board }) }
    }

    pub(crate) fn set_transport(&self, transport: Arc<dyn PeerTransport>) {
        // Set once, at boot.
        let _ = self.inner.transport.set(transport);
    }

    /// What waits at the coordinators.
    pub(crate) fn board(&self) -> &Board {
        &self.inner.board
    }

    /// Notes what a node says of itself.
    pub(crate) fn note(&self, worker: Worker, load: Load) {
        let mut loads = self.inner.loads.lock().unwrap_or_else(|_| std::process::abort());
        loads.insert(worker.node, (worker.incarnation, load, Instant::now()));
    }

    /// The last load of each node that is heard of.
    #[must_use]
    pub fn loads(&self) -> BTreeMap<NodeId, Load> {
        let loads = self.inner.loads.lock().unwrap_or_else(|_| std::process::abort());
        let fresh = loads.iter().filter(|(_, (_, _, at))| at.elapsed() < LOAD_AGE_MAX);
        fresh.map(|(&node, (_, load, _))| (node, load.clone())).collect()
    }

    /// The nodes that are heard of and take work.
    pub(crate) fn working(&self) -> Vec<NodeId> {
        let loads = self.inner.loads.lock().unwrap_or_else(|_| std::process::abort());
        let fresh = loads.iter().filter(|(_, (_, _, at))| at.elapsed() < LOAD_AGE_MAX);
        fresh.filter(|(_, (_, load, _))| load.works()).map(|(&node, _)| node).collect()
    }

    /// How long a document holds a slot of the nodes that work, as they say.
    #[must_use]
    pub fn pace(&self) -> Duration {
        let loads = self.loads();
        let working = || loads.values().filter(|load| load.works());
        let rate: f64 = working().map(Load::documents_per_s).sum();
        let slots: f64 = working().map(|load| f64::from(load.slots.max(1))).sum();
        if rate > 0.0 { Duration::from_secs_f64(slots / rate) } else { Duration::ZERO }
    }

    /// What a node said last, if that is not long ago.
    pub(crate) fn last_word<T>(&self, node: NodeId, read: impl Fn(&Load) -> T) -> Option<T> {
        let loads = self.inner.loads.lock().unwrap_or_else(|_| std::process::abort());
        let fresh = loads.get(&node).filter(|(_, _, at)| at.elapsed() < LOAD_AGE_MAX);
        fresh.map(|(_, load, _)| read(load))
    }

    /// For how long nothing was heard of a node that was heard of since this one started.
    #[must_use]
    pub fn silence(&self, node: NodeId) -> Option<Duration> {
        let loads = self.inner.loads.lock().unwrap_or_else(|_| std::process::abort());
        loads.get(&node).map(|(_, _, at)| at.elapsed())
    }

    fn is_stopping(&self, worker: Worker) -> bool {
        let loads = self.inner.loads.lock().unwrap_or_else(|_| std::process::abort());
        loads.get(&worker.node).is_some_and(|(incarnation, load, _)| {
            *incarnation == worker.incarnation && load.standing == Standing::Stopping
        })
    }

    /// Whether a worker may still be running what it was given.
    pub(super) fn is_alive(&self, worker: Worker) -> bool {
        if worker.node == self.inner.me.node {
            return worker == self.inner.me;
        }
        // Told by itself, so that its tasks need not wait for the end of its connections.
        if self.is_stopping(worker) {
            return false;
        }
        let Some(transport) = self.inner.transport.get() else { return false };
        match transport.states().borrow().get(&worker.node.0) {
            Some(PeerState::Up { incarnation }) => *incarnation == worker.incarnation,
            Some(PeerState::Down { .. }) | None => false,
        }
    }

    /// The nodes that take work and their slots, the one that is done soonest first; among equals
    /// this one, to which nothing has to be sent.
    pub(super) fn by_pressure(&self) -> Vec<(NodeId, u32)> {
        let working = self.loads().into_iter().filter(|(_, load)| load.works());
        let mut nodes: Vec<_> = working.collect();
        nodes.sort_by(|(a, x), (b, y)| {
            let other = |node: NodeId| node != self.inner.me.node;
            x.pressure_s().total_cmp(&y.pressure_s()).then(other(*a).cmp(&other(*b)))
        });
        nodes.into_iter().map(|(node, load)| (node, load.slots.max(1))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_the_time_until_a_node_has_done_what_it_has() {
        let load = |slots, documents, document_us| Load {
            slots,
            documents,
            document_us,
            wall: Time(0),
            standing: Standing::Working,
            blobs: BTreeMap::new(),
            leads: Vec::new(),
        };
        assert_eq!(load(2, 100, 40_000).pressure_s(), 2.0);
        assert_eq!(load(2, 0, 40_000).pressure_s(), 0.0);
        assert_eq!(load(0, 3, 1_000_000).pressure_s(), 3.0);
        assert_eq!(load(2, 100, 40_000).documents_per_s(), 50.0);
    }
}
