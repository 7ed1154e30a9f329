//! The actors of one shard on the node that owns it, from spawn to kill.

use std::sync::Arc;

use protocol::idempotency::Once;
use protocol::owner::Owner;
use protocol::peer::{Answer, Ask};
use protocol::{Command, GroupId, Proposal, Refusal};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use raft::Group;
use tracing::{error, info};

use crate::ask::{Answered, AskError, Request};
use crate::bounded::{BoundedRef, NotSent};
use crate::clock::ShardClock;
use crate::figures::figures;
use crate::jobs::{self, JobCoordinatorActor, Workers};
use crate::limits::RateLimitActor;
use crate::router::Router;
use crate::slots::Nothing;
use crate::tenants::TenantActor;

/// Requests of one shard that wait or are being replicated, per actor.
const REQUESTS_MAX: usize = 2048;

/// An ownership: the group, the epoch that fences it, and its time.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) group: Group,
    pub(crate) owner: Owner,
    pub(crate) clock: ShardClock,
}

impl Owned {
    /// Replicates a command under this ownership.
    pub(crate) async fn propose(&self, command: Command, once: Option<Once>) -> Answered {
        let proposal = Proposal { at: self.clock.stamp(), once, command };
        let timer = figures().proposal_seconds.start_timer();
        let applied = self.group.propose(self.owner.epoch, proposal).await?;
        timer.observe_duration();
        if let Err(Refusal::StaleOwner { .. }) = applied.outcome {
            return Err(AskError::NotOwner { group: self.group.id(), leader: None });
        }
        Ok(Answer::Applied(Box::new(applied)))
    }
}

/// The doors of a shard that this node owns.
#[derive(Clone, Debug)]
pub(crate) struct Mailboxes {
    group: GroupId,
    tenants: BoundedRef<Request>,
    limits: BoundedRef<Request>,
    jobs: BoundedRef<jobs::Message>,
}

impl Mailboxes {
    /// Puts a question into the mailbox of the actor that answers it.
    pub(crate) fn deliver(&self, request: Request) -> Result<(), AskError> {
        let of_jobs = request.is_of_jobs();
        let sent = match &request.ask {
            Ask::Propose { spend: Some(_), .. } | Ask::Limits { .. } => {
                self.limits.try_send(request)
            }
            Ask::Propose { .. } if of_jobs => self.jobs.try_send(jobs::Message::Request(request)),
            Ask::Job(..) | Ask::Jobs { .. } | Ask::Finished { .. } | Ask::Running { .. } => {
                self.jobs.try_send(jobs::Message::Request(request))
            }
            Ask::Authenticate { .. }
            | Ask::Propose { .. }
            | Ask::Tenant(_)
            | Ask::Tenants { .. }
            | Ask::Key(..)
            | Ask::Keys { .. }
            | Ask::Usage { .. } => self.tenants.try_send(request),
        };
        let group = self.group;
        sent.map_err(|error| match error {
            NotSent::Overloaded { .. } => AskError::Overloaded { group },
            NotSent::Stopped => AskError::NotOwner { group, leader: None },
        })
    }

    /// Messages that wait in all mailboxes.
    pub(crate) fn depth(&self) -> usize {
        self.tenants.depth() + self.limits.depth() + self.jobs.depth()
    }
}

/// What a shard's actors are made of.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) group: Group,
    pub(crate) owner: Owner,
    pub(crate) router: Router,
    pub(crate) workers: Workers,
}

/// Watches the actors of one shard. When one fails, all go: they share an ownership, and the next
/// set starts from what is applied.
pub(crate) struct ShardSupervisor;

impl Actor for ShardSupervisor {
    type Msg = Nothing;
    type State = GroupId;
    type Arguments = Start;

    async fn pre_start(
        &self,
        me: ActorRef<Nothing>,
        start: Start,
    ) -> Result<GroupId, ActorProcessingErr> {
        let Start { group, owner, router, workers } = start;
        let id = group.id();
        let clock = {
            let view = group.view();
            ShardClock::open(view.time, view.steady)
        };
        let owned = Arc::new(Owned { group, owner, clock });
        let parent = me.get_cell();
        let (tenants, _) =
            Actor::spawn_linked(None, TenantActor, Arc::clone(&owned), parent.clone()).await?;
        let tenants = BoundedRef::new(tenants, REQUESTS_MAX);
        let (jobs, _) = Actor::spawn_linked(
            None,
            JobCoordinatorActor,
            (Arc::clone(&owned), workers),
            parent.clone(),
        )
        .await?;
        let jobs = BoundedRef::new(jobs, REQUESTS_MAX);
        jobs::watch(&owned, jobs.clone());
        let next = (tenants.clone(), jobs.clone());
        let (limits, _) = Actor::spawn_linked(None, RateLimitActor, (owned, next), parent).await?;
        let limits = BoundedRef::new(limits, REQUESTS_MAX);
        router.open(id, Mailboxes { group: id, tenants, limits, jobs });
        info!(group = %id, epoch = owner.epoch.0, "actors started");
        Ok(id)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Nothing>,
        event: SupervisionEvent,
        group: &mut GroupId,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(_, cause) => {
                error!(%group, %cause, "an actor of the shard failed");
                Err(format!("an actor of shard {group} failed").into())
            }
            SupervisionEvent::ActorTerminated(..) => {
                Err(format!("an actor of shard {group} ended").into())
            }
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => Ok(()),
        }
    }
}
