//! The end of the log, where records are written.
//!
//! Invariants: `synced <= flushed <= offset`, all in the current segment; a record carries `synced` as its batch start; a
//! segment is synced to its end before the first byte of the next one is written; every segment begins with a mark that
//! says where the one before it ended. Any error ends the process: after a failed sync nobody knows what is on disk.

use std::{
    io,
    sync::{Arc, mpsc::SyncSender},
};

use super::{
    Options, Table, die,
    ledger::Place,
    locked,
    prepare::{Spare, Task, remove},
    record::{self, HEAD_BYTES, Head, Kind},
    segment::{HEADER_BYTES, Segment},
};

#[derive(Debug)]
pub(super) struct Tail {
    pub(super) table: Arc<Table>,
    pub(super) spare: Arc<Spare>,
    pub(super) tasks: SyncSender<Task>,
    pub(super) options: Options,
    current: Arc<Segment>,
    /// Where the next record goes.
    offset: u64,
    flushed: u64,
    synced: u64,
    previous_end: u64,
    /// The oldest segment that still counts.
    pub(super) oldest: u64,
    buffer: Vec<u8>,
    /// How far the preparer has been asked to go.
    asked: u64,
    asked_next: bool,
}

/// Where recovery left off.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) current: Arc<Segment>,
    pub(super) end: u64,
    pub(super) previous_end: u64,
    pub(super) oldest: u64,
}

impl Tail {
    pub(super) fn new(
        table: Arc<Table>,
        spare: Arc<Spare>,
        tasks: SyncSender<Task>,
        options: Options,
        at: Position,
    ) -> Self {
        let mut tail = Self {
            table,
            spare,
            tasks,
            options,
            asked: at.current.prepared(),
            current: at.current,
            offset: at.end,
            flushed: at.end,
            synced: at.end,
            previous_end: at.previous_end,
            oldest: at.oldest,
            buffer: Vec::new(),
            asked_next: false,
        };
        tail.ask();
        tail
    }

    pub(super) fn sequence(&self) -> u64 {
        self.current.sequence
    }

    /// Encodes a record at the end of the log; written by the next [`Self::flush`] at the latest.
    pub(super) fn put(&mut self, head: &Head, payload: &[u8]) -> Place {
        if self.offset + record::size(payload.len()) as u64 > self.current.capacity {
            self.roll();
        }
        if self.offset == HEADER_BYTES {
            self.mark();
        }
        self.push(head, payload)
    }

    /// Encodes a mark: once it is synced, everything synced before it is provably older.
    pub(super) fn mark(&mut self) {
        if self.offset + HEAD_BYTES as u64 > self.current.capacity {
            self.roll();
        }
        let head = Head { kind: Kind::Mark, group: 0, term: self.previous_end, index: self.oldest };
        self.push(&head, &[]);
    }

    /// Writes what was encoded and, if asked, makes everything written durable.
    pub(super) fn flush(&mut self, sync: bool) {
        if let Err(error) = self.try_flush(sync) {
            die("writing the log", &error);
        }
        self.ask();
    }

    fn try_flush(&mut self, sync: bool) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.current.prepare(self.offset)?;
            self.current.write(&self.buffer, self.flushed)?;
            self.buffer.clear();
            self.buffer.shrink_to(2 * self.options.batch_bytes);
            self.flushed = self.offset;
        }
        if sync && self.synced < self.flushed {
            self.current.sync()?;
            self.synced = self.flushed;
        }
        Ok(())
    }

    fn push(&mut self, head: &Head, payload: &[u8]) -> Place {
        let offset = self.offset as u32;
        let (seed, synced) = (self.current.seed, self.synced as u32);
        record::encode(&mut self.buffer, seed, offset, synced, head, payload);
        self.offset += record::size(payload.len()) as u64;
        Place { segment: self.current.sequence, offset, length: payload.len() as u32 }
    }

    fn roll(&mut self) {
        self.flush(true);
        self.previous_end = self.offset;
        self.current = match self.spare.take(self.current.sequence + 1) {
            Ok(next) => next,
            Err(error) => die("creating a log segment", &error),
        };
        let current = Arc::clone(&self.current);
        locked(&self.table.segments).insert(current.sequence, current);
        self.offset = HEADER_BYTES;
        self.flushed = HEADER_BYTES;
        self.synced = HEADER_BYTES;
        self.asked = self.current.prepared();
        self.asked_next = false;
    }

    /// Tells the preparer how far to be ahead. A task that does not fit is asked for again after the next batch.
    fn ask(&mut self) {
        let (capacity, step) = (self.current.capacity, self.options.step_bytes);
        let lead = (self.offset + step / 2).min(capacity);
        if self.asked < lead {
            let upto = (lead + 1).next_multiple_of(step).min(capacity);
            if self.tasks.try_send(Task::Extend(Arc::clone(&self.current), upto)).is_ok() {
                self.asked = upto;
            }
        }
        if !self.asked_next && self.offset > capacity / 2 {
            self.asked_next = self.tasks.try_send(Task::Create(self.sequence() + 1)).is_ok();
        }
    }

    /// Forgets a segment that no longer counts and has its file deleted.
    pub(super) fn remove(&self, sequence: u64) {
        let Some(segment) = locked(&self.table.segments).remove(&sequence) else { return };
        if self.tasks.try_send(Task::Remove(segment.path.clone())).is_err() {
            remove(&segment.path);
        }
    }
}
