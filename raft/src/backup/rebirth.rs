//! The states of a backup as the data of one node, the first of a new cluster.
//!
//! Ids of nodes and replicas go on where those of the old cluster ended. So nothing that was promised
//! to a node of the old life (a lease, a slab, a task) can be taken for a promise to one of the new: to
//! the owners, those nodes are gone for good, and what they held lapses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use openraft::Membership;
use protocol::codec::{self, CodecError};
use protocol::nodes::{Map, Registration};
use protocol::{ClusterId, Digest, GroupId, NodeId, ReplicaId, Time};

use super::State;
use crate::checkpoint::{Checkpoint, CheckpointError, Head};
use crate::types::{Member, StoredMembership, Vote};
use crate::wal::{OpenError, Record, SubmitError, Wal};

/// Rows that are written at a time.
const SLICE: usize = 4096;

/// Why a directory cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RebirthError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Log(#[from] SubmitError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("{}: {cause}", file.display())]
    Io { file: PathBuf, cause: std::io::Error },
    /// What was written does not read back as what it was.
    #[error("the checkpoint of group {group} has another digest than its backup")]
    Different { group: GroupId },
    #[error("the backup has no cluster map with group {group}")]
    NoPlace { group: GroupId },
}

/// A new cluster of one node that begins with the states of another.
#[derive(Debug, Clone)]
pub struct Rebirth {
    pub cluster: ClusterId,
    /// Second factor of the actors' sessions; the pepper stays, or no API key would be known.
    pub cookie: [u8; 32],
    /// What the node says of itself until it has started.
    pub registration: Registration,
    pub at: Time,
    pub node: NodeId,
    replicas: BTreeMap<GroupId, ReplicaId>,
}

impl Rebirth {
    /// After the cluster of this map.
    #[must_use]
    pub fn after(
        map: &Map,
        cluster: ClusterId,
        cookie: [u8; 32],
        registration: Registration,
        at: Time,
    ) -> Self {
        let numbers = (map.next_replica..).map(ReplicaId);
        let replicas = map.groups.keys().copied().zip(numbers).collect();
        Self { cluster, cookie, registration, at, node: NodeId(map.next_node), replicas }
    }

    /// The node's replica of a group.
    pub fn replica(&self, group: GroupId) -> Result<ReplicaId, RebirthError> {
        self.replicas.get(&group).copied().ok_or(RebirthError::NoPlace { group })
    }

    /// Replicas by group, one of each.
    pub(crate) fn replicas(&self) -> &BTreeMap<GroupId, ReplicaId> {
        &self.replicas
    }
}

/// The log and the checkpoints of a directory that is being made.
#[derive(Debug)]
pub struct Seats {
    wal: Wal,
    checkpoints: PathBuf,
}

impl Seats {
    /// Makes them in a directory that has none. Blocks.
    pub fn make(data: &Path) -> Result<Self, RebirthError> {
        let (wal, _) = Wal::open(data)?;
        let checkpoints = crate::node::checkpoints(data);
        let made = Checkpoint::make_dir(&checkpoints);
        made.map_err(|cause| RebirthError::Io { file: checkpoints.clone(), cause })?;
        Ok(Self { wal, checkpoints })
    }

    /// Gives a group its state, with the new node as its only voter; durable on return. Gives the
    /// digest that was read back from the disk: that of the backup, but for the meta group, whose
    /// map is another now.
    pub async fn seat(&self, state: State, rebirth: &Rebirth) -> Result<Digest, RebirthError> {
        let (group, applied) = (state.label.group, state.applied);
        let replica = rebirth.replica(group)?;
        let term = applied.committed_leader_id().term;
        // Nobody has voted in this life. The next election must end above the terms of the last one.
        let vote = codec::encode(&Vote::new(term, replica.0))?;
        let purged = codec::encode(&applied)?;
        let (checkpoints, rebirth) = (self.checkpoints.clone(), rebirth.clone());
        let written =
            tokio::task::spawn_blocking(move || write(&checkpoints, state, replica, &rebirth));
        let digest = match written.await {
            Ok(written) => written?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let records = vec![
            Record::Host { replica: replica.0 },
            Record::Vote(Bytes::from(vote)),
            Record::Purge { term, index: applied.index, payload: Bytes::from(purged) },
        ];
        self.wal.group(group.0).sync(records).await?;
        Ok(digest)
    }
}

fn write(
    dir: &Path,
    state: State,
    replica: ReplicaId,
    rebirth: &Rebirth,
) -> Result<Digest, RebirthError> {
    let State { label, applied, mut machine, .. } = state;
    let group = label.group;
    if group.is_meta() {
        machine.nodes.be_reborn(rebirth);
    }
    let digest = machine.digest();
    // Whoever is in it votes.
    let voter = BTreeMap::from([(replica.0, Member { node: rebirth.node })]);
    let membership = Membership::from(voter);
    let membership = StoredMembership::new(Some(applied), membership);
    machine.change_all();
    let head = Head::new(group, replica, applied, membership, machine.freeze());
    let (checkpoint, _) = Checkpoint::open(dir, group, replica)?;
    {
        let _hold = checkpoint.hold();
        checkpoint.write(head, true, || machine.take(SLICE))?;
    }
    drop(machine);
    let (_, loaded) = Checkpoint::open(dir, group, replica)?;
    match loaded {
        Some(loaded) if loaded.machine.digest() == digest => Ok(digest),
        Some(_) | None => Err(RebirthError::Different { group }),
    }
}
