//! Jobs and their results.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::scan::{Provenance, Verdict};

/// Documents by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    pub total: u32,
    pub done: u32,
    pub failed: u32,
    pub cached: u32,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    pub id: String,
    /// Always `scan`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `queued`, `running`, `completed` or `failed`; the last two never change.
    pub status: String,
    /// 0..=1, never falls.
    pub progress: f64,
    pub counts: Counts,
    pub priority: String,
    /// The shard that decides.
    pub shard: u32,
    pub created_at: String,
    pub updated_at: String,
}

/// Answer of `POST /v1/jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Submitted {
    pub id: String,
    pub status: String,
    pub status_url: String,
    pub documents: u32,
    pub tasks: u32,
}

/// One document's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Record {
    pub doc_id: String,
    /// `done` or `failed`.
    pub status: String,
    /// Absent when the document failed.
    #[serde(flatten)]
    pub verdict: Option<Verdict>,
    /// The attempt of the task that made it.
    pub attempt: u32,
    #[serde(flatten)]
    pub provenance: Provenance,
    /// Why the document failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
