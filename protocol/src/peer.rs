//! What nodes ask of each other about tenants and work. Travels inside the gateway's envelope.

use serde::{Deserialize, Serialize};

use crate::idempotency::Once;
use crate::jobs::{Assignment, Job, TaskResult, Worker};
use crate::keys::{Key, Scopes};
use crate::limits::{self, Policy};
use crate::tenants::{Status, Tenant};
use crate::usage::{Period, Report};
use crate::{Applied, Command, Digest, JobId, KeyId, Refusal, TenantId, Time};

/// A question to the owner of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Who holds this key? Linearizable: after a revocation was acknowledged, nobody.
    Authenticate {
        tenant: TenantId,
        digest: Digest,
    },
    /// Do this. `spend` names the key whose request it is, when it counts against the rates.
    Propose {
        command: Box<Command>,
        once: Option<Once>,
        spend: Option<(TenantId, KeyId)>,
    },
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
    Limits {
        tenant: TenantId,
        key: KeyId,
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
}

/// An answer of an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// No such key; the same for every reason.
    Unknown,
    Caller(Box<Caller>),
    Applied(Box<Applied>),
    Refused(Refusal),
    Tenant(Box<Tenant>, Status),
    Tenants(Vec<(Tenant, Status)>),
    Key(Box<Key>),
    Keys(Vec<Key>),
    Usage(Report),
    Limits(Box<LimitsView>),
    Job(Box<Job>),
    Jobs(Vec<Job>),
    Noted,
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

/// Requests that a node may admit by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slab {
    /// More than before.
    pub granted: u64,
    /// What the node had left counts no more.
    pub voided: bool,
    /// Requests that the tightest policy has left beside all slabs.
    pub room: u64,
    /// The tightest policy; `None` when nothing limits.
    pub policy: Option<Policy>,
    /// Why nothing was granted.
    pub denied: Option<Box<Refusal>>,
    /// Milliseconds until the window ends that it was granted for.
    pub window_ms: Option<u64>,
}

/// Work for a node's inference, sent by a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    Run(Assignment),
}
