//! What the records on disk say about one group, and how much of each segment still counts.
//!
//! Invariant: the ledger is the fold of all records written so far, in the order of the log; the commit thread and recovery
//! use the same fold, so a restart finds what the running node believed. [`Usage`] counts exactly the places in all ledgers.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::record::{Head, Kind, size};

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u32,
    /// Length of the payload.
    pub(super) length: u32,
}

impl Place {
    pub(super) fn end(self) -> u64 {
        u64::from(self.offset) + size(self.length as usize) as u64
    }

    fn bytes(self) -> u64 {
        size(self.length as usize) as u64
    }
}

/// Live records of one segment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// Live records by segment.
#[derive(Debug, Default)]
pub(super) struct Usage(BTreeMap<u64, Live>);

impl Usage {
    pub(super) fn of(&self, segment: u64) -> Live {
        self.0.get(&segment).copied().unwrap_or_default()
    }

    pub(super) fn forget(&mut self, segment: u64) {
        self.0.remove(&segment);
    }

    fn take(&mut self, place: Place, entries: u64) {
        let live = self.0.entry(place.segment).or_default();
        live.entries += entries;
        live.bytes += place.bytes();
    }

    fn release(&mut self, place: Place, entries: u64) {
        let live = self.0.entry(place.segment).or_default();
        live.entries -= entries;
        live.bytes -= place.bytes();
    }
}

/// An entry on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) term: u64,
    pub(super) place: Place,
}

/// The newest record of one kind of state, kept whole.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) head: Head,
    pub(super) payload: Bytes,
    pub(super) place: Place,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) entries: BTreeMap<u64, Slot>,
    /// Host, vote, committed, purge and tombstone.
    pub(super) state: BTreeMap<Kind, Kept>,
}

impl Ledger {
    pub(super) fn apply(&mut self, head: &Head, payload: &[u8], place: Place, usage: &mut Usage) {
        match head.kind {
            Kind::Entry => self.enter(head, place, usage),
            Kind::Vote | Kind::Committed | Kind::Host | Kind::Tombstone => {
                self.keep(head, payload, place, usage);
            }
            Kind::Truncate => release(self.entries.split_off(&head.index), usage),
            // Never backwards, whoever asks.
            Kind::Purge if self.purged_to() > Some(head.index) => {}
            Kind::Purge => {
                let rest = self.entries.split_off(&head.index.saturating_add(1));
                release(std::mem::replace(&mut self.entries, rest), usage);
                self.keep(head, payload, place, usage);
            }
            Kind::Retire => self.clear(usage),
            Kind::Mark => {}
        }
    }

    /// Drops what stands in segments before `oldest`: they are deleted, or were about to be.
    pub(super) fn forget_before(&mut self, oldest: u64, usage: &mut Usage) {
        self.entries.retain(|_, slot| {
            let stays = slot.place.segment >= oldest;
            if !stays {
                usage.release(slot.place, 1);
            }
            stays
        });
        self.state.retain(|_, kept| {
            let stays = kept.place.segment >= oldest;
            if !stays {
                usage.release(kept.place, 0);
            }
            stays
        });
    }

    /// The first place where the entries do not follow each other, as (expected, found).
    pub(super) fn gap(&self) -> Option<(u64, u64)> {
        let mut expected = self.purged_to().map(|index| index + 1);
        for &index in self.entries.keys() {
            if let Some(expected) = expected
                && expected != index
            {
                return Some((expected, index));
            }
            expected = Some(index + 1);
        }
        None
    }

    fn purged_to(&self) -> Option<u64> {
        self.state.get(&Kind::Purge).map(|kept| kept.head.index)
    }

    // An index already present is a live record that was rewritten at the tail.
    fn enter(&mut self, head: &Head, place: Place, usage: &mut Usage) {
        usage.take(place, 1);
        if let Some(old) = self.entries.insert(head.index, Slot { term: head.term, place }) {
            usage.release(old.place, 1);
        }
    }

    fn keep(&mut self, head: &Head, payload: &[u8], place: Place, usage: &mut Usage) {
        usage.take(place, 0);
        let kept = Kept { head: *head, payload: Bytes::copy_from_slice(payload), place };
        if let Some(old) = self.state.insert(head.kind, kept) {
            usage.release(old.place, 0);
        }
    }

    fn clear(&mut self, usage: &mut Usage) {
        release(std::mem::take(&mut self.entries), usage);
        self.state.retain(|kind, kept| {
            let stays = *kind == Kind::Tombstone;
            if !stays {
                usage.release(kept.place, 0);
            }
            stays
        });
    }
}

fn release(entries: BTreeMap<u64, Slot>, usage: &mut Usage) {
    for slot in entries.into_values() {
        usage.release(slot.place, 1);
    }
}
