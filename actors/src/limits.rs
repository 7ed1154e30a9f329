//! The owner's side of limits: leases to nodes, and slabs for those who hold one.
//!
//! What is spent and what is out stands in the replicated state; only who holds a lease is kept here,
//! and a new owner gets by without knowing it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use protocol::jobs::Worker;
use protocol::limits::Command;
use protocol::peer::{Answer, Ask, LeaseId};
use protocol::plans::Plan;
use protocol::{Effect, KeyId, Refusal, Reply, TenantId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::broadcast::error::RecvError;
use tracing::debug;

use crate::ask::{Answered, AskError, Request, send};
use crate::bounded::Counted;
use crate::figures::figures;
use crate::leases::Renewal;
use crate::shard::Owned;

/// How often it is looked for nodes that hold something without a lease.
const LAPSE_INTERVAL: Duration = Duration::from_millis(400);

/// One per owned shard.
pub(crate) struct RateLimitActor;

pub(crate) struct State {
    owned: Arc<Owned>,
    watch: tokio::task::AbortHandle,
}

impl Actor for RateLimitActor {
    type Msg = Counted<Request>;
    type State = State;
    type Arguments = Arc<Owned>;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        owned: Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let watch = tokio::spawn(watch(Arc::clone(&owned))).abort_handle();
        Ok(State { owned, watch })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (Request { ask, reply }, place) = message.open();
        let owned = Arc::clone(&state.owned);
        tokio::spawn(async move {
            send(reply, answer(&owned, ask).await);
            drop(place);
        });
        Ok(())
    }
}

/// Also when the actor is killed: the task must not outlive the ownership.
impl Drop for State {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

async fn answer(owned: &Owned, ask: Ask) -> Answered {
    match ask {
        Ask::Lease { worker, wish, held, running } => {
            lease(owned, worker, wish, held, running).await
        }
        Ask::Close { worker, lease } => close(owned, worker, lease).await,
        Ask::Slab { lease, tenant, command } => slab(owned, lease, tenant, command).await,
        Ask::Limits { tenant, key } => limits(owned, tenant, key).await,
        // Nothing else is put into this mailbox.
        Ask::View { .. }
        | Ask::Propose { .. }
        | Ask::Audit(_)
        | Ask::Tenant(_)
        | Ask::Tenants { .. }
        | Ask::Key(..)
        | Ask::Keys { .. }
        | Ask::Usage { .. }
        | Ask::Job(..)
        | Ask::Jobs { .. }
        | Ask::FindJobs { .. }
        | Ask::Queue(_)
        | Ask::Follow(..)
        | Ask::Failed { .. }
        | Ask::Finished { .. }
        | Ask::Running { .. }
        | Ask::Take { .. } => Ok(Answer::Refused(Refusal::NotFound)),
    }
}

async fn lease(
    owned: &Owned,
    worker: Worker,
    wish: u64,
    held: Option<LeaseId>,
    running: Vec<u64>,
) -> Answered {
    // Only a leader that a quorum still follows may give time away.
    owned.group.confirm().await?;
    let group = owned.group.id();
    if let Some(id) = held {
        return match owned.leases.renew(worker, id) {
            Renewal::Renewed => Ok(Answer::Lease { id, fresh: false }),
            Renewal::Later => Err(AskError::Overloaded { group }),
            Renewal::Gone => Ok(Answer::NoLease),
        };
    }
    let _one = owned.leases.opening.lock().await;
    if !owned.leases.is_newest(worker, wish) {
        return Err(AskError::Overloaded { group });
    }
    // It says that it holds nothing: what the state says it holds is lost.
    lapse(owned, worker, running).await?;
    Ok(Answer::Lease { id: owned.leases.open(worker), fresh: true })
}

async fn close(owned: &Owned, worker: Worker, id: LeaseId) -> Answered {
    if owned.leases.holds(worker, id) {
        lapse(owned, worker, Vec::new()).await?;
        owned.leases.close(worker, id);
    }
    Ok(Answer::Noted)
}

/// Frees what a node holds by the state, if it holds anything.
async fn lapse(owned: &Owned, worker: Worker, running: Vec<u64>) -> Result<(), AskError> {
    if owned.group.view().limits.holders().contains(&worker) {
        owned.propose(protocol::Command::Lapse { worker, running }).await?;
    }
    Ok(())
}

async fn slab(owned: &Owned, lease: LeaseId, tenant: TenantId, command: Command) -> Answered {
    let Command::Slab { worker, .. } = command else {
        return Ok(Answer::Refused(Refusal::NotFound));
    };
    if !owned.leases.holds(worker, lease) {
        return Ok(Answer::NoLease);
    }
    let answer = owned.propose(protocol::Command::Limits(tenant, command)).await?;
    let Answer::Applied(applied) = answer else { return Ok(answer) };
    Ok(match applied.outcome {
        Ok(Reply::Slab(slab)) => Answer::Slab(slab),
        Ok(_) => Answer::Refused(Refusal::NotFound),
        Err(refusal) => Answer::Refused(refusal),
    })
}

async fn limits(owned: &Owned, tenant: TenantId, key: Option<KeyId>) -> Answered {
    let view = owned.group.read().await?;
    let now = owned.stamp(&view, tenant);
    let found = view.limits_view(tenant, key, now);
    Ok(found.map_or(Answer::Refused(Refusal::NotFound), |view| Answer::Limits(Box::new(view))))
}

/// Brings the tenants here onto the newest versions of their plans, should whoever changed a plan not
/// have come to it.
async fn adopt_plans(owned: &Owned) {
    let Some(map) = owned.map() else { return };
    let behind = |plan: &&Plan| plan.version > owned.group.view().tenants.adopted(&plan.name);
    let plans: Vec<Plan> = map.plans.values().filter(behind).cloned().collect();
    for plan in plans {
        if let Err(error) = owned.propose(protocol::Command::Plan(Box::new(plan))).await {
            debug!(group = %owned.group.id(), %error, "plan not adopted yet");
        }
    }
}

/// Calls back what changes have made untrue whose proposers stopped waiting. An entry behind theirs
/// tells that they are decided.
async fn recall_unsure(owned: Arc<Owned>, unsure: BTreeSet<Option<TenantId>>) {
    let worker = Worker { node: owned.owner.node, incarnation: owned.owner.incarnation };
    let nothing = protocol::Command::Return { worker, slabs: Vec::new() };
    match owned.propose(nothing).await {
        Ok(_) => {
            for tenant in unsure {
                owned.leases.recall(tenant).await;
            }
        }
        // The next owner acknowledges nothing before all leases of this one are over.
        Err(AskError::NotOwner { .. }) => {}
        Err(_) => unsure.into_iter().for_each(|tenant| owned.leases.unsure(tenant)),
    }
}

/// What dead nodes held is freed when their leases must be over; shadows are counted.
async fn watch(owned: Arc<Owned>) {
    let mut ticks = raft::ticks::ticks(LAPSE_INTERVAL);
    let mut effects = owned.group.effects();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            effect = effects.recv() => match effect {
                Ok(Effect::Shadowed(policy)) => {
                    figures().shadowed.with_label_values(&[policy.name()]).inc();
                    continue;
                }
                Ok(Effect::Dispatch) | Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
        }
        let unsure = owned.leases.take_unsure();
        if !unsure.is_empty() {
            tokio::spawn(recall_unsure(Arc::clone(&owned), unsure));
        }
        adopt_plans(&owned).await;
        let holders = owned.group.view().limits.holders();
        if holders.is_empty() {
            continue;
        }
        for worker in owned.leases.lapsed(&holders) {
            if let Err(error) = lapse(&owned, worker, Vec::new()).await {
                debug!(group = %owned.group.id(), node = %worker.node, %error, "not freed yet");
            }
        }
    }
}
