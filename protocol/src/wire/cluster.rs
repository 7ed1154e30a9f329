//! The cluster as its operator sees it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    pub id: String,
    pub incarnation: u64,
    /// `up` or `down`, as the node that answers sees it; of one that is up also `draining`, `drained`
    /// or `removing`, of one that is down also `lost`: its replicas are made again elsewhere.
    pub state: String,
    pub http: String,
    pub peer: String,
    pub version: String,
    /// Documents that wait for inference.
    pub pressure: u64,
    pub shards_led: usize,
    /// Replicas of shards that it is to have.
    pub replicas: usize,
    pub labels: std::collections::BTreeMap<String, String>,
    /// How much it takes beside others.
    pub weight: u32,
}

/// A replica on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Move {
    pub shard: u32,
    pub node: String,
    pub replica_id: u64,
    /// `joining` until it votes, `leaving` until it is gone.
    pub direction: String,
}

/// Answer of `POST /admin/v1/nodes/{id}/drain`, `undrain` and `remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeChange {
    pub id: String,
    /// `active`, `draining`, `drained` or `removing`.
    pub state: String,
}

/// Answer of `POST /admin/v1/nodes/{id}/restart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Restart {
    pub id: String,
    /// Before the restart.
    pub incarnation: u64,
}

/// Answer of `POST /admin/v1/shards/{id}/transfer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transfer {
    pub shard: u32,
    pub to: String,
}

/// A change that placement would make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedChange {
    pub shard: Option<u32>,
    /// `add_replica`, `remove_replica`, `lead` or `remove_node`.
    pub change: String,
    pub node: String,
}

/// Answer of `GET /admin/v1/plan` and `POST /admin/v1/rebalance`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    pub changes: Vec<PlannedChange>,
}

/// A replica of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replica {
    pub node: String,
    pub replica_id: u64,
    /// `voter` or `learner`.
    pub role: String,
    /// Entries behind the leader, where the node that answers leads.
    pub lag: Option<u64>,
}

/// A shard; number 0 is the meta group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shard {
    pub id: u32,
    pub leader: Option<String>,
    pub replicas: Vec<Replica>,
    /// Number of the ownership in force.
    pub epoch: u64,
    /// Last log entry applied by the node that answers.
    pub applied: u64,
}

/// Answer of `GET /admin/v1/cluster`: the view of the node that answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    pub cluster_id: String,
    /// The leader of the meta group.
    pub leader: Option<String>,
    pub nodes: Vec<Node>,
    pub shards: Vec<Shard>,
    /// Replicas on their way.
    pub moves: Vec<Move>,
}

/// Answer of `POST /admin/v1/init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Initialised {
    /// Shown here and never again.
    pub api_key: String,
}

/// Answer of `POST /admin/v1/join-tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinToken {
    /// Shown here and never again; good for one node.
    pub token: String,
    pub expires_at: String,
    /// How a node uses it.
    pub join: String,
}

/// Answer of `POST /admin/v1/shards/{id}/digest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Marker {
    pub shard: u32,
    pub applied: u64,
}

/// Answer of `GET /admin/v1/shards/{id}/digest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShardDigest {
    pub shard: u32,
    pub applied: u64,
    /// Lower-case hex.
    pub sha256: String,
}
