//! What nodes ask of each other about tenants and work. Travels inside the gateway's envelope.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit::{self, Note};
use crate::idempotency::Once;
use crate::jobs::{self, Assignment, Cause, Followed, Job, Priority, TaskResult, Worker};
use crate::keys::{Key, Scopes};
use crate::limits::{self, Policies, Policy};
use crate::owner::Epoch;
use crate::tenants::{Status, Tenant};
use crate::usage::{Period, Report};
use crate::{Applied, Command, Digest, GroupId, JobId, KeyId, Refusal, TenantId, Time};

/// A question to the owner of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// A node wants to hold views and slabs of the group, or to go on holding them. Linearizable.
    Lease {
        worker: Worker,
        /// Counts the node's wishes: of those for a new lease, an older one is refused.
        wish: u64,
        held: Option<LeaseId>,
        /// Numbers of requests that the node still runs, when it holds nothing else.
        running: Vec<u64>,
    },
    /// The node holds nothing of the group any more.
    Close {
        worker: Worker,
        lease: LeaseId,
    },
    /// Who holds this key? True until the lease is over or the owner calls it back.
    View {
        worker: Worker,
        lease: LeaseId,
        tenant: TenantId,
        digest: Digest,
    },
    /// A node wants requests to admit by itself.
    Slab {
        lease: LeaseId,
        tenant: TenantId,
        command: limits::Command,
    },
    /// Do this.
    Propose {
        command: Box<Command>,
        once: Option<Once>,
        /// For the tenant's audit.
        note: Option<Box<Note>>,
    },
    /// Records of a tenant's audit beyond a number.
    Audit(audit::Wanted),
    Tenant(TenantId),
    /// Tenants of this shard in order of id, beyond `after`.
    Tenants {
        after: Option<TenantId>,
        limit: u32,
        ascending: bool,
    },
    Key(TenantId, KeyId),
    Keys {
        tenant: TenantId,
        after: Option<KeyId>,
        limit: u32,
    },
    Usage {
        tenant: TenantId,
        period: Period,
    },
    /// Without a key, those of the tenant alone.
    Limits {
        tenant: TenantId,
        key: Option<KeyId>,
    },
    Job(TenantId, JobId),
    Jobs {
        tenant: TenantId,
        after: Option<JobId>,
        limit: u32,
        ascending: bool,
    },
    /// A worker has finished a task.
    Finished {
        tenant: TenantId,
        job: JobId,
        task: u32,
        attempt: u32,
        result: TaskResult,
    },
    /// A worker still runs these tasks.
    Running {
        worker: Worker,
        tasks: Vec<(TenantId, JobId, u32, u32)>,
    },
    /// A worker has room for so many tasks.
    Take {
        worker: Worker,
        tasks: u32,
    },
    /// A worker could not run a task.
    Failed {
        tenant: TenantId,
        job: JobId,
        task: u32,
        attempt: u32,
        cause: Cause,
    },
    /// Jobs of a tenant for which the filter holds, in order of id, beyond `after`.
    FindJobs {
        tenant: TenantId,
        after: Option<JobId>,
        limit: u32,
        ascending: bool,
        filter: Box<Filter>,
    },
    /// What waits of a tenant's jobs, and for how long.
    Queue(TenantId),
    /// What is told next of a job to who has so many events of it.
    Follow(TenantId, JobId, u32),
}

impl LimitsView {
    /// The limit that refuses first: of these policies the one with the least left. Those in shadow
    /// mode refuse nothing.
    #[must_use]
    pub fn tightest(&self, policies: Policies) -> Option<&LimitState> {
        let counts = |state: &&LimitState| policies.has(state.policy) && !state.shadow;
        self.states.iter().filter(counts).min_by_key(|state| state.remaining)
    }
}

impl Ask {
    /// A command that nobody promised to send only once.
    #[must_use]
    pub fn propose(command: Box<Command>) -> Self {
        Self::Propose { command, once: None, note: None }
    }
}

/// An answer of an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// No such key; the same for every reason.
    Unknown,
    Lease {
        id: LeaseId,
        /// What was held before counts no more.
        fresh: bool,
    },
    /// The lease is not in force.
    NoLease,
    View(Box<View>),
    Applied(Box<Applied>),
    /// The same for a request that is counted, with what its limits have left.
    Counted(Box<Applied>, Box<LimitsView>),
    Refused(Refusal),
    Tenant(Box<Tenant>, Status),
    Tenants(Vec<(Tenant, Status)>),
    Key(Box<Key>),
    Keys(Vec<Key>),
    Usage(Report),
    Limits(Box<LimitsView>),
    Slab(Slab),
    Audit(audit::Page),
    Job(Box<Job>),
    Followed(Box<Followed>),
    Jobs(Vec<Job>),
    Noted,
    /// Leased to the worker that asked, and what waits beside them.
    Tasks(Vec<Assignment>, Waiting),
    /// Nobody waits for these any more: tenant, job, task, attempt.
    Stop(Vec<(TenantId, JobId, u32, u32)>),
    /// Jobs that were found, and where to go on looking.
    Found {
        jobs: Vec<Job>,
        next: Option<JobId>,
    },
    Queue(QueueView),
}

/// Which jobs are wanted. What is `None` or empty is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    pub statuses: Vec<jobs::Status>,
    pub priority: Option<Priority>,
    /// Submitted then or later.
    pub since: Option<Time>,
    /// Submitted before.
    pub until: Option<Time>,
    /// In what is told of the failure; case does not count.
    pub error: Option<String>,
}

impl Filter {
    /// Whether a job is wanted.
    #[must_use]
    pub fn wants(&self, job: &Job) -> bool {
        let error = |text: &String| {
            let told = job.life.cause.as_ref().map(|cause| cause.to_string().to_lowercase());
            told.is_some_and(|told| told.contains(&text.to_lowercase()))
        };
        (self.statuses.is_empty() || self.statuses.contains(&job.status))
            && self.priority.is_none_or(|priority| job.priority() == priority)
            && self.since.is_none_or(|since| job.created_at >= since)
            && self.until.is_none_or(|until| job.created_at < until)
            && self.error.as_ref().is_none_or(error)
    }
}

/// What waits of a tenant's jobs, as their owner sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    /// Documents without a result.
    pub documents: u64,
    /// Tasks that may run and wait for a node.
    pub tasks: u64,
    /// Tasks that run.
    pub running: u64,
    pub weight: u64,
    pub max_running: Option<u64>,
    pub max_backlog: Option<u64>,
    /// Milliseconds that tasks waited until they were leased first; of the newest of them.
    pub wait_p50_ms: Option<u64>,
    pub wait_p95_ms: Option<u64>,
}

/// What an owner says of the holder of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub tenant: Tenant,
    pub status: Status,
    pub key: KeyId,
    pub key_name: String,
    pub key_prefix: String,
    pub scopes: Scopes,
}

/// The limits of a tenant and of one of its keys, and what is left of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsView {
    /// Those with a limit.
    pub states: Vec<LimitState>,
    /// Shard time that they are true for.
    pub at: Time,
}

/// One limit and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitState {
    pub policy: Policy,
    pub scope: limits::Scope,
    /// Requests per second of a rate; else the most that the window holds. Money in cents.
    pub limit: u64,
    /// What the bucket of a rate holds.
    pub burst: Option<u64>,
    /// Length of the window, where it has a fixed one.
    pub window_s: Option<u64>,
    pub used: u64,
    /// Held by nodes, or for work that is not done.
    pub reserved: u64,
    pub remaining: u64,
    /// Milliseconds until nothing is used any more, if nothing more is spent.
    pub reset_ms: u64,
    /// Counts and never refuses.
    pub shadow: bool,
}

/// A lease of one ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseId {
    pub epoch: Epoch,
    pub number: u64,
}

/// What a node may know of a key while its lease is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub caller: Caller,
    pub admission: Admission,
    /// The limits of the tenant and the key, as they stood.
    pub limits: Vec<LimitState>,
    /// Milliseconds for which it holds at most: a trial or a key ends then.
    pub ends_ms: Option<u64>,
}

/// How requests of a key are admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    /// Nothing limits them.
    Unlimited,
    /// By the node, out of slabs.
    Slabs,
    /// Each by the owner: the limits are too small to be divided.
    Owner,
}

/// What an owner calls back from nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// `None` is every tenant of the group.
    pub tenant: Option<TenantId>,
}

/// Requests that a node may admit by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slab {
    /// More than before.
    pub granted: u64,
    /// What the node had left counts no more.
    pub voided: bool,
    /// Requests that the tightest policy has left beside all slabs.
    pub room: u64,
    /// The tightest policy after the grant; `None` when nothing limits.
    pub tight: Option<LimitState>,
    /// Why nothing was granted.
    pub denied: Option<Box<Refusal>>,
    /// Milliseconds until the window ends that it was granted for.
    pub window_ms: Option<u64>,
}

/// Tasks of a shard that nobody runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub tasks: u32,
    pub documents: u64,
    /// The weights of the tenants that they are of, added up.
    pub weight: u64,
}

/// What waits at the shards that a node owns; those where nothing waits are not named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    pub shards: BTreeMap<GroupId, Waiting>,
}
