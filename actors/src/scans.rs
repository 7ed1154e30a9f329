//! Where documents are scored while a caller waits: here, unless another node is done clearly sooner.
//! Two others are drawn at random and the one with less to do is compared with this one; whatever
//! goes wrong there, the documents are scored here. A verdict is the same everywhere: a node with
//! another model declines.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use protocol::{NodeId, codec};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::figures::figures;
use crate::inference::ModelIdentity;
use crate::jobs::{Load, Workers};
use crate::remote::{Envelope, PAYLOAD_MAX, PAYLOAD_NORMAL_MAX, PeerTransport, ReplyFrame};
use crate::slots::{Scanned, SlotError, Slots};
use crate::texts::Texts;
use crate::work::Runner;

/// Envelope kind: [`Question`], answered with their verdicts, or with nothing by a node that declines.
pub(crate) const KIND_SCAN: u16 = 9;
/// By how much another node must be sooner: the way there, and what its word is behind.
const FAVOUR_S: f64 = 0.05;
/// What another node may take beyond twice what it is expected to.
const SLACK: Duration = Duration::from_millis(500);

/// Texts on their way to another node's slots.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    /// The model that is to score them.
    identity: ModelIdentity,
    texts: Vec<String>,
}

/// What was scored, and where.
#[derive(Debug)]
pub struct Placed {
    /// One outcome per text, in order.
    pub scanned: Vec<Scanned>,
    pub node: NodeId,
}

/// A node, and seconds until it has done what it has.
type Candidate = (NodeId, f64);

/// Scores documents for callers that wait. Clones are the same.
#[derive(Clone)]
pub struct Scans {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    slots: Slots,
    runner: Runner,
    workers: Workers,
    transport: OnceLock<Arc<dyn PeerTransport>>,
    /// Documents that were sent to other nodes and are not back: their words do not tell of them yet.
    sent: Mutex<BTreeMap<NodeId, u64>>,
    next: AtomicU64,
}

impl std::fmt::Debug for Scans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "scans of {}", self.inner.me)
    }
}

impl Scans {
    pub(crate) fn new(me: NodeId, slots: Slots, runner: Runner, workers: Workers) -> Self {
        let (transport, sent, next) = (OnceLock::new(), Mutex::default(), AtomicU64::new(1));
        let inner = Inner { me, slots, runner, workers, transport, sent, next };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn set_transport(&self, transport: Arc<dyn PeerTransport>) {
        // Set once, at boot.
        let _ = self.inner.transport.set(transport);
    }

    /// Scores texts where they are done soonest, as far as that is known here.
    pub async fn scan(&self, texts: Texts) -> Result<Placed, SlotError> {
        let Inner { me, slots, .. } = &*self.inner;
        let mut place = "here";
        if let Some((node, drain_s)) = self.better() {
            let texts = texts.iter().map(str::to_owned).collect();
            let question = Question { identity: slots.identity().clone(), texts };
            if let Some(scanned) = self.elsewhere(node, drain_s, question).await {
                figures().scans_placed.with_label_values(&["elsewhere"]).inc();
                return Ok(Placed { scanned, node });
            }
            place = "back";
        }
        figures().scans_placed.with_label_values(&[place]).inc();
        Ok(Placed { scanned: slots.scan(texts).await?, node: *me })
    }

    /// Scores texts that came from another node.
    pub(crate) async fn scan_for(&self, question: Question) -> Option<Vec<Scanned>> {
        let slots = &self.inner.slots;
        if question.identity != *slots.identity() {
            return None;
        }
        slots.scan(question.texts.into()).await.ok()
    }

    /// Another node that is done sooner than this one.
    fn better(&self) -> Option<Candidate> {
        let Inner { me, slots, runner, workers, .. } = &*self.inner;
        let mine = Load {
            slots: slots.settings().slots.max(1) as u32,
            documents: runner.documents_waiting() + slots.documents(),
            document_us: slots.pace().as_micros() as u64,
            ..Load::default()
        };
        let here = (*me, mine.pressure_s());
        if here.1 <= FAVOUR_S {
            // Nobody is clearly sooner.
            return None;
        }
        let loads = workers.loads().into_iter();
        let others = loads.filter(|(node, load)| node != me && load.works());
        let sent = self.sent().clone();
        let others: Vec<Candidate> = others
            .map(|(node, mut load)| {
                load.documents += sent.get(&node).copied().unwrap_or(0);
                (node, load.pressure_s())
            })
            .collect();
        let chosen = choose(here, &others, |below| rand::rng().random_range(0..below));
        let better = (chosen.0 != *me).then_some(chosen);
        debug!(node = %chosen.0, drain_s = chosen.1, here_s = here.1, "scan placed");
        better
    }

    async fn elsewhere(
        &self,
        node: NodeId,
        drain_s: f64,
        question: Question,
    ) -> Option<Vec<Scanned>> {
        let Inner { slots, transport, next, .. } = &*self.inner;
        let transport = transport.get()?;
        let count = question.texts.len();
        let payload = codec::encode(&question).ok()?;
        if payload.len() > PAYLOAD_NORMAL_MAX {
            // It would hold up what is small and urgent.
            return None;
        }
        let expected = slots.pace() * count as u32 + Duration::from_secs_f64(drain_s);
        let id = next.fetch_add(1, Ordering::Relaxed);
        let mut envelope = Envelope::new(KIND_SCAN, id, Bytes::from(payload));
        envelope.deadline_remaining_ms = (expected * 2 + SLACK).as_millis() as u32;
        let _counted = self.count(node, count as u64);
        let answer = match transport.call(node.0, envelope).await {
            Ok(ReplyFrame::Ok(answer)) => codec::decode::<Option<Vec<Scanned>>>(&answer).ok()?,
            Ok(_) | Err(_) => None,
        };
        if answer.is_none() {
            debug!(%node, "scan comes back");
        }
        answer.filter(|scanned| scanned.len() == count)
    }

    fn count(&self, node: NodeId, documents: u64) -> Sent<'_> {
        *self.sent().entry(node).or_default() += documents;
        Sent { scans: self, node, documents }
    }

    fn sent(&self) -> MutexGuard<'_, BTreeMap<NodeId, u64>> {
        self.inner.sent.lock().unwrap_or_else(|_| std::process::abort())
    }
}

/// What another node answers; nothing, where it would be too large to be sent.
pub(crate) fn answer(scanned: Option<Vec<Scanned>>) -> ReplyFrame {
    let fits = |bytes: &Vec<u8>| bytes.len() <= PAYLOAD_MAX;
    let none: Option<Vec<Scanned>> = None;
    let bytes = codec::encode(&scanned).ok().filter(fits).or_else(|| codec::encode(&none).ok());
    bytes.map_or(ReplyFrame::Internal, |bytes| ReplyFrame::Ok(Bytes::from(bytes)))
}

/// Documents that are counted until they are back, or lost.
struct Sent<'a> {
    scans: &'a Scans,
    node: NodeId,
    documents: u64,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if let Some(sent) = self.scans.sent().get_mut(&self.node) {
            *sent = sent.saturating_sub(self.documents);
        }
    }
}

/// Of two others, drawn at random, the one with less to do, if that is clearly less than here.
fn choose(
    here: Candidate,
    others: &[Candidate],
    mut draw: impl FnMut(usize) -> usize,
) -> Candidate {
    let Some(last) = others.len().checked_sub(1) else { return here };
    let first = draw(others.len());
    // Not the same one again, if there is another.
    let second = if last == 0 { first } else { (first + 1 + draw(last)) % others.len() };
    let (a, b) = (others[first], others[second]);
    let lower = if b.1 < a.1 { b } else { a };
    if lower.1 + FAVOUR_S < here.1 { lower } else { here }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(here: f64, others: &[f64], draws: [usize; 2], chosen: u64) {
        let node = |(i, drain_s): (usize, &f64)| (NodeId(i as u64 + 2), *drain_s);
        let others: Vec<Candidate> = others.iter().enumerate().map(node).collect();
        let mut draws = draws.into_iter();
        let found = choose((NodeId(1), here), &others, |below| {
            let drawn = draws.next().unwrap();
            assert!(drawn < below);
            drawn
        });
        assert_eq!(found.0, NodeId(chosen));
    }

    #[test]
    fn the_lower_of_two_is_taken_if_it_is_clearly_lower_than_here() {
        check(1.0, &[], [0, 0], 1);
        check(1.0, &[0.2], [0, 0], 2);
        check(1.0, &[0.2, 0.1, 0.0], [0, 0], 3);
        check(1.0, &[0.2, 0.1, 0.0], [2, 0], 4);
        // The third would be lower, but was not drawn.
        check(0.2, &[0.3, 0.4, 0.0], [1, 1], 1);
        check(0.2, &[0.16, 0.2, 0.3], [0, 0], 1);
    }

    #[test]
    fn an_answer_that_is_too_large_is_none() {
        let large = vec![Err("x".repeat(PAYLOAD_MAX))];
        assert_eq!(answer(Some(large)), answer(None));
        assert_ne!(answer(Some(vec![Err("no".to_owned())])), answer(None));
    }
}
