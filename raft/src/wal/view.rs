//! What the owner of one group sees: every accepted record, written or not.
//!
//! Invariant: `recent` is the end of the log without a hole, and an entry leaves it for lack of room only after it was
//! written; so every entry is in `recent` or in the ledger, and the newer version is found first.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;

use super::{
    Entry, SubmitError,
    ledger::Ledger,
    record::{Kind, Record},
};

/// An accepted entry whose payload is still in memory.
#[derive(Debug)]
pub(super) struct Recent {
    pub(super) term: u64,
    pub(super) payload: Bytes,
    serial: u64,
}

#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) replica: Option<u64>,
    /// The last replica that lived here and may not come back.
    pub(super) retired: Option<u64>,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<Entry>,
    /// Indexes of the entries.
    pub(super) entries: Range<u64>,
    pub(super) recent: VecDeque<Recent>,
    recent_bytes: usize,
    /// Number of records accepted, and of those written.
    accepted: u64,
    written: u64,
}

impl View {
    pub(super) fn of(ledger: &Ledger) -> Self {
        let state = |kind| ledger.state.get(&kind);
        let first = ledger.entries.first_key_value().map(|(index, _)| *index);
        let last = ledger.entries.last_key_value().map(|(index, _)| *index);
        let purged = state(Kind::Purge).map(|kept| Entry {
            term: kept.head.term,
            index: kept.head.index,
            payload: kept.payload.clone(),
        });
        let after_purged = purged.as_ref().map_or(0, |purged| purged.index + 1);
        Self {
            replica: state(Kind::Host).map(|kept| kept.head.index),
            retired: state(Kind::Tombstone).map(|kept| kept.head.index),
            vote: state(Kind::Vote).map(|kept| kept.payload.clone()),
            committed: state(Kind::Committed).map(|kept| kept.payload.clone()),
            purged,
            entries: first.unwrap_or(after_purged)..last.map_or(after_purged, |last| last + 1),
            ..Self::default()
        }
    }

    /// Index of the first entry in `recent`; earlier ones are in the ledger.
    pub(super) fn recent_from(&self) -> u64 {
        self.entries.end - self.recent.len() as u64
    }

    /// Whether these records may follow: entries neither skip an index nor replace one.
    pub(super) fn check(&self, group: u32, records: &[Record]) -> Result<(), SubmitError> {
        let anchored = !self.entries.is_empty() || self.purged.is_some();
        let mut next = anchored.then_some(self.entries.end);
        for record in records {
            match record {
                Record::Entry { index, .. } => {
                    if let Some(expected) = next
                        && expected != *index
                    {
                        return Err(SubmitError::Gap { group, expected, found: *index });
                    }
                    next = Some(index + 1);
                }
                Record::Truncate { from } => next = next.map(|next| next.min(*from)),
                Record::Purge { index, .. } => next = Some(next.unwrap_or(0).max(index + 1)),
                Record::Retire => next = None,
                Record::Vote(_)
                | Record::Committed(_)
                | Record::Host { .. }
                | Record::Tombstone { .. } => {}
            }
        }
        Ok(())
    }

    pub(super) fn accept(&mut self, record: &Record) {
        self.accepted += 1;
        match record {
            Record::Entry { term, index, payload } => self.append(*term, *index, payload.clone()),
            Record::Vote(vote) => self.vote = Some(vote.clone()),
            Record::Committed(committed) => self.committed = Some(committed.clone()),
            Record::Truncate { from } => self.truncate(*from),
            Record::Purge { term, index, payload } => {
                self.purge(Entry { term: *term, index: *index, payload: payload.clone() });
            }
            Record::Host { replica } => self.replica = Some(*replica),
            Record::Tombstone { replica } => self.retired = Some(*replica),
            Record::Retire => {
                *self = Self {
                    retired: self.retired,
                    accepted: self.accepted,
                    written: self.written,
                    ..Self::default()
                };
            }
        }
    }

    /// `count` more records are written; payloads beyond the cache's bound may go.
    pub(super) fn wrote(&mut self, count: usize, cache_bytes: usize) {
        self.written += count as u64;
        while self.recent_bytes > cache_bytes {
            match self.recent.front() {
                Some(first) if first.serial <= self.written => self.pop_front(),
                _ => return,
            }
        }
    }

    fn append(&mut self, term: u64, index: u64, payload: Bytes) {
        if self.entries.is_empty() {
            self.entries = index..index;
        }
        self.entries.end = index + 1;
        self.recent_bytes += payload.len();
        self.recent.push_back(Recent { term, payload, serial: self.accepted });
    }

    fn truncate(&mut self, from: u64) {
        while self.entries.end > from && !self.entries.is_empty() {
            self.entries.end -= 1;
            if let Some(last) = self.recent.pop_back() {
                self.recent_bytes -= last.payload.len();
            } else {
                self.entries.end = from.max(self.entries.start);
            }
        }
    }

    fn purge(&mut self, purged: Entry) {
        if self.purged.as_ref().is_some_and(|known| known.index > purged.index) {
            return;
        }
        let start = purged.index + 1;
        while !self.recent.is_empty() && self.recent_from() < start {
            self.pop_front();
        }
        self.entries.start = self.entries.start.max(start);
        self.entries.end = self.entries.end.max(self.entries.start);
        self.purged = Some(purged);
    }

    fn pop_front(&mut self) {
        if let Some(first) = self.recent.pop_front() {
            self.recent_bytes -= first.payload.len();
        }
    }
}
