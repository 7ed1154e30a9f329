//! What nodes ask each other of results, and hand over.

use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use protocol::{NodeId, codec};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::debug;

use super::flights::{Entered, Follower};
use super::memory::Entry;
use super::names::Key;
use super::{Cache, FLIGHT_MAX};
use crate::remote::{Envelope, PAYLOAD_NORMAL_MAX, ReplyFrame};

/// Envelope kind: a [`Question`], answered with a [`Word`] for each of its names; or, posted, results.
pub(crate) const KIND_CACHE: u16 = 10;
/// Names in one question.
pub(super) const QUESTION_KEYS_MAX: usize = 256;
/// How long a node may take to say what it has. Then it is not asked for a while.
const ASK_TIMEOUT: Duration = Duration::from_millis(50);
const SLOW_PAUSE: Duration = Duration::from_secs(1);
/// What an answer that came of waiting may take beyond the wait.
const WAIT_SLACK: Duration = Duration::from_millis(200);

/// Which results are wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    keys: Vec<Key>,
    /// Whether the disk is worth a look for them.
    on_disk: bool,
    /// Who is told to compute does so within this, or another may.
    within_ms: u32,
    /// For how long a result that is being computed may be waited for.
    wait_ms: u32,
}

impl Question {
    pub(super) fn new(keys: Vec<Key>, on_disk: bool, within: Duration, wait: Duration) -> Self {
        let ms = |time: Duration| time.as_millis() as u32;
        Self { keys, on_disk, within_ms: ms(within), wait_ms: ms(wait) }
    }

    fn wait(&self) -> Duration {
        Duration::from_millis(u64::from(self.wait_ms))
    }
}

/// What a node says of a name that belongs to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Word {
    Here(Entry),
    /// Nobody has it or computes it: the asker may.
    Yours,
    /// Somebody computes it.
    Busy,
}

impl Cache {
    pub(super) async fn ask(&self, owner: NodeId, question: Question) -> Option<Vec<Word>> {
        let transport = self.inner.transport.get()?;
        if self.is_slow(owner) {
            return None;
        }
        let (count, wait) = (question.keys.len(), question.wait());
        let payload = Bytes::from(codec::encode(&question).ok()?);
        let mut envelope = Envelope::new(KIND_CACHE, 0, payload);
        let patience = if wait.is_zero() { ASK_TIMEOUT } else { wait + WAIT_SLACK };
        envelope.deadline_remaining_ms = patience.as_millis() as u32;
        let called = tokio::time::timeout(patience, transport.call(owner.0, envelope)).await;
        match called {
            Ok(Ok(ReplyFrame::Ok(answer))) => {
                let words: Vec<Word> = codec::decode(&answer).ok()?;
                return Some(words).filter(|words| words.len() == count);
            }
            Ok(answered) => debug!(node = %owner, ?answered, "cache not asked"),
            Err(_) => debug!(node = %owner, "cache says nothing in time"),
        }
        self.slow().insert(owner, Instant::now() + SLOW_PAUSE);
        None
    }

    /// Answers another node.
    pub(crate) async fn answer(&self, payload: &[u8]) -> ReplyFrame {
        let Ok(question) = codec::decode::<Question>(payload) else { return ReplyFrame::Internal };
        if question.keys.len() > QUESTION_KEYS_MAX {
            return ReplyFrame::Internal;
        }
        match codec::encode(&self.words(question).await) {
            Ok(words) => ReplyFrame::Ok(Bytes::from(words)),
            Err(_) => ReplyFrame::Internal,
        }
    }

    async fn words(&self, question: Question) -> Vec<Word> {
        let wait = question.wait().min(FLIGHT_MAX);
        let Question { keys, on_disk, within_ms, .. } = question;
        if self.inner.memory.is_none() {
            return keys.iter().map(|_| Word::Yours).collect();
        }
        let mut found: Vec<_> = keys.iter().map(|key| self.remembered(key)).collect();
        let missing: Vec<usize> = (0..keys.len()).filter(|&at| found[at].is_none()).collect();
        if on_disk && !missing.is_empty() {
            let kept = self.kept(missing.iter().map(|&at| keys[at]).collect()).await;
            missing.iter().zip(kept).for_each(|(&at, kept)| found[at] = kept);
        }
        let within = Duration::from_millis(u64::from(within_ms)).min(FLIGHT_MAX);
        let entered = keys.iter().zip(&found).map(|(key, found)| match found {
            Some(_) => Ok(()),
            None => self.enter(*key, within),
        });
        let entered: Vec<Result<(), Option<Follower>>> = entered.collect();
        let mut room = PAYLOAD_NORMAL_MAX;
        let words = keys.into_iter().zip(found).zip(entered).map(|((key, found), entered)| {
            let found = found.filter(|entry| {
                let fits = room.checked_sub(entry.bytes());
                room = fits.unwrap_or(room);
                fits.is_some()
            });
            async move {
                match (found, entered) {
                    (Some(entry), _) => Word::Here(entry),
                    (None, Err(Some(follower))) => self.busy(key, follower, within, wait).await,
                    // One that has no room in the answer is computed again.
                    (None, Ok(()) | Err(None)) => Word::Yours,
                }
            }
        });
        join_all(words).await
    }

    /// Follows whoever computes it, or leaves that to the asker.
    fn enter(&self, key: Key, within: Duration) -> Result<(), Option<Follower>> {
        match self.inner.flights.enter(key, Instant::now() + within) {
            Entered::Lead(leader) => {
                leader.leave();
                Err(None)
            }
            Entered::Follow(follower) => Err(Some(follower)),
            Entered::Full => Err(None),
        }
    }

    async fn busy(&self, key: Key, follower: Follower, within: Duration, wait: Duration) -> Word {
        let Some(_place) = self.inner.waits.try_acquire().ok().filter(|_| !wait.is_zero()) else {
            return Word::Busy;
        };
        follower.wait(Instant::now() + wait).await;
        match self.remembered(&key) {
            Some(entry) => Word::Here(entry),
            None if self.enter(key, within).is_err_and(|follower| follower.is_some()) => Word::Busy,
            None => Word::Yours,
        }
    }

    /// Takes results that belong to this node, and the news of those that do not come.
    pub(crate) fn take(&self, payload: &[u8]) {
        if self.inner.memory.is_none() {
            return;
        }
        let entries = match codec::decode::<Vec<(Key, Option<Entry>)>>(payload) {
            Ok(entries) => entries,
            Err(error) => return debug!(%error, "results of a peer not understood"),
        };
        for (key, entry) in &entries {
            if let Some(entry) = entry {
                self.remember(*key, entry);
            }
            self.inner.flights.end(key);
        }
        self.keep(entries);
    }

    /// Hands results to the node that they belong to. Those that get lost are computed again.
    pub(super) fn hand_over(&self, owner: NodeId, entries: Vec<(Key, Option<Entry>)>) {
        let Some(transport) = self.inner.transport.get() else { return };
        let bytes = |(_, entry): &(Key, Option<Entry>)| entry.as_ref().map_or(64, Entry::bytes);
        let mut parcel = Vec::new();
        let mut room = PAYLOAD_NORMAL_MAX;
        let post = |parcel: &Vec<(Key, Option<Entry>)>| {
            let Ok(payload) = codec::encode(parcel) else { return };
            let envelope = Envelope::new(KIND_CACHE, 0, Bytes::from(payload));
            if let Err(error) = transport.post(owner.0, envelope) {
                debug!(node = %owner, %error, "results not handed over");
            }
        };
        for entry in entries {
            if bytes(&entry) > room {
                post(&std::mem::take(&mut parcel));
                room = PAYLOAD_NORMAL_MAX;
            }
            room -= bytes(&entry);
            parcel.push(entry);
        }
        post(&parcel);
    }

    fn is_slow(&self, node: NodeId) -> bool {
        self.slow().get(&node).is_some_and(|until| Instant::now() < *until)
    }

    fn slow(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.inner.slow.lock().unwrap_or_else(|_| std::process::abort())
    }
}
