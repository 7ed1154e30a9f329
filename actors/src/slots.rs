//! Inference slots: one actor and one OS thread each, so that no model ever holds up a node's I/O.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use tokio::sync::oneshot;
use tracing::{error, warn};

use crate::bounded::{BoundedRef, Counted, NotSent, Slot};
use crate::figures::figures;
use crate::inference::{ModelIdentity, Scanner, Verdict};

/// Batches that wait for one slot; beyond it a caller is told at once.
const BATCHES_MAX: usize = 64;
/// The niceness of slot threads: elections must not wait for inference.
const NICENESS: i32 = 10;

/// What became of one document.
pub type Scanned = Result<Verdict, String>;

/// Why a batch was not scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    #[error("every inference slot is busy and its queue full")]
    Overloaded,
    #[error("the inference slot ended")]
    Ended,
}

/// Documents for one slot. Dropped before it runs when nobody waits for it any more.
#[derive(Debug)]
pub struct Batch {
    texts: Vec<String>,
    reply: oneshot::Sender<Vec<Scanned>>,
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
    slots: Arc<Vec<BoundedRef<Batch>>>,
    identity: Arc<ModelIdentity>,
    settings: Settings,
}

impl Slots {
    /// Starts a supervisor with one actor per slot below it.
    pub async fn start(scanner: Scanner, settings: Settings) -> Result<Self, ActorProcessingErr> {
        let identity = Arc::new(scanner.identity().clone());
        let (supervisor, _) = Actor::spawn(None, Supervisor, ()).await?;
        let mut slots = Vec::new();
        for _ in 0..settings.slots.max(1) {
            let start = (scanner.slot()?, settings.delay);
            let (actor, _) =
                Actor::spawn_linked(None, InferenceActor, start, supervisor.get_cell()).await?;
            slots.push(BoundedRef::new(actor, BATCHES_MAX));
        }
        Ok(Self { slots: Arc::new(slots), identity, settings })
    }

    /// Scans texts on the slot with the shortest queue; one outcome per text, in order.
    pub async fn scan(&self, texts: Vec<String>) -> Result<Vec<Scanned>, SlotError> {
        let (reply, scanned) = oneshot::channel();
        let live =
            self.slots.iter().filter(|slot| slot.actor().get_status() < ActorStatus::Stopping);
        let slot = live.min_by_key(|slot| slot.depth()).ok_or(SlotError::Ended)?;
        slot.try_send(Batch { texts, reply }).map_err(|error| match error {
            NotSent::Overloaded { .. } => SlotError::Overloaded,
            NotSent::Stopped => SlotError::Ended,
        })?;
        scanned.await.map_err(|_| SlotError::Ended)
    }

    /// Batches that wait or run.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.slots.iter().map(BoundedRef::depth).sum()
    }

    /// What every result names.
    #[must_use]
    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// How the slots were set up.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
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
    type Arguments = (Scanner, Duration);

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (scanner, delay): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let (batches, queue) = channel();
        std::thread::Builder::new()
            .name("skep-slot".to_owned())
            .spawn(move || run(&scanner, delay, &queue))?;
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

fn run(scanner: &Scanner, delay: Duration, queue: &Receiver<(Batch, Slot)>) {
    if let Err(error) = rustix::process::nice(NICENESS) {
        warn!(%error, "inference keeps its priority");
    }
    while let Ok((batch, place)) = queue.recv() {
        if batch.reply.is_closed() {
            continue;
        }
        let scanned = scan(scanner, &batch.texts);
        hold(delay * batch.texts.len() as u32);
        // The caller may have given up meanwhile.
        let _ = batch.reply.send(scanned);
        drop(place);
    }
}

#[allow(clippy::disallowed_methods, reason = "the slot's own thread: to hold it is the purpose")]
fn hold(delay: Duration) {
    if !delay.is_zero() {
        std::thread::sleep(delay);
    }
}

/// All at once; when that fails, one by one, so that a bad document fails alone.
fn scan(scanner: &Scanner, texts: &[String]) -> Vec<Scanned> {
    let all: Vec<&str> = texts.iter().map(String::as_str).collect();
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
