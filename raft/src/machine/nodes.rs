//! The cluster map. Invariant: node and replica ids are given once.

use protocol::command::What;
use protocol::models::Registry;
use protocol::nodes::{
    Command, LifeId, Map, NODES_MAX, Node, Placement, Registration, SHARDS, Secrets, Standing,
    Start, State, TOKENS_MAX, Token,
};
use protocol::plans::{PLANS_MAX, Plan, Shipped};
use protocol::{ClusterId, Digest, GroupId, NodeId, Outcome, Refusal, ReplicaId, Reply, Time};

use super::models;
use super::rows::Hasher;
use super::table::Table;
use crate::backup::Rebirth;

#[cfg(test)]
mod tests;

mod changes;

pub(super) use protocol::nodes::Command as Asked;

/// The map; empty in every group but the meta group.
#[derive(Debug, Clone, Default)]
pub struct Book {
    /// One row or none.
    pub(super) map: Table<(), Map>,
}

impl Book {
    /// The map, once the cluster is bootstrapped.
    #[must_use]
    pub fn map(&self) -> Option<&Map> {
        self.map.get(&())
    }

    /// A map to try changes on.
    pub(crate) fn of(map: Map) -> Self {
        let mut book = Self::default();
        book.map.insert((), map);
        book
    }

    /// One change, as it would be applied at some time.
    pub(crate) fn attempt(&mut self, command: Command) -> Outcome {
        apply(self, Time(0), command)
    }

    /// The map of the cluster that goes on where this one was left: another id, the one new node, and
    /// nothing that belonged to nodes or was promised to them. The rest stays: who may use it
    /// (pepper, operators), and the plans.
    pub(crate) fn be_reborn(&mut self, rebirth: &Rebirth) {
        let Some(map) = self.map.get_mut(&()) else { return };
        let &Rebirth { cluster, cookie, node: id, at, .. } = rebirth;
        let registration = rebirth.registration.clone();
        let node = Node { id, registration, joined_at: at, state: State::Active, lost: false };
        map.cluster = cluster;
        map.revision += 1;
        map.secrets.cookie = cookie;
        map.nodes = [(id, node)].into();
        map.tokens.clear();
        map.next_node = id.0 + 1;
        for (group, &replica) in rebirth.replicas() {
            map.next_replica = map.next_replica.max(replica.0 + 1);
            let placement = map.groups.entry(*group).or_default();
            *placement = Placement {
                replicas: [(replica, id)].into(),
                voting: [replica].into(),
                preferred: id,
                epoch: placement.epoch + 1,
                ..Placement::default()
            };
        }
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        hasher.table(&self.map);
    }
}

pub(super) fn apply(book: &mut Book, now: Time, command: Command) -> Outcome {
    if let Command::Bootstrap { cluster, secrets, registration } = command {
        return bootstrap(book, now, cluster, secrets, registration);
    }
    let map = book.map.get_mut(&()).ok_or(Refusal::NotFound)?;
    let outcome = change(map, now, command);
    if outcome.is_ok() {
        map.revision += 1;
    }
    outcome
}

fn change(map: &mut Map, now: Time, command: Command) -> Outcome {
    match command {
        Command::Bootstrap { .. } => unreachable!("handled by the caller"),
        Command::Init { key } => {
            if !map.operators.is_empty() {
                return Err(Refusal::Initialised);
            }
            map.operators.insert(key, now);
            Ok(Reply::Done)
        }
        Command::IssueToken { token, expires_at } => issue(map, now, token, expires_at),
        Command::Join { token, registration } => join(map, now, token, registration),
        Command::Register { node, registration, before } => {
            register(map, node, registration, before)
        }
        Command::AddReplica { group, node } => changes::add_replica(map, group, node),
        Command::RemoveReplica { group, replica } => changes::remove_replica(map, group, replica),
        Command::LoseReplica { group, replica } => changes::lose_replica(map, group, replica),
        Command::Confirm { group, index, voting, members } => {
            changes::confirm(map, group, index, &voting, &members)
        }
        Command::Prefer { group, node } => changes::prefer(map, group, node),
        Command::Pin { group, node } => changes::pin(map, group, node),
        Command::Unpin => {
            map.groups.values_mut().for_each(|placement| placement.pinned = false);
            Ok(Reply::Done)
        }
        Command::SetState { node, state } => changes::set_state(map, node, state),
        Command::SetLost { node, lost } => {
            map.nodes.get_mut(&node).ok_or(Refusal::NotFound)?.lost = lost;
            Ok(Reply::Done)
        }
        Command::RemoveNode { node } => changes::remove_node(map, node),
        Command::Mark => Ok(Reply::Marked),
        Command::SetPlan { plan, if_version } => set_plan(map, *plan, if_version),
        Command::RaiseWire { to } => raise_wire(map, to),
        Command::Claim(_) | Command::Release(_) => unreachable!("handled by the machine"),
        Command::Model(command) => models::change(&mut map.models, now, command),
    }
}

fn bootstrap(
    book: &mut Book,
    now: Time,
    cluster: ClusterId,
    secrets: Secrets,
    registration: Registration,
) -> Outcome {
    if book.map().is_some() {
        return Err(Refusal::Exists);
    }
    let id = NodeId(1);
    let wire = registration.wire.max;
    let node = Node { id, registration, joined_at: now, state: State::Active, lost: false };
    let alone = |group: u32| {
        let replica = ReplicaId(u64::from(group) + 1);
        let placement = Placement {
            replicas: [(replica, id)].into(),
            voting: [replica].into(),
            preferred: id,
            epoch: 1,
            ..Placement::default()
        };
        (GroupId(group), placement)
    };
    let map = Map {
        cluster,
        revision: 1,
        secrets,
        nodes: [(id, node.clone())].into(),
        groups: (0..=SHARDS).map(alone).collect(),
        tokens: std::collections::BTreeMap::new(),
        operators: std::collections::BTreeMap::new(),
        next_node: 2,
        next_replica: u64::from(SHARDS) + 2,
        plans: Shipped::ALL.map(Shipped::plan).map(|plan| (plan.name.clone(), plan)).into(),
        wire,
        models: Registry::default(),
    };
    book.map.insert((), map);
    Ok(Reply::Node(Box::new(node)))
}

fn set_plan(map: &mut Map, plan: Plan, if_version: Option<u64>) -> Outcome {
    let now = map.plans.get(&plan.name).map_or(0, |plan| plan.version);
    if let Some(wanted) = if_version.filter(|&wanted| wanted != now) {
        return Err(Refusal::VersionMismatch { wanted, now });
    }
    if now == 0 && map.plans.len() >= PLANS_MAX {
        let got = map.plans.len() as u64 + 1;
        return Err(Refusal::TooMany { what: What::Plans, got, limit: PLANS_MAX as u64 });
    }
    let plan = Plan { version: now + 1, ..plan };
    map.plans.insert(plan.name.clone(), plan.clone());
    Ok(Reply::Plan(Box::new(plan)))
}

/// Never lowered: what was written since could not be read.
fn raise_wire(map: &mut Map, to: u16) -> Outcome {
    let spoken = map.nodes.values().all(|node| node.registration.wire.speaks(to));
    if to <= map.wire || !spoken {
        return Err(Refusal::NotRaised { active: map.wire, to });
    }
    map.wire = to;
    Ok(Reply::Done)
}

fn speaks(map: &Map, registration: &Registration) -> Result<(), Refusal> {
    let (active, speaks) = (map.wire, registration.wire);
    if speaks.speaks(active) { Ok(()) } else { Err(Refusal::Unspoken { active, speaks }) }
}

fn issue(map: &mut Map, now: Time, token: Digest, expires_at: Time) -> Outcome {
    map.tokens.retain(|_, token| now < token.expires_at);
    if map.tokens.len() >= TOKENS_MAX {
        let got = map.tokens.len() as u64 + 1;
        return Err(Refusal::TooMany { what: What::Tokens, got, limit: TOKENS_MAX as u64 });
    }
    map.tokens.insert(token, Token { expires_at, used_by: None });
    Ok(Reply::Token(expires_at))
}

fn join(map: &mut Map, now: Time, token: Digest, registration: Registration) -> Outcome {
    let known = map.tokens.get(&token).filter(|token| now < token.expires_at);
    let used_by = known.ok_or(Refusal::BadToken)?.used_by;
    speaks(map, &registration)?;
    if let Some(node) = used_by {
        return joined_before(map, node, registration);
    }
    if map.nodes.len() >= NODES_MAX {
        let got = map.nodes.len() as u64 + 1;
        return Err(Refusal::TooMany { what: What::Nodes, got, limit: NODES_MAX as u64 });
    }
    let id = NodeId(map.next_node);
    if let Some(token) = map.tokens.get_mut(&token) {
        token.used_by = Some(id);
    }
    map.next_node += 1;
    let node = Node { id, registration, joined_at: now, state: State::Active, lost: false };
    map.nodes.insert(id, node.clone());
    let replica = host(map, GroupId::META, id);
    Ok(Reply::Joined { node: Box::new(node), replica })
}

/// A join that is repeated with the same key by a node that never ran is the same join.
fn joined_before(map: &mut Map, id: NodeId, registration: Registration) -> Outcome {
    let replica = map.replica_on(GroupId::META, id).ok_or(Refusal::BadToken)?;
    let node = map.nodes.get_mut(&id).ok_or(Refusal::BadToken)?;
    let known = &node.registration;
    if known.pin != registration.pin || known.incarnation != registration.incarnation {
        return Err(Refusal::BadToken);
    }
    node.registration = registration;
    Ok(Reply::Joined { node: Box::new(node.clone()), replica })
}

/// Only a restart of the registered start takes its place. The key of a node never changes.
fn register(map: &mut Map, id: NodeId, registration: Registration, before: Vec<LifeId>) -> Outcome {
    let spoken = speaks(map, &registration);
    let node = map.nodes.get_mut(&id).ok_or(Refusal::NotFound)?;
    let Registration { incarnation, life, pin, .. } = registration;
    let standing = node.registration.standing(&Start { incarnation, life, before });
    if !matches!(standing, Standing::Current | Standing::Next) || pin != node.registration.pin {
        return Err(Refusal::Exists);
    }
    spoken?;
    node.registration = registration;
    node.lost = false;
    Ok(Reply::Node(Box::new(node.clone())))
}

fn host(map: &mut Map, group: GroupId, node: NodeId) -> ReplicaId {
    let replica = ReplicaId(map.next_replica);
    map.next_replica += 1;
    let placement = map.groups.entry(group).or_default();
    placement.replicas.insert(replica, node);
    placement.epoch += 1;
    replica
}
