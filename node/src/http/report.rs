//! What a node says of itself at `/readyz?verbose`: figures for those who look after it. No secrets,
//! nothing of tenants.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// How a node is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Report {
    pub version: &'static str,
    /// The version of the wire that the cluster speaks, as far as it is known, and those that this
    /// build speaks.
    pub wire: Spoken,
    /// Its state in the cluster map.
    pub state: Option<String>,
    pub settings: Settings,
    /// Seconds until what waits for its inference slots is done.
    pub pressure: f64,
    /// Documents that wait for its slots or hold them.
    pub documents: u64,
    /// Peers that answer, of those that the map names.
    pub peers_up: usize,
    pub peers: usize,
    /// When the certificate ends that it shows to other nodes.
    pub certificate_expires_at: String,
    /// By how many milliseconds the clocks of others are ahead of its own.
    pub clocks_ahead_ms: BTreeMap<String, i64>,
    /// What was found damaged since the process started, and is made anew from its peers.
    pub damage: Vec<String>,
    pub groups: Vec<GroupReport>,
}

/// Versions of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Spoken {
    pub active: Option<u16>,
    pub min: u16,
    pub max: u16,
}

/// How it was set up.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Settings {
    #[serde(rename = "inference.slots")]
    pub slots: usize,
    #[serde(rename = "inference.delay_ms")]
    pub delay_ms: u64,
    #[serde(rename = "inference.engine")]
    pub engine: String,
    #[serde(rename = "inference.model")]
    pub model: String,
    #[serde(rename = "inference.model_sha256")]
    pub model_sha256: String,
    /// Seconds between two checkpoints of a group, if anything changed.
    #[serde(rename = "storage.checkpoint_s")]
    pub checkpoint_s: u64,
}

/// How a replica on this node is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct GroupReport {
    /// 0 is the meta group.
    pub group: u32,
    pub replica_id: u64,
    pub leader: Option<String>,
    /// Whether this node owns it: it leads, and the ownership is open.
    pub open: bool,
    /// Number of the ownership in force.
    pub epoch: u64,
    pub applied: u64,
    /// Entries that are committed and not applied here; where this node leads, the most that a
    /// follower misses.
    pub lag: u64,
    /// The checkpoint that this process wrote last.
    pub checkpoint_index: Option<u64>,
    pub checkpoint_age_s: Option<u64>,
}
