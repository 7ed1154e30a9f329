//! Jobs and their results.

use std::sync::Arc;

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};
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
    /// `queued`, `running`, `paused`, `completed`, `failed` or `cancelled`; the last three never
    /// change.
    pub status: String,
    /// 0..=1, never falls.
    pub progress: f64,
    pub counts: Counts,
    pub priority: String,
    /// It does not run before.
    #[serde(default)]
    pub run_at: Option<String>,
    /// It is neither run nor billed after.
    #[serde(default)]
    pub deadline: Option<String>,
    /// Attempts that each of its tasks has.
    pub max_attempts: u32,
    /// Why it failed, or what failed of it last.
    #[serde(default)]
    pub error: Option<Failure>,
    /// The job whose failed part this one does again.
    #[serde(default)]
    pub retry_of: Option<String>,
    /// The job that does the failed part of this one again.
    #[serde(default)]
    pub retried_as: Option<String>,
    /// The shard that decides.
    pub shard: u32,
    pub created_at: String,
    pub updated_at: String,
}

/// Data of an event of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// As it then stood.
    #[serde(flatten)]
    pub job: Job,
    /// The number of the event, from 1; also in `id`.
    pub seq: u64,
}

/// Why a job, or a part of it, failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// `worker_lost`, `task_failed` or `deadline_exceeded`.
    pub code: String,
    pub detail: String,
}

/// Answer of `GET /v1/queue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    /// Documents without a result.
    pub documents_waiting: u64,
    /// Tasks that may run and wait for a node.
    pub tasks_waiting: u64,
    pub tasks_running: u64,
    /// Share of the nodes' time beside other tenants of the shard.
    pub weight: u64,
    /// Tasks that run at the same time at most; `null` is unlimited.
    pub max_running: Option<u64>,
    /// Documents that may wait; `null` is unlimited.
    pub max_backlog: Option<u64>,
    /// Of the newest 128 tasks: from when they might have run until they were given to a node. `null`
    /// when this owner has given none.
    pub wait_p50_ms: Option<u64>,
    pub wait_p95_ms: Option<u64>,
    /// The shard that decides.
    pub shard: u32,
}

/// Answer of `POST /v1/jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Submitted {
    pub id: String,
    pub status: String,
    pub status_url: String,
    pub documents: u32,
    pub tasks: u32,
    /// The job whose failed part this one does again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
}

/// A label of a classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Label {
    /// Shared by all results of one model.
    #[schema(value_type = String)]
    pub label: Arc<str>,
    pub score: f32,
}

/// One document's result.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
pub struct Record {
    pub doc_id: String,
    /// `done` or `failed`.
    pub status: String,
    /// Absent when the document failed.
    #[serde(flatten)]
    #[schema(value_type = Option<Verdict>)]
    pub verdict: Option<Arc<Verdict>>,
    /// What a classifier says, in the order of its labels; absent where it says nothing.
    #[serde(default)]
    pub labels: Option<Vec<Label>>,
    /// What an encoder says; absent where it says nothing.
    #[serde(default)]
    pub embedding: Option<Vec<f32>>,
    /// The attempt of the task that made it.
    pub attempt: u32,
    #[serde(flatten)]
    pub provenance: Provenance,
    /// Why the document failed; absent when it did not.
    #[serde(default)]
    pub error: Option<String>,
}

/// The fields of what is flattened are written here; see [`Verdict`].
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { doc_id, status, verdict, labels, embedding, attempt, provenance, error } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("doc_id", doc_id)?;
        map.serialize_entry("status", status)?;
        if let Some(verdict) = verdict {
            verdict.write(&mut map)?;
        }
        if let Some(labels) = labels {
            map.serialize_entry("labels", labels)?;
        }
        if let Some(embedding) = embedding {
            map.serialize_entry("embedding", embedding)?;
        }
        map.serialize_entry("attempt", attempt)?;
        provenance.write(&mut map)?;
        if let Some(error) = error {
            map.serialize_entry("error", error)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::scan::tests::{PROVENANCE, VERDICT, provenance, verdict};

    #[test]
    fn records_are_written_as_they_are_read() {
        let done = Record {
            doc_id: "d".to_owned(),
            status: "done".to_owned(),
            verdict: Some(verdict()),
            labels: None,
            embedding: None,
            attempt: 2,
            provenance: provenance(),
            error: None,
        };
        let label = Label { label: "l".into(), score: 0.5 };
        let failed = Record {
            verdict: None,
            labels: Some(vec![label]),
            embedding: Some(vec![1.5]),
            error: Some("why".to_owned()),
            ..done.clone()
        };
        let head = r#"{"doc_id":"d","status":"done","#;
        let texts = [
            format!(r#"{head}{VERDICT},"attempt":2,{PROVENANCE}}}"#),
            format!(
                r#"{head}"labels":[{{"label":"l","score":0.5}}],"embedding":[1.5],"attempt":2,{PROVENANCE},"error":"why"}}"#
            ),
        ];
        for (record, text) in [done, failed].into_iter().zip(texts) {
            assert_eq!(serde_json::to_string(&record).unwrap(), text);
            assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        }
    }
}
