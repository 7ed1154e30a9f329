//! The cluster map: nodes, groups, replicas, operators. Kept by the meta group.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::audit::Note;
use crate::id::BUCKETS;
use crate::idempotency::Once;
use crate::plans::Plan;
use crate::{ClusterId, Digest, GroupId, Name, NodeId, ReplicaId, TenantId, Time};

/// Replicas that a shard has once there are enough nodes.
pub const REPLICAS: usize = 3;
/// Shards of a new cluster.
pub const SHARDS: u32 = 16;
/// Join tokens that can be open at a time.
pub const TOKENS_MAX: usize = 1_000;
/// The longest life of a join token.
pub const TOKEN_TTL_MAX_S: u64 = 3_600;
/// Nodes that there can be.
pub const NODES_MAX: usize = 200;
/// The label by which replicas are spread.
pub const ZONE: &str = "zone";
/// Labels of one node.
pub const LABELS_MAX: usize = 16;
/// Characters in the value of a label.
pub const LABEL_CHARS_MAX: usize = 63;
/// The largest weight of a node.
pub const WEIGHT_MAX: u32 = 1_000;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Counts the starts of the node; a higher one replaces a lower one.
    pub incarnation: u64,
    /// `http://host:port`
    pub http: String,
    /// `host:port`
    pub peer: String,
    pub version: String,
    /// Where the node stands, for operators; [`ZONE`] is the one that placement goes by.
    pub labels: BTreeMap<Name, String>,
    /// How much it can take beside others: of two nodes, one with twice the weight gets twice as
    /// much. At least 1.
    pub weight: u32,
    /// The node's public key for signatures (Ed25519).
    pub key: [u8; 32],
}

/// What operators want of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    #[default]
    Active,
    /// To lead nothing and to get nothing new; what it holds stays.
    Draining,
    /// It said that it leads nothing and runs nothing.
    Drained,
    /// To lose everything, and then its place in the cluster.
    Removing,
}

impl State {
    /// As operators read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Removing => "removing",
        }
    }
}

/// A node as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub registration: Registration,
    pub joined_at: Time,
    pub state: State,
    /// It was away for so long that its replicas are to be made again elsewhere.
    pub lost: bool,
}

impl Node {
    /// Whether it may lead, and be given replicas and tasks.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        self.state == State::Active && !self.lost
    }

    /// The zone that it stands in, if it says so.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        let labels = &self.registration.labels;
        labels.iter().find(|(name, _)| name.as_str() == ZONE).map(|(_, zone)| zone.as_str())
    }
}

/// Where a group should live. The group's own membership follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub replicas: BTreeMap<ReplicaId, NodeId>,
    /// Of these, the ones that voted in the last membership that the group's leader told of.
    pub voting: BTreeSet<ReplicaId>,
    /// Of these, the ones that are to go. One is dropped when the group's leader has told of a
    /// membership without it; only then may its node forget it.
    pub leaving: BTreeSet<ReplicaId>,
    /// Log index of the membership that was told last.
    pub told: u64,
    /// The node that should lead, when it is up and caught up.
    pub preferred: NodeId,
    /// An operator chose the preferred node: evening out leaves it alone.
    pub pinned: bool,
    /// Counts changes.
    pub epoch: u64,
}

impl Placement {
    /// Replicas that vote and stay.
    pub fn settled(&self) -> impl Iterator<Item = (ReplicaId, NodeId)> {
        let stays = |id: &ReplicaId| self.voting.contains(id) && !self.leaving.contains(id);
        self.replicas.iter().filter(move |(id, _)| stays(id)).map(|(&id, &node)| (id, node))
    }

    /// Whether a replica is on its way in or out.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        !self.leaving.is_empty() || self.replicas.keys().any(|id| !self.voting.contains(id))
    }
}

/// What only members of the cluster may know.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Keys the digests of API keys, cursors and idempotency keys.
    pub pepper: [u8; 32],
    /// Proves to a peer that a node belongs to the cluster.
    pub peer: [u8; 32],
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// A one-use permission to join, kept as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub expires_at: Time,
    /// The node that it let in; that node may ask again, should it not have heard the answer.
    pub used_by: Option<NodeId>,
}

/// The cluster map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    pub cluster: ClusterId,
    pub secrets: Secrets,
    pub nodes: BTreeMap<NodeId, Node>,
    pub groups: BTreeMap<GroupId, Placement>,
    pub tokens: BTreeMap<Digest, Token>,
    pub operators: BTreeMap<Digest, Time>,
    pub next_node: u64,
    pub next_replica: u64,
    /// The plans, by name.
    pub plans: BTreeMap<Name, Plan>,
}

impl Map {
    /// The shard that a tenant lives in.
    #[must_use]
    pub fn shard_of(&self, tenant: TenantId) -> GroupId {
        let shards = (self.groups.len() as u32).saturating_sub(1).max(1);
        GroupId(1 + u32::from(tenant.bucket()) * shards / u32::from(BUCKETS))
    }

    /// Every shard, without the meta group.
    pub fn shards(&self) -> impl Iterator<Item = (GroupId, &Placement)> {
        self.groups.iter().filter(|(group, _)| !group.is_meta()).map(|(&group, at)| (group, at))
    }

    /// The replica of a group on a node.
    #[must_use]
    pub fn replica_on(&self, group: GroupId, node: NodeId) -> Option<ReplicaId> {
        let placement = self.groups.get(&group)?;
        placement.replicas.iter().find(|(_, at)| **at == node).map(|(&replica, _)| replica)
    }
}

/// A proposal for the meta group on its way to whoever leads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub command: crate::Command,
    pub once: Option<Once>,
    /// For the cluster's own audit, in the same entry.
    pub note: Option<Box<Note>>,
}

impl From<Command> for Request {
    /// A change that no client asked for.
    fn from(command: Command) -> Self {
        Self { command: crate::Command::Node(command), once: None, note: None }
    }
}

/// What is asked of the cluster map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a cluster: its first node holds one replica of every group, replica
    /// `g + 1` of group `g`.
    Bootstrap {
        cluster: ClusterId,
        secrets: Secrets,
        registration: Registration,
    },
    /// The first operator key; refused when there is one.
    Init {
        key: Digest,
    },
    IssueToken {
        token: Digest,
        expires_at: Time,
    },
    /// A new node with an unused token.
    Join {
        token: Digest,
        registration: Registration,
    },
    /// A known node started again or moved.
    Register {
        node: NodeId,
        registration: Registration,
    },
    /// One more replica of a group on a node that has none.
    AddReplica {
        group: GroupId,
        node: NodeId,
    },
    /// A replica is to go; refused when too few others vote.
    RemoveReplica {
        group: GroupId,
        replica: ReplicaId,
    },
    /// The leader of a group tells of its committed membership.
    Confirm {
        group: GroupId,
        /// Log index of the membership; an older one than the last is refused.
        index: u64,
        voting: BTreeSet<ReplicaId>,
        members: BTreeSet<ReplicaId>,
    },
    Prefer {
        group: GroupId,
        node: NodeId,
    },
    /// The same by an operator's wish, which evening out leaves alone.
    Pin {
        group: GroupId,
        node: NodeId,
    },
    /// Forgets the operators' wishes for leaders.
    Unpin,
    /// What operators want of a node, or that a draining one is drained.
    SetState {
        node: NodeId,
        state: State,
    },
    /// Whether a node was away for too long.
    SetLost {
        node: NodeId,
        lost: bool,
    },
    /// A node that is being removed and holds nothing leaves the map.
    RemoveNode {
        node: NodeId,
    },
    /// Nothing changes; the digest of the map is taken here.
    Mark,
    /// Makes or replaces a plan. Its version is one above the last.
    SetPlan {
        plan: Box<Plan>,
        /// The version that is replaced.
        if_version: Option<u64>,
    },
}
