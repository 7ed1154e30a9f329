//! Backups as operators see them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `POST /admin/v1/backups`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Begun {
    pub id: String,
    /// `running`.
    pub state: String,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backup {
    pub id: String,
    /// `running`, `complete`, `failed`; `cut_off` when its node died, `damaged` when what describes it
    /// cannot be read. Only a complete one can be restored.
    pub state: String,
    /// RFC 3339, by the wall clock of the node that began it.
    pub started_at: String,
    pub finished_at: Option<String>,
    /// Why it is not complete.
    pub reason: Option<String>,
    /// The node that made it.
    pub node: Option<String>,
    pub release: Option<String>,
    /// Files and blobs.
    pub bytes: Option<u64>,
    pub blobs: Option<u64>,
    /// Where in its log each group stands in it; of a complete one.
    pub groups: Vec<BackupGroup>,
}

/// A group in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupGroup {
    /// 0 is the meta group.
    pub shard: u32,
    /// The entry of its log that the state is of.
    pub index: u64,
    pub term: u64,
    /// Digest of the state, as `GET /admin/v1/shards/{id}/digest` gives it.
    pub digest: String,
    pub rows: u64,
    pub bytes: u64,
    /// Of the file.
    pub sha256: String,
    pub blobs: u64,
    pub blob_bytes: u64,
}
