//! Who should lead: nodes that may, evenly by weight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::nodes::{Command, Map, Placement};
use protocol::{GroupId, NodeId};

use super::board::Board;

/// Hand-overs for evenness that one step asks for: each interrupts a shard for a moment.
const HANDOVERS_MAX: usize = 8;

/// Groups whose preferred node may not lead any more.
pub(super) fn needed(map: &Map, up: &BTreeSet<NodeId>) -> Vec<Command> {
    let mut board = leads(map, up);
    let mut changes = Vec::new();
    for (&group, placement) in &map.groups {
        let able = able(map, placement);
        if able.contains(&placement.preferred) {
            continue;
        }
        let best = able.into_iter().min_by_key(|&node| (!up.contains(&node), board.burden(node)));
        let Some(node) = best else { continue };
        if !group.is_meta() {
            board.take(node);
        }
        changes.push(Command::Prefer { group, node });
    }
    changes
}

/// Moves preferences from nodes with much to nodes with little, along chains of shards where no
/// single one can be handed over directly.
pub(super) fn even(map: &Map, up: &BTreeSet<NodeId>) -> Vec<Command> {
    let mut board = leads(map, up);
    let mut preferred: BTreeMap<GroupId, NodeId> =
        map.shards().map(|(group, placement)| (group, placement.preferred)).collect();
    let mut changes = BTreeMap::new();
    while changes.len() < HANDOVERS_MAX {
        let Some(chain) = best_chain(&board, &preferred) else { break };
        for (group, to) in chain {
            if let Some(from) = preferred.insert(group, to) {
                board.give(from);
            }
            board.take(to);
            changes.insert(group, to);
        }
    }
    changes.into_iter().map(|(group, node)| Command::Prefer { group, node }).collect()
}

fn leads<'a>(map: &'a Map, up: &'a BTreeSet<NodeId>) -> Board<'a> {
    let mut board = Board::new(map, up);
    map.shards().for_each(|(_, placement)| board.take(placement.preferred));
    board
}

/// Nodes with a replica that may lead the group.
fn able(map: &Map, placement: &Placement) -> BTreeSet<NodeId> {
    let takes = |node: &NodeId| map.nodes.get(node).is_some_and(|node| node.takes_more());
    placement.settled().map(|(_, node)| node).filter(takes).collect()
}

type Chain = Vec<(GroupId, NodeId)>;

/// The hand-overs from the most loaded node that end at the least loaded one within reach.
fn best_chain(board: &Board<'_>, preferred: &BTreeMap<GroupId, NodeId>) -> Option<Chain> {
    let mut sources: Vec<NodeId> = preferred.values().copied().collect();
    sources.sort_by_key(|&node| (std::cmp::Reverse(board.relief(node)), node));
    sources.dedup();
    sources.into_iter().find_map(|from| chain_from(board, preferred, from))
}

fn chain_from(
    board: &Board<'_>,
    preferred: &BTreeMap<GroupId, NodeId>,
    from: NodeId,
) -> Option<Chain> {
    let mut reached: BTreeMap<NodeId, (GroupId, NodeId)> = BTreeMap::new();
    let mut open = VecDeque::from([from]);
    while let Some(node) = open.pop_front() {
        for (&group, _) in preferred.iter().filter(|(_, at)| **at == node) {
            let placement = &board.map.groups[&group];
            if placement.pinned {
                continue;
            }
            for to in able(board.map, placement).into_iter().filter(|to| board.is_up(*to)) {
                if to != from && !reached.contains_key(&to) {
                    reached.insert(to, (group, node));
                    open.push_back(to);
                }
            }
        }
    }
    let best = reached.keys().copied().min_by_key(|&node| (board.burden(node), node))?;
    if board.relief(from) <= board.burden(best) {
        return None;
    }
    let mut chain = Vec::new();
    let mut at = best;
    while at != from {
        let (group, before) = reached[&at];
        chain.push((group, at));
        at = before;
    }
    Some(chain)
}
