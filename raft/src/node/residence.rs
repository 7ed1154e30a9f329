//! Replicas that come to this node and go from it, and the node's own leaving.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use protocol::nodes::Map;
use protocol::{GroupId, NodeId, ReplicaId};
use tokio::time::Instant;
use tracing::{error, info};

use super::{Host, HostError};
use crate::checkpoint::Checkpoint;
use crate::group::{Group, MemberView};

/// Groups that are handed over at a time. Each is closed meanwhile, and the more of them at once, the
/// longer each takes.
pub(crate) const HANDOVERS_MAX: usize = 3;
/// How often a node that stops looks at what it still leads.
const LOOK: Duration = Duration::from_millis(20);

impl Host {
    /// Hosts or retires the replica of one group, as the map has it.
    pub(super) async fn follow_group(self: &Arc<Self>, map: &Map, group: GroupId) {
        let wanted = map.replica_on(group, self.node());
        let here = self.group(group).map(|group| group.replica());
        let given = |replica: ReplicaId| replica.0 < map.next_replica;
        let gone = |old: ReplicaId| wanted.is_none_or(|wanted| old < wanted) && given(old);
        if let Some(old) = here.filter(|&old| gone(old)) {
            info!(%group, replica = %old, "retiring a replica");
            if let Err(failure) = self.retire(group).await {
                error!(%group, %failure, "replica not retired");
                return;
            }
        }
        let Some(replica) = wanted else { return };
        let retired = self.wal.group(group.0).retired();
        // The map that this node reads again after a start goes through what once was.
        let was = retired.is_some_and(|retired| retired >= replica.0);
        if was || self.group(group).is_some() {
            return;
        }
        info!(%group, %replica, "hosting a new replica");
        if let Err(failure) = self.host_boxed(group, replica).await {
            error!(%group, %failure, "replica not hosted");
        }
        crate::failpoint::hit("host-running");
    }

    /// Ends a replica for good: its id may never vote again, not even after a crash in the middle
    /// of this, which is then done again.
    async fn retire(&self, group: GroupId) -> Result<(), HostError> {
        let _one_at_a_time = self.hosting.lock().await;
        let found = {
            let mut groups = self.groups.write().unwrap_or_else(|_| std::process::abort());
            groups.remove(&group)
        };
        let Some(found) = found else { return Ok(()) };
        found.stop().await;
        crate::failpoint::hit("retire-stopped");
        self.wal.group(group.0).retire(found.replica().0).await?;
        self.discard_state(group).await?;
        info!(%group, replica = %found.replica(), "replica retired");
        Ok(())
    }

    /// Deletes what retired replicas of a group have on disk beside the log. Should a crash come before
    /// it, this is done before the next replica of the group lives here.
    pub(super) async fn discard_state(&self, group: GroupId) -> Result<(), HostError> {
        let dir = self.storage.checkpoints();
        let removed = tokio::task::spawn_blocking(move || Checkpoint::discard(&dir, group));
        removed.await.map_err(|error| HostError::Start { group, why: error.to_string() })??;
        Ok(())
    }

    /// Returns when this node is no member of the cluster any more.
    pub async fn removed(&self) {
        let mut removed = self.removed.subscribe();
        // An error means that the host itself is gone.
        let _ = removed.wait_for(|removed| *removed).await;
    }

    /// Whether [`Self::removed`] would return at once.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        *self.removed.borrow()
    }

    /// The cluster says that it does not know this node.
    pub fn mark_removed(&self) {
        self.removed.send_replace(true);
    }

    /// From now on this node takes no leadership, and changes no membership.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether this node is about to stop.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Hands over all that this node leads to replicas that have caught up on nodes that are up;
    /// gives the groups that it leads still when `timeout` is over or nobody can take them.
    pub async fn hand_over_all(
        &self,
        is_up: impl Fn(NodeId) -> bool,
        timeout: Duration,
    ) -> Vec<GroupId> {
        let deadline = Instant::now() + timeout;
        loop {
            let led: Vec<Group> = self.groups().into_iter().filter(Group::leads).collect();
            let able: Vec<(Group, MemberView)> = led
                .iter()
                .filter_map(|group| Some((group.clone(), self.heir(group, &is_up)?)))
                .collect();
            if able.is_empty() || Instant::now() >= deadline {
                return led.iter().map(Group::id).collect();
            }
            let handed = able.iter().map(|(group, to)| group.hand_over(to.replica));
            stream::iter(handed).buffer_unordered(HANDOVERS_MAX).collect::<Vec<bool>>().await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Who can take a group over at once: the preferred node, else whoever is closest; rather one
    /// that may lead than one that rests itself.
    pub(crate) fn heir(&self, group: &Group, is_up: impl Fn(NodeId) -> bool) -> Option<MemberView> {
        let map = self.map().borrow().clone()?;
        let placement = map.groups.get(&group.id())?;
        let stays: BTreeSet<ReplicaId> = placement.replicas.keys().copied().collect();
        let rests = |node: &NodeId| !map.nodes.get(node).is_some_and(|node| node.takes_more());
        let members = group.members();
        let heirs = members.into_iter().filter(|member| {
            member.node != self.node()
                && member.voter
                && stays.contains(&member.replica)
                && !placement.leaving.contains(&member.replica)
                && member.lag.is_some_and(|lag| lag <= crate::members::TRANSFER_LAG)
                && is_up(member.node)
        });
        heirs.min_by_key(|member| {
            (rests(&member.node), member.node != placement.preferred, member.lag, member.replica)
        })
    }
}
