//! The commit thread: the only one that writes records.
//!
//! Invariants: submissions are written, applied to the ledgers and completed in the order in which they were accepted; a
//! completion runs after the sync that covers its records, unless all of them are lazy. There is no linger: while one batch is
//! synced, the next one collects in the queue.

use std::sync::{
    Arc,
    mpsc::{Receiver, RecvTimeoutError},
};

use tokio::sync::Semaphore;

use super::{
    Done, Group,
    ledger::{Place, Usage},
    locked,
    record::Record,
    tail::Tail,
};

/// Records of one group that were accepted together.
pub(super) struct Submission {
    pub(super) group: Arc<Group>,
    pub(super) records: Vec<Record>,
    pub(super) bytes: usize,
    /// Room in the queue, given back when the records are written.
    pub(super) room: u32,
    pub(super) done: Done,
}

pub(super) struct Committer {
    pub(super) tail: Tail,
    pub(super) usage: Usage,
    pub(super) queue: Receiver<Submission>,
    pub(super) room: Arc<Semaphore>,
    /// Whether the last batch is proven by a mark.
    pub(super) marked: bool,
    /// A segment with a live record that cannot be read; it and all after it stay.
    pub(super) stuck: bool,
    pub(super) batch: Vec<Submission>,
    pub(super) places: Vec<Place>,
}

impl Committer {
    /// Until the last handle is gone.
    pub(super) fn run(&mut self) {
        while let Some(first) = self.next() {
            self.gather(first);
            self.commit();
            self.reclaim();
        }
        self.tail.flush(true);
        self.tail.spare.close();
    }

    fn next(&mut self) -> Option<Submission> {
        if !self.marked {
            match self.queue.recv_timeout(self.tail.options.idle) {
                Ok(submission) => return Some(submission),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.tail.mark();
            self.tail.flush(true);
            self.marked = true;
        }
        self.queue.recv().ok()
    }

    fn gather(&mut self, first: Submission) {
        let mut bytes = first.bytes;
        self.batch.push(first);
        while bytes < self.tail.options.batch_bytes {
            let Ok(submission) = self.queue.try_recv() else { return };
            bytes += submission.bytes;
            self.batch.push(submission);
        }
    }

    fn commit(&mut self) {
        self.marked = false;
        let mut sync = false;
        for submission in &self.batch {
            for record in &submission.records {
                sync |= !record.is_lazy();
                let head = record.head(submission.group.id);
                self.places.push(self.tail.put(&head, record.payload()));
            }
        }
        self.tail.flush(sync);
        self.apply();
        for submission in self.batch.drain(..) {
            self.room.add_permits(submission.room as usize);
            (submission.done)();
        }
    }

    fn apply(&mut self) {
        let mut places = self.places.drain(..);
        for submission in &self.batch {
            let mut state = locked(&submission.group.state);
            for (record, place) in submission.records.iter().zip(&mut places) {
                let head = record.head(submission.group.id);
                state.ledger.apply(&head, record.payload(), place, &mut self.usage);
            }
            state.view.wrote(submission.records.len(), self.tail.options.cache_bytes);
        }
    }
}
