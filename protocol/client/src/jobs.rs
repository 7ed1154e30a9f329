//! Jobs: submit, follow, and read the results as pages or as a stream of lines.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::connection::Stream;
use crate::scan::Document;
use crate::{Answer, Call, Client, ClientError, List};

/// One result with all its reasons and spans stays well below.
const LINE_BYTES_MAX: usize = 4 << 20;
const NDJSON: &str = "application/x-ndjson";
const JOBS: &str = "/v1/jobs";

/// What a new job is to do.
#[derive(Debug, Clone, Serialize)]
pub struct NewJob {
    #[serde(rename = "type")]
    pub kind: String,
    pub documents: Vec<Document>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    /// RFC 3339; it does not run before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_at: Option<String>,
    /// Seconds from when it may run until it is neither run nor billed any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<JobOptions>,
}

/// How a job is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct JobOptions {
    /// Attempts that each of its tasks has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
}

impl NewJob {
    /// A job that scans `documents`.
    pub fn scan(documents: Vec<Document>) -> NewJob {
        let (priority, run_at, deadline_s, options) = (None, None, None, None);
        NewJob { kind: "scan".to_owned(), documents, priority, run_at, deadline_s, options }
    }
}

/// Which jobs are listed. What is `None` or empty is no condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// `queued`, `running`, `paused`, `completed`, `failed`, `cancelled`.
    pub statuses: Vec<String>,
    pub priority: Option<String>,
    /// RFC 3339: submitted then or later.
    pub since: Option<String>,
    /// RFC 3339: submitted before.
    pub until: Option<String>,
    /// Text in what is told of the failure; case does not count.
    pub error: Option<String>,
}

/// Why a job, or a part of it, failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Failure {
    /// `worker_lost`, `task_failed` or `deadline_exceeded`.
    pub code: String,
    #[serde(default)]
    pub detail: String,
}

/// What waits of the tenant's jobs, and for how long tasks waited of late.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Queue {
    pub documents_waiting: u64,
    pub tasks_waiting: u64,
    pub tasks_running: u64,
    pub weight: u64,
    pub max_running: Option<u64>,
    pub max_backlog: Option<u64>,
    pub wait_p50_ms: Option<u64>,
    pub wait_p95_ms: Option<u64>,
}

/// The answer to a submission.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Submitted {
    pub id: String,
    pub status: String,
    #[serde(default)]
    pub status_url: String,
    #[serde(default)]
    pub documents: u64,
    #[serde(default)]
    pub tasks: u64,
    /// The job whose failed part this one does again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
}

/// A job as it stands.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Job {
    pub id: String,
    #[serde(rename = "type", default)]
    pub kind: String,
    pub status: String,
    pub progress: f64,
    pub counts: Counts,
    #[serde(default)]
    pub priority: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Why it failed, or what failed of it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_as: Option<String>,
    #[serde(deserialize_with = "crate::lenient::text")]
    pub shard: String,
    #[serde(default)]
    pub created_at: String,
    #[serde(default)]
    pub updated_at: String,
}

impl Job {
    /// The status is `completed`, `failed` or `cancelled` and will not change.
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "cancelled")
    }
}

/// How many documents of a job are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Counts {
    pub total: u64,
    pub done: u64,
    pub failed: u64,
    pub cached: u64,
}

/// The one result in effect of one document of a job.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct JobResult {
    pub doc_id: String,
    pub status: String,
    #[serde(default)]
    pub risk: u8,
    #[serde(default)]
    pub quarantine: bool,
    #[serde(default)]
    pub attempt: u64,
    #[serde(default)]
    pub cached: bool,
    #[serde(default)]
    pub error: Option<Value>,
    /// Reasons, signals, spans, model and the rest.
    #[serde(flatten)]
    pub more: serde_json::Map<String, Value>,
}

impl Client {
    /// Submits a job. `idempotency_key` makes it safe to repeat.
    pub async fn submit_job(
        &self,
        job: &NewJob,
        idempotency_key: &str,
    ) -> Result<Answer<Submitted>, ClientError> {
        self.json(Call::post(JOBS).json(job)?.idempotency_key(idempotency_key)).await
    }

    pub async fn jobs(
        &self,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Answer<List<Job>>, ClientError> {
        self.json(Call::get(JOBS).query("limit", limit).query("cursor", cursor)).await
    }

    /// Jobs for which the filter holds. A page may be filled in part while `next_cursor` goes on.
    pub async fn find_jobs(
        &self,
        filter: &JobFilter,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Answer<List<Job>>, ClientError> {
        let statuses = Some(filter.statuses.join(",")).filter(|statuses| !statuses.is_empty());
        let call = Call::get(JOBS).query("limit", limit).query("cursor", cursor);
        let call = call.query("status", statuses).query("priority", filter.priority.as_ref());
        let call = call.query("since", filter.since.as_ref()).query("until", filter.until.as_ref());
        self.json(call.query("error", filter.error.as_ref())).await
    }

    /// Ends a job for ever. Doing it twice changes nothing.
    pub async fn cancel_job(
        &self,
        id: &str,
        idempotency_key: &str,
    ) -> Result<Answer<Job>, ClientError> {
        self.verb(id, "cancel", idempotency_key).await
    }

    /// Begins nothing more of a job until it is resumed.
    pub async fn pause_job(
        &self,
        id: &str,
        idempotency_key: &str,
    ) -> Result<Answer<Job>, ClientError> {
        self.verb(id, "pause", idempotency_key).await
    }

    /// Goes on with a paused job.
    pub async fn resume_job(
        &self,
        id: &str,
        idempotency_key: &str,
    ) -> Result<Answer<Job>, ClientError> {
        self.verb(id, "resume", idempotency_key).await
    }

    /// Does the failed part of a job again, as a job of its own.
    pub async fn retry_job(
        &self,
        id: &str,
        idempotency_key: &str,
    ) -> Result<Answer<Submitted>, ClientError> {
        self.verb(id, "retry", idempotency_key).await
    }

    async fn verb<T: serde::de::DeserializeOwned>(
        &self,
        id: &str,
        verb: &str,
        idempotency_key: &str,
    ) -> Result<Answer<T>, ClientError> {
        let call = Call::post(JOBS).segment(id).segment(verb);
        self.json(call.idempotency_key(idempotency_key)).await
    }

    /// What waits of the tenant's jobs.
    pub async fn queue(&self) -> Result<Answer<Queue>, ClientError> {
        self.json(Call::get("/v1/queue")).await
    }

    /// The job; [`Meta::owner`](crate::Meta) names the leader of its shard.
    pub async fn job(&self, id: &str) -> Result<Answer<Job>, ClientError> {
        self.json(Call::get(JOBS).segment(id)).await
    }

    /// One page of results in the order submitted.
    pub async fn job_results_page(
        &self,
        id: &str,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Answer<List<JobResult>>, ClientError> {
        let call = Call::get(JOBS).segment(id).segment("results");
        self.json(call.query("limit", limit).query("cursor", cursor)).await
    }

    /// All results in the order submitted, as they arrive.
    pub async fn job_results_stream(&self, id: &str) -> Result<Answer<Results>, ClientError> {
        let call = Call::get(JOBS).segment(id).segment("results").accept(NDJSON);
        Ok(self.open(call).await?.map(|stream| Results { stream, unread: BytesMut::new() }))
    }

    /// All results in the order submitted, at once.
    pub async fn job_results(&self, id: &str) -> Result<Answer<Vec<JobResult>>, ClientError> {
        let call = Call::get(JOBS).segment(id).segment("results").accept(NDJSON);
        let answer = self.fetch(call).await?;
        let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let results = lines.map(parse).collect::<Result<Vec<_>, _>>()?;
        Ok(answer.map(|_| results))
    }
}

/// Results as they arrive, one per line.
#[derive(Debug)]
pub struct Results {
    stream: Stream,
    unread: BytesMut,
}

impl Results {
    /// The next result, or `None` after the last.
    pub async fn next(&mut self) -> Result<Option<JobResult>, ClientError> {
        self.next_line().await?.map(|line| parse(&line)).transpose()
    }

    /// The next line as it came, without its newline.
    pub async fn next_line(&mut self) -> Result<Option<Bytes>, ClientError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(searched + at).freeze();
                self.unread.advance(1);
                searched = 0;
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            searched = self.unread.len();
            if searched > LINE_BYTES_MAX {
                return Err(ClientError::TooLarge { what: "a result", limit: LINE_BYTES_MAX });
            }
            match self.stream.chunk().await? {
                Some(chunk) => self.unread.extend_from_slice(&chunk),
                None if self.unread.is_empty() => return Ok(None),
                None => return Ok(Some(self.unread.split().freeze())),
            }
        }
    }
}

fn parse(line: &[u8]) -> Result<JobResult, ClientError> {
    serde_json::from_slice(line)
        .map_err(|source| ClientError::Decode { what: "a result".to_owned(), source })
}
