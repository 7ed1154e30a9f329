//! Replicas whose data is damaged: they end for good, and the cluster makes others in their place.
//!
//! Invariant: a replica that may have forgotten a vote or an entry never takes part again. Its id is
//! retired in the log before anything else is done about it; a log that is damaged itself is
//! replaced by one in which every id that this node was ever given is retired.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::nodes::{Command, Map};
use protocol::{GroupId, NodeId, Refusal, ReplicaId, Reply};
use serde::{Deserialize, Serialize};
use tracing::{debug, error, info};

use super::{Host, HostError};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::ticks::ticks;

/// How often a node looks whether the map has a replica on it that cannot live.
const LOOK: Duration = Duration::from_millis(600);
/// Starts of which the damaged files are kept.
const KEPT: usize = 3;

/// Something that was found damaged when this process started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The group whose state it was; `None` for the log of them all.
    pub group: Option<GroupId>,
    /// The file, and what is wrong with it.
    pub why: String,
}

/// A node asks for another replica of the meta group: this one is lost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Readmission {
    pub lost: ReplicaId,
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Readmitted {
    /// The new replica. Ids below it that were given to the node are void.
    As(ReplicaId),
    Refused(Refusal),
    /// The lost replica is still a member, or nobody leads: to be asked again.
    NotYet,
}

/// Makes a place for the damaged files of one start, and forgets the oldest ones.
pub fn place_for_damaged(data: &Path, incarnation: u64) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let all = data.join("damaged");
    let place = all.join(incarnation.to_string());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&place)?;
    let mut starts = BTreeSet::new();
    for entry in std::fs::read_dir(&all)? {
        let start = entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
        starts.extend(start);
    }
    while starts.len() > KEPT {
        let Some(oldest) = starts.pop_first() else { break };
        std::fs::remove_dir_all(all.join(oldest.to_string()))?;
    }
    Ok(place)
}

impl Host {
    /// What was found damaged since this process started.
    #[must_use]
    pub fn damage(&self) -> Vec<Damage> {
        self.damage.lock().unwrap_or_else(|_| std::process::abort()).clone()
    }

    /// Notes damage that was found before there was a host.
    pub fn note_damage(&self, damage: Damage) {
        self.damage.lock().unwrap_or_else(|_| std::process::abort()).push(damage);
    }

    /// Runs a replica, or gives it up when its state is damaged and others have it.
    pub(super) async fn run_or_give_up(
        self: &Arc<Self>,
        group: GroupId,
        replica: ReplicaId,
    ) -> Result<(), HostError> {
        let damaged = match self.run(group, replica).await {
            Err(HostError::Checkpoint(damaged @ CheckpointError::Damaged { .. })) => damaged,
            run => return run.map(drop),
        };
        if self.peers.known().iter().all(|&node| node == self.node()) {
            return Err(damaged.into());
        }
        error!(%group, %replica, %damaged, "replica given up, to be made anew from its peers");
        self.wal.group(group.0).retire(replica.0).await?;
        crate::failpoint::hit("give-up-retired");
        let (from, data) = (self.storage.checkpoints(), self.storage.data.clone());
        let incarnation = self.life.incarnation;
        let moved = tokio::task::spawn_blocking(move || {
            let place = place_for_damaged(&data, incarnation)?;
            Ok::<_, HostError>(Checkpoint::set_aside(&from, group, &place)?)
        });
        moved.await.map_err(|error| HostError::Start { group, why: error.to_string() })??;
        self.note_damage(Damage { group: Some(group), why: damaged.to_string() });
        Ok(())
    }

    /// Tells the cluster of replicas that the map has here and that may not live, until it has none.
    pub(super) async fn follow_losses(self: Arc<Self>) {
        let changes = self.map();
        let mut ticks = ticks(LOOK);
        loop {
            ticks.tick().await;
            let lost = changes.borrow().as_ref().map(|map| self.lost(map)).unwrap_or_default();
            // What this node has of the map may be old: such replicas may be gone from it.
            if lost.is_empty() || self.sync_map().await.is_err() {
                continue;
            }
            let lost = changes.borrow().as_ref().map(|map| self.lost(map)).unwrap_or_default();
            for (group, replica) in lost {
                info!(%group, %replica, "telling the cluster that a replica is lost");
                if let Err(error) = self.propose_meta(Command::LoseReplica { group, replica }).await
                {
                    debug!(%group, %error, "not told");
                }
            }
        }
    }

    fn lost(&self, map: &Map) -> Vec<(GroupId, ReplicaId)> {
        let lost = |(&group, placement): (&GroupId, &protocol::nodes::Placement)| {
            let replica = map.replica_on(group, self.node())?;
            let retired = self.wal.group(group.0).retired()?;
            let is_lost = retired >= replica.0 && !placement.leaving.contains(&replica);
            is_lost.then_some((group, replica))
        };
        map.groups.iter().filter_map(lost).collect()
    }

    /// Gives a node another replica of the meta group once the lost one is no member any more. The
    /// node makes the new id its own before anything of it runs, so it may ask again until then.
    pub(super) async fn readmit(&self, node: NodeId, asked: Readmission) -> Readmitted {
        let group = GroupId::META;
        if self.sync_map().await.is_err() {
            return Readmitted::NotYet;
        }
        let Some(map) = self.map().borrow().clone() else { return Readmitted::NotYet };
        if !map.nodes.contains_key(&node) {
            return Readmitted::Refused(Refusal::NotFound);
        }
        let command = match map.replica_on(group, node) {
            Some(replica) if replica == asked.lost => Command::LoseReplica { group, replica },
            Some(replica) => return Readmitted::As(replica),
            None => Command::AddReplica { group, node },
        };
        match self.propose_meta(command).await.map(|applied| applied.outcome) {
            Ok(Ok(Reply::Replica(replica))) => Readmitted::As(replica),
            // Somebody was faster, or a move is under way: what there is now is seen the next time.
            Ok(Ok(_) | Err(Refusal::Moving { .. } | Refusal::Exists | Refusal::NotFound))
            | Err(_) => Readmitted::NotYet,
            Ok(Err(refusal)) => Readmitted::Refused(refusal),
        }
    }
}
