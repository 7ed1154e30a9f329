//! The cluster map: nodes, groups, replicas, operators. Kept by the meta group.

use std::collections::BTreeMap;

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
    /// The node's public key for signatures (Ed25519).
    pub key: [u8; 32],
}

/// A node as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub registration: Registration,
    pub joined_at: Time,
}

/// Where a group should live. The group's own membership follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub replicas: BTreeMap<ReplicaId, NodeId>,
    /// The node that should lead, when it is up and caught up.
    pub preferred: NodeId,
    /// Counts changes.
    pub epoch: u64,
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
    Prefer {
        group: GroupId,
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
