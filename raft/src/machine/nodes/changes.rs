//! Changes of what is where. Invariants: a node has at most one replica of a group; a shard changes
//! one replica at a time; one that votes goes only when enough others vote.

use std::collections::BTreeSet;

use protocol::nodes::{Map, Placement, REPLICAS, State};
use protocol::{GroupId, NodeId, Outcome, Refusal, ReplicaId, Reply};

use super::host;

pub(super) fn add_replica(map: &mut Map, group: GroupId, node: NodeId) -> Outcome {
    let state = map.nodes.get(&node).ok_or(Refusal::NotFound)?.state;
    let placement = map.groups.get(&group).ok_or(Refusal::NotFound)?;
    if map.replica_on(group, node).is_some() {
        return Err(Refusal::Exists);
    }
    if state == State::Removing {
        return Err(Refusal::NodeIs { node, state });
    }
    if placement.is_moving() {
        return Err(Refusal::Moving { group });
    }
    Ok(Reply::Replica(host(map, group, node)))
}

/// The meta group loses a replica with its node only.
pub(super) fn remove_replica(map: &mut Map, group: GroupId, replica: ReplicaId) -> Outcome {
    let needed = needed(map);
    let placement = map.groups.get_mut(&group).filter(|_| !group.is_meta());
    let placement = placement.ok_or(Refusal::NotFound)?;
    if !placement.replicas.contains_key(&replica) {
        return Err(Refusal::NotFound);
    }
    if placement.leaving.contains(&replica) {
        return Ok(Reply::Done);
    }
    if placement.voting.contains(&replica) {
        if placement.is_moving() {
            return Err(Refusal::Moving { group });
        }
        let left = placement.settled().filter(|(id, _)| *id != replica).count();
        if left < needed {
            let (left, needed) = (left as u64, needed as u64);
            return Err(Refusal::BreaksQuorum { group, left, needed });
        }
    }
    placement.leaving.insert(replica);
    placement.epoch += 1;
    Ok(Reply::Done)
}

/// It is as good as gone: all that is asked is that somebody else votes.
pub(super) fn lose_replica(map: &mut Map, group: GroupId, replica: ReplicaId) -> Outcome {
    let placement = map.groups.get_mut(&group).ok_or(Refusal::NotFound)?;
    if !placement.replicas.contains_key(&replica) {
        return Err(Refusal::NotFound);
    }
    if placement.leaving.contains(&replica) {
        return Ok(Reply::Done);
    }
    if placement.settled().all(|(id, _)| id == replica) {
        return Err(Refusal::BreaksQuorum { group, left: 0, needed: 1 });
    }
    placement.leaving.insert(replica);
    placement.epoch += 1;
    Ok(Reply::Done)
}

/// Voters that a shard is never brought below.
fn needed(map: &Map) -> usize {
    let staying = map.nodes.values().filter(|node| node.state != State::Removing).count();
    staying.clamp(1, REPLICAS)
}

pub(super) fn confirm(
    map: &mut Map,
    group: GroupId,
    index: u64,
    voting: &BTreeSet<ReplicaId>,
    members: &BTreeSet<ReplicaId>,
) -> Outcome {
    let placement = map.groups.get_mut(&group).ok_or(Refusal::NotFound)?;
    if index < placement.told {
        return Err(Refusal::Exists);
    }
    let gone: Vec<ReplicaId> = placement.leaving.difference(members).copied().collect();
    for replica in gone {
        placement.leaving.remove(&replica);
        placement.replicas.remove(&replica);
    }
    let known = |id: &&ReplicaId| placement.replicas.contains_key(id);
    placement.voting = voting.iter().filter(known).copied().collect();
    placement.told = index;
    placement.epoch += 1;
    Ok(Reply::Done)
}

pub(super) fn prefer(map: &mut Map, group: GroupId, node: NodeId) -> Outcome {
    map.replica_on(group, node).ok_or(Refusal::NoVoter { group, node })?;
    set_preferred(map, group, node, false)
}

pub(super) fn pin(map: &mut Map, group: GroupId, node: NodeId) -> Outcome {
    let at = map.nodes.get(&node).ok_or(Refusal::NotFound)?;
    let placement = map.groups.get(&group).ok_or(Refusal::NotFound)?;
    if at.state != State::Active {
        return Err(Refusal::NodeIs { node, state: at.state });
    }
    if !placement.settled().any(|(_, at)| at == node) {
        return Err(Refusal::NoVoter { group, node });
    }
    set_preferred(map, group, node, true)
}

fn set_preferred(map: &mut Map, group: GroupId, node: NodeId, pinned: bool) -> Outcome {
    let placement = map.groups.get_mut(&group).ok_or(Refusal::NotFound)?;
    *placement = Placement {
        preferred: node,
        pinned,
        epoch: placement.epoch + 1,
        ..std::mem::take(placement)
    };
    Ok(Reply::Done)
}

pub(super) fn set_state(map: &mut Map, node: NodeId, wanted: State) -> Outcome {
    let others = map.nodes.values().filter(|at| at.id != node && at.state != State::Removing);
    let others = others.count();
    let rest = map.nodes.values().filter(|at| at.id != node && at.state == State::Active).count();
    let at = map.nodes.get_mut(&node).ok_or(Refusal::NotFound)?;
    let state = match (at.state, wanted) {
        (State::Removing, State::Active | State::Draining | State::Drained)
        | (State::Active, State::Drained) => {
            return Err(Refusal::NodeIs { node, state: at.state });
        }
        (_, State::Removing) if others == 0 => return Err(Refusal::LastNode { node }),
        // Nobody could take over what it leads.
        (State::Active, State::Draining) if rest == 0 => return Err(Refusal::LastNode { node }),
        // Asked again of a node that is drained already.
        (State::Drained, State::Draining) => State::Drained,
        (_, wanted) => wanted,
    };
    at.state = state;
    Ok(Reply::Node(Box::new(at.clone())))
}

pub(super) fn remove_node(map: &mut Map, node: NodeId) -> Outcome {
    let state = map.nodes.get(&node).ok_or(Refusal::NotFound)?.state;
    if state != State::Removing {
        return Err(Refusal::NodeIs { node, state });
    }
    let meta = map.replica_on(GroupId::META, node);
    let holds = map.groups.iter().flat_map(|(group, placement)| {
        let held = placement.replicas.iter().filter(|(_, at)| **at == node);
        held.map(move |(id, _)| (group.is_meta(), placement.voting.contains(id)))
    });
    // As a learner of the meta group it hears of its own removal.
    let replicas = holds.filter(|&(is_meta, votes)| !is_meta || votes).count() as u64;
    if replicas > 0 {
        return Err(Refusal::NodeHolds { node, replicas });
    }
    map.nodes.remove(&node);
    if let (Some(meta), Some(placement)) = (meta, map.groups.get_mut(&GroupId::META)) {
        placement.replicas.remove(&meta);
        placement.epoch += 1;
    }
    Ok(Reply::Done)
}
