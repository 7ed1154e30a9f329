//! The actors of one shard on the node that owns it, from spawn to kill.

use std::sync::Arc;

use protocol::audit::Note;
use protocol::command::Encoded;
use protocol::idempotency::Once;
use protocol::nodes::Map;
use protocol::owner::Owner;
use protocol::peer::{Answer, Ask};
use protocol::{Command, GroupId, KeyId, Refusal, Stamp, TenantId, keys, tenants, usage};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use raft::Group;
use raft::ProposeError;
use raft::machine::Machine;
use tracing::{error, info};

use crate::ask::{Answered, AskError, Request};
use crate::bounded::{BoundedRef, NotSent};
use crate::calendar;
use crate::clock::ShardClock;
use crate::figures::figures;
use crate::grants::Grants;
use crate::jobs::{self, JobCoordinatorActor, Workers};
use crate::leases::Leases;
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
    pub(crate) leases: Leases,
    router: Router,
}

impl Owned {
    /// Whether every node of the cluster speaks a version of the wire.
    pub(crate) fn is_spoken(&self, version: u16) -> bool {
        self.map().is_some_and(|map| map.wire >= version)
    }

    /// The cluster map as this node has it.
    pub(crate) fn map(&self) -> Option<Arc<Map>> {
        self.router.map()
    }

    /// Both times of the shard now, and the tenant's offset from UTC.
    pub(crate) fn stamp(&self, view: &Machine, tenant: TenantId) -> Stamp {
        let stamp = self.clock.stamp();
        let zone = view.tenants.get(tenant).and_then(|tenant| tenant.time_zone.as_ref());
        Stamp { offset: calendar::offset(zone, stamp.time), ..stamp }
    }

    /// Replicates a command under this ownership. What takes rights away, or gives others, is
    /// answered when no node goes by the old ones any more.
    pub(crate) async fn propose(&self, command: Command) -> Answered {
        self.propose_once(&command, None, None).await
    }

    /// The same for a caller who promised to send it once, or whose call is audited.
    pub(crate) async fn propose_once(
        &self,
        command: &Command,
        once: Option<&Once>,
        note: Option<&Note>,
    ) -> Answered {
        let (recall, payer) = (recall_of(command), payer_of(command));
        let at = match command.tenant() {
            Some(tenant) => self.stamp(&self.group.view(), tenant),
            None => self.clock.stamp(),
        };
        let of = if note.is_some() { "request" } else { "system" };
        figures().commands.with_label_values(&[of]).inc();
        let proposal = Encoded::of(at, once, command, note).map_err(ProposeError::from)?;
        let timer = figures().proposal_seconds.start_timer();
        let applied =
            self.group.propose(self.owner.epoch, proposal).await.inspect_err(|error| {
                if let (ProposeError::Unknown { .. }, Some(tenant)) = (error, recall) {
                    self.leases.unsure(tenant);
                }
            })?;
        timer.observe_duration();
        if let Err(Refusal::StaleOwner { .. }) = applied.outcome {
            return Err(AskError::NotOwner { group: self.group.id(), leader: None });
        }
        if let Some(tenant) = recall {
            // Also when it was refused or repeated: the first time may not have been acknowledged.
            self.leases.recall(tenant).await;
        }
        let applied = Box::new(applied);
        let Some((tenant, key)) = payer else { return Ok(Answer::Applied(applied)) };
        let view = self.group.view();
        let left = view.limits_view(tenant, Some(key), self.stamp(&view, tenant));
        drop(view);
        Ok(match left {
            Some(left) => Answer::Counted(applied, Box::new(left)),
            None => Answer::Applied(applied),
        })
    }
}

/// The key whose request a command is.
fn payer_of(command: &Command) -> Option<(TenantId, KeyId)> {
    use protocol::jobs::Command::{Enqueue, Retry, Submit};
    let (Command::Usage(tenant, usage::Command::Scan { payer, .. })
    | Command::Job(tenant, Submit { payer, .. } | Enqueue { payer, .. } | Retry { payer, .. })) =
        command
    else {
        return None;
    };
    Some((*tenant, payer.key?))
}

/// Whose views a command makes untrue: one tenant's, or everybody's.
fn recall_of(command: &Command) -> Option<Option<TenantId>> {
    match command {
        Command::Tenant(_, tenants::Command::Create(_))
        | Command::Key(_, keys::Command::Create(_)) => None,
        Command::Tenant(tenant, _) | Command::Key(tenant, _) => Some(Some(*tenant)),
        Command::Plan(_) => Some(None),
        Command::OpenOwner(_)
        | Command::Marker
        | Command::Usage(..)
        | Command::Job(..)
        | Command::Node(_)
        | Command::Limits(..)
        | Command::Audit(..)
        | Command::Lapse { .. }
        | Command::Return { .. } => None,
    }
}

/// The doors of a shard that this node owns.
#[derive(Clone, Debug)]
pub(crate) struct Mailboxes {
    group: GroupId,
    owned: Arc<Owned>,
    tenants: BoundedRef<Request>,
    limits: BoundedRef<Request>,
    jobs: BoundedRef<jobs::Message>,
}

impl Mailboxes {
    /// Asks for a change that no actor has a part in: nothing of its kind is done in turn, and nothing is
    /// left to do when the asker has gone. `None` for any other. It has a place among the questions to the
    /// tenants' actor, but not the way through its mailbox, which costs more than to propose.
    pub(crate) async fn propose(&self, ask: &Ask) -> Option<Answered> {
        let Ask::Propose { command, once, note } = ask else { return None };
        if matches!(**command, Command::Job(..)) || recall_of(command).is_some() {
            return None;
        }
        let Some(_place) = self.tenants.reserve() else {
            return Some(Err(AskError::Overloaded { group: self.group }));
        };
        Some(self.owned.propose_once(command, once.as_ref(), note.as_deref()).await)
    }

    /// Puts a question into the mailbox of the actor that answers it.
    pub(crate) fn deliver(&self, request: Request) -> Result<(), AskError> {
        let of_jobs = request.is_of_jobs();
        let sent = match &request.ask {
            Ask::Limits { .. } | Ask::Lease { .. } | Ask::Close { .. } | Ask::Slab { .. } => {
                self.limits.try_send(request)
            }
            Ask::Propose { .. } if of_jobs => self.jobs.try_send(jobs::Message::Request(request)),
            Ask::Job(..)
            | Ask::Jobs { .. }
            | Ask::FindJobs { .. }
            | Ask::Queue(_)
            | Ask::Follow(..)
            | Ask::Finished { .. }
            | Ask::Failed { .. }
            | Ask::Running { .. }
            | Ask::Take { .. } => self.jobs.try_send(jobs::Message::Request(request)),
            Ask::View { .. }
            | Ask::Propose { .. }
            | Ask::Tenant(_)
            | Ask::Tenants { .. }
            | Ask::Key(..)
            | Ask::Keys { .. }
            | Ask::Audit(_)
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
    pub(crate) grants: Grants,
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
        let Start { group, owner, router, workers, grants } = start;
        let id = group.id();
        let clock = {
            let view = group.view();
            ShardClock::open(view.time, view.steady)
        };
        let leases = Leases::new(id, owner.epoch, group.alone_for(owner.term), grants);
        let owned = Arc::new(Owned { group, owner, clock, leases, router: router.clone() });
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
        let (limits, _) =
            Actor::spawn_linked(None, RateLimitActor, Arc::clone(&owned), parent).await?;
        let limits = BoundedRef::new(limits, REQUESTS_MAX);
        router.open(id, Mailboxes { group: id, owned, tenants, limits, jobs });
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
