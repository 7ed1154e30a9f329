//! Results in this node's memory, and what one takes. Invariant: never more bytes than the bound.

use std::sync::Arc;
use std::time::Duration;

use protocol::Time;
use protocol::wire::scan::Verdict;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};

use super::names::Key;
use crate::documents;
use crate::inference;

/// A larger result is not kept: a few texts would displace thousands.
pub(super) const ENTRY_BYTES_MAX: usize = 16 * 1024;
/// What an entry takes beside its texts: key, links, the fields of a verdict.
const ENTRY_BYTES: usize = 256;
/// A result that takes less time to make is kept in memory only: to write it to disk, and to look for it
/// there, takes about as much.
pub(super) const WORTH_DISK_US: u32 = 25;
/// What a span and a reason take beside their texts.
const PART_BYTES: usize = 96;

/// The result of one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub made: Made,
    /// Words of the text, for metering.
    pub words: u64,
    /// About what making it took, in microseconds.
    pub(super) pace_us: u32,
    pub(super) made_at: Time,
}

/// What a model makes of a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Made {
    /// The built-in one, with the rules.
    Verdict(Arc<Verdict>),
    /// One of the registry.
    Scores(Arc<[f32]>),
}

impl From<inference::Verdict> for Made {
    fn from(verdict: inference::Verdict) -> Self {
        Self::Verdict(Arc::new(documents::verdict(verdict)))
    }
}

impl From<Vec<f32>> for Made {
    fn from(scores: Vec<f32>) -> Self {
        Self::Scores(scores.into())
    }
}

impl Made {
    fn bytes(&self) -> usize {
        match self {
            Self::Verdict(verdict) => {
                let Verdict { reasons, spans, .. } = &**verdict;
                let reasons = reasons.iter().map(|reason| reason.len() + PART_BYTES);
                let spans =
                    spans.iter().map(|span| span.text.len() + span.reason.len() + PART_BYTES);
                reasons.sum::<usize>() + spans.sum::<usize>()
            }
            Self::Scores(scores) => size_of_val(&**scores),
        }
    }
}

impl Entry {
    /// About what it takes in memory, and more than it takes in a frame.
    pub(super) fn bytes(&self) -> usize {
        ENTRY_BYTES + self.made.bytes()
    }

    /// Whether it is not too old. One of the future comes from a clock that was set back since.
    pub(super) fn is_fresh(&self, now: Time, ttl: Duration) -> bool {
        u128::from(now.0.abs_diff(self.made_at.0)) < ttl.as_millis()
    }
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Key, Entry> for Bytes {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.bytes() as u64
    }
}

/// The newest and the most wanted results.
#[derive(Debug)]
pub(super) struct Memory {
    entries: Cache<Key, Entry, Bytes>,
    ttl: Duration,
}

impl Memory {
    pub(super) fn new(bytes: u64, ttl: Duration) -> Self {
        let most = bytes as usize / ENTRY_BYTES;
        Self { entries: Cache::with_weighter(most, bytes, Bytes), ttl }
    }

    pub(super) fn get(&self, key: &Key, now: Time) -> Option<Entry> {
        let entry = self.entries.get(key)?;
        if entry.is_fresh(now, self.ttl) {
            return Some(entry);
        }
        self.entries.remove(key);
        None
    }

    pub(super) fn put(&self, key: Key, entry: Entry) {
        if entry.bytes() <= ENTRY_BYTES_MAX {
            self.entries.insert(key, entry);
        }
    }

    /// Bytes that are taken.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.weight()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use protocol::wire::scan::{Signals, Span};

    use super::*;

    pub(in crate::cache) fn entry(risk: u8, made_at: u64, text: &str) -> Entry {
        let span = Span {
            start: 0,
            end: 1,
            text: text.to_owned(),
            reason: "why".to_owned(),
            severity: "low".to_owned(),
        };
        let signals = Signals {
            heuristic: 0.5,
            embedding: 0.25,
            unicode: 0.0,
            compression_bomb: 0.0,
            homoglyphs: 0.0,
        };
        let verdict = Verdict {
            risk,
            quarantine: false,
            reasons: vec!["r".to_owned()],
            action: "allow".to_owned(),
            signals,
            confidence: 0.75,
            spans: vec![span],
        };
        let made = Made::Verdict(Arc::new(verdict));
        Entry { made, words: 3, pace_us: WORTH_DISK_US, made_at: Time(made_at) }
    }

    #[test]
    fn a_result_is_kept_for_its_time_and_within_the_bound() {
        let memory = Memory::new(64 * 1024, Duration::from_secs(10));
        let key = |number: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            Key(bytes)
        };
        memory.put(key(1), entry(7, 1_000, "x"));
        assert_eq!(memory.get(&key(1), Time(10_999)), Some(entry(7, 1_000, "x")));
        assert_eq!(memory.get(&key(1), Time(11_000)), None);
        memory.put(key(2), entry(7, 90_000, "x"));
        assert_eq!(memory.get(&key(2), Time(1_000)), None, "of the future");
        memory.put(key(3), entry(7, 1_000, &"x".repeat(ENTRY_BYTES_MAX)));
        assert_eq!(memory.get(&key(3), Time(1_000)), None, "too large");
        for number in 0..1_000 {
            memory.put(key(number), entry(7, 1_000, "x"));
        }
        assert!((1..=64 * 1024).contains(&memory.bytes()), "{}", memory.bytes());
    }
}
