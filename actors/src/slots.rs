//! Inference slots: one actor and one OS thread each, so that no model ever holds up a node's I/O.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use tokio::sync::{Notify, oneshot};
use tracing::{error, warn};

use crate::bounded::{BoundedRef, Counted, NotSent, Slot};
use crate::documents::Maker;
use crate::figures::figures;
use crate::inference::{ModelIdentity, Scanner, Verdict};
use crate::models::{Loaded, Scored};
use crate::texts::Texts;

/// Batches that wait for one slot; beyond it a caller is told at once.
const BATCHES_MAX: usize = 64;
/// The niceness of slot threads: elections must not wait for inference.
const NICENESS: i32 = 10;
/// A slot whose batch runs for longer than this is given another only when all are like it.
const STUCK_MS: u64 = 2_000;

/// What became of one document.
pub type Scanned = Result<Verdict, String>;

/// Why a batch was not scanned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    #[error("every inference slot is busy and its queue full")]
    Overloaded,
    #[error("the inference slot ended")]
    Ended,
    /// The model does not run on this node; no document is to blame.
    #[error("the model does not run here: {0}")]
    NoModel(String),
}

/// Documents for one slot. Dropped before it runs when nobody waits for it any more.
#[derive(Debug)]
pub struct Batch {
    texts: Texts,
    work: Work,
    _counted: Documents,
}

/// What is done with the documents of a batch, and who waits for it.
#[derive(Debug)]
enum Work {
    /// Scanned by the built-in model.
    Scan(oneshot::Sender<Vec<Scanned>>),
    /// Scored by a model of the registry.
    Score(Arc<Loaded>, oneshot::Sender<Result<Vec<Scored>, String>>),
}

impl Work {
    fn is_unwanted(&self) -> bool {
        match self {
            Self::Scan(reply) => reply.is_closed(),
            Self::Score(_, reply) => reply.is_closed(),
        }
    }
}

/// Since when a slot runs its batch, in milliseconds of this process; 0 while it runs none.
#[derive(Debug, Default)]
struct Busy(AtomicU64);

impl Busy {
    fn begin(&self) {
        self.0.store(now_ms().max(1), Ordering::Relaxed);
    }

    fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn is_stuck(&self) -> bool {
        let since = self.0.load(Ordering::Relaxed);
        since > 0 && now_ms().saturating_sub(since) > STUCK_MS
    }
}

fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u64
}

/// What every slot of a node shares.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Slots, at least one.
    pub slots: usize,
    /// Each document holds its slot this much longer. For demonstrations and tests.
    pub delay: Duration,
}

/// The slots of this node. Clones share them.
#[derive(Clone, Debug)]
pub struct Slots {
    slots: Arc<Vec<(BoundedRef<Batch>, Arc<Busy>)>>,
    identity: Arc<ModelIdentity>,
    maker: Maker,
    settings: Settings,
    /// Documents that wait or run.
    documents: Arc<AtomicU64>,
    /// There are documents where there were none.
    stirred: Arc<Notify>,
    pace: Arc<Pace>,
}

impl Slots {
    /// Starts a supervisor with one actor per slot below it.
    pub async fn start(scanner: Scanner, settings: Settings) -> Result<Self, ActorProcessingErr> {
        let identity = Arc::new(scanner.identity().clone());
        let maker = Maker::new(&identity);
        let (supervisor, _) = Actor::spawn(None, Supervisor, ()).await?;
        let pace = Arc::new(Pace::first(settings.delay));
        let mut slots = Vec::new();
        for _ in 0..settings.slots.max(1) {
            let busy = Arc::new(Busy::default());
            let start = (scanner.slot()?, settings.delay, Arc::clone(&pace), Arc::clone(&busy));
            let (actor, _) =
                Actor::spawn_linked(None, InferenceActor, start, supervisor.get_cell()).await?;
            slots.push((BoundedRef::new(actor, BATCHES_MAX), busy));
        }
        let (documents, stirred) = (Arc::default(), Arc::default());
        let slots = Arc::new(slots);
        Ok(Self { slots, identity, maker, settings, documents, stirred, pace })
    }

    /// Scans texts on the slot with the shortest queue; one outcome per text, in order.
    pub async fn scan(&self, texts: Texts) -> Result<Vec<Scanned>, SlotError> {
        let (reply, scanned) = oneshot::channel();
        self.send(texts, Work::Scan(reply))?;
        scanned.await.map_err(|_| SlotError::Ended)
    }

    /// Scores texts by a model of the registry in the same way.
    pub async fn score(&self, model: Arc<Loaded>, texts: Texts) -> Result<Vec<Scored>, SlotError> {
        let (reply, scored) = oneshot::channel();
        self.send(texts, Work::Score(model, reply))?;
        scored.await.map_err(|_| SlotError::Ended)?.map_err(SlotError::NoModel)
    }

    fn send(&self, texts: Texts, work: Work) -> Result<(), SlotError> {
        let is_live = |slot: &BoundedRef<Batch>| slot.actor().get_status() < ActorStatus::Stopping;
        let live = self.slots.iter().filter(|(slot, _)| is_live(slot));
        // What waits behind a document that hangs waits for long.
        let slot = live.min_by_key(|(slot, busy)| (busy.is_stuck(), slot.depth()));
        let (slot, _) = slot.ok_or(SlotError::Ended)?;
        let idle = self.documents() == 0;
        let counted = Documents::count(&self.documents, texts.len());
        if idle {
            // Counted before, or who is woken would find nothing.
            self.stirred.notify_one();
        }
        slot.try_send(Batch { texts, work, _counted: counted }).map_err(|error| match error {
            NotSent::Overloaded { .. } => SlotError::Overloaded,
            NotSent::Stopped => SlotError::Ended,
        })
    }

    /// Batches that wait or run.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.slots.iter().map(|(slot, _)| slot.depth()).sum()
    }

    /// Documents that wait or run.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.documents.load(Ordering::Relaxed)
    }

    /// Returns when documents came to idle slots. For one listener.
    pub(crate) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// How long a document has held its slot lately.
    #[must_use]
    pub fn pace(&self) -> Duration {
        self.pace.get()
    }

    /// What every result names.
    #[must_use]
    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// What makes the results of the built-in model.
    #[must_use]
    pub fn maker(&self) -> &Maker {
        &self.maker
    }

    /// How the slots were set up.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }
}

/// Documents that are counted until this is dropped, whatever became of them.
#[derive(Debug)]
struct Documents {
    all: Arc<AtomicU64>,
    these: u64,
}

impl Documents {
    fn count(all: &Arc<AtomicU64>, these: usize) -> Self {
        let these = these as u64;
        all.fetch_add(these, Ordering::Relaxed);
        Self { all: Arc::clone(all), these }
    }
}

impl Drop for Documents {
    fn drop(&mut self) {
        self.all.fetch_sub(self.these, Ordering::Relaxed);
    }
}

/// Microseconds for which a document holds its slot: a mean in which newer documents weigh more. Of
/// two slots that note at the same time one may be overheard; a mean can do without it.
#[derive(Debug)]
pub(crate) struct Pace(AtomicU64);

impl Pace {
    /// Before anything was measured: a short text on the built-in model.
    const GUESS: Duration = Duration::from_micros(500);
    /// Documents after which an older one weighs a half.
    const MEMORY: f64 = 64.0;

    pub(crate) fn first(delay: Duration) -> Self {
        Self(AtomicU64::new((Self::GUESS + delay).as_micros() as u64))
    }

    pub(crate) fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn note(&self, documents: usize, took: Duration) {
        if documents == 0 {
            return;
        }
        let documents = documents as f64;
        let (old, new) = (self.get().as_secs_f64(), took.as_secs_f64() / documents);
        let share = documents / (documents + Self::MEMORY);
        let mean = Duration::from_secs_f64(old + (new - old) * share);
        self.0.store(mean.as_micros() as u64, Ordering::Relaxed);
    }
}

struct Supervisor;

impl Actor for Supervisor {
    type Msg = Nothing;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Nothing>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Nothing>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(slot, cause) = event {
            error!(slot = %slot.get_id(), %cause, "inference slot failed");
        }
        Ok(())
    }
}

/// A message that is never sent: the supervisor only watches.
#[derive(Debug)]
pub enum Nothing {}

impl ractor::Message for Nothing {}

/// Passes batches to its thread. The place in the mailbox goes along, so the bound covers both.
struct InferenceActor;

impl Actor for InferenceActor {
    type Msg = Counted<Batch>;
    type State = Sender<(Batch, Slot)>;
    type Arguments = (Scanner, Duration, Arc<Pace>, Arc<Busy>);

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (scanner, delay, pace, busy): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let (batches, queue) = channel();
        std::thread::Builder::new()
            .name("skep-slot".to_owned())
            .spawn(move || run(&scanner, delay, &pace, &busy, &queue))?;
        Ok(batches)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        batches: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        batches.send(message.open()).map_err(|_| "the slot's thread has ended".into())
    }
}

fn run(
    scanner: &Scanner,
    delay: Duration,
    pace: &Pace,
    busy: &Busy,
    queue: &Receiver<(Batch, Slot)>,
) {
    if let Err(error) = rustix::process::nice(NICENESS) {
        warn!(%error, "inference keeps its priority");
    }
    while let Ok((batch, place)) = queue.recv() {
        let Batch { texts, work, _counted: counted } = batch;
        if work.is_unwanted() {
            continue;
        }
        busy.begin();
        let began = Instant::now();
        let held = || {
            hold(delay * texts.len() as u32);
            pace.note(texts.len(), began.elapsed());
        };
        // Whoever waits may have given up meanwhile.
        match work {
            Work::Scan(reply) => {
                let scanned = scan(scanner, &texts);
                held();
                let _ = reply.send(scanned);
            }
            Work::Score(model, reply) => {
                let scored = model.score(&texts.iter().collect::<Vec<_>>());
                held();
                let _ = reply.send(scored);
            }
        }
        busy.end();
        drop((counted, place));
    }
}

#[allow(clippy::disallowed_methods, reason = "the slot's own thread: to hold it is the purpose")]
fn hold(delay: Duration) {
    if !delay.is_zero() {
        std::thread::sleep(delay);
    }
}

/// All at once; when that fails, one by one, so that a bad document fails alone.
fn scan(scanner: &Scanner, texts: &Texts) -> Vec<Scanned> {
    let all: Vec<&str> = texts.iter().collect();
    let timer = figures().inference_seconds.start_timer();
    let together = guarded(scanner, &all);
    timer.observe_duration();
    if let Some(verdicts) = together {
        let quarantined = verdicts.iter().filter(|verdict| verdict.quarantine).count();
        figures().documents_scanned.inc_by(verdicts.len() as u64);
        figures().documents_quarantined.inc_by(quarantined as u64);
        return verdicts.into_iter().map(Ok).collect();
    }
    let one = |text: &&str| match guarded(scanner, &[*text]) {
        Some(mut verdicts) if verdicts.len() == 1 => Ok(verdicts.remove(0)),
        Some(_) | None => Err("the model cannot score this document".to_owned()),
    };
    all.iter().map(one).collect()
}

fn guarded(scanner: &Scanner, texts: &[&str]) -> Option<Vec<Verdict>> {
    match catch_unwind(AssertUnwindSafe(|| scanner.scan(texts))) {
        Ok(Ok(verdicts)) if verdicts.len() == texts.len() => Some(verdicts),
        Ok(Ok(_)) => None,
        Ok(Err(error)) => {
            warn!(%error, "batch not scored");
            None
        }
        Err(_) => {
            error!("the model panicked on a batch");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_what_is_measured() {
        let pace = Pace::first(Duration::from_millis(40));
        assert_eq!(pace.get(), Duration::from_micros(40_500));
        pace.note(0, Duration::from_secs(1));
        assert_eq!(pace.get(), Duration::from_micros(40_500));
        // Half of the way with as many documents as it remembers.
        pace.note(64, Duration::from_micros(64 * 500));
        assert_eq!(pace.get(), Duration::from_micros(20_500));
        for _ in 0..200 {
            pace.note(8, Duration::from_micros(8 * 2_000));
        }
        assert!(pace.get().abs_diff(Duration::from_micros(2_000)) < Duration::from_micros(5));
    }

    #[test]
    fn documents_count_until_their_batch_is_gone() {
        let all = Arc::default();
        let (one, two) = (Documents::count(&all, 3), Documents::count(&all, 4));
        assert_eq!(all.load(Ordering::Relaxed), 7);
        drop(one);
        assert_eq!(all.load(Ordering::Relaxed), 4);
        drop(two);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
