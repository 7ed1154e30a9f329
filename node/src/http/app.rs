//! What every handler has: the actors, the cluster's secrets, and the way from an answer of an owner
//! to an answer of the API.

use std::sync::Arc;

use actors::figures::figures;
use actors::pepper::Pepper;
use actors::remote::ClusterTransport;
use actors::{AskError, System};
use axum::Json;
use axum::extract::FromRef;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::audit::Note;
use protocol::limits::Policy;
use protocol::nodes::{self, Map};
use protocol::peer::{Answer, Ask, LimitsView};
use protocol::{Applied, Digest, GroupId, NodeId, Refusal, Reply, TenantId};
use serde::Serialize;

use super::context::Edge;
use super::error::{Code, Limited, Problem};
use super::headers::Served;
use super::jobs::Streams;
use super::limits;
use super::once::Wish;
use super::query::CursorKey;
use crate::life::Life;

/// Marks the answer to a request that was made before under the same Idempotency-Key.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// When somebody else's request may be over.
const SLOT_WAIT_MS: u64 = 1_000;
/// Millionths of a dollar in a cent.
const CENT_MICROS: u64 = 10_000;

/// The state of the route table. Clones share it: each request has several.
#[derive(Clone, Debug)]
pub struct App {
    parts: Arc<Parts>,
}

/// What routes need of the node.
#[derive(Debug)]
pub struct Parts {
    pub system: System,
    pub edge: Edge,
    pub transport: ClusterTransport,
    pub life: Life,
    pub streams: Streams,
}

impl From<Parts> for App {
    fn from(parts: Parts) -> Self {
        Self { parts: Arc::new(parts) }
    }
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl FromRef<App> for Edge {
    fn from_ref(app: &App) -> Self {
        app.edge.clone()
    }
}

/// An answer of an owner, and who gave it.
#[derive(Debug)]
pub struct Told {
    pub answer: Answer,
    pub group: GroupId,
    pub owner: Option<NodeId>,
}

impl Told {
    fn served(&self, index: Option<u64>) -> Served {
        served(self.group, self.owner, index)
    }

    /// A 200 with a body made of the answer; a refusal is its problem.
    pub fn render<T: Serialize>(
        self,
        body: impl FnOnce(Answer, GroupId) -> Option<T>,
    ) -> Result<Response, Problem> {
        let served = self.served(None);
        if let Answer::Refused(refusal) = self.answer {
            return Err(refused(refusal).served(served));
        }
        let group = self.group;
        let body = body(self.answer, group).ok_or_else(|| Problem::new(Code::Internal))?;
        let mut response = Json(body).into_response();
        response.extensions_mut().insert(served);
        Ok(response)
    }

    /// The reply of a write; a refusal is its problem.
    pub fn written(self) -> Result<Written, Problem> {
        let Self { answer, group, owner } = self;
        let (applied, left) = if let Answer::Applied(applied) = answer {
            (applied, None)
        } else if let Answer::Counted(applied, left) = answer {
            (applied, Some(left))
        } else if let Answer::Refused(refusal) = answer {
            return Err(refused(refusal).served(served(group, owner, None)));
        } else {
            return Err(Problem::new(Code::Internal));
        };
        let Applied { index, outcome, replayed, told } = *applied;
        let served = served(group, owner, Some(index));
        match outcome {
            Ok(reply) => Ok(Written { reply, replayed, group, index, served, left, told }),
            Err(refusal) => {
                let problem = refused(refusal).replayed(replayed.is_some());
                // Of what no entry tells, the layer around us does.
                Err(if told { problem.served(served).committed() } else { problem })
            }
        }
    }
}

fn served(group: GroupId, owner: Option<NodeId>, index: Option<u64>) -> Served {
    let owner = owner.map(|owner| owner.to_string());
    Served { owner, index: index.map(|index| format!("{group}:{index}")) }
}

/// A write that was carried out, now or by an earlier request.
#[derive(Debug)]
pub struct Written {
    pub reply: Reply,
    /// What was sealed by the earlier request, if this repeats one.
    pub replayed: Option<Option<Vec<u8>>>,
    pub group: GroupId,
    /// Of the log entry that did it.
    pub index: u64,
    served: Served,
    /// What the limits of a counted request have left.
    left: Option<Box<LimitsView>>,
    told: bool,
}

/// In the extensions of a response to a write that no entry of the log tells of.
#[derive(Debug, Clone, Copy)]
pub struct Untold;

impl Written {
    /// The answer to the writer.
    pub fn respond<T: Serialize>(self, status: StatusCode, body: &T) -> Response {
        let mut response = (status, Json(body)).into_response();
        if self.replayed.is_some() {
            response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        if let Some(left) = &self.left {
            limits::announce(response.headers_mut(), left);
        }
        response.extensions_mut().insert(self.served);
        if !self.told {
            response.extensions_mut().insert(Untold);
        }
        response
    }
}

impl App {
    /// The cluster map as this node has it.
    pub fn map(&self) -> Result<Arc<Map>, Problem> {
        let map = self.system.host.map().borrow().clone();
        map.ok_or_else(|| Problem::new(Code::NotReady).detail("the cluster map is not known yet"))
    }

    /// 503 while there is a node that does not speak a version of the wire yet.
    pub fn check_spoken(&self, version: u16) -> Result<(), Problem> {
        let active = self.map()?.wire;
        if active >= version {
            return Ok(());
        }
        let detail =
            format!("wire version {version} is needed, {active} is active: an upgrade is not over");
        Err(Problem::new(Code::NotReady).detail(detail).outcome(super::error::Outcome::NotApplied))
    }

    /// Asks the owner of a tenant.
    pub async fn ask(&self, tenant: TenantId, ask: Ask) -> Result<Told, Problem> {
        let group = self.map()?.shard_of(tenant);
        self.ask_group(group, ask).await
    }

    /// Asks the owner of a group.
    pub async fn ask_group(&self, group: GroupId, ask: Ask) -> Result<Told, Problem> {
        let routed = self.system.router.ask(group, ask).await;
        let owner = routed.owner;
        match routed.answered {
            Ok(answer) => Ok(Told { answer, group, owner }),
            Err(error) => Err(unanswered(&error)),
        }
    }

    /// Asks the owner of a tenant for a change, once if the caller wishes so, and tells the audit in the
    /// same entry. `status` is that of the answer if it succeeds.
    pub async fn propose(
        &self,
        tenant: TenantId,
        command: protocol::Command,
        wish: &Wish,
        secret: Option<&str>,
        status: StatusCode,
    ) -> Result<Told, Problem> {
        let group = self.map()?.shard_of(tenant);
        self.propose_to(group, command, wish, secret, wish.told(status)).await
    }

    /// The same of any group of tenants.
    pub async fn propose_to(
        &self,
        group: GroupId,
        command: protocol::Command,
        wish: &Wish,
        secret: Option<&str>,
        note: Option<Box<Note>>,
    ) -> Result<Told, Problem> {
        let once = self.once(wish, secret)?;
        let claim = self.claim(wish, once.as_ref()).await?;
        let ask = Ask::Propose { command: Box::new(command), once, note };
        let told = self.ask_group(group, ask).await;
        self.settle(claim, &told).await;
        told
    }

    /// Asks for a change of the cluster map in the same way, told in the cluster's own audit.
    pub async fn propose_meta(
        &self,
        command: nodes::Command,
        wish: &Wish,
        secret: Option<&str>,
        status: StatusCode,
    ) -> Result<Written, Problem> {
        let (once, note) = (self.once(wish, secret)?, wish.told(status));
        let request = nodes::Request { command: protocol::Command::Node(command), once, note };
        let applied = self.system.host.propose_meta(request).await;
        let applied = applied.map_err(|error| unanswered(&error.into()))?;
        let group = GroupId::META;
        let owner = self.system.host.group(group).and_then(|meta| meta.leader());
        Told { answer: Answer::Applied(Box::new(applied)), group, owner }.written()
    }

    /// Waits until this node knows what was acknowledged of the cluster map before.
    pub async fn sync_map(&self) -> Result<(), Problem> {
        let synced = self.system.host.sync_map().await;
        synced.map_err(|error| unanswered(&error.into()))
    }

    /// Keyed SHA-256 with a purpose, over parts that cannot run into each other.
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> Result<Digest, Problem> {
        Ok(Pepper::new(&self.map()?.secrets.pepper).digest(purpose, parts))
    }

    /// The key that cursors are signed with.
    pub fn cursors(&self) -> Result<CursorKey, Problem> {
        Ok(CursorKey::new(self.digest("cursor", &[])?.0))
    }
}

/// What a client is told when no owner answered.
pub fn unanswered(error: &AskError) -> Problem {
    use super::error::Outcome;
    let problem = match error {
        AskError::NotOwner { .. } | AskError::NoLeader { .. } => Problem::new(Code::NoLeader),
        AskError::NoQuorum { .. } => Problem::new(Code::NoQuorum),
        AskError::Overloaded { .. } => Problem::new(Code::Overloaded),
        AskError::TooLarge => Problem::new(Code::TooLarge),
        AskError::Unknown { .. } => Problem::new(Code::Deadline),
    };
    let outcome = if error.is_not_applied() { Outcome::NotApplied } else { Outcome::Unknown };
    problem.detail(error.to_string()).outcome(outcome)
}

/// What a client is told when the domain declined.
pub fn refused(refusal: Refusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        Refusal::NotFound | Refusal::NoTenant => Problem::not_found(),
        Refusal::Exists
        | Refusal::TaskDone
        | Refusal::StaleAttempt { .. }
        | Refusal::JobEnded(_)
        | Refusal::NodeIs { .. }
        | Refusal::LastNode { .. }
        | Refusal::NodeHolds { .. }
        | Refusal::Moving { .. }
        | Refusal::BreaksQuorum { .. }
        | Refusal::NoVoter { .. }
        | Refusal::Unspoken { .. }
        | Refusal::NotRaised { .. }
        | Refusal::Expired
        | Refusal::NothingFailed
        | Refusal::Retried { .. }
        | Refusal::VersionServes { .. }
        | Refusal::Initialised => Problem::new(Code::Conflict).detail(detail),
        Refusal::StaleOwner { .. } => Problem::new(Code::NoLeader),
        Refusal::ScopeMissing(scope) => Problem::scope_missing(scope.name()),
        Refusal::ScopesExceeded => Problem::new(Code::ScopeMissing).detail(detail),
        Refusal::TenantSuspended => Problem::new(Code::TenantSuspended),
        Refusal::TrialExpired => Problem::new(Code::TrialExpired),
        Refusal::IdempotencyMismatch => Problem::new(Code::IdempotencyMismatch),
        Refusal::VersionMismatch { .. } => Problem::new(Code::PreconditionFailed).detail(detail),
        Refusal::BadToken => Problem::new(Code::Conflict).detail(detail),
        Refusal::TooMany { limit, got, .. } => Problem::too_large(limit, got).detail(detail),
        Refusal::Quota { policy, limit, used, retry_after_ms, .. } => {
            let left = limit.saturating_sub(used);
            over_limit(Code::QuotaExceeded, policy, limit, left, retry_after_ms)
        }
        Refusal::Rate { policy, limit, remaining, retry_after_ms } => {
            over_limit(Code::RateLimited, policy, limit, remaining, retry_after_ms)
        }
        Refusal::Concurrency { limit, running } => {
            let left = limit.saturating_sub(running);
            over_limit(Code::ConcurrencyExceeded, Policy::Concurrency, limit, left, SLOT_WAIT_MS)
        }
        Refusal::Budget { limit, used, retry_after_ms, .. } => {
            let left = limit.saturating_sub(used) / CENT_MICROS;
            let cents = limit / CENT_MICROS;
            over_limit(Code::PlanLimit, Policy::Budget, cents, left, retry_after_ms)
        }
        Refusal::StaleAsk => Problem::new(Code::Conflict).detail(detail),
        Refusal::BacklogFull { waiting, limit } => {
            let remaining = limit.saturating_sub(waiting);
            limited(Code::QueueFull, "max_backlog", limit, remaining, 5_000)
        }
    }
}

/// What a client is told whose request a limit has no room for.
fn over_limit(
    code: Code,
    policy: Policy,
    limit: u64,
    remaining: u64,
    retry_after_ms: u64,
) -> Problem {
    figures().grants.denied(policy);
    figures().rate_limit_hits.with_label_values(&[policy.name()]).inc();
    limited(code, policy.name(), limit, remaining, retry_after_ms)
}

fn limited(code: Code, policy: &str, limit: u64, remaining: u64, retry_after_ms: u64) -> Problem {
    let reset_s = retry_after_ms.div_ceil(1000);
    let policy = policy.to_owned();
    Problem::limited(code, Limited { policy, limit, remaining, reset_s, retry_after_ms })
}

#[cfg(test)]
mod tests {
    use protocol::Time;
    use protocol::keys::Scope;

    use super::*;

    #[test]
    fn the_audit_tells_the_status_and_code_that_the_client_is_told() {
        let policy = Policy::Rate;
        let (limit, used, wanted, retry_after_ms) = (1, 1, 1, 1);
        for refusal in [
            Refusal::NotFound,
            Refusal::NoTenant,
            Refusal::Exists,
            Refusal::StaleOwner { got: 1, now: 2 },
            Refusal::StaleAttempt { got: 1, newest: 2 },
            Refusal::TaskDone,
            Refusal::JobEnded(protocol::jobs::Status::Failed),
            Refusal::ScopeMissing(Scope::Scan),
            Refusal::ScopesExceeded,
            Refusal::TenantSuspended,
            Refusal::TrialExpired,
            Refusal::IdempotencyMismatch,
            Refusal::VersionMismatch { wanted: 1, now: 2 },
            Refusal::Quota { policy, limit, used, wanted, resets_at: Time(0), retry_after_ms },
            Refusal::Rate { policy, limit, remaining: 0, retry_after_ms },
            Refusal::Concurrency { limit, running: 1 },
            Refusal::Budget { limit, used, wanted, retry_after_ms },
            Refusal::StaleAsk,
            Refusal::BacklogFull { waiting: 1, limit },
            Refusal::TooMany { what: protocol::command::What::Keys, got: 2, limit },
            Refusal::BadToken,
            Refusal::Initialised,
            Refusal::NodeIs { node: NodeId(1), state: nodes::State::Removing },
            Refusal::LastNode { node: NodeId(1) },
            Refusal::NodeHolds { node: NodeId(1), replicas: 1 },
            Refusal::Moving { group: GroupId(1) },
            Refusal::BreaksQuorum { group: GroupId(1), left: 1, needed: 2 },
            Refusal::NoVoter { group: GroupId(1), node: NodeId(1) },
            Refusal::Unspoken { active: 2, speaks: protocol::versions::Wire::OURS },
            Refusal::NotRaised { active: 2, to: 2 },
            Refusal::Expired,
            Refusal::NothingFailed,
            Refusal::Retried { job: protocol::JobId(1) },
            Refusal::VersionServes { version: 1 },
        ] {
            let code = refused(refusal.clone()).code();
            let told = protocol::audit::told(&Err(refusal), 200);
            assert_eq!(told, (code.meaning().status.as_u16(), code.meaning().name));
        }
    }
}
