//! The cluster as its operator sees it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::versions::Wire;

/// Versions that a build speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WireRange {
    pub min: u16,
    pub max: u16,
}

impl From<Wire> for WireRange {
    fn from(Wire { min, max }: Wire) -> Self {
        Self { min, max }
    }
}

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
    /// The versions of the wire that its build speaks.
    pub wire: WireRange,
    /// Seconds until what waits for its inference slots is done, at the pace of late; `null` of a node
    /// that is not heard of.
    pub pressure: Option<f64>,
    /// Documents that wait for its slots or hold them.
    pub documents: Option<u64>,
    pub slots: Option<u32>,
    /// Documents that its slots do in a second, at the pace of late.
    pub documents_per_s: Option<f64>,
    pub shards_led: usize,
    /// Replicas of shards that it is to have.
    pub replicas: usize,
    /// The most entries that one of its replicas misses, as its leader says.
    pub lag: Option<u64>,
    /// Milliseconds since it was heard of; `null` if that was not since the node that answers started.
    pub heard_ms: Option<u64>,
    /// By how much its clock is ahead of that of the node that answers, less what word of it took.
    pub clock_ahead_ms: Option<i64>,
    /// When the certificate ends that it shows to other nodes.
    pub certificate_expires_at: Option<String>,
    /// For how long it was valid when it was made.
    pub certificate_term_s: Option<u64>,
    /// Age in seconds of a checkpoint that should have been written anew long ago; `null` where none is.
    pub checkpoint_overdue_s: Option<u64>,
    /// Logs and states that it found damaged since it started; they are made anew from its peers.
    pub damaged: Option<u64>,
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
    /// What it does at the moment, for people.
    pub stage: String,
    /// Entries that it misses.
    pub lag: Option<u64>,
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
    /// Entries behind the leader, as the leader said last.
    pub lag: Option<u64>,
    /// Last log entry that it has applied, as its node said last.
    pub applied: Option<u64>,
}

/// A shard; number 0 is the meta group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shard {
    pub id: u32,
    pub leader: Option<String>,
    /// The node that should lead.
    pub preferred: String,
    pub replicas: Vec<Replica>,
    /// Replicas that should vote, with as many nodes as there are.
    pub voters_wanted: usize,
    /// Number of the ownership in force.
    pub epoch: u64,
    /// Last log entry applied by the node that answers, or by the leader where that has no replica.
    pub applied: Option<u64>,
}

/// Answer of `GET /admin/v1/cluster`: the view of the node that answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    pub cluster_id: String,
    /// The node that answers.
    pub told_by: String,
    /// What its clock shows.
    pub told_at: String,
    /// The version of the wire that is spoken.
    pub wire: u16,
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
