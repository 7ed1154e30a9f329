//! Backups of the whole cluster, for operators.

use serde::{Deserialize, Serialize};

use crate::lenient::text;
use crate::{Answer, Call, Client, ClientError, List};

/// A backup that was asked for.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Begun {
    pub id: String,
    pub state: String,
}

/// A backup as it stands.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Backup {
    pub id: String,
    /// `running`, `complete`, `failed`, `cut_off` or `damaged`.
    pub state: String,
    pub started_at: String,
    #[serde(default)]
    pub finished_at: Option<String>,
    /// Why it is not complete.
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub node: Option<String>,
    #[serde(default)]
    pub release: Option<String>,
    #[serde(default)]
    pub bytes: Option<u64>,
    #[serde(default)]
    pub blobs: Option<u64>,
    #[serde(default)]
    pub groups: Vec<BackupGroup>,
}

impl Backup {
    /// Whether nothing more will become of it.
    pub fn is_over(&self) -> bool {
        self.state != "running"
    }
}

/// A group in a backup.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct BackupGroup {
    #[serde(deserialize_with = "text")]
    pub shard: String,
    /// The entry of its log that the state is of.
    pub index: u64,
    pub term: u64,
    /// Of the state.
    pub digest: String,
    pub rows: u64,
    pub bytes: u64,
    pub sha256: String,
    pub blobs: u64,
    pub blob_bytes: u64,
}

impl Client {
    /// Begins a backup. With the same key it is the same one.
    pub async fn begin_backup(&self, key: &str) -> Result<Answer<Begun>, ClientError> {
        self.json(Call::post("/admin/v1/backups").idempotency_key(key.to_owned())).await
    }

    /// The newest backups, newest first.
    pub async fn backups(&self) -> Result<Answer<List<Backup>>, ClientError> {
        self.json(Call::get("/admin/v1/backups")).await
    }

    pub async fn backup(&self, id: &str) -> Result<Answer<Backup>, ClientError> {
        self.json(Call::get("/admin/v1/backups").segment(id)).await
    }
}
