//! The nodes that run tasks, as a coordinator sees them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use protocol::codec;
use protocol::jobs::{Assignment, Worker};
use protocol::peer::Work;
use protocol::{GroupId, NodeId, Time};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::remote::{Envelope, PeerState, PeerTransport, ReplyFrame};
use crate::work::Runner;

/// Envelope kind: [`Work`], answered with whether it was taken.
pub(crate) const KIND_WORK: u16 = 2;
/// Envelope kind: a [`Load`], posted.
pub(crate) const KIND_LOAD: u16 = 3;
/// A node that said nothing for this long gets no new tasks.
const LOAD_AGE_MAX: Duration = Duration::from_secs(1);
/// Tasks per slot that one coordinator has with a node at a time.
const TASKS_PER_SLOT: usize = 2;

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
        Self { wall: other.wall, ..self.clone() } == *other
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

/// Room that a node has for more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    worker: Worker,
    slots: usize,
    tasks: usize,
    documents: u64,
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
    runner: OnceLock<Runner>,
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
        let (transport, runner) = (OnceLock::new(), OnceLock::new());
        Self { inner: Arc::new(Inner { me, loads: Mutex::default(), transport, runner }) }
    }

    pub(crate) fn set_transport(&self, transport: Arc<dyn PeerTransport>) {
        // Set once, at boot.
        let _ = self.inner.transport.set(transport);
    }

    pub(crate) fn set_runner(&self, runner: Runner) {
        // As above.
        let _ = self.inner.runner.set(runner);
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

    pub(super) fn rooms(&self, outstanding: &BTreeMap<Worker, usize>) -> Vec<Room> {
        let loads = self.inner.loads.lock().unwrap_or_else(|_| std::process::abort()).clone();
        let mut rooms = Vec::new();
        for (node, (incarnation, load, at)) in loads {
            let worker = Worker { node, incarnation };
            let works = load.standing == Standing::Working;
            if works && at.elapsed() < LOAD_AGE_MAX && self.is_alive(worker) {
                let slots = (load.slots as usize).max(1);
                let tasks = outstanding.get(&worker).copied().unwrap_or(0);
                rooms.push(Room { worker, slots, tasks, documents: load.documents });
            }
        }
        rooms
    }

    /// Gives a task to a node; `false` when it certainly or possibly did not take it.
    pub(super) async fn give(&self, worker: Worker, task: Assignment) -> bool {
        if worker == self.inner.me {
            return self.inner.runner.get().is_some_and(|runner| runner.take(task));
        }
        let Some(transport) = self.inner.transport.get() else { return false };
        let Ok(payload) = codec::encode(&Work::Run(task)) else { return false };
        let mut envelope = Envelope::new(KIND_WORK, u64::from(task.task), Bytes::from(payload));
        envelope.to_incarnation = worker.incarnation;
        match transport.call(worker.node.0, envelope).await {
            Ok(ReplyFrame::Ok(answer)) => codec::decode(&answer).unwrap_or(false),
            Ok(_) | Err(_) => false,
        }
    }
}

/// The node with the most room, which then has a task's less.
pub(super) fn take_roomiest(rooms: &mut [Room]) -> Option<Worker> {
    let free = rooms.iter_mut().filter(|room| room.tasks < room.slots * TASKS_PER_SLOT);
    let pressure = |room: &Room| (room.tasks as f64 / room.slots as f64, room.documents);
    let best = free.min_by(|a, b| {
        let (a, b) = (pressure(a), pressure(b));
        a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
    })?;
    best.tasks += 1;
    Some(best.worker)
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
