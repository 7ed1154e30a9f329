//! Coordinates the jobs of a shard: leases tasks to nodes, takes results, leases again when a node
//! is lost. All that must survive is in the log; what is here can be made again from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use protocol::jobs::{
    self, Assignment, Command, Counts, Job, Priority, TaskResult, TaskState, Worker,
};
use protocol::peer::{Answer, Ask};
use protocol::tenants::Status;
use protocol::{Effect, JobId, Refusal, Reply, TenantId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::ask::{Answered, AskError, Request, send};
use crate::bounded::{BoundedRef, Counted};
use crate::figures::figures;
use crate::shard::Owned;
use crate::tenants::bounded;

pub(crate) mod workers;

pub use workers::{Load, Standing, Workers};

/// A lease whose worker is not heard of for this long is given to another.
const LEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// A new owner gives workers this long to say what they run.
const GRACE: Duration = Duration::from_secs(3);
/// A task that its worker did not take is leased again after this.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the state is looked at when nothing happens.
const INTERVAL: Duration = Duration::from_millis(100);

type Key = (TenantId, JobId, u32);

/// What the coordinator is told.
#[derive(Debug)]
pub(crate) enum Message {
    Request(Request),
    /// Something may have changed: look for tasks to lease.
    Look,
    /// What came of a lease that was proposed.
    Leased(Key, Worker, Answered),
    /// The worker did not take the task.
    NotTaken(Assignment),
}

/// One per owned shard.
pub(crate) struct JobCoordinatorActor;

pub(crate) struct State {
    me: ActorRef<Counted<Message>>,
    owned: Arc<Owned>,
    workers: Workers,
    leases: BTreeMap<Key, Lease>,
    /// Tasks whose lease is being replicated.
    leasing: BTreeSet<Key>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    attempt: u32,
    worker: Worker,
    /// Past this the lease is given to another.
    until: Instant,
}

/// Wakes the coordinator when there may be work, until it is gone.
pub(crate) fn watch(owned: &Owned, coordinator: BoundedRef<Message>) {
    let (mut effects, group) = (owned.group.effects(), owned.group.clone());
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut idle = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    // Once more after the last job has ended, then not until there is one.
                    let was_idle = idle;
                    idle = group.view().jobs.open().next().is_none();
                    if idle && was_idle {
                        continue;
                    }
                }
                effect = effects.recv() => match effect {
                    // One that was missed is seen in the state.
                    Ok(Effect::Dispatch) | Err(RecvError::Lagged(_)) => {}
                    Ok(Effect::Shadowed(_)) => continue,
                    Err(RecvError::Closed) => return,
                },
            }
            match coordinator.try_send(Message::Look) {
                // A full mailbox will be looked at anyway.
                Ok(()) | Err(crate::bounded::NotSent::Overloaded { .. }) => {}
                Err(crate::bounded::NotSent::Stopped) => return,
            }
        }
    });
}

impl Actor for JobCoordinatorActor {
    type Msg = Counted<Message>;
    type State = State;
    type Arguments = (Arc<Owned>, Workers);

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        (owned, workers): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State { me, owned, workers, leases: BTreeMap::new(), leasing: BTreeSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (message, place) = message.open();
        match message {
            Message::Look => state.look(),
            Message::Leased(key, worker, answered) => state.leased(key, worker, answered),
            Message::NotTaken(task) => state.expire(&task),
            Message::Request(request) => state.request(request, place),
        }
        Ok(())
    }
}

impl State {
    fn request(&mut self, request: Request, place: crate::bounded::Slot) {
        let Request { ask, reply } = request;
        if let Ask::Running { worker, tasks } = &ask {
            self.note_running(*worker, tasks);
            return send(reply, Ok(Answer::Noted));
        }
        if let Ask::Finished { tenant, job, task, .. } = &ask {
            self.leases.remove(&(*tenant, *job, *task));
        }
        let owned = Arc::clone(&self.owned);
        tokio::spawn(async move {
            send(reply, answer(&owned, ask).await);
            drop(place);
        });
    }

    /// Leases every task that waits, and every task whose worker is lost, as far as there is room.
    fn look(&mut self) {
        let mut rooms = self.workers.rooms(&self.outstanding());
        let wanted = self.wanting();
        for key in wanted {
            let Some(worker) = workers::take_roomiest(&mut rooms) else { return };
            self.lease(key, worker);
        }
    }

    fn outstanding(&self) -> BTreeMap<Worker, usize> {
        let mut tasks = BTreeMap::new();
        for lease in self.leases.values() {
            *tasks.entry(lease.worker).or_default() += 1;
        }
        tasks
    }

    /// Tasks that nobody runs, most urgent and oldest first.
    fn wanting(&mut self) -> Vec<Key> {
        let owned = Arc::clone(&self.owned);
        let view = owned.group.view();
        let now = owned.clock.now();
        let mut jobs: Vec<(TenantId, &Job)> = view
            .jobs
            .open()
            .filter(|(tenant, _)| {
                let status = view.tenants.get(*tenant).map(|tenant| tenant.status(now));
                matches!(status, Some(Status::Active | Status::Trial))
            })
            .collect();
        jobs.sort_by_key(|(_, job)| (std::cmp::Reverse(job.priority), job.created_at, job.id));
        let live: BTreeSet<(TenantId, JobId)> =
            jobs.iter().map(|(tenant, job)| (*tenant, job.id)).collect();
        self.leases.retain(|(tenant, job, _), _| live.contains(&(*tenant, *job)));
        let mut wanting = Vec::new();
        for (tenant, job) in jobs {
            for (number, task) in job.tasks.iter().enumerate() {
                let key = (tenant, job.id, number as u32);
                let free = match task.state {
                    TaskState::Queued => true,
                    TaskState::Leased(worker) => self.is_lost(key, task.attempt, worker),
                    TaskState::Done(_) | TaskState::Failed => {
                        self.leases.remove(&key);
                        false
                    }
                };
                if free && !self.leasing.contains(&key) {
                    wanting.push(key);
                }
            }
        }
        wanting
    }

    fn is_lost(&mut self, key: Key, attempt: u32, worker: Worker) -> bool {
        if !self.workers.is_alive(worker) {
            return true;
        }
        let until = Instant::now() + GRACE;
        // An owner that is new here does not know the lease yet.
        let lease = self.leases.entry(key).or_insert(Lease { attempt, worker, until });
        if lease.attempt < attempt {
            *lease = Lease { attempt, worker, until };
        }
        Instant::now() >= lease.until
    }

    fn lease(&mut self, key: Key, worker: Worker) {
        let (tenant, job, task) = key;
        self.leasing.insert(key);
        let command = protocol::Command::Job(tenant, Command::Lease { job, task, worker });
        let owned = Arc::clone(&self.owned);
        self.later(async move {
            let answered = owned.propose(command).await;
            Some(Message::Leased(key, worker, answered))
        });
    }

    fn leased(&mut self, key: Key, worker: Worker, answered: Answered) {
        self.leasing.remove(&key);
        let Ok(Answer::Applied(applied)) = answered else { return };
        if let Ok(Reply::Completed { status, counts }) = &applied.outcome {
            // The last attempt was in vain, which may end the job.
            note_end(&self.owned, key.0, key.1, *status, *counts);
        }
        let Ok(Reply::Leased(task)) = applied.outcome else { return };
        debug!(job = %task.job, task = task.task, attempt = task.attempt, node = %worker.node, "task leased");
        let until = Instant::now() + LEASE_TIMEOUT;
        self.leases.insert(key, Lease { attempt: task.attempt, worker, until });
        let workers = self.workers.clone();
        self.later(async move {
            let taken = workers.give(worker, task).await;
            (!taken).then_some(Message::NotTaken(task))
        });
    }

    /// Runs something that waits, and tells this actor what came of it.
    fn later(&self, work: impl Future<Output = Option<Message>> + Send + 'static) {
        let me = BoundedRef::new(self.me.clone(), usize::MAX);
        tokio::spawn(async move {
            if let Some(message) = work.await
                && me.try_send(message).is_err()
            {
                debug!("the ownership ended meanwhile");
            }
        });
    }

    fn expire(&mut self, task: &Assignment) {
        let key = (task.tenant, task.job, task.task);
        if let Some(lease) = self.leases.get_mut(&key).filter(|lease| lease.attempt == task.attempt)
        {
            info!(job = %task.job, task = task.task, node = %lease.worker.node, "task not taken");
            // Not at once: each lease is an attempt, and a node in trouble stays so for a moment.
            lease.until = Instant::now() + PAUSE;
        }
    }

    fn note_running(&mut self, worker: Worker, tasks: &[(TenantId, JobId, u32, u32)]) {
        let until = Instant::now() + LEASE_TIMEOUT;
        for &(tenant, job, task, attempt) in tasks {
            if let Some(lease) = self.leases.get_mut(&(tenant, job, task))
                && lease.worker == worker
                && lease.attempt == attempt
            {
                lease.until = until;
            }
        }
    }
}

async fn answer(owned: &Owned, ask: Ask) -> Answered {
    match ask {
        Ask::Propose { command, once, note } => owned.propose_once(*command, once, note).await,
        Ask::Finished { tenant, job, task, attempt, result } => {
            finish(owned, tenant, job, task, attempt, result).await
        }
        Ask::Job(tenant, job) => {
            let view = owned.group.read().await.map_err(AskError::from)?;
            let missing = Answer::Refused(Refusal::NotFound);
            Ok(view.jobs.get(tenant, job).map_or(missing, |job| Answer::Job(Box::new(job.clone()))))
        }
        Ask::Jobs { tenant, after, limit, ascending } => {
            let view = owned.group.read().await.map_err(AskError::from)?;
            let jobs = view.jobs.of(tenant);
            let jobs: Vec<&Job> = if ascending { jobs.collect() } else { jobs.rev().collect() };
            let beyond = |job: &&Job| match after {
                Some(after) if ascending => job.id > after,
                Some(after) => job.id < after,
                None => true,
            };
            // A list shows no tasks, and an envelope has a bound.
            let row = |job: &Job| Job { tasks: Vec::new(), ..job.clone() };
            let rows = jobs.into_iter().filter(beyond).take(bounded(limit)).map(row);
            Ok(Answer::Jobs(rows.collect()))
        }
        Ask::Lease { .. }
        | Ask::Close { .. }
        | Ask::View { .. }
        | Ask::Slab { .. }
        | Ask::Tenant(_)
        | Ask::Tenants { .. }
        | Ask::Key(..)
        | Ask::Keys { .. }
        | Ask::Usage { .. }
        | Ask::Audit(_)
        | Ask::Limits { .. }
        | Ask::Running { .. } => Ok(Answer::Refused(Refusal::NotFound)),
    }
}

async fn finish(
    owned: &Owned,
    tenant: TenantId,
    job: JobId,
    task: u32,
    attempt: u32,
    result: TaskResult,
) -> Answered {
    let command = Command::Complete { job, task, attempt, result };
    let answered = owned.propose(protocol::Command::Job(tenant, command)).await;
    if let Ok(Answer::Applied(applied)) = &answered
        && let Ok(Reply::Completed { status, counts }) = &applied.outcome
    {
        note_end(owned, tenant, job, *status, *counts);
    }
    answered
}

fn note_end(owned: &Owned, tenant: TenantId, job: JobId, status: jobs::Status, counts: Counts) {
    if !status.is_terminal() {
        return;
    }
    figures().jobs_completed.with_label_values(&[status.name()]).inc();
    let began = owned.group.view().jobs.get(tenant, job).map(|job| job.created_at);
    let took_ms = began.map_or(0, |began| owned.clock.now().ms_since(began));
    figures().job_seconds.observe(took_ms as f64 / 1000.0);
    info!(%job, status = status.name(), done = counts.done, failed = counts.failed, "job ended");
}

/// Documents of a task, so that a job has several tasks per node without tasks of a few documents.
#[must_use]
pub fn task_documents(documents: usize, priority: Priority) -> usize {
    /// Tasks that a job of middling size is cut into.
    const TASKS_WANTED: usize = 16;
    /// Below this a lease costs more than it spreads.
    const DOCUMENTS_MIN: usize = 16;
    let wanted = match priority {
        Priority::Low => TASKS_WANTED / 2,
        Priority::Normal | Priority::High | Priority::Urgent => TASKS_WANTED,
    };
    let most = jobs::TASK_DOCUMENTS_MAX as usize;
    documents.div_ceil(wanted).clamp(DOCUMENTS_MIN, most)
}
