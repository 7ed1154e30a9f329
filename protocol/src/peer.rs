//! What nodes ask of each other about tenants and work. Travels inside the gateway's envelope.

use serde::{Deserialize, Serialize};

use crate::idempotency::Once;
use crate::jobs::{Assignment, Job, TaskResult, Worker};
use crate::keys::{Key, Scopes};
use crate::plans::Limits;
use crate::tenants::{Status, Tenant};
use crate::usage::{Period, Report};
use crate::{Applied, Command, Digest, JobId, KeyId, TenantId};

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
    Refused(crate::Refusal),
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

/// The limits of a tenant and what is left of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsView {
    pub limits: Limits,
    /// Tokens in the tenant's bucket.
    pub rate_left: Option<u64>,
    /// Tokens in the key's bucket.
    pub key_rate_left: Option<u64>,
    pub report: Report,
}

/// Work for a node's inference, sent by a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    Run(Assignment),
}
