//! Replicas of shards: enough of them, none on nodes that go, in different zones, evenly.

use std::collections::{BTreeMap, BTreeSet};

use protocol::nodes::{Command, Map, Placement, REPLICAS, State};
use protocol::{GroupId, NodeId, ReplicaId};

use super::board::Board;

/// Shards that get a replica which they lack, at a time: each new replica copies a log.
const REPAIRS_MAX: usize = 16;
/// Shards that are moved for evenness, at a time.
const MOVES_MAX: usize = 4;

pub(super) fn changes(map: &Map, up: &BTreeSet<NodeId>) -> Vec<Command> {
    let mut changes: Vec<Command> = map.shards().flat_map(|(id, at)| vain(map, id, at)).collect();
    let mut look = Look::new(map, up);
    changes.extend(look.excess());
    let moving = map.shards().filter(|(_, placement)| placement.is_moving()).count();
    changes.extend(look.repairs(REPAIRS_MAX.saturating_sub(moving)));
    if changes.is_empty() {
        changes = look.moves(MOVES_MAX.saturating_sub(moving));
    }
    changes
}

/// New replicas that do not vote yet on nodes that are to go or are lost.
fn vain(map: &Map, group: GroupId, placement: &Placement) -> Vec<Command> {
    let gone = |node: &NodeId| {
        map.nodes.get(node).is_none_or(|node| node.lost || node.state == State::Removing)
    };
    let joining = placement.replicas.iter().filter(|(id, node)| {
        !placement.voting.contains(id) && !placement.leaving.contains(id) && gone(node)
    });
    joining.map(|(&replica, _)| Command::RemoveReplica { group, replica }).collect()
}

/// The shards and what the nodes carry once all that is under way has ended.
struct Look<'a> {
    board: Board<'a>,
    wanted: usize,
    /// Where each shard will be.
    hosts: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// Replicas that are one too many.
    victims: BTreeMap<GroupId, NodeId>,
}

impl<'a> Look<'a> {
    fn new(map: &'a Map, up: &'a BTreeSet<NodeId>) -> Self {
        let staying = map.nodes.values().filter(|node| node.state != State::Removing).count();
        let mut look = Self {
            board: Board::new(map, up),
            wanted: REPLICAS.min(staying),
            hosts: BTreeMap::new(),
            victims: BTreeMap::new(),
        };
        for (group, placement) in map.shards() {
            let stays = |id: &ReplicaId| !placement.leaving.contains(id);
            let hosts = placement.replicas.iter().filter(|(id, _)| stays(id));
            let hosts: BTreeSet<NodeId> = hosts.map(|(_, &node)| node).collect();
            hosts.iter().for_each(|&node| look.board.take(node));
            look.hosts.insert(group, hosts);
        }
        let groups: Vec<GroupId> = look.hosts.keys().copied().collect();
        groups.into_iter().for_each(|group| look.choose_victim(group));
        look
    }

    /// Of a shard that has more than it needs, the replica that it is best without.
    fn choose_victim(&mut self, group: GroupId) {
        let hosts = &self.hosts[&group];
        if hosts.len() <= self.wanted {
            return;
        }
        let worth = |&&node: &&NodeId| {
            let zones = self.board.zones(hosts.iter().copied().filter(|at| *at != node));
            (self.board.doom(node), zones, self.board.relief(node), node)
        };
        let Some(&victim) = hosts.iter().max_by_key(worth) else { return };
        self.board.give(victim);
        self.victims.insert(group, victim);
        self.hosts.entry(group).or_default().remove(&victim);
    }

    fn is_moving(&self, group: GroupId) -> bool {
        self.board.map.groups[&group].is_moving()
    }

    fn excess(&self) -> Vec<Command> {
        let remove = |(&group, &node): (&GroupId, &NodeId)| {
            let replica = self.board.map.replica_on(group, node)?;
            (!self.is_moving(group)).then_some(Command::RemoveReplica { group, replica })
        };
        self.victims.iter().filter_map(remove).collect()
    }

    /// Shards that have too few replicas, or have one where it cannot stay.
    fn repairs(&mut self, most: usize) -> Vec<Command> {
        let mut changes = Vec::new();
        for (group, hosts) in self.hosts.clone() {
            let doomed = |node: &NodeId| self.board.doom(*node) >= 2;
            let lacks = hosts.len() < self.wanted || hosts.iter().any(doomed);
            if changes.len() >= most || !lacks || self.victims.contains_key(&group) {
                continue;
            }
            let lasting: Vec<NodeId> = hosts.iter().copied().filter(|node| !doomed(node)).collect();
            let free = self.board.takers().filter(|&node| self.is_free(group, node));
            let worth = |&node: &NodeId| {
                let zones = self.board.zones(lasting.iter().copied().chain([node]));
                (std::cmp::Reverse(zones), self.board.burden(node), node)
            };
            let Some(node) = free.min_by_key(worth) else { continue };
            if self.is_moving(group) {
                continue;
            }
            self.board.take(node);
            changes.push(Command::AddReplica { group, node });
        }
        changes
    }

    fn is_free(&self, group: GroupId, node: NodeId) -> bool {
        self.board.map.replica_on(group, node).is_none()
    }

    /// The moves that help most, each reckoned with those before it.
    fn moves(&mut self, most: usize) -> Vec<Command> {
        let mut changes = Vec::new();
        let mut moved = BTreeSet::new();
        while changes.len() < most {
            let Some(Step { group, from, to, .. }) = self.best_move(&moved) else { break };
            moved.insert(group);
            self.board.give(from);
            self.board.take(to);
            changes.push(Command::AddReplica { group, node: to });
        }
        changes
    }

    fn best_move(&self, moved: &BTreeSet<GroupId>) -> Option<Step> {
        let mut best: Option<Step> = None;
        let takers: Vec<NodeId> = self.board.takers().collect();
        for (&group, hosts) in &self.hosts {
            let whole = hosts.len() == self.wanted && hosts.iter().all(|&at| self.board.is_up(at));
            if !whole || moved.contains(&group) || self.is_moving(group) {
                continue;
            }
            for &to in takers.iter().filter(|to| self.is_free(group, **to)) {
                for &from in hosts {
                    let step = self.weigh(group, hosts, from, to);
                    let helps = step.zones > 0 || (step.zones == 0 && step.gain > 0);
                    if helps && best.as_ref().is_none_or(|best| step.worth() > best.worth()) {
                        best = Some(step);
                    }
                }
            }
        }
        best
    }

    fn weigh(&self, group: GroupId, hosts: &BTreeSet<NodeId>, from: NodeId, to: NodeId) -> Step {
        let after = hosts.iter().copied().filter(|at| *at != from).chain([to]);
        let zones = self.board.zones(after) as i64;
        let zones = zones - self.board.zones(hosts.iter().copied()) as i64;
        let gain = self.board.relief(from) as i64 - self.board.burden(to) as i64;
        Step { group, from, to, zones, gain }
    }
}

/// A replica that would go from one node to another.
struct Step {
    group: GroupId,
    from: NodeId,
    to: NodeId,
    /// More zones than before.
    zones: i64,
    /// More evenness than before.
    gain: i64,
}

impl Step {
    fn worth(&self) -> (i64, i64) {
        (self.zones, self.gain)
    }
}
