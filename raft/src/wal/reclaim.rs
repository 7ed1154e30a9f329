//! Giving back old segments.
//!
//! Invariants: segments go oldest first, so a record that undoes another (truncate, purge, retire) never goes before it. What
//! still counts in a segment is rewritten at the tail first, and a synced mark names the new oldest segment before a file is
//! deleted: a segment missing at or after the named one is damage, one found before it is a left-over.

use std::sync::Arc;

use bytes::Bytes;
use tracing::error;

use super::{
    Group,
    commit::Committer,
    ledger::Place,
    locked,
    read::{ReadError, Reader},
    record::{Head, Kind},
};

/// A live record that has to move.
struct Move {
    group: Arc<Group>,
    head: Head,
    from: Place,
    /// State is kept in memory; entries are read back.
    payload: Option<Bytes>,
}

impl Committer {
    /// Frees the oldest segments that hold nothing, state only, or, when too many lag, few live records.
    pub(super) fn reclaim(&mut self) {
        let upto = self.tail.sequence();
        let first = self.tail.oldest;
        while self.tail.oldest < upto && !self.stuck && self.releasable() {
            if let Err(error) = self.evacuate(self.tail.oldest) {
                error!(%error, segment = self.tail.oldest, "live log record unreadable, segments stay");
                self.stuck = true;
                break;
            }
            self.usage.forget(self.tail.oldest);
            self.tail.oldest += 1;
        }
        if self.tail.oldest == first {
            return;
        }
        self.tail.mark();
        self.tail.flush(true);
        for sequence in first..self.tail.oldest {
            self.tail.remove(sequence);
        }
    }

    fn releasable(&self) -> bool {
        let live = self.usage.of(self.tail.oldest);
        let lag = self.tail.sequence() - self.tail.oldest;
        live.entries == 0
            || lag > self.tail.options.lag_segments
                && live.bytes <= u64::from(self.tail.options.segment_bytes) / 4
    }

    /// Rewrites what counts in the segment at the end of the log, durably.
    fn evacuate(&mut self, segment: u64) -> Result<(), ReadError> {
        if self.usage.of(segment).bytes == 0 {
            return Ok(());
        }
        let moves = self.moves(segment);
        let source = self.tail.table.segment(segment);
        let mut reader = Reader::default();
        let mut moved = Vec::with_capacity(moves.len());
        for step in moves {
            let payload = match &step.payload {
                Some(payload) => payload.clone(),
                None => reader.payload(source.as_deref(), &step.head, step.from)?,
            };
            let place = self.tail.put(&step.head, &payload);
            moved.push((step, payload, place));
        }
        self.tail.flush(true);
        self.marked = false;
        for (step, payload, place) in moved {
            let mut state = locked(&step.group.state);
            state.ledger.apply(&step.head, &payload, place, &mut self.usage);
        }
        Ok(())
    }

    fn moves(&self, segment: u64) -> Vec<Move> {
        let groups: Vec<_> = locked(&self.tail.table.groups).values().cloned().collect();
        let mut moves = Vec::new();
        for group in groups {
            let state = locked(&group.state);
            for kept in state.ledger.state.values().filter(|kept| kept.place.segment == segment) {
                let (group, payload) = (Arc::clone(&group), Some(kept.payload.clone()));
                moves.push(Move { group, head: kept.head, from: kept.place, payload });
            }
            for (&index, slot) in &state.ledger.entries {
                if slot.place.segment == segment {
                    let head = Head { kind: Kind::Entry, group: group.id, term: slot.term, index };
                    let group = Arc::clone(&group);
                    moves.push(Move { group, head, from: slot.place, payload: None });
                }
            }
        }
        moves
    }
}
