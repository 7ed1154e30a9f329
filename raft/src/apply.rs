//! Feeds committed entries to the machine of a group.

use std::io;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use futures::{Stream, TryStreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use protocol::nodes::Map;
use protocol::{Effect, Entry, GroupId, codec};
use tokio::sync::{broadcast, watch};

use crate::machine::Machine;
use crate::types::{
    LogEntry, LogId, Response, Snapshot, SnapshotData, SnapshotMeta, StoredMembership, TypeConfig,
};

/// Effects that wait for the owner; an owner that lags looks at the whole state again.
const EFFECTS_MAX: usize = 1024;

/// The machine of a group as everybody sees it: one writer, which applies, and readers.
#[derive(Debug, Clone)]
pub struct Shared {
    machine: Arc<RwLock<Machine>>,
    effects: broadcast::Sender<Effect>,
    /// Where the node reads the cluster map; written before an entry counts as applied.
    map: watch::Sender<Option<Arc<Map>>>,
}

impl Shared {
    pub(crate) fn new(group: GroupId, map: watch::Sender<Option<Arc<Map>>>) -> Self {
        Self {
            machine: Arc::new(RwLock::new(Machine::new(group))),
            effects: broadcast::Sender::new(EFFECTS_MAX),
            map,
        }
    }

    /// The state as this replica has applied it. Hold it briefly: apply waits for it.
    pub fn view(&self) -> RwLockReadGuard<'_, Machine> {
        // A poisoned lock means that apply panicked half-way: nobody may see that state.
        self.machine.read().unwrap_or_else(|_| std::process::abort())
    }

    pub(crate) fn effects(&self) -> broadcast::Receiver<Effect> {
        self.effects.subscribe()
    }

    fn apply(&self, index: u64, term: u64, entry: Entry) -> Response {
        let mut machine = self.machine.write().unwrap_or_else(|_| std::process::abort());
        let changes = machine.apply(index, term, entry);
        let map = machine.nodes.map().cloned();
        drop(machine);
        if let Some(map) = map {
            self.publish(map);
        }
        for effect in changes.effects {
            // Nobody listens on a follower: effects are the owner's.
            let _ = self.effects.send(effect);
        }
        Response { applied: changes.applied }
    }

    fn publish(&self, map: Map) {
        self.map.send_if_modified(|seen| {
            let changed = seen.as_ref().is_none_or(|seen| **seen != map);
            if changed {
                *seen = Some(Arc::new(map));
            }
            changed
        });
    }
}

/// openraft's side of the machine.
#[derive(Debug)]
pub struct Applier {
    shared: Shared,
    last: Option<LogId>,
    membership: StoredMembership,
}

impl Applier {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared, last: None, membership: StoredMembership::default() }
    }

    fn apply_entry(&mut self, entry: LogEntry) -> Result<Response, io::Error> {
        let id = entry.log_id;
        self.last = Some(id);
        match entry.payload {
            EntryPayload::Blank => Ok(Response::default()),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                Ok(Response::default())
            }
            EntryPayload::Normal(payload) => {
                let entry = codec::decode(&payload.0).map_err(io::Error::other)?;
                Ok(self.shared.apply(id.index, id.committed_leader_id().term, entry))
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
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

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshots> {
        None
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        _snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(None)
    }
}

/// The log is whole until checkpoints exist, so a new replica reads it from its first entry and
/// no snapshot is ever asked for. Asked all the same, this says so.
#[derive(Debug)]
pub struct NoSnapshots;

impl RaftSnapshotBuilder<TypeConfig> for NoSnapshots {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        Err(no_snapshots())
    }
}

fn no_snapshots() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "the log is never purged, so there are no snapshots")
}
