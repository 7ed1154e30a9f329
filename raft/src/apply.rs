//! Feeds committed entries to the machine of a group, and its checkpoint to openraft.

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::{Stream, TryStreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use protocol::nodes::Map;
use protocol::{Effect, Entry, GroupId, codec};
use tokio::sync::{Notify, broadcast, watch};
use tracing::info;

use crate::background;
use crate::checkpoint::stream::Outgoing;
use crate::checkpoint::{Checkpoint, CheckpointError, Head, Loaded};
use crate::machine::{Changes, Machine, Stored};
use crate::types::{
    LogEntry, LogId, Response, Snapshot, SnapshotData, SnapshotMeta, StoredMembership, TypeConfig,
};

/// Effects that wait for the owner; an owner that lags looks at the whole state again.
const EFFECTS_MAX: usize = 1024;

/// The machine of a group as everybody sees it: one writer, which applies, and readers.
#[derive(Debug, Clone)]
pub struct Shared {
    state: Arc<RwLock<State>>,
    effects: broadcast::Sender<Effect>,
    /// Where the node reads the cluster map; written before an entry counts as applied.
    map: watch::Sender<Option<Arc<Map>>>,
    /// Enough was applied for a checkpoint.
    full: Arc<Notify>,
    /// Bytes of entries that are enough.
    log_bytes: u64,
    counts: Arc<Counts>,
}

/// What went over the network instead of the log.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sent: AtomicU64,
    pub(crate) installed: AtomicU64,
    /// States on their way to peers now.
    pub(crate) leaving: AtomicU64,
    /// Parts of states that peers have taken.
    pub(crate) parts: AtomicU64,
}

/// A machine, and which entry it is the state of.
#[derive(Debug)]
struct State {
    machine: Machine,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// Bytes of entries that were applied since the last freeze.
    bytes: u64,
}

/// The state as a replica has applied it. Hold it briefly: apply waits for it.
#[derive(Debug)]
pub struct View<'a>(RwLockReadGuard<'a, State>);

impl Deref for View<'_> {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.0.machine
    }
}

impl Shared {
    /// The state that was loaded, or that of a group that has applied nothing.
    pub(crate) fn new(
        group: GroupId,
        loaded: Option<Loaded>,
        map: watch::Sender<Option<Arc<Map>>>,
        log_bytes: u64,
    ) -> Self {
        let state = match loaded {
            Some(Loaded { head, machine }) => State {
                machine,
                applied: Some(head.applied),
                membership: head.membership,
                bytes: 0,
            },
            None => State {
                machine: Machine::new(group),
                applied: None,
                membership: StoredMembership::default(),
                bytes: 0,
            },
        };
        let shared = Self {
            state: Arc::new(RwLock::new(state)),
            effects: broadcast::Sender::new(EFFECTS_MAX),
            map,
            full: Arc::default(),
            log_bytes,
            counts: Arc::default(),
        };
        shared.publish_map();
        shared
    }

    /// See [`View`].
    pub fn view(&self) -> View<'_> {
        // A poisoned lock means that apply panicked half-way: nobody may see that state.
        View(self.state.read().unwrap_or_else(|_| std::process::abort()))
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|_| std::process::abort())
    }

    pub(crate) fn effects(&self) -> broadcast::Receiver<Effect> {
        self.effects.subscribe()
    }

    /// Told when enough was applied for a checkpoint.
    pub(crate) fn full(&self) -> &Notify {
        &self.full
    }

    pub(crate) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    fn apply(&self, id: LogId, bytes: u64, entry: Entry) -> Response {
        let mut state = self.write();
        let changes = state.machine.apply(id.index, id.committed_leader_id().term, entry);
        state.applied = Some(id);
        state.bytes += bytes;
        if state.bytes >= self.log_bytes {
            self.full.notify_one();
        }
        drop(state);
        self.publish_map();
        let Changes { applied, effects } = changes;
        for effect in effects {
            // Nobody listens on a follower: effects are the owner's.
            let _ = self.effects.send(effect);
        }
        Response { applied }
    }

    fn note(&self, id: LogId, membership: Option<StoredMembership>) {
        let mut state = self.write();
        state.applied = Some(id);
        if let Some(membership) = membership {
            state.membership = membership;
        }
    }

    fn publish_map(&self) {
        let view = self.view();
        let Some(map) = view.nodes.map() else { return };
        self.map.send_if_modified(|seen| {
            let changed = seen.as_ref().is_none_or(|seen| **seen != *map);
            if changed {
                *seen = Some(Arc::new(map.clone()));
            }
            changed
        });
    }

    /// Freezes the state for a checkpoint, whole or as it changed since the last; `None` when the
    /// checkpoint has it already. The caller holds the checkpoint.
    pub(crate) fn freeze(&self, checkpoint: &Checkpoint, whole: bool) -> Option<Head> {
        let mut state = self.write();
        let applied = state.applied?;
        if !whole && checkpoint.head().is_some_and(|head| head.applied == applied) {
            return None;
        }
        if whole {
            state.machine.change_all();
        }
        state.bytes = 0;
        let scalars = state.machine.freeze();
        let (group, replica) = (checkpoint.group(), checkpoint.replica());
        Some(Head::new(group, replica, applied, state.membership.clone(), scalars))
    }

    /// About `most` of the frozen rows.
    pub(crate) fn take(&self, most: usize) -> Vec<Stored> {
        self.write().machine.take(most)
    }

    fn replace(&self, Loaded { head, machine }: Loaded) {
        let mut state = self.write();
        state.machine = machine;
        state.applied = Some(head.applied);
        state.membership = head.membership;
        state.bytes = 0;
        drop(state);
        self.publish_map();
    }
}

/// openraft's side of the machine.
#[derive(Debug)]
pub struct Applier {
    shared: Shared,
    checkpoint: Checkpoint,
    outgoing: Outgoing,
}

impl Applier {
    pub(crate) fn new(shared: Shared, checkpoint: Checkpoint) -> Self {
        let outgoing = Outgoing::new(checkpoint.clone(), Arc::clone(shared.counts()));
        Self { shared, checkpoint, outgoing }
    }

    fn apply_entry(&self, entry: LogEntry) -> Result<Response, io::Error> {
        let id = entry.log_id;
        match entry.payload {
            EntryPayload::Blank => {
                self.shared.note(id, None);
                Ok(Response::default())
            }
            EntryPayload::Membership(membership) => {
                let membership = StoredMembership::new(Some(id), membership);
                self.shared.note(id, Some(membership));
                Ok(Response::default())
            }
            EntryPayload::Normal(payload) => {
                let entry = codec::decode(&payload.0).map_err(io::Error::other)?;
                Ok(self.shared.apply(id, payload.0.len() as u64, entry))
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Written;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let View(state) = self.shared.view();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let response = self.apply_entry(entry)?;
            if let Some(responder) = responder {
                responder.send(response);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Written> {
        self.checkpoint.head()?;
        Some(Written(self.outgoing.clone()))
    }

    async fn get_snapshot_builder(&mut self) -> Written {
        Written(self.outgoing.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let group = self.checkpoint.group();
        let (shared, checkpoint) = (self.shared.clone(), self.checkpoint.clone());
        let read = background::run(move || {
            let staged = snapshot.into_staged()?;
            let loaded = staged.load(&checkpoint)?;
            Ok::<_, CheckpointError>((staged, loaded, checkpoint))
        });
        let (staged, loaded, checkpoint) = read.await?.map_err(io::Error::other)?;
        let installed = tokio::task::spawn_blocking(move || {
            // A checkpoint of the state that goes must not be written over the one that comes.
            let _hold = checkpoint.hold();
            checkpoint.replace(staged.path(), loaded.head.clone())?;
            shared.replace(loaded);
            shared.counts.installed.fetch_add(1, Ordering::Relaxed);
            Ok::<_, CheckpointError>(())
        });
        installed.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        info!(%group, at = ?meta.last_log_id, "state replaced by that of a peer");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.outgoing.current()
    }
}

/// Tells openraft of the checkpoint that was written last; nothing is built here.
#[derive(Debug)]
pub struct Written(Outgoing);

impl RaftSnapshotBuilder<TypeConfig> for Written {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no checkpoint was written yet");
        self.0.current()?.ok_or_else(missing)
    }
}
