//! Jobs: documents cut into tasks, leased to nodes, with exactly one result in effect for each.

use serde::{Deserialize, Serialize};

use crate::limits::Payer;
use crate::models::ModelId;
use crate::{Digest, JobId, NodeId, TenantId, Time};

mod events;
mod life;

pub use events::{Event, Followed, HOLDS_MAX, Kind, TOLD_MAX};
pub use life::{CAUSE_CHARS_MAX, Cause, Fault, Life, Setback, Wishes, backoff_ms};

/// Documents in one task, at most.
pub const TASK_DOCUMENTS_MAX: u32 = 256;
/// Documents in one job, whatever the plan says.
pub const JOB_DOCUMENTS_MAX: u32 = 10_000;
/// A task that was leased this often without a result fails its job.
pub const TASK_ATTEMPTS_MAX: u32 = 10;

/// Bytes in the blob store, named by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    pub sha256: Digest,
    pub bytes: u64,
}

/// How urgent a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
    Urgent,
}

impl Priority {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }

    /// The priority of a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Low, Self::Normal, Self::High, Self::Urgent]
            .into_iter()
            .find(|priority| priority.name() == name)
    }
}

/// Where a job stands. Three are terminal and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    Queued,
    Running,
    Completed,
    /// A part of it has no result and gets none: its dead letters.
    Failed,
    /// Nothing of it is begun until it is resumed; what runs comes to its end.
    Paused,
    Cancelled,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Paused, Self::Completed, Self::Failed, Self::Cancelled];

    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Documents by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub total: u32,
    pub done: u32,
    pub failed: u32,
    pub cached: u32,
}

/// A part of a job as it is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The documents.
    pub input: Blob,
    pub documents: u32,
}

/// Who runs a task: a node in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Worker {
    pub node: NodeId,
    pub incarnation: u64,
}

impl Worker {
    /// Before every other in order.
    pub const LEAST: Self = Self { node: NodeId(0), incarnation: 0 };
}

/// What a finished task says of its documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskResult {
    /// One record per document, in order.
    pub output: Blob,
    pub done: u32,
    pub failed: u32,
    pub cached: u32,
    /// Words of the documents that are done.
    pub tokens: u64,
}

impl TaskResult {
    /// Of no document yet; there is no output either until one is stored.
    #[must_use]
    pub fn none(output: Blob) -> Self {
        Self { output, done: 0, failed: 0, cached: 0, tokens: 0 }
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    Queued,
    Leased(Worker),
    Done(TaskResult),
    /// No attempt brought a result, or the deadline came first.
    Failed,
}

/// A task as its shard keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub input: Blob,
    pub documents: u32,
    /// Leases given so far; the number of the newest is its fencing number.
    pub attempt: u32,
    pub state: TaskState,
}

/// A job as its shard keeps it: O(tasks), never O(documents).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub life: Life,
    pub status: Status,
    /// Price of a document when the job was submitted, in millionths of a dollar.
    pub price_micros: u64,
    /// Price of one that is answered from the cache.
    pub cached_price_micros: u64,
    /// Whether a tenant's key submitted it: what an operator submits is not metered.
    pub metered: bool,
    pub created_at: Time,
    pub updated_at: Time,
    pub counts: Counts,
    pub tasks: Vec<Task>,
    /// What its followers are told, the first under number 1.
    pub events: Vec<Event>,
}

impl Job {
    /// Share of documents that are done or failed, 0..=1.
    #[must_use]
    pub fn progress(&self) -> f64 {
        match self.counts.total {
            0 => 1.0,
            total => f64::from(self.counts.done + self.counts.failed) / f64::from(total),
        }
    }

    /// How urgent it is.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.life.wishes.priority
    }

    /// When it might first have run.
    #[must_use]
    pub fn ready_at(&self) -> Time {
        self.life.wishes.run_at.map_or(self.created_at, |run_at| run_at.max(self.created_at))
    }

    /// The same without what only its shard needs, as lists and answers have it.
    #[must_use]
    pub fn without_tasks(&self) -> Self {
        let life = Life { setbacks: std::collections::BTreeMap::new(), ..self.life.clone() };
        Self {
            id: self.id,
            life,
            status: self.status,
            price_micros: self.price_micros,
            cached_price_micros: self.cached_price_micros,
            metered: self.metered,
            created_at: self.created_at,
            updated_at: self.updated_at,
            counts: self.counts,
            tasks: Vec::new(),
            events: Vec::new(),
        }
    }
}

/// What is asked of jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The inputs are already blobs on a quorum of the shard's replicas.
    Submit {
        id: JobId,
        priority: Priority,
        tasks: Vec<TaskSpec>,
        payer: Payer,
    },
    /// Gives a task to a worker under the next fencing number, whoever had it before.
    Lease {
        job: JobId,
        task: u32,
        worker: Worker,
    },
    /// The result of an attempt; refused unless it is the newest.
    Complete {
        job: JobId,
        task: u32,
        attempt: u32,
        result: TaskResult,
    },
    /// [`Command::Submit`] with wishes.
    Enqueue {
        id: JobId,
        wishes: Wishes,
        tasks: Vec<TaskSpec>,
        payer: Payer,
    },
    /// An attempt brought no result: the task waits and is leased again, or is a dead letter.
    Fail {
        job: JobId,
        task: u32,
        attempt: u32,
        cause: Cause,
    },
    /// The deadline has passed: what has no result gets none.
    Expire {
        job: JobId,
    },
    /// Ends the job; what has no result gets none and is not billed.
    Cancel {
        job: JobId,
    },
    Pause {
        job: JobId,
    },
    Resume {
        job: JobId,
    },
    /// Does what failed of a job again, as another job. Units were spent when it was submitted first.
    Retry {
        job: JobId,
        again: Again,
        payer: Payer,
    },
}

/// The failed part of a job, to be done again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// The new job.
    pub id: JobId,
    /// Documents that have no result; their blobs are on a quorum already.
    pub tasks: Vec<TaskSpec>,
}

/// One leased task, all that a worker needs to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub tenant: TenantId,
    pub job: JobId,
    pub task: u32,
    pub attempt: u32,
    pub input: Blob,
    pub documents: u32,
    /// Whether its tenant shares cached results.
    pub shares_cache: bool,
    /// `None` is the built-in one.
    pub model: Option<ModelId>,
}
