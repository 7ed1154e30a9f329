//! Makes the groups' memberships follow the cluster map.
//!
//! The meta leader alone changes the map ([`crate::placement`]); the leader of each group alone
//! changes its membership, one step at a time: learner, caught up, voter. A step that a crash
//! interrupts is seen and finished by the next leader, for both compare what is with what should be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use protocol::nodes::Map;
use protocol::{GroupId, NodeId, ReplicaId};
use tracing::{debug, info};

use crate::group::Group;
use crate::node::Host;
use crate::placement;
use crate::types::Member;

/// How often what is and what should be are compared.
const INTERVAL: Duration = Duration::from_millis(200);
/// A learner this close to the leader may vote.
const CAUGHT_UP: u64 = 100;
/// A leader hands over only to a replica this close.
const TRANSFER_LAG: u64 = 4;
/// A step that takes longer is looked at again.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Rounds that a leader waits between two transfers of one group: a failed one costs seconds.
const TRANSFER_PAUSE: u32 = 25;

/// Runs for ever. `is_up` says whether a node answers at the moment.
pub async fn run(host: Arc<Host>, is_up: impl Fn(NodeId) -> bool + Send + Sync + 'static) {
    let is_up = Arc::new(is_up);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pauses: std::collections::BTreeMap<GroupId, u32> = std::collections::BTreeMap::new();
    loop {
        ticks.tick().await;
        let Some(map) = host.map().borrow().clone() else { continue };
        place(&host, &map).await;
        let mut steps = Vec::new();
        for group in host.groups() {
            if group.leadership().borrow().owned.is_none() {
                pauses.remove(&group.id());
                continue;
            }
            let pause = pauses.entry(group.id()).or_default();
            *pause = pause.saturating_sub(1);
            let may_transfer = *pause == 0;
            if may_transfer && transfer(&host, &map, &group, &*is_up).await {
                *pause = TRANSFER_PAUSE;
                continue;
            }
            let map = Arc::clone(&map);
            steps.push(async move {
                let step = step(&map, &group);
                if tokio::time::timeout(STEP_TIMEOUT, step).await.is_err() {
                    debug!(group = %group.id(), "membership step takes long");
                }
            });
        }
        futures::future::join_all(steps).await;
    }
}

/// The meta leader's part: the map.
async fn place(host: &Host, map: &Map) {
    let leads =
        host.group(GroupId::META).is_some_and(|meta| meta.leadership().borrow().owned.is_some());
    if !leads {
        return;
    }
    for command in placement::plan(map) {
        let shown = format!("{command:?}");
        match host.propose_meta(command).await {
            Ok(applied) => match applied.outcome {
                Ok(_) => debug!(change = shown, "placement changed"),
                Err(refusal) => debug!(change = shown, %refusal, "placement not changed"),
            },
            Err(error) => {
                debug!(%error, "placement not changed");
                return;
            }
        }
    }
}

/// One step of a group's membership towards the map.
async fn step(map: &Map, group: &Group) {
    let Some(placement) = map.groups.get(&group.id()) else { return };
    if !group.is_settled() {
        return;
    }
    let members = group.members();
    let known: BTreeSet<ReplicaId> = members.iter().map(|member| member.replica).collect();
    let missing = placement.replicas.iter().find(|(replica, _)| !known.contains(replica));
    if let Some((&replica, &node)) = missing {
        info!(group = %group.id(), %replica, %node, "adding a learner");
        let added = group.raft().add_learner(replica.0, Member { node }, false).await;
        if let Err(error) = added {
            debug!(group = %group.id(), %error, "learner not added");
        }
        return;
    }
    let wanted: BTreeSet<ReplicaId> =
        placement::voters(map, group.id()).into_iter().map(|(replica, _)| replica).collect();
    let ready = members.iter().find(|member| {
        let close = member.lag.is_some_and(|lag| lag <= CAUGHT_UP);
        !member.voter && close && wanted.contains(&member.replica)
    });
    if let Some(ready) = ready {
        let replica = ready.replica;
        info!(group = %group.id(), %replica, node = %ready.node, "learner becomes voter");
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([replica.0]));
        if let Err(error) = group.raft().change_membership(change, true).await {
            debug!(group = %group.id(), %error, "voter not added");
        }
    }
}

/// Hands leadership to the preferred node when that can take over at once.
async fn transfer(
    host: &Host,
    map: &Map,
    group: &Group,
    is_up: &(dyn Fn(NodeId) -> bool + Send + Sync),
) -> bool {
    let Some(placement) = map.groups.get(&group.id()) else { return false };
    let to = placement.preferred;
    if group.id().is_meta() || to == host.node() || !is_up(to) || !group.is_settled() {
        return false;
    }
    let members = group.members();
    let ready = members.iter().find(|member| {
        let close = member.lag.is_some_and(|lag| lag <= TRANSFER_LAG);
        member.node == to && member.voter && close
    });
    let Some(ready) = ready else { return false };
    info!(group = %group.id(), %to, "handing leadership over");
    group.transfer(ready.replica).await;
    true
}
