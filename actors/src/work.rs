//! Tasks on the node that runs them. They are fetched when there is room for them; each is run once
//! per lease; its result is offered to the owner until the owner takes or refuses it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use protocol::jobs::{Assignment, Cause, Fault, TaskResult, Worker};
use protocol::peer::{Answer, Ask};
use protocol::{GroupId, JobId, TenantId};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::ask::AskError;
use crate::blobs::Blobs;
use crate::cache::{Cache, Names, Scored, Tally, Whose};
use crate::documents;
use crate::figures::figures;
use crate::inference::ModelIdentity;
use crate::jobs::Workers;
use crate::models::Models;
use crate::router::Router;
use crate::slots::{Scanned, SlotError, Slots};
use crate::texts::Texts;

mod credit;
mod lead;
mod model;
mod pull;

use lead::Lead;

/// Tasks that are here at a time, those included whose results no owner has taken yet. None is
/// fetched beyond it.
const TASKS_MAX: usize = 256;
/// Tasks in progress per slot: one computes while another fetches or stores its blob.
const TURNS_PER_SLOT: usize = 2;
/// Documents given to a slot at a time, so that a waiting scan is not held up by a whole task;
const CHUNK_DOCUMENTS: usize = 8;
/// fewer where they would hold the slot for longer than this. How much of a task is left is known at the
/// end of each.
const CHUNK_TIME: Duration = Duration::from_millis(100);
/// Of one task: the next waits at a slot when one is done, and while another task is fetched or stored
/// the slots are not idle.
const CHUNKS_AT_ONCE: usize = 2;
/// How long a result is offered to an owner that does not answer.
const OFFER_TIMEOUT: Duration = Duration::from_secs(60);
const OFFER_PAUSE: Duration = Duration::from_millis(200);
/// A full slot is asked again after this.
const SLOT_PAUSE: Duration = Duration::from_millis(5);
/// How often owners hear that their tasks still run.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

type Key = (TenantId, JobId, u32);

/// Runs tasks on this node's slots. Clones share the work.
#[derive(Clone, Debug)]
pub struct Runner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    me: Worker,
    slots: Slots,
    models: Models,
    blobs: Blobs,
    cache: Cache,
    router: Router,
    workers: Workers,
    running: Mutex<BTreeMap<Key, Held>>,
    /// Tasks whose documents may be in memory at a time.
    turns: Semaphore,
    lead: Lead,
    /// The last task has ended.
    emptied: Notify,
}

/// A task that is here.
#[derive(Clone, Copy, Debug)]
struct Held {
    attempt: u32,
    /// Documents that no slot was given yet.
    waiting: u32,
    /// Documents without a verdict.
    left: u32,
    /// Nothing is to be done but to bring the owner its result.
    made: bool,
}

impl Runner {
    /// Fetches work from now on, when there is any.
    #[must_use]
    pub fn start(
        me: Worker,
        (slots, models): (Slots, Models),
        (blobs, cache): (Blobs, Cache),
        router: Router,
        workers: Workers,
    ) -> Self {
        let running = Mutex::default();
        let turns = Semaphore::new(TURNS_PER_SLOT * slots.settings().slots.max(1));
        let (lead, emptied) = (Lead::default(), Notify::new());
        let inner = Inner {
            me,
            slots,
            models,
            blobs,
            cache,
            router,
            workers,
            running,
            turns,
            lead,
            emptied,
        };
        let runner = Self { inner: Arc::new(inner) };
        tokio::spawn(runner.clone().report());
        tokio::spawn(pull::run(runner.clone()));
        runner
    }

    /// Takes on a task that is leased to this node.
    fn take(&self, task: Assignment) {
        let key = (task.tenant, task.job, task.task);
        let Assignment { attempt, documents, .. } = task;
        let held = Held { attempt, waiting: documents, left: documents, made: false };
        // An earlier attempt that still runs here ends by itself, and its result is refused.
        self.running().insert(key, held);
        let runner = self.clone();
        tokio::spawn(async move {
            runner.run(task).await;
            let mut running = runner.running();
            if running.get(&key).is_some_and(|held| held.attempt == task.attempt) {
                running.remove(&key);
            }
            if running.is_empty() {
                runner.inner.emptied.notify_waiters();
            }
            drop(running);
            runner.stir();
        });
    }

    /// Documents of the tasks that this node runs and that no slot was given yet.
    #[must_use]
    pub fn documents_waiting(&self) -> u64 {
        self.running().values().map(|held| u64::from(held.waiting)).sum()
    }

    /// Tasks that it has room for, beside those that were asked for and have not come.
    fn room(&self, asked: usize) -> usize {
        let pace = self.inner.slots.pace();
        let slots = self.inner.slots.settings().slots.max(1);
        let running = self.running();
        let beyond = TASKS_MAX.saturating_sub(running.len() + asked);
        let unmade = running.values().filter(|held| !held.made);
        let left = unmade.map(|held| pace * held.left);
        credit::room(slots, left, asked, self.inner.lead.time()).min(beyond)
    }

    /// There may be room for more.
    fn stir(&self) {
        self.inner.workers.board().stir();
    }

    /// Whether no task is here.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running().is_empty()
    }

    /// Returns when no task is here.
    pub(crate) async fn idle(&self) {
        loop {
            // Before the look, so that an end in between is not missed.
            let emptied = self.inner.emptied.notified();
            if self.is_idle() {
                return;
            }
            emptied.await;
        }
    }

    async fn run(&self, task: Assignment) {
        let Some(group) = self.inner.router.group_of(task.tenant) else { return };
        let Assignment { tenant, job, task: number, attempt, .. } = task;
        let ask = match self.make(group, task).await {
            Ok(result) => Ask::Finished { tenant, job, task: number, attempt, result },
            Err(NotRun::Unwanted) => {
                info!(%job, task = number, attempt, "task stopped: nobody waits for it");
                return;
            }
            // The node ends, which its owner sees, so that the task runs elsewhere at once.
            Err(NotRun::Ended) => return,
            Err(NotRun::Failed(error)) => {
                warn!(%job, task = number, attempt, error, "task not run");
                let cause = Cause::new(Fault::TaskFailed, &error);
                Ask::Failed { tenant, job, task: number, attempt, cause }
            }
        };
        self.change(task, |held| held.made = true);
        self.offer(group, task, ask).await;
    }

    async fn make(&self, group: GroupId, task: Assignment) -> Result<TaskResult, NotRun> {
        // Never closed. Tasks that wait here hold no documents in memory.
        let _turn = self.inner.turns.acquire().await.map_err(text)?;
        let timer = figures().task_seconds.start_timer();
        let (began, blobs) = (Instant::now(), &self.inner.blobs);
        let input = blobs.get(group, task.tenant, task.input).await.map_err(text)?;
        let documents = documents::read(&input).map_err(text)?;
        drop(input);
        self.inner.lead.read(began.elapsed());
        if let Some(model) = task.model {
            return self.make_by(model, group, task, documents).await;
        }
        let (ids, texts): (Vec<_>, Vec<_>) =
            documents.into_iter().map(|document| (document.id, document.content)).unzip();
        let scored = self.score(task, texts.into()).await?;
        let maker = self.inner.slots.maker();
        let mut result = TaskResult::none(task.input);
        // A record is a line as soon as it is made: they are many.
        let lines = documents::lines(ids.into_iter().zip(scored).map(|(id, scored)| {
            count(&mut result, &scored);
            maker.record(id, scored, task.attempt)
        }));
        timer.observe_duration();
        let output = blobs.put(group, task.tenant, lines).await;
        Ok(TaskResult { output: output.map_err(text)?, ..result })
    }

    /// One outcome per text: what is known of it, or what the slots say.
    async fn score(&self, task: Assignment, texts: Texts) -> Result<Vec<Scored>, NotRun> {
        let Inner { slots, cache, .. } = &*self.inner;
        let names = self.names(task, slots.identity())?;
        let tell = |tally: Tally| {
            let hits = tally.cached.count();
            self.change(task, |held| {
                held.waiting = held.waiting.saturating_sub(hits);
                held.left = held.left.saturating_sub(hits);
            });
            std::future::ready(())
        };
        let compute = |texts: Texts| self.compute(task, texts);
        cache.score(&names, &texts, slots.pace(), compute, tell).await.0
    }

    /// The names of what the tenant of a task may be given of a model's results.
    fn names(&self, task: Assignment, identity: &ModelIdentity) -> Result<Names, NotRun> {
        let pepper = self.inner.router.pepper();
        let pepper = pepper.ok_or_else(|| text("the cluster map is not known"))?;
        let whose = Whose::of(task.tenant, task.shares_cache);
        Ok(Names::new(&pepper, whose, identity))
    }

    async fn compute(&self, task: Assignment, texts: Texts) -> Result<Vec<Scanned>, NotRun> {
        let scans = texts.parts(self.chunk_documents()).map(|texts| async move {
            let documents = texts.len() as u32;
            // From here on the slots count them.
            if !self.change(task, |held| held.waiting = held.waiting.saturating_sub(documents)) {
                return Err(NotRun::Unwanted);
            }
            let scanned = self.scan(texts).await;
            self.change(task, |held| held.left = held.left.saturating_sub(documents));
            scanned
        });
        let scans = futures::stream::iter(scans).buffered(CHUNKS_AT_ONCE);
        let scanned: Vec<Vec<Scanned>> = scans.try_collect().await?;
        Ok(scanned.into_iter().flatten().collect())
    }

    async fn scan(&self, texts: Texts) -> Result<Vec<Scanned>, NotRun> {
        loop {
            match self.inner.slots.scan(texts.clone()).await {
                Ok(scanned) => return Ok(scanned),
                Err(SlotError::Overloaded) => tokio::time::sleep(SLOT_PAUSE).await,
                Err(SlotError::Ended | SlotError::NoModel(_)) => return Err(NotRun::Ended),
            }
        }
    }

    /// Offers what came of a task until its owner takes or refuses it.
    async fn offer(&self, group: GroupId, task: Assignment, ask: Ask) {
        let Assignment { job, task: number, attempt, .. } = task;
        let deadline = Instant::now() + OFFER_TIMEOUT;
        while Instant::now() < deadline {
            match self.inner.router.ask(group, ask.clone()).await.answered {
                Ok(Answer::Applied(applied)) => {
                    match applied.outcome {
                        Ok(_) => debug!(%job, task = number, attempt, "result committed"),
                        Err(refusal) => {
                            info!(%job, task = number, attempt, %refusal, "result refused")
                        }
                    }
                    return;
                }
                Ok(_) => return,
                // Offering again is safe: the first committed result wins.
                Err(AskError::TooLarge) => return,
                Err(error) => {
                    debug!(%job, task = number, %error, "result not taken yet");
                    tokio::time::sleep(OFFER_PAUSE).await;
                }
            }
        }
        warn!(%job, task = number, "no owner took the result in time");
    }

    fn chunk_documents(&self) -> usize {
        let pace_us = self.inner.slots.pace().as_micros().max(1);
        let most = CHUNK_TIME.as_micros() / pace_us;
        (most as usize).clamp(1, CHUNK_DOCUMENTS)
    }

    /// Changes what is noted of a task; `false` when this attempt is not wanted any more.
    fn change(&self, task: Assignment, change: impl FnOnce(&mut Held)) -> bool {
        let key = (task.tenant, task.job, task.task);
        let mut running = self.running();
        let held = running.get_mut(&key).filter(|held| held.attempt == task.attempt);
        let wanted = held.map(change).is_some();
        drop(running);
        self.stir();
        wanted
    }

    /// Lets go of tasks whose results nobody waits for.
    fn stop(&self, tasks: &[(TenantId, JobId, u32, u32)]) {
        let mut running = self.running();
        for &(tenant, job, task, attempt) in tasks {
            let key = (tenant, job, task);
            if running.get(&key).is_some_and(|held| held.attempt == attempt) {
                running.remove(&key);
            }
        }
        self.stir();
    }

    /// Tells every owner what runs here, so that it need not wait for a lease to run out.
    async fn report(self) {
        let mut ticks = raft::ticks::ticks(REPORT_INTERVAL);
        loop {
            ticks.tick().await;
            let mut by_group: BTreeMap<GroupId, Vec<_>> = BTreeMap::new();
            for (&(tenant, job, task), &Held { attempt, .. }) in &*self.running() {
                if let Some(group) = self.inner.router.group_of(tenant) {
                    by_group.entry(group).or_default().push((tenant, job, task, attempt));
                }
            }
            for (group, tasks) in by_group {
                let ask = Ask::Running { worker: self.inner.me, tasks };
                match self.inner.router.ask(group, ask).await.answered {
                    Ok(Answer::Stop(tasks)) => self.stop(&tasks),
                    Ok(_) => {}
                    Err(error) => debug!(%group, %error, "owner not told what runs"),
                }
            }
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Held>> {
        self.inner.running.lock().unwrap_or_else(|_| std::process::abort())
    }
}

/// Counts one more document of a task.
fn count(result: &mut TaskResult, scored: &Scored) {
    match &scored.result {
        Ok(entry) => {
            result.done += 1;
            result.cached += u32::from(scored.cached);
            result.tokens += entry.words;
        }
        Err(_) => result.failed += 1,
    }
}

/// Why a task has no result.
enum NotRun {
    /// It was cancelled, or somebody else has done it.
    Unwanted,
    /// The slots are gone: the node stops.
    Ended,
    Failed(String),
}

fn text(error: impl std::fmt::Display) -> NotRun {
    NotRun::Failed(error.to_string())
}
