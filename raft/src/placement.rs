//! Which replicas should be where: a pure function from the cluster map to the next changes.

use std::collections::BTreeMap;

use protocol::nodes::{Command, Map, Placement, REPLICAS};
use protocol::{GroupId, NodeId, ReplicaId};

/// Changes that one step makes, at most: each new replica copies a log.
const CHANGES_MAX: usize = 16;

/// Voters that the meta group has in a cluster of this many nodes; the others learn.
#[must_use]
pub fn meta_voters(nodes: usize) -> usize {
    match nodes {
        0..=2 => nodes,
        3 | 4 => 3,
        _ => 5,
    }
}

/// The replicas of a group that should vote: all of a shard, the oldest few of the meta group.
#[must_use]
pub fn voters(map: &Map, group: GroupId) -> Vec<(ReplicaId, NodeId)> {
    let Some(placement) = map.groups.get(&group) else { return Vec::new() };
    let mut replicas: Vec<_> = placement.replicas.iter().map(|(&id, &node)| (id, node)).collect();
    if group.is_meta() {
        replicas.truncate(meta_voters(replicas.len()));
    }
    replicas
}

/// The next changes of the map, most needed first; none when all is as it should be.
#[must_use]
pub fn plan(map: &Map) -> Vec<Command> {
    let mut changes = missing_replicas(map);
    if changes.is_empty() {
        changes = leaders(map);
    }
    changes.truncate(CHANGES_MAX);
    changes
}

fn missing_replicas(map: &Map) -> Vec<Command> {
    let wanted = REPLICAS.min(map.nodes.len());
    let mut load: BTreeMap<NodeId, usize> = map.nodes.keys().map(|&node| (node, 0)).collect();
    for node in map.shards().flat_map(|(_, placement)| placement.replicas.values()) {
        *load.entry(*node).or_default() += 1;
    }
    let mut changes = Vec::new();
    for (group, placement) in map.shards() {
        let mut hosts: Vec<NodeId> = placement.replicas.values().copied().collect();
        while hosts.len() < wanted {
            let free = load.iter().filter(|(node, _)| !hosts.contains(node));
            let Some((&node, _)) = free.min_by_key(|(_, replicas)| **replicas) else { break };
            hosts.push(node);
            *load.entry(node).or_default() += 1;
            changes.push(Command::AddReplica { group, node });
        }
    }
    changes
}

/// Evens out the preferred leaders: moves one from a node with most to a node with least, as long
/// as that brings them closer.
fn leaders(map: &Map) -> Vec<Command> {
    let mut leads: BTreeMap<NodeId, usize> = map.nodes.keys().map(|&node| (node, 0)).collect();
    let mut preferred: BTreeMap<GroupId, NodeId> = BTreeMap::new();
    let mut changes = BTreeMap::new();
    for (group, placement) in map.shards() {
        let node = lead_of(placement);
        if node != placement.preferred {
            changes.insert(group, node);
        }
        *leads.entry(node).or_default() += 1;
        preferred.insert(group, node);
    }
    while let Some((group, to)) = better(map, &preferred, &leads) {
        let from = preferred.insert(group, to);
        if let Some(count) = from.and_then(|from| leads.get_mut(&from)) {
            *count -= 1;
        }
        *leads.entry(to).or_default() += 1;
        changes.insert(group, to);
    }
    let prefer = |(group, node)| Command::Prefer { group, node };
    changes
        .into_iter()
        .filter(|(group, node)| map.groups[group].preferred != *node)
        .map(prefer)
        .collect()
}

fn lead_of(placement: &Placement) -> NodeId {
    let held = placement.replicas.values().any(|&node| node == placement.preferred);
    let first = placement.replicas.values().next().copied();
    if held { placement.preferred } else { first.unwrap_or(placement.preferred) }
}

fn better(
    map: &Map,
    preferred: &BTreeMap<GroupId, NodeId>,
    leads: &BTreeMap<NodeId, usize>,
) -> Option<(GroupId, NodeId)> {
    let mut best = None;
    let mut gain = 1;
    for (&group, from) in preferred {
        for to in map.groups[&group].replicas.values() {
            let difference = leads[from].saturating_sub(leads[to]);
            if difference > gain {
                gain = difference;
                best = Some((group, *to));
            }
        }
    }
    best
}

#[cfg(test)]
mod tests;
