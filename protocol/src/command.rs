//! Everything that is replicated: entries of proposals, and what comes of them.

use serde::{Deserialize, Serialize};

use crate::audit::Note;
use crate::codec::{self, CodecError};
use crate::idempotency::Once;
use crate::jobs::Worker;
use crate::keys::{Key, Scope};
use crate::limits::Policy;
use crate::nodes::{Node, State};
use crate::owner::{Epoch, OpenOwner, Owner};
use crate::peer::{LimitsView, Slab};
use crate::plans::Plan;
use crate::tenants::Tenant;
use crate::usage::Cached;
use crate::versions::Wire;
use crate::{
    GroupId, JobId, KeyId, NodeId, ReplicaId, Stamp, TenantId, Time, audit, jobs, keys, limits,
    models, nodes, tenants, usage,
};

/// Commands in one entry, at most.
pub const PROPOSALS_MAX: usize = 256;
/// Bytes of one entry, about; a single larger command still travels alone.
pub const ENTRY_BYTES_MAX: usize = 256 * 1024;

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The ownership under which the proposals were made.
    pub epoch: Epoch,
    pub proposals: Vec<Proposal>,
}

/// A command with the moment it was made at, by the owner's clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub at: Stamp,
    pub once: Option<Once>,
    pub command: Command,
    /// For the tenant's audit, in the same entry.
    pub note: Option<Box<Note>>,
}

impl Proposal {
    /// What it is in an entry.
    pub fn encode(&self) -> Result<Encoded, CodecError> {
        Encoded::of(self.at, self.once.as_ref(), &self.command, self.note.as_deref())
    }

    /// A command that nobody promised to send only once.
    #[must_use]
    pub fn new(at: Stamp, command: Command) -> Self {
        Self { at, once: None, command, note: None }
    }
}

/// A proposal as an entry holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded(Vec<u8>);

impl Encoded {
    /// The proposal of these parts.
    pub fn of(
        at: Stamp,
        once: Option<&Once>,
        command: &Command,
        note: Option<&Note>,
    ) -> Result<Self, CodecError> {
        codec::encode_part(&(at, once, command, note)).map(Self)
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Entry {
    /// The frame of an entry of these proposals.
    pub fn encode(epoch: Epoch, proposals: &[Encoded]) -> Result<Vec<u8>, CodecError> {
        codec::encode_list(&epoch, proposals)
    }
}

/// What is asked. A variant, once released, is never reordered, renamed or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    OpenOwner(OpenOwner),
    /// Nothing changes; the digest of the state is taken here.
    Marker,
    Tenant(TenantId, tenants::Command),
    Key(TenantId, keys::Command),
    Usage(TenantId, usage::Command),
    Job(TenantId, jobs::Command),
    Node(nodes::Command),
    Limits(TenantId, limits::Command),
    /// A plan has a new version: its tenants in this group are on it from now on.
    Plan(Box<Plan>),
    Audit(TenantId, audit::Command),
    /// What a node held of any tenant's limits is lost: its lease is over.
    Lapse {
        worker: Worker,
        /// Numbers of the requests that it still runs, in order.
        running: Vec<u64>,
    },
    /// A node gives back what it does not use, of any tenants.
    Return {
        worker: Worker,
        slabs: Vec<limits::Returned>,
    },
}

impl Command {
    /// The tenant that a command concerns, if it is one.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        match self {
            Self::Tenant(tenant, _)
            | Self::Key(tenant, _)
            | Self::Usage(tenant, _)
            | Self::Job(tenant, _)
            | Self::Limits(tenant, _)
            | Self::Audit(tenant, _) => Some(*tenant),
            Self::OpenOwner(_)
            | Self::Marker
            | Self::Node(_)
            | Self::Plan(_)
            | Self::Lapse { .. }
            | Self::Return { .. } => None,
        }
    }
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Opened(Owner),
    Marked,
    Tenant(Box<Tenant>),
    /// A tenant with the first key that was made for it.
    TenantCreated(Box<Tenant>, Box<Key>),
    TenantDeleted,
    Key(Box<Key>),
    KeyRevoked(KeyId),
    /// Admitted and metered; which documents came from the cache, so that who asks again is told the same.
    Scanned(Cached),
    Job(Box<jobs::Job>),
    Leased(jobs::Assignment),
    /// The result stands; the state of its job after it.
    Completed {
        status: jobs::Status,
        counts: jobs::Counts,
    },
    Node(Box<Node>),
    /// A node that joined, and its replica of the meta group.
    Joined {
        node: Box<Node>,
        replica: ReplicaId,
    },
    Replica(ReplicaId),
    Done,
    /// The limits after they were spent.
    Limits(Box<LimitsView>),
    /// What a node may admit by itself.
    Slab(Slab),
    Plan(Box<Plan>),
    Model(Box<models::Model>),
    /// A join token is good until then.
    Token(Time),
    /// An attempt failed, and what becomes of its task.
    SetBack {
        /// `None`: it is a dead letter.
        not_before: Option<Time>,
        status: jobs::Status,
        counts: jobs::Counts,
    },
    /// Calls that have an operator's Idempotency-Key between them.
    Claimed {
        calls: u32,
    },
}

/// The domain declined; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("not found")]
    NotFound,
    #[error("already exists")]
    Exists,
    #[error("made under epoch {got}, the owner's is {now}")]
    StaleOwner { got: u64, now: u64 },
    #[error("attempt {got} of the task is stale, the newest is {newest}")]
    StaleAttempt { got: u32, newest: u32 },
    #[error("the task already has a result")]
    TaskDone,
    #[error("the job is {}", .0.name())]
    JobEnded(jobs::Status),
    #[error("scope {} is missing", .0.name())]
    ScopeMissing(Scope),
    #[error("a key cannot give scopes that it does not have")]
    ScopesExceeded,
    #[error("the tenant is suspended")]
    TenantSuspended,
    #[error("the trial has ended")]
    TrialExpired,
    #[error("the Idempotency-Key was used with another request")]
    IdempotencyMismatch,
    #[error("version is {now}, not {wanted}")]
    VersionMismatch { wanted: u64, now: u64 },
    #[error("{policy}: {used} of {limit} are used, {wanted} more do not fit")]
    Quota {
        policy: Policy,
        limit: u64,
        used: u64,
        wanted: u64,
        resets_at: Time,
        retry_after_ms: u64,
    },
    #[error("{policy}: more than {limit} per second")]
    Rate { policy: Policy, limit: u64, remaining: u64, retry_after_ms: u64 },
    #[error("{running} of {limit} requests are running")]
    Concurrency { limit: u64, running: u64 },
    /// In millionths of a dollar.
    #[error(
        "{used} of {limit} millionths of the budget are spent or reserved, {wanted} more do not fit"
    )]
    Budget { limit: u64, used: u64, wanted: u64, retry_after_ms: u64 },
    #[error("a newer request for requests was heard")]
    StaleAsk,
    #[error("backlog is full: {waiting} of {limit} documents are waiting")]
    BacklogFull { waiting: u64, limit: u64 },
    #[error("{what}: {got} is more than {limit}")]
    TooMany { what: What, got: u64, limit: u64 },
    #[error("the join token is not valid")]
    BadToken,
    #[error("the cluster already has an operator key")]
    Initialised,
    #[error("{node} is {}", .state.name())]
    NodeIs { node: NodeId, state: State },
    #[error("{node} is the last node that works")]
    LastNode { node: NodeId },
    #[error("{node} still holds {replicas} replicas")]
    NodeHolds { node: NodeId, replicas: u64 },
    #[error("a change of group {group} is under way")]
    Moving { group: GroupId },
    #[error("group {group} would be left with {left} of {needed} voters that it needs")]
    BreaksQuorum { group: GroupId, left: u64, needed: u64 },
    #[error("{node} has no voting replica of group {group}")]
    NoVoter { group: GroupId, node: NodeId },
    /// To the caller the same as [`Refusal::NotFound`]; but no tenant's audit can tell of it.
    #[error("not found")]
    NoTenant,
    #[error("the cluster speaks wire version {active}, this build {speaks}")]
    Unspoken { active: u16, speaks: Wire },
    #[error("wire version {to} is not newer than {active}, or not every node speaks it")]
    NotRaised { active: u16, to: u16 },
    #[error("the deadline of the job has passed")]
    Expired,
    #[error("nothing of the job has failed")]
    NothingFailed,
    #[error("{job} does the failed part of the job again")]
    Retried { job: JobId },
    #[error("version {version} serves")]
    VersionServes { version: u32 },
}

/// Things that are counted against a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    Documents,
    Keys,
    Nodes,
    Tokens,
    Plans,
    Models,
    Versions,
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Documents => "documents",
            Self::Keys => "keys",
            Self::Nodes => "nodes",
            Self::Tokens => "tokens",
            Self::Plans => "plans",
            Self::Models => "models",
            Self::Versions => "versions",
        })
    }
}

/// What became of one proposal.
pub type Outcome = Result<Reply, Refusal>;

/// An outcome and where it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub index: u64,
    pub outcome: Outcome,
    /// This is the outcome of an earlier request with the same Idempotency-Key; with it comes what
    /// was sealed then.
    pub replayed: Option<Option<Vec<u8>>>,
    /// A record of an audit tells of this call.
    pub told: bool,
}

/// What the world should do now. Performed by the owner only; twice must be harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// There are tasks to lease.
    Dispatch,
    /// A policy in shadow mode would have refused.
    Shadowed(Policy),
}
