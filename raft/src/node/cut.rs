//! The state of a group, fixed at one entry of its log while the group goes on; of a replica here or of
//! one on a peer. Whoever backs up reads it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use protocol::{GroupId, NodeId, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::debug;

use super::Host;
use crate::background;
use crate::checkpoint::stream::BYTES_PER_S_MAX;
use crate::checkpoint::{Head, Reader, Row};
use crate::network::{Class, Kind};
use crate::types::LogId;

/// How long a replica may take to have applied what was acknowledged.
const BEHIND_TIMEOUT: Duration = Duration::from_secs(10);
/// The same, and until its checkpoint is written.
const CUT_TIMEOUT: Duration = Duration::from_secs(90);
const ROWS_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of rows that are read at a time.
const ROWS_BYTES: usize = 512 * 1024;
/// A cut that its reader does not ask of for this long is let go.
const HELD_FOR: Duration = Duration::from_secs(60);

/// Why there is no cut, or no more rows of it.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error("the cluster map is not known yet")]
    NoMap,
    /// What the last of the nodes that were asked said.
    #[error("no replica of group {group} can be read: {why}")]
    NoReplica { group: GroupId, why: String },
    /// Begin again with another cut.
    #[error("the state of group {group} cannot be read on: {why}")]
    Broken { group: GroupId, why: String },
}

/// A fixed state. Every change that was acknowledged before it was asked for is in it.
#[derive(Debug)]
pub struct Cut {
    host: Arc<Host>,
    pub(crate) group: GroupId,
    pub(crate) head: Head,
    at: At,
}

#[derive(Debug)]
enum At {
    Here(Arc<Reader>),
    Peer(NodeId),
}

/// What a reader asks of a peer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) applied: LogId,
    pub(super) after: Bytes,
}

impl Cut {
    /// The entry that it is the state of.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.head.applied.index
    }

    /// Rows that follow the last of the ones before, in order; none when there are no more.
    pub(crate) async fn rows(&self, after: Bytes) -> Result<Vec<Row>, CutError> {
        let rows = match &self.at {
            At::Here(reader) => rows_of(Arc::clone(reader), after).await,
            At::Peer(node) => {
                let wanted = Wanted { applied: self.head.applied, after };
                let (kind, timeout) = (Kind::CutRows, ROWS_TIMEOUT);
                self.host.ask_of_state(*node, kind, self.group, &wanted, timeout).await
            }
        };
        rows.map_err(|why| CutError::Broken { group: self.group, why })
    }
}

/// States that peers are reading, one of each group.
#[derive(Debug, Default)]
pub(super) struct Cuts(Mutex<BTreeMap<GroupId, Held>>);

#[derive(Debug)]
struct Held {
    reader: Arc<Reader>,
    until: Instant,
}

impl Cuts {
    fn hold(&self, group: GroupId, reader: Arc<Reader>) {
        let until = Instant::now() + HELD_FOR;
        self.locked().insert(group, Held { reader, until });
    }

    fn get(&self, group: GroupId, applied: LogId) -> Option<Arc<Reader>> {
        let mut all = self.locked();
        let held = all.get_mut(&group).filter(|held| held.reader.head().applied == applied)?;
        held.until = Instant::now() + HELD_FOR;
        Some(Arc::clone(&held.reader))
    }

    /// Lets go what nobody asked for any more; says whether something of the group is still held.
    fn let_go(&self, group: GroupId) -> bool {
        let mut all = self.locked();
        all.retain(|_, held| Instant::now() < held.until);
        all.contains_key(&group)
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<GroupId, Held>> {
        self.0.lock().unwrap_or_else(|_| std::process::abort())
    }
}

impl Host {
    /// Fixes the state of a group, rather here than on another node.
    pub async fn cut(self: &Arc<Self>, group: GroupId) -> Result<Cut, CutError> {
        let map = self.map().borrow().clone().ok_or(CutError::NoMap)?;
        let placed = map.groups.get(&group);
        let mut nodes: Vec<NodeId> =
            placed.map(|at| at.replicas.values().copied().collect()).unwrap_or_default();
        nodes.sort_by_key(|&node| node != self.node());
        let mut why = "it has none".to_owned();
        for node in nodes {
            match self.cut_on(node, group).await {
                Ok(cut) => return Ok(cut),
                Err(error) => {
                    debug!(%group, %node, error, "state not fixed");
                    why = format!("{node}: {error}");
                }
            }
        }
        Err(CutError::NoReplica { group, why })
    }

    /// Waits until so many bytes more may be sent: states to peers and backups share what a node sends
    /// in a second beside its traffic.
    pub async fn pace(&self, bytes: usize) {
        self.streams.pace(bytes, BYTES_PER_S_MAX).await;
    }

    async fn cut_on(self: &Arc<Self>, node: NodeId, group: GroupId) -> Result<Cut, String> {
        let host = Arc::clone(self);
        if node == self.node() {
            let reader = Arc::new(self.fix(group).await?);
            let head = reader.head().clone();
            return Ok(Cut { host, group, head, at: At::Here(reader) });
        }
        let head = self.ask_of_state(node, Kind::Cut, group, &(), CUT_TIMEOUT).await?;
        Ok(Cut { host, group, head, at: At::Peer(node) })
    }

    /// The state of the replica here with all that was acknowledged before.
    async fn fix(&self, group: GroupId) -> Result<Reader, String> {
        let here = self.group(group).ok_or_else(|| format!("group {group} is not here"))?;
        let index = self.index_of(&here).await.ok_or("its leader does not answer")?;
        if !here.wait_applied(index, BEHIND_TIMEOUT).await {
            return Err(format!("it has not applied entry {index} yet"));
        }
        here.fix().await
    }

    pub(super) async fn cut_for_peer(self: &Arc<Self>, group: GroupId) -> Result<Head, String> {
        let reader = Arc::new(self.fix(group).await?);
        let head = reader.head().clone();
        self.cuts.hold(group, reader);
        let host = Arc::clone(self);
        tokio::spawn(async move {
            // A file gives back no pages while somebody may read them.
            while host.cuts.let_go(group) {
                tokio::time::sleep(HELD_FOR).await;
            }
        });
        Ok(head)
    }

    pub(super) async fn rows_for_peer(
        &self,
        group: GroupId,
        applied: LogId,
        after: Bytes,
    ) -> Result<Vec<Row>, String> {
        let reader = self.cuts.get(group, applied).ok_or("the state is not held any more")?;
        let rows = rows_of(reader, after).await?;
        let bytes = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.streams.pace(bytes, BYTES_PER_S_MAX).await;
        Ok(rows)
    }

    async fn ask_of_state<Q: Serialize, A: DeserializeOwned>(
        &self,
        node: NodeId,
        kind: Kind,
        group: GroupId,
        request: &Q,
        timeout: Duration,
    ) -> Result<A, String> {
        let body = codec::encode(request).map(Bytes::from).map_err(|error| error.to_string())?;
        let call = self.peers.call(node, Class::Snapshot, kind, group, body, timeout);
        let answer = call.await.map_err(|error| error.to_string())?;
        codec::decode(&answer).map_err(|error| error.to_string())
    }
}

async fn rows_of(reader: Arc<Reader>, after: Bytes) -> Result<Vec<Row>, String> {
    let read = background::run(move || reader.rows(&after, ROWS_BYTES)).await;
    let read = read.map_err(|panicked| panicked.to_string())?;
    read.map_err(|error| error.to_string())
}
