//! Tasks on the node that runs them. A task is run once per lease; its result is offered to the
//! owner until the owner takes or refuses it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::jobs::{Assignment, Cause, Fault, TaskResult, Worker};
use protocol::peer::{Answer, Ask};
use protocol::{GroupId, JobId, TenantId};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::ask::AskError;
use crate::blobs::Blobs;
use crate::documents::{self, Document};
use crate::figures::figures;
use crate::router::Router;
use crate::slots::{Scanned, SlotError, Slots};

/// Tasks that a node takes on at a time, far above what all coordinators together give it: a refusal
/// costs the task an attempt. One that waits is a few numbers.
const TASKS_MAX: usize = 4096;
/// Tasks in progress per slot: one computes while another fetches or stores its blob.
const TURNS_PER_SLOT: usize = 2;
/// Documents given to a slot at a time, so that a waiting scan is not held up by a whole task.
const CHUNK_DOCUMENTS: usize = 8;
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
    blobs: Blobs,
    router: Router,
    /// Attempt and documents left, by task.
    running: Mutex<BTreeMap<Key, (u32, u32)>>,
    /// Tasks whose documents may be in memory at a time.
    turns: Semaphore,
}

impl Runner {
    /// Takes on work when it is given some.
    #[must_use]
    pub fn start(me: Worker, slots: Slots, blobs: Blobs, router: Router) -> Self {
        let running = Mutex::default();
        let turns = Semaphore::new(TURNS_PER_SLOT * slots.settings().slots.max(1));
        let inner = Inner { me, slots, blobs, router, running, turns };
        let runner = Self { inner: Arc::new(inner) };
        tokio::spawn(runner.clone().report());
        runner
    }

    /// Takes on a task; `false` when there is too much already. Told twice, it runs once.
    #[must_use]
    pub fn take(&self, task: Assignment) -> bool {
        let key = (task.tenant, task.job, task.task);
        let mut running = self.running();
        if running.get(&key).is_some_and(|(attempt, _)| *attempt >= task.attempt) {
            return true;
        }
        if running.len() >= TASKS_MAX {
            return false;
        }
        running.insert(key, (task.attempt, task.documents));
        drop(running);
        let runner = self.clone();
        tokio::spawn(async move {
            runner.run(task).await;
            let mut running = runner.running();
            if running.get(&key).is_some_and(|(attempt, _)| *attempt == task.attempt) {
                running.remove(&key);
            }
        });
        true
    }

    /// Documents of the tasks that this node runs and that no slot was given yet.
    #[must_use]
    pub fn documents_waiting(&self) -> u64 {
        self.running().values().map(|(_, documents)| u64::from(*documents)).sum()
    }

    /// Whether no task is here.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running().is_empty()
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
        self.offer(group, task, ask).await;
    }

    async fn make(&self, group: GroupId, task: Assignment) -> Result<TaskResult, NotRun> {
        // Never closed. Tasks that wait here hold no documents in memory.
        let _turn = self.inner.turns.acquire().await.map_err(text)?;
        let timer = figures().task_seconds.start_timer();
        let blobs = &self.inner.blobs;
        let input = blobs.get(group, task.tenant, task.input).await.map_err(text)?;
        let documents = documents::read(&input).map_err(text)?;
        drop(input);
        let mut records = Vec::with_capacity(documents.len());
        let (mut done, mut tokens) = (0, 0);
        for chunk in documents.chunks(CHUNK_DOCUMENTS) {
            // From here on the slots count them.
            if !self.progress(task, chunk.len() as u32) {
                return Err(NotRun::Unwanted);
            }
            let scanned = self.scan(chunk).await?;
            for (document, scanned) in chunk.iter().zip(scanned) {
                if scanned.is_ok() {
                    done += 1;
                    tokens += documents::words(&document.content);
                }
                let identity = self.inner.slots.identity();
                records.push(documents::record(document, scanned, task.attempt, identity));
            }
        }
        let failed = records.len() as u32 - done;
        timer.observe_duration();
        let output = blobs.put(group, task.tenant, documents::lines(&records)).await;
        Ok(TaskResult { output: output.map_err(text)?, done, failed, cached: 0, tokens })
    }

    async fn scan(&self, chunk: &[Document]) -> Result<Vec<Scanned>, NotRun> {
        loop {
            let texts = chunk.iter().map(|document| document.content.clone()).collect();
            match self.inner.slots.scan(texts).await {
                Ok(scanned) => return Ok(scanned),
                Err(SlotError::Overloaded) => tokio::time::sleep(SLOT_PAUSE).await,
                Err(SlotError::Ended) => return Err(NotRun::Ended),
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

    /// Notes documents that a slot is given now; `false` when this attempt is not wanted any more.
    fn progress(&self, task: Assignment, documents: u32) -> bool {
        let key = (task.tenant, task.job, task.task);
        let mut running = self.running();
        let Some((_, left)) = running.get_mut(&key).filter(|(attempt, _)| *attempt == task.attempt)
        else {
            return false;
        };
        *left = left.saturating_sub(documents);
        true
    }

    /// Lets go of tasks whose results nobody waits for.
    fn stop(&self, tasks: &[(TenantId, JobId, u32, u32)]) {
        let mut running = self.running();
        for &(tenant, job, task, attempt) in tasks {
            let key = (tenant, job, task);
            if running.get(&key).is_some_and(|(runs, _)| *runs == attempt) {
                running.remove(&key);
            }
        }
    }

    /// Tells every owner what runs here, so that it need not wait for a lease to run out.
    async fn report(self) {
        let mut ticks = tokio::time::interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut by_group: BTreeMap<GroupId, Vec<_>> = BTreeMap::new();
            for (&(tenant, job, task), &(attempt, _)) in &*self.running() {
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

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, (u32, u32)>> {
        self.inner.running.lock().unwrap_or_else(|_| std::process::abort())
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
