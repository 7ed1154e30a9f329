//! Which replicas should be where: pure functions from the cluster map, and from which nodes answer,
//! to the next changes.
//!
//! Invariants: a shard moves one replica at a time, the new one first; repeated, the changes come to
//! an end, because each brings a shard into more zones or makes loads more even.

use std::collections::BTreeSet;

use protocol::nodes::{Command, Map, Node, REPLICAS, State};
use protocol::{GroupId, NodeId, Refusal, ReplicaId};

use crate::machine::nodes::Book;

mod board;
mod leaders;
mod replicas;
#[cfg(test)]
mod tests;

/// Changes that a forecast looks ahead.
const FORECAST_MAX: usize = 2_000;

/// Voters that the meta group has in a cluster of this many nodes; the others learn.
#[must_use]
pub fn meta_voters(nodes: usize) -> usize {
    match nodes {
        0..=2 => nodes,
        3 | 4 => 3,
        _ => 5,
    }
}

/// Replicas of a group that should vote when everything is where it should be, with as many nodes as
/// there are.
#[must_use]
pub fn voters_wanted(map: &Map, group: GroupId) -> usize {
    let staying = map.nodes.values().filter(|node| node.state != State::Removing).count();
    let most = if group.is_meta() { meta_voters(staying) } else { REPLICAS };
    staying.clamp(1, most.max(1))
}

/// The replicas of a group that should vote: those of a shard that stay, a few of the meta group.
#[must_use]
pub fn voters(map: &Map, group: GroupId) -> Vec<(ReplicaId, NodeId)> {
    let Some(placement) = map.groups.get(&group) else { return Vec::new() };
    let staying = placement.replicas.iter().filter(|(id, _)| !placement.leaving.contains(id));
    let staying = staying.map(|(&id, &node)| (id, node));
    if group.is_meta() { meta_electorate(map, staying.collect()) } else { staying.collect() }
}

/// In as many zones as there are, on nodes that work rather than on those that rest or are lost, and
/// with as few changes as that allows.
fn meta_electorate(map: &Map, replicas: Vec<(ReplicaId, NodeId)>) -> Vec<(ReplicaId, NodeId)> {
    let voting = &map.groups[&GroupId::META].voting;
    let of = |node: &NodeId| map.nodes.get(node).filter(|node| node.state != State::Removing);
    let mut open: Vec<_> =
        replicas.into_iter().filter_map(|(id, node)| Some((id, of(&node)?))).collect();
    let mut chosen: Vec<(ReplicaId, NodeId)> = Vec::new();
    let mut zones = BTreeSet::new();
    for _ in 0..meta_voters(open.len()) {
        let rank = |(_, (id, node)): &(usize, &(ReplicaId, &Node))| {
            let tired = if node.lost { 2 } else { u8::from(node.state != State::Active) };
            let crowded = zones.contains(&board::zone_of(node));
            (tired, crowded, !voting.contains(id), *id)
        };
        let Some((at, _)) = open.iter().enumerate().min_by_key(rank) else { break };
        let (id, node) = open.remove(at);
        zones.insert(board::zone_of(node));
        chosen.push((id, node.id));
    }
    chosen
}

/// The next changes of the map, most needed first; none when all is as it should be. `up` are the
/// nodes that answer.
#[must_use]
pub fn plan(map: &Map, up: &BTreeSet<NodeId>) -> Vec<Command> {
    let mut changes = replicas::changes(map, up);
    changes.extend(leaders::needed(map, up));
    let moving = map.shards().any(|(_, placement)| placement.is_moving());
    if changes.is_empty() && !moving {
        changes = leaders::even(map, up);
    }
    changes.extend(leavers(map));
    changes
}

/// Nodes that hold nothing any more and were to go.
fn leavers(map: &Map) -> Vec<Command> {
    let empty = |node: &&Node| {
        let holds = map.groups.iter().any(|(group, placement)| {
            let here = |(id, at): (&ReplicaId, &NodeId)| {
                *at == node.id && (!group.is_meta() || placement.voting.contains(id))
            };
            placement.replicas.iter().any(here)
        });
        node.state == State::Removing && !holds
    };
    let leave = |node: &Node| Command::RemoveNode { node: node.id };
    map.nodes.values().filter(empty).map(leave).collect()
}

/// Everything that [`plan`] would come to, if each change succeeded and no node came or went.
#[must_use]
pub fn forecast(map: &Map, up: &BTreeSet<NodeId>) -> Vec<Command> {
    let mut book = Book::of(map.clone());
    let mut all = Vec::new();
    while let Some(map) = book.map() {
        let changes = plan(map, up);
        let settled = settle(map);
        if (changes.is_empty() && settled.is_empty()) || all.len() > FORECAST_MAX {
            break;
        }
        for change in changes {
            if book.attempt(change.clone()).is_ok() {
                all.push(change);
            }
        }
        for told in book.map().map(settle).unwrap_or_default() {
            // What the leaders of the groups would tell.
            let _ = book.attempt(told);
        }
    }
    all
}

/// What the groups' leaders would tell, had they done all that the map wants.
fn settle(map: &Map) -> Vec<Command> {
    let told = |(&group, placement): (&GroupId, &protocol::nodes::Placement)| {
        let voting: BTreeSet<_> = voters(map, group).into_iter().map(|(id, _)| id).collect();
        let stays = |id: &&ReplicaId| !placement.leaving.contains(id);
        let members = placement.replicas.keys().filter(stays).copied().collect();
        let due = placement.voting != voting || !placement.leaving.is_empty();
        due.then_some(Command::Confirm { group, index: placement.told, voting, members })
    };
    map.groups.iter().filter_map(told).collect()
}

/// Whether a node may be removed: every group that it votes in can do without it, or with another
/// node in its place, and can decide on that today.
pub fn removable(map: &Map, up: &BTreeSet<NodeId>, node: NodeId) -> Result<(), Refusal> {
    if !map.nodes.contains_key(&node) {
        return Err(Refusal::NotFound);
    }
    let stays = |other: &Node| other.id != node && other.state != State::Removing;
    if !map.nodes.values().any(stays) {
        return Err(Refusal::LastNode { node });
    }
    for (&group, placement) in &map.groups {
        let voters: Vec<NodeId> = placement.settled().map(|(_, at)| at).collect();
        if !voters.contains(&node) {
            continue;
        }
        let live = |nodes: &[NodeId]| nodes.iter().filter(|at| up.contains(at)).count();
        let enough = |left: usize, of: usize| {
            let needed = of / 2 + 1;
            let (left, needed) = (left as u64, needed as u64);
            if left < needed {
                return Err(Refusal::BreaksQuorum { group, left, needed });
            }
            Ok(())
        };
        enough(live(&voters), voters.len())?;
        let spare = map.nodes.values().any(|other| {
            other.takes_more() && up.contains(&other.id) && !voters.contains(&other.id)
        });
        let rest: Vec<NodeId> = voters.into_iter().filter(|at| *at != node).collect();
        enough(live(&rest) + usize::from(spare), rest.len() + usize::from(spare))?;
    }
    Ok(())
}
