//! The cluster as operators see it: nodes, shards, join tokens, digests.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lenient::{optional_text, text};
use crate::{Answer, Call, Client, ClientError};

/// The cluster in the eyes of the node asked.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct ClusterView {
    pub cluster_id: String,
    #[serde(default, deserialize_with = "optional_text")]
    pub leader: Option<String>,
    /// The node that answered, and what its clock showed.
    #[serde(default)]
    pub told_by: String,
    #[serde(default)]
    pub told_at: String,
    /// The version of the wire that is spoken.
    #[serde(default)]
    pub wire: u16,
    pub nodes: Vec<NodeView>,
    pub shards: Vec<ShardView>,
    /// Replicas on their way.
    #[serde(default)]
    pub moves: Vec<MoveView>,
}

impl ClusterView {
    /// The fewest voters of any group; 0 when no group is known.
    pub fn voters_min(&self) -> usize {
        self.shards.iter().map(ShardView::voters).min().unwrap_or(0)
    }
}

/// One node.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct NodeView {
    #[serde(deserialize_with = "text")]
    pub id: String,
    #[serde(default)]
    pub incarnation: Value,
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub http: String,
    #[serde(default)]
    pub peer: String,
    #[serde(default)]
    pub version: String,
    /// The versions of the wire that its build speaks.
    #[serde(default)]
    pub wire: WireRange,
    /// Seconds until what waits for its slots is done.
    #[serde(default)]
    pub pressure: Option<f64>,
    #[serde(default)]
    pub documents: Option<u64>,
    #[serde(default)]
    pub slots: Option<u64>,
    /// Documents that its slots do in a second.
    #[serde(default)]
    pub documents_per_s: Option<f64>,
    /// The most entries that one of its replicas misses.
    #[serde(default)]
    pub lag: Option<u64>,
    /// Milliseconds since the node that answered heard of it.
    #[serde(default)]
    pub heard_ms: Option<u64>,
    /// By how much its clock is ahead of that of the node that answered.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
    #[serde(default)]
    pub certificate_expires_at: Option<String>,
    #[serde(default)]
    pub certificate_term_s: Option<u64>,
    /// Age of a checkpoint that should have been written anew long ago.
    #[serde(default)]
    pub checkpoint_overdue_s: Option<u64>,
    /// Logs and states that it found damaged since it started.
    #[serde(default)]
    pub damaged: Option<u64>,
    #[serde(default)]
    pub shards_led: Option<u64>,
    #[serde(default)]
    pub replicas: Option<u64>,
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    pub weight: Option<u64>,
}

/// Versions of the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct WireRange {
    pub min: u16,
    pub max: u16,
}

/// A replica on its way.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct MoveView {
    #[serde(deserialize_with = "text")]
    pub shard: String,
    pub node: String,
    /// `joining` or `leaving`.
    pub direction: String,
    /// What it does at the moment, for people.
    #[serde(default)]
    pub stage: String,
    /// Entries that it misses.
    #[serde(default)]
    pub lag: Option<u64>,
}

/// What is wanted of a node.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct NodeChange {
    pub id: String,
    pub state: String,
}

/// A node that begins again.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Restart {
    pub id: String,
    /// Before the restart.
    pub incarnation: u64,
}

/// A shard that is handed over.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Transfer {
    #[serde(deserialize_with = "text")]
    pub shard: String,
    pub to: String,
}

/// Changes that placement would make, in order.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Plan {
    pub changes: Vec<PlannedChange>,
}

/// One of them.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct PlannedChange {
    #[serde(default, deserialize_with = "optional_text")]
    pub shard: Option<String>,
    /// `add_replica`, `remove_replica`, `lead` or `remove_node`.
    pub change: String,
    pub node: String,
}

/// One Raft group; shard 0 is the meta group.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct ShardView {
    #[serde(deserialize_with = "text")]
    pub id: String,
    #[serde(default, deserialize_with = "optional_text")]
    pub leader: Option<String>,
    #[serde(default)]
    pub preferred: String,
    #[serde(default)]
    pub replicas: Vec<ReplicaView>,
    /// How many of them should vote.
    #[serde(default)]
    pub voters_wanted: usize,
    #[serde(default)]
    pub epoch: Value,
    #[serde(default)]
    pub applied: Option<u64>,
}

impl ShardView {
    /// How many of its replicas vote.
    pub fn voters(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.role == "voter").count()
    }
}

/// One replica of a group.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct ReplicaView {
    #[serde(deserialize_with = "text")]
    pub node: String,
    #[serde(default)]
    pub replica_id: Value,
    /// `voter` or `learner`.
    pub role: String,
    /// Entries behind the leader.
    #[serde(default)]
    pub lag: Option<u64>,
    #[serde(default)]
    pub applied: Option<u64>,
}

/// A token with which one node may join.
#[derive(Debug, Clone, Deserialize)]
pub struct JoinToken {
    pub token: String,
    #[serde(default)]
    pub expires_at: String,
    #[serde(default)]
    pub join: Value,
}

/// A digest marker in a shard's log.
#[derive(Debug, Clone, Deserialize)]
pub struct DigestMarker {
    #[serde(deserialize_with = "text")]
    pub shard: String,
    pub applied: u64,
}

/// The digest of one replica's state.
#[derive(Debug, Clone, Deserialize)]
pub struct Digest {
    #[serde(deserialize_with = "text")]
    pub shard: String,
    pub applied: u64,
    pub sha256: String,
}

#[derive(Deserialize)]
struct AdminKey {
    api_key: String,
}

impl Client {
    /// Makes the first operator key: works once, and from the node's own machine only.
    pub async fn init(&self) -> Result<Answer<String>, ClientError> {
        let answer: Answer<AdminKey> = self.json(Call::post("/admin/v1/init")).await?;
        Ok(answer.map(|admin| admin.api_key))
    }

    pub async fn cluster(&self) -> Result<Answer<ClusterView>, ClientError> {
        self.json(Call::get("/admin/v1/cluster")).await
    }

    /// Makes a token with which one node may join within `ttl_s` seconds.
    pub async fn create_join_token(&self, ttl_s: u32) -> Result<Answer<JoinToken>, ClientError> {
        // A token made twice is one that expires unused.
        let call =
            Call::post("/admin/v1/join-tokens").json(&serde_json::json!({"ttl_s": ttl_s}))?;
        self.json(call.harmless()).await
    }

    /// Lets a node lead nothing and gives it nothing new; its state is `drained` when that is so.
    pub async fn drain_node(&self, node: &str) -> Result<Answer<NodeChange>, ClientError> {
        self.json(node_call(node, "drain").harmless()).await
    }

    /// Takes a drain back.
    pub async fn undrain_node(&self, node: &str) -> Result<Answer<NodeChange>, ClientError> {
        self.json(node_call(node, "undrain").harmless()).await
    }

    /// Takes a node out of the cluster; it is gone when it is not listed any more.
    pub async fn remove_node(&self, node: &str) -> Result<Answer<NodeChange>, ClientError> {
        self.json(node_call(node, "remove").harmless()).await
    }

    /// Lets the node that is asked, which must be this one, stop and begin again.
    pub async fn restart_node(&self, node: &str) -> Result<Answer<Restart>, ClientError> {
        self.json(node_call(node, "restart").idempotency_key(crate::fresh_key())).await
    }

    /// Lets a node lead a shard.
    pub async fn transfer_shard(
        &self,
        shard: &str,
        to: &str,
    ) -> Result<Answer<Transfer>, ClientError> {
        let call = Call::post("/admin/v1/shards").segment(shard).segment("transfer");
        self.json(call.json(&serde_json::json!({"to": to}))?.harmless()).await
    }

    /// What [`Self::rebalance`] would do.
    pub async fn plan_of_placement(&self) -> Result<Answer<Plan>, ClientError> {
        self.json(Call::get("/admin/v1/plan")).await
    }

    /// Evens out, whatever operators wanted to lead before.
    pub async fn rebalance(&self) -> Result<Answer<Plan>, ClientError> {
        self.json(Call::post("/admin/v1/rebalance").harmless()).await
    }

    /// Commits a marker at which every replica of `shard` takes its digest.
    pub async fn mark_digest(&self, shard: &str) -> Result<Answer<DigestMarker>, ClientError> {
        self.json(digest_call(Call::post("/admin/v1/shards"), shard).harmless()).await
    }

    /// The digest of the asked node's own replica, at a marker or as it stands.
    pub async fn digest(
        &self,
        shard: &str,
        at: Option<u64>,
    ) -> Result<Answer<Digest>, ClientError> {
        self.json(digest_call(Call::get("/admin/v1/shards"), shard).query("at", at)).await
    }
}

fn digest_call(call: Call, shard: &str) -> Call {
    call.segment(shard).segment("digest")
}

fn node_call(node: &str, verb: &'static str) -> Call {
    Call::post("/admin/v1/nodes").segment(node).segment(verb)
}
