//! Coordinates the jobs of a shard: leases tasks to nodes that ask for them, takes results, leases
//! again when a node is lost. All that must survive is in the log; what is here can be made again
//! from it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use protocol::jobs::{self, Assignment, Cause, Command, Fault, Job, Priority, Worker};
use protocol::peer::{Answer, Ask, QueueView, Waiting};
use protocol::tenants::Status;
use protocol::versions::Wire;
use protocol::{Effect, JobId, Reply, TenantId, Time};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use raft::machine::Machine;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::ask::{Answered, Request, send};
use crate::bounded::{BoundedRef, Counted, Slot};
use crate::shard::Owned;

mod answers;
pub(crate) mod board;
mod queue;
mod shares;
mod waits;
pub(crate) mod workers;

use queue::Queue;
use waits::Waits;
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

/// Deadlines that are replicated at a time.
const EXPIRED_MAX: usize = 64;

type Key = (TenantId, JobId, u32);

/// What the coordinator is told.
#[derive(Debug)]
pub(crate) enum Message {
    Request(Request),
    /// Something may have changed: look for tasks to lease.
    Look,
    /// What came of the leases that were proposed for a worker.
    Leased(Worker, Vec<(Key, Answered)>, Asker),
    /// The task of a lost worker was set back, or that was tried.
    SetBack(Key),
    /// The job was ended by its deadline, or that was tried.
    Expired(TenantId, JobId),
}

/// A worker that waits for tasks.
#[derive(Debug)]
pub(crate) struct Asker {
    reply: oneshot::Sender<Answered>,
    /// What waits beside what it gets.
    left: Waiting,
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
    queue: Queue,
    /// Tasks whose worker is lost, to be leased before all others.
    again: VecDeque<Key>,
    waits: Waits,
    /// Jobs whose end by their deadline is being replicated.
    ending: BTreeSet<(TenantId, JobId)>,
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
        let mut ticks = raft::ticks::ticks(INTERVAL);
        // Nobody looks by the clock while no job is open: whatever opens one says so.
        let mut idle = false;
        loop {
            tokio::select! {
                // Once more after the last job has ended.
                _ = ticks.tick(), if !idle => idle = group.view().jobs.open().next().is_none(),
                effect = effects.recv() => match effect {
                    // One that was missed is seen in the state.
                    Ok(Effect::Dispatch) | Err(RecvError::Lagged(_)) => idle = false,
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
        let (leases, ending) = (BTreeMap::new(), BTreeSet::new());
        let (queue, again, waits) = (Queue::default(), VecDeque::new(), Waits::default());
        Ok(State { me, owned, workers, leases, queue, again, waits, ending })
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
            Message::SetBack(key) => state.settled(&[key]),
            Message::Expired(tenant, job) => drop(state.ending.remove(&(tenant, job))),
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
            let unwanted = answers::unwanted(&self.owned.group.view(), tasks);
            let answer = if unwanted.is_empty() { Answer::Noted } else { Answer::Stop(unwanted) };
            return send(reply, Ok(answer));
        }
        if let Ask::Take { worker, tasks } = ask {
            let asker = Asker { reply, left: Waiting::default(), _place: place };
            return self.take(worker, tasks, asker);
        }
        if let Ask::Finished { tenant, job, task, .. } | Ask::Failed { tenant, job, task, .. } =
            &ask
        {
            self.leases.remove(&(*tenant, *job, *task));
        }
        let known = if let Ask::Queue(tenant) = &ask { Some(self.known_of(*tenant)) } else { None };
        let owned = Arc::clone(&self.owned);
        tokio::spawn(async move {
            let answered = match (&ask, known) {
                (Ask::Queue(tenant), Some(known)) => answers::queue(&owned, *tenant, known).await,
                _ => answers::answer(&owned, ask).await,
            };
            send(reply, answered);
            drop(place);
        });
    }

    /// Follows the state: what waits, whose worker is lost, which deadlines have passed. Tells the
    /// workers.
    fn look(&mut self) {
        let owned = Arc::clone(&self.owned);
        let view = owned.group.view();
        let now = owned.clock.now();
        self.queue.follow(&view, now);
        self.end_expired(now);
        self.again = self.lost(&view, now);
        let waiting = self.waiting(&view, now);
        self.workers.board().set(owned.group.id(), waiting);
    }

    /// What a worker would be given.
    fn waiting(&self, view: &Machine, now: Time) -> Waiting {
        let documents = |&(tenant, job, task): &Key| {
            let job = view.jobs.get(tenant, job);
            job.and_then(|job| job.tasks.get(task as usize)).map_or(0, |task| task.documents)
        };
        let mut waiting = self.queue.waiting(view, now);
        waiting.tasks += self.again.len() as u32;
        waiting.documents += self.again.iter().map(documents).map(u64::from).sum::<u64>();
        if !self.again.is_empty() {
            waiting.weight = waiting.weight.max(1);
        }
        waiting
    }

    /// Leases the next tasks to a worker that has room for so many, those first whose worker is lost.
    fn take(&mut self, worker: Worker, tasks: u32, asker: Asker) {
        // What is leased to one that is not believed to live would be leased again at once.
        let most = if self.workers.is_alive(worker) { tasks.min(TAKE_MAX) } else { 0 };
        let (keys, left) = self.next(most as usize);
        self.workers.board().set(self.owned.group.id(), left);
        if keys.is_empty() {
            return send(asker.reply, Ok(Answer::Tasks(Vec::new(), left)));
        }
        let (owned, asker) = (Arc::clone(&self.owned), Asker { left, ..asker });
        self.later(async move {
            // Together, so that they share a sync of the log.
            let leases = keys.into_iter().map(async |key| (key, lease(&owned, key, worker).await));
            Some(Message::Leased(worker, join_all(leases).await, asker))
        });
    }

    /// Takes the next tasks, at most so many, and says what waits beside them.
    fn next(&mut self, most: usize) -> (Vec<Key>, Waiting) {
        let owned = Arc::clone(&self.owned);
        let view = owned.group.view();
        let now = owned.clock.now();
        let lost = most.min(self.again.len());
        let mut keys: Vec<Key> = self.again.drain(..lost).collect();
        keys.iter().for_each(|&key| self.queue.retake(key));
        for key in self.queue.take(most - lost, &view, now) {
            self.note_wait(&view, key, now);
            keys.push(key);
        }
        // What waits is an estimate. Who gets less than it asked for must not ask again at once.
        let over = keys.len() < most;
        let left = if over { Waiting::default() } else { self.waiting(&view, now) };
        (keys, left)
    }

    fn note_wait(&mut self, view: &Machine, (tenant, job, task): Key, now: Time) {
        let plan = view.tenants.get(tenant).map(|tenant| tenant.plan.name());
        let job = view.jobs.get(tenant, job);
        let first = |job: &&Job| job.tasks.get(task as usize).is_some_and(|task| task.attempt == 0);
        if let (Some(plan), Some(job)) = (plan, job.filter(first)) {
            self.waits.note(tenant, plan, now.ms_since(job.ready_at()));
        }
    }

    /// What no replica could tell of a tenant's queue.
    fn known_of(&self, tenant: TenantId) -> QueueView {
        QueueView {
            running: self.queue.running(tenant) as u64,
            tasks: self.queue.ready(tenant).0 as u64,
            wait_p50_ms: self.waits.percentile(tenant, 50),
            wait_p95_ms: self.waits.percentile(tenant, 95),
            ..QueueView::default()
        }
    }

    /// Ends the jobs whose deadline has passed.
    fn end_expired(&mut self, now: Time) {
        if !self.owned.is_spoken(Wire::JOB_LIFE) {
            return;
        }
        let ending: Vec<_> =
            self.queue.expired(now).filter(|job| !self.ending.contains(job)).collect();
        for (tenant, job) in ending.into_iter().take(EXPIRED_MAX) {
            self.ending.insert((tenant, job));
            let owned = Arc::clone(&self.owned);
            self.later(async move {
                let command = protocol::Command::Job(tenant, Command::Expire { job });
                let answered = owned.propose(command).await;
                answers::note_end_of(&owned, tenant, job, &answered);
                Some(Message::Expired(tenant, job))
            });
        }
    }

    /// Tasks whose worker is lost and that are to be leased again at once.
    fn lost(&mut self, view: &Machine, now: Time) -> VecDeque<Key> {
        let queue = &self.queue;
        self.leases.retain(|key, _| queue.is_leased(key));
        let leased: Vec<_> = self.queue.leased().collect();
        let mut lost = Vec::new();
        for (key, attempt, worker) in leased {
            if may_run(view, key, now) && self.is_lost(key, attempt, worker) {
                lost.push((key, attempt, worker));
            }
        }
        let spoken = self.owned.is_spoken(Wire::JOB_LIFE);
        let has_more = |(tenant, job, _): Key| {
            view.jobs.get(tenant, job).is_some_and(|job| job.life.wishes.attempts_max > 1)
        };
        // A task that has lost several workers may be what they were lost to.
        let (again, suspect): (Vec<_>, Vec<_>) = lost
            .into_iter()
            .partition(|&(key, attempt, _)| !spoken || attempt == 1 && has_more(key));
        for (key, attempt, worker) in suspect {
            self.fail(key, attempt, worker);
        }
        again.into_iter().map(|(key, ..)| key).collect()
    }

    /// Sets back a task whose worker is lost.
    fn fail(&mut self, key: Key, attempt: u32, worker: Worker) {
        self.queue.retake(key);
        let owned = Arc::clone(&self.owned);
        let (tenant, job, task) = key;
        let cause = Cause::new(Fault::WorkerLost, &format!("{} says nothing of it", worker.node));
        self.later(async move {
            // What came of it is seen in the state.
            let _ = answers::fail(&owned, (tenant, job, task, attempt), cause).await;
            Some(Message::SetBack(key))
        });
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
        self.settled(&answers.iter().map(|(key, _)| *key).collect::<Vec<_>>());
        let mut tasks = Vec::new();
        for (key, answered) in answers {
            // The last attempt may have been in vain, which may end the job.
            answers::note_end_of(&self.owned, key.0, key.1, &answered);
            let Ok(Answer::Applied(applied)) = answered else { continue };
            let Ok(Reply::Leased(task)) = applied.outcome else { continue };
            debug!(job = %task.job, task = task.task, attempt = task.attempt, node = %worker.node, "task leased");
            let until = Instant::now() + LEASE_TIMEOUT;
            self.leases.insert(key, Lease { attempt: task.attempt, worker, until });
            tasks.push(task);
        }
        let answer = Answer::Tasks(tasks, asker.left);
        if let Err(Ok(Answer::Tasks(tasks, _))) = asker.reply.send(Ok(answer)) {
            tasks.iter().for_each(|task| self.expire(task));
        }
    }

    /// What was proposed of tasks that were taken is in the state, or will not be. The queue follows
    /// first: between the two a task would be neither taken nor leased, and its tenant could have one
    /// more than it may.
    fn settled(&mut self, keys: &[Key]) {
        let owned = Arc::clone(&self.owned);
        self.queue.follow(&owned.group.view(), owned.clock.now());
        keys.iter().for_each(|&key| self.queue.settled(key));
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

/// Gives a task to a worker under the next fencing number.
async fn lease(owned: &Owned, (tenant, job, task): Key, worker: Worker) -> Answered {
    let command = Command::Lease { job, task, worker };
    owned.propose(protocol::Command::Job(tenant, command)).await
}

/// Whether a task that is leased may be leased again.
fn may_run(view: &Machine, (tenant, job, _): Key, now: Time) -> bool {
    let status = view.tenants.get(tenant).map(|tenant| tenant.status(now));
    let works = matches!(status, Some(Status::Active | Status::Trial));
    let job = view.jobs.get(tenant, job);
    works
        && job.is_some_and(|job| {
            job.status != jobs::Status::Paused && job.life.deadline.is_none_or(|at| now < at)
        })
}

/// Documents of a task, so that a job has several tasks per node without tasks of a few documents,
/// and so that the last task does not hold up the end. `pace` is what a document takes.
#[must_use]
pub fn task_documents(documents: usize, priority: Priority, pace: Duration) -> usize {
    /// Tasks that a job of middling size is cut into.
    const TASKS_WANTED: usize = 16;
    /// Below this a lease costs more than it spreads,
    const DOCUMENTS_MIN: usize = 16;
    /// and so does a task that is over sooner;
    const TASK_TIME_LEAST: Duration = Duration::from_millis(50);
    /// beside the time of documents that take long, it costs little.
    const SLOW_DOCUMENTS_MIN: usize = 8;
    /// When a job ends, other slots stand idle for half of this on average.
    const TASK_TIME: Duration = Duration::from_millis(500);
    let wanted = match priority {
        Priority::Low => TASKS_WANTED / 2,
        Priority::Normal | Priority::High | Priority::Urgent => TASKS_WANTED,
    };
    let most = jobs::TASK_DOCUMENTS_MAX as usize;
    // Where nothing is known of the pace, it may be slow.
    let within =
        |time: Duration| time.as_micros().checked_div(pace.as_micros()).unwrap_or(0) as usize;
    let least = within(TASK_TIME_LEAST).clamp(DOCUMENTS_MIN, most);
    let timely = if pace.is_zero() { most } else { within(TASK_TIME) };
    let timely = timely.clamp(SLOW_DOCUMENTS_MIN, most);
    documents.div_ceil(wanted).clamp(least, most).min(timely)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_tasks_for_many_and_none_that_lasts_long() {
        let size = |documents, ms: u64| {
            task_documents(documents, Priority::Normal, Duration::from_micros(ms * 1000))
        };
        assert_eq!((size(10, 1), size(1_000, 1), size(10_000, 1)), (50, 63, 256));
        assert_eq!((size(1_000, 4), size(1_000, 20), size(1_000, 500)), (63, 25, 8));
        assert_eq!((size(1_000, 0), size(0, 20)), (63, 16));
        assert_eq!(task_documents(1_000, Priority::Low, Duration::ZERO), 125);
        let quick =
            |documents, us| task_documents(documents, Priority::Normal, Duration::from_micros(us));
        assert_eq!((quick(1_000, 200), quick(1_000, 100), quick(1_000, 5)), (250, 256, 256));
    }
}
