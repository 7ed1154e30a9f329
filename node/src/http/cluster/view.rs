//! The cluster as this node sees it: the map, what Raft knows here, and what the nodes said of
//! themselves lately.

use std::collections::BTreeMap;

use actors::jobs::Load;
use actors::remote::{PeerState, PeerTransport as _};
use actors::vitals::Vitals;
use protocol::nodes::{self, Map, Placement};
use protocol::wire::cluster as wire;
use protocol::{GroupId, NodeId, ReplicaId};
use raft::{Group, placement};

use crate::http::app::App;
use crate::http::state::members::state;

/// A replica this close to its leader has all but the end of the log.
const CLOSE: u64 = 100;

/// Everything that is looked at, taken once.
pub(super) struct Look<'a> {
    app: &'a App,
    map: &'a Map,
    me: NodeId,
    loads: BTreeMap<NodeId, Load>,
    vitals: BTreeMap<NodeId, Vitals>,
    ahead: BTreeMap<NodeId, i64>,
    leaders: BTreeMap<GroupId, NodeId>,
}

impl<'a> Look<'a> {
    pub(super) fn new(app: &'a App, map: &'a Map) -> Self {
        let loads = app.system.workers.loads();
        Self {
            me: app.system.host.node(),
            leaders: leaders(app, map, &loads),
            vitals: app.system.ward.all(),
            ahead: actors::clock::walls_ahead(),
            app,
            map,
            loads,
        }
    }

    pub(super) fn cluster(&self) -> wire::Cluster {
        wire::Cluster {
            cluster_id: self.map.cluster.to_string(),
            told_by: self.me.to_string(),
            told_at: actors::clock::wall().to_string(),
            wire: self.map.wire,
            leader: self.leaders.get(&GroupId::META).map(NodeId::to_string),
            nodes: self.map.nodes.values().map(|node| self.node(node)).collect(),
            shards: self.map.groups.iter().map(|(&id, at)| self.shard(id, at)).collect(),
            moves: self.map.shards().flat_map(|(id, at)| self.moves(id, at)).collect(),
        }
    }

    fn node(&self, node: &nodes::Node) -> wire::Node {
        let registration = &node.registration;
        let led = self.leaders.iter();
        let led = led.filter(|(group, leader)| !group.is_meta() && **leader == node.id);
        let held = self.map.shards().filter(|(at, _)| self.map.replica_on(*at, node.id).is_some());
        let labels = registration.labels.iter();
        let load = self.loads.get(&node.id);
        let vitals = self.vitals.get(&node.id);
        wire::Node {
            id: node.id.to_string(),
            incarnation: registration.incarnation,
            state: state(node, self.is_up(node.id)).to_owned(),
            http: registration.http.clone(),
            peer: registration.peer.clone(),
            version: registration.version.clone(),
            wire: registration.wire.into(),
            pressure: load.map(Load::pressure_s),
            documents: load.map(|load| load.documents),
            slots: load.map(|load| load.slots),
            documents_per_s: load.map(Load::documents_per_s),
            shards_led: led.count(),
            replicas: held.count(),
            lag: self.lag_of(node.id),
            heard_ms: self.heard_ms(node.id),
            clock_ahead_ms: if node.id == self.me { Some(0) } else { self.ahead(node.id) },
            certificate_expires_at: vitals.map(|vitals| vitals.certificate_ends.to_string()),
            certificate_term_s: vitals.map(|vitals| vitals.certificate_term_s),
            checkpoint_overdue_s: vitals.and_then(Vitals::overdue_s),
            damaged: vitals.map(|vitals| vitals.damaged),
            labels: labels.map(|(name, value)| (name.to_string(), value.clone())).collect(),
            weight: registration.weight,
        }
    }

    fn is_up(&self, node: NodeId) -> bool {
        if node == self.me {
            return true;
        }
        let states = self.app.transport.states();
        let states = states.borrow();
        matches!(states.get(&node.0), Some(PeerState::Up { .. }))
    }

    fn heard_ms(&self, node: NodeId) -> Option<u64> {
        if node == self.me {
            return Some(0);
        }
        self.app.system.workers.silence(node).map(|silence| silence.as_millis() as u64)
    }

    fn ahead(&self, node: NodeId) -> Option<i64> {
        self.ahead.get(&node).copied()
    }

    /// The most entries that any of its replicas misses.
    fn lag_of(&self, node: NodeId) -> Option<u64> {
        let groups = self.map.groups.keys();
        let held = groups.filter_map(|&id| Some((id, self.map.replica_on(id, node)?)));
        held.filter_map(|(id, replica)| self.lag(id, replica)).max()
    }

    /// As the leader has it, here or by its own word.
    fn lag(&self, group: GroupId, replica: ReplicaId) -> Option<u64> {
        let leader = self.leaders.get(&group)?;
        let told = self.vitals.get(leader)?.replicas.get(&group)?;
        told.lags.get(&replica).copied().flatten()
    }

    fn shard(&self, id: GroupId, placement: &Placement) -> wire::Shard {
        let group = self.app.system.host.group(id);
        let leader = self.leaders.get(&id).copied();
        let told = leader.and_then(|leader| self.vitals.get(&leader)?.replicas.get(&id));
        let epoch = group.as_ref().map(|group| group.view().epoch().0);
        wire::Shard {
            id: id.0,
            leader: leader.map(|leader| leader.to_string()),
            preferred: placement.preferred.to_string(),
            replicas: self.replicas(id, placement, group.as_ref()),
            voters_wanted: placement::voters_wanted(self.map, id),
            epoch: epoch.or_else(|| told.map(|told| told.epoch)).unwrap_or(0),
            applied: group.as_ref().map(Group::applied).or_else(|| told.map(|told| told.applied)),
        }
    }

    fn replicas(
        &self,
        id: GroupId,
        placement: &Placement,
        group: Option<&Group>,
    ) -> Vec<wire::Replica> {
        let members = group.map(Group::members).unwrap_or_default();
        let known = members.iter().map(|member| (member.replica, member.node, member.voter));
        let mut known: Vec<_> = known.collect();
        if known.is_empty() {
            // This node has no replica, so it knows only where they should be.
            let votes = |replica| placement.voting.contains(replica);
            let placed = placement.replicas.iter();
            known.extend(placed.map(|(replica, &node)| (*replica, node, votes(replica))));
        }
        let replica = |(replica, node, voter): (ReplicaId, NodeId, bool)| wire::Replica {
            node: node.to_string(),
            replica_id: replica.0,
            role: if voter { "voter" } else { "learner" }.to_owned(),
            lag: self.lag(id, replica),
            applied: self.applied(id, replica, node),
        };
        known.into_iter().map(replica).collect()
    }

    fn applied(&self, group: GroupId, replica: ReplicaId, node: NodeId) -> Option<u64> {
        let told = self.vitals.get(&node)?.replicas.get(&group)?;
        (told.replica == replica).then_some(told.applied)
    }

    fn moves(&self, group: GroupId, placement: &Placement) -> Vec<wire::Move> {
        let mut moves = Vec::new();
        for (&replica, &node) in &placement.replicas {
            let leaving = placement.leaving.contains(&replica);
            if leaving || !placement.voting.contains(&replica) {
                let lag = self.lag(group, replica);
                moves.push(wire::Move {
                    shard: group.0,
                    node: node.to_string(),
                    replica_id: replica.0,
                    direction: if leaving { "leaving" } else { "joining" }.to_owned(),
                    stage: self.stage(group, node, leaving, lag).to_owned(),
                    lag,
                });
            }
        }
        moves
    }

    fn stage(&self, group: GroupId, node: NodeId, leaving: bool, lag: Option<u64>) -> &'static str {
        match (leaving, lag) {
            (true, _) if self.leaders.get(&group) == Some(&node) => "hands leadership over",
            (true, _) => "goes when the others vote without it",
            (false, None) => "waits for its leader",
            (false, Some(lag)) if lag > CLOSE => "copies the log or the state",
            (false, Some(_)) => "copies blobs, then votes",
        }
    }
}

/// As the replicas here know it, and where there is none as the leaders themselves said last.
fn leaders(app: &App, map: &Map, loads: &BTreeMap<NodeId, Load>) -> BTreeMap<GroupId, NodeId> {
    let said = loads.iter().flat_map(|(&node, load)| load.leads.iter().map(move |&at| (at, node)));
    let mut leaders: BTreeMap<_, _> = said.collect();
    for &group in map.groups.keys() {
        let Some(here) = app.system.host.group(group) else { continue };
        match here.leader() {
            Some(leader) => leaders.insert(group, leader),
            None => leaders.remove(&group),
        };
    }
    leaders
}
