//! Coordinates the jobs of a shard: leases tasks to nodes that ask for them, takes results, leases
//! again when a node is lost. All that must survive is in the log; what is here can be made again
//! from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use protocol::jobs::{
    self, Assignment, Command, Counts, Job, Priority, TaskResult, TaskState, Worker,
};
use protocol::peer::{Answer, Ask};
use protocol::tenants::Status;
use protocol::{Effect, JobId, Refusal, Reply, TenantId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::ask::{Answered, AskError, Request, send};
use crate::bounded::{BoundedRef, Counted, Slot};
use crate::figures::figures;
use crate::shard::Owned;
use crate::tenants::bounded;

pub(crate) mod board;
mod ready;
pub(crate) mod workers;

use ready::Ready;
pub use workers::{Load, Standing, Workers};

/// A lease whose worker is not heard of for this long is given to another.
const LEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// A new owner gives workers this long to say what they run.
const GRACE: Duration = Duration::from_secs(3);
/// A task that its worker did not get is leased again after this.
const PAUSE: Duration = Duration::from_secs(1);
/// Tasks that are leased at one request, at most: an answer has a bound.
const TAKE_MAX: u32 = 64;
/// How often the state is looked at when nothing happens.
const INTERVAL: Duration = Duration::from_millis(100);

type Key = (TenantId, JobId, u32);

/// What the coordinator is told.
#[derive(Debug)]
pub(crate) enum Message {
    Request(Request),
    /// Something may have changed: look for tasks to lease.
    Look,
    /// What came of the leases that were proposed for a worker.
    Leased(Worker, Vec<(Key, Answered)>, Asker),
}

/// A worker that waits for tasks.
#[derive(Debug)]
pub(crate) struct Asker {
    reply: oneshot::Sender<Answered>,
    /// The place of its question in the mailbox.
    _place: Slot,
}

/// One per owned shard.
pub(crate) struct JobCoordinatorActor;

pub(crate) struct State {
    me: ActorRef<Counted<Message>>,
    owned: Arc<Owned>,
    workers: Workers,
    leases: BTreeMap<Key, Lease>,
    /// What the last look found and nobody took yet.
    ready: Ready,
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
        let (leases, leasing) = (BTreeMap::new(), BTreeSet::new());
        Ok(State { me, owned, workers, leases, ready: Ready::default(), leasing })
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
            Message::Leased(worker, answers, asker) => state.leased(worker, answers, asker),
            Message::Request(request) => state.request(request, place),
        }
        Ok(())
    }
}

impl State {
    fn request(&mut self, request: Request, place: Slot) {
        let Request { ask, reply } = request;
        if let Ask::Running { worker, tasks } = &ask {
            self.note_running(*worker, tasks);
            return send(reply, Ok(Answer::Noted));
        }
        if let Ask::Take { worker, tasks } = ask {
            return self.take(worker, tasks, Asker { reply, _place: place });
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

    /// Finds every task that waits, and every task whose worker is lost, and says so.
    fn look(&mut self) {
        self.ready = Ready::new(self.wanting());
        self.tell();
    }

    /// A word to the workers, who come for it when they have room.
    fn tell(&self) {
        self.workers.board().set(self.owned.group.id(), self.ready.waiting());
    }

    /// Leases the next tasks to a worker that has room for so many.
    fn take(&mut self, worker: Worker, tasks: u32, asker: Asker) {
        // What is leased to one that is not believed to live would be leased again at once.
        let most = if self.workers.is_alive(worker) { tasks.min(TAKE_MAX) } else { 0 };
        let keys = self.ready.take(most as usize);
        self.tell();
        if keys.is_empty() {
            return send(asker.reply, Ok(Answer::Tasks(Vec::new(), self.ready.waiting())));
        }
        self.leasing.extend(&keys);
        let owned = Arc::clone(&self.owned);
        let me = BoundedRef::new(self.me.clone(), usize::MAX);
        tokio::spawn(async move {
            // Together, so that they share a sync of the log.
            let leases = keys.into_iter().map(async |key| (key, lease(&owned, key, worker).await));
            let answers = join_all(leases).await;
            if me.try_send(Message::Leased(worker, answers, asker)).is_err() {
                debug!("the ownership ended meanwhile");
            }
        });
    }

    /// Tasks that nobody runs and their documents, most urgent and oldest first.
    fn wanting(&mut self) -> Vec<(Key, u32)> {
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
                    wanting.push((key, task.documents));
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

    fn leased(&mut self, worker: Worker, answers: Vec<(Key, Answered)>, asker: Asker) {
        let mut tasks = Vec::new();
        for (key, answered) in answers {
            self.leasing.remove(&key);
            let Ok(Answer::Applied(applied)) = answered else { continue };
            if let Ok(Reply::Completed { status, counts }) = &applied.outcome {
                // The last attempt was in vain, which may end the job.
                note_end(&self.owned, key.0, key.1, *status, *counts);
            }
            let Ok(Reply::Leased(task)) = applied.outcome else { continue };
            debug!(job = %task.job, task = task.task, attempt = task.attempt, node = %worker.node, "task leased");
            let until = Instant::now() + LEASE_TIMEOUT;
            self.leases.insert(key, Lease { attempt: task.attempt, worker, until });
            tasks.push(task);
        }
        let answer = Answer::Tasks(tasks, self.ready.waiting());
        if let Err(Ok(Answer::Tasks(tasks, _))) = asker.reply.send(Ok(answer)) {
            tasks.iter().for_each(|task| self.expire(task));
        }
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

/// Gives a task to a worker under the next fencing number.
async fn lease(owned: &Owned, (tenant, job, task): Key, worker: Worker) -> Answered {
    let command = Command::Lease { job, task, worker };
    owned.propose(protocol::Command::Job(tenant, command)).await
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
        | Ask::Running { .. }
        | Ask::Take { .. } => Ok(Answer::Refused(Refusal::NotFound)),
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

/// Documents of a task, so that a job has several tasks per node without tasks of a few documents,
/// and so that the last task does not hold up the end. `pace` is what a document takes.
#[must_use]
pub fn task_documents(documents: usize, priority: Priority, pace: Duration) -> usize {
    /// Tasks that a job of middling size is cut into.
    const TASKS_WANTED: usize = 16;
    /// Below this a lease costs more than it spreads;
    const DOCUMENTS_MIN: usize = 16;
    /// beside the time of documents that take long, it costs little.
    const SLOW_DOCUMENTS_MIN: usize = 8;
    /// When a job ends, other slots stand idle for half of this on average.
    const TASK_TIME: Duration = Duration::from_millis(500);
    let wanted = match priority {
        Priority::Low => TASKS_WANTED / 2,
        Priority::Normal | Priority::High | Priority::Urgent => TASKS_WANTED,
    };
    let most = jobs::TASK_DOCUMENTS_MAX as usize;
    let timely = TASK_TIME.as_micros() / pace.as_micros().max(1);
    let timely = (timely as usize).clamp(SLOW_DOCUMENTS_MIN, most);
    documents.div_ceil(wanted).clamp(DOCUMENTS_MIN, most).min(timely)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_tasks_for_many_and_none_that_lasts_long() {
        let size = |documents, ms: u64| {
            task_documents(documents, Priority::Normal, Duration::from_micros(ms * 1000))
        };
        assert_eq!((size(10, 1), size(1_000, 1), size(10_000, 1)), (16, 63, 256));
        assert_eq!((size(1_000, 4), size(1_000, 20), size(1_000, 500)), (63, 25, 8));
        assert_eq!((size(1_000, 0), size(0, 20)), (63, 16));
        assert_eq!(task_documents(1_000, Priority::Low, Duration::ZERO), 125);
    }
}
