//! The handle to one group's part of the log.
//!
//! Invariant: a group's records enter the queue in the order in which its view takes them, both under the group's lock; so what
//! is seen, written and completed has one order.

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Entry, Group, Inner, QUEUE_KIB, ReadError, Record, commit::Submission, locked, read,
    record::size,
};

/// Called once the records are durable (lazy ones: written), on the commit thread: it must be short and never block.
pub type Done = Box<dyn FnOnce() + Send>;

/// Room that every submission takes in the queue on top of its bytes, in KiB.
const SUBMISSION_KIB: usize = 8;

/// Why records were not accepted. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Entries must follow each other, and the log; truncate first.
    #[error("log of group {group} expects entry {expected}, not {found}")]
    Gap { group: u32, expected: u64, found: u64 },
    /// Split it, or keep it elsewhere.
    #[error("record of {bytes} bytes is too large: {limit} are allowed")]
    TooLarge { bytes: usize, limit: usize },
    /// The commit thread is gone: the process is about to end.
    #[error("log is closed, the outcome is unknown")]
    Closed,
}

/// The log of one group. Clones are the same log.
#[derive(Clone)]
pub struct GroupLog {
    inner: Arc<Inner>,
    group: Arc<Group>,
}

impl fmt::Debug for GroupLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupLog").field("group", &self.group.id).finish_non_exhaustive()
    }
}

impl GroupLog {
    pub(super) fn new(inner: Arc<Inner>, group: Arc<Group>) -> Self {
        Self { inner, group }
    }

    /// The group's id.
    pub fn id(&self) -> u32 {
        self.group.id
    }

    /// The replica that lives here.
    pub fn replica(&self) -> Option<u64> {
        locked(&self.group.state).view.replica
    }

    /// The last vote.
    pub fn vote(&self) -> Option<Bytes> {
        locked(&self.group.state).view.vote.clone()
    }

    /// The last committed position that was saved; a crash may bring back an older one.
    pub fn committed(&self) -> Option<Bytes> {
        locked(&self.group.state).view.committed.clone()
    }

    /// The position up to which the log was purged.
    pub fn purged(&self) -> Option<Entry> {
        locked(&self.group.state).view.purged.clone()
    }

    /// Indexes of the entries in the log.
    pub fn span(&self) -> Range<u64> {
        locked(&self.group.state).view.entries.clone()
    }

    /// Term and index of the last entry in the log; `None` if there is none (look at [`Self::purged`] then).
    pub fn last(&self) -> Option<(u64, u64)> {
        let state = locked(&self.group.state);
        let index = state.view.entries.clone().next_back()?;
        let recent = state.view.recent.back().map(|recent| recent.term);
        let term = recent.or_else(|| state.ledger.entries.get(&index).map(|slot| slot.term))?;
        Some((term, index))
    }

    /// Entries of `range`, accepted ones included, as far as there are any: at least one if the first exists, then as many as
    /// fit into `bytes_max`. Reads files when they are not in memory: for blocking contexts, or short ranges.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, ReadError> {
        read::entries(&self.inner.table, &self.group, range, bytes_max)
    }

    /// Appends entries. They can be read when this returns and are durable when `done` is called.
    pub async fn append(
        &self,
        entries: Vec<Entry>,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<(), SubmitError> {
        let mut records = Vec::with_capacity(entries.len());
        for Entry { term, index, payload } in entries {
            records.push(Record::Entry { term, index, payload });
        }
        self.submit(records, Box::new(done)).await
    }

    /// Replaces the vote; durable on return.
    pub async fn save_vote(&self, vote: Bytes) -> Result<(), SubmitError> {
        self.sync(vec![Record::Vote(vote)]).await
    }

    /// Replaces the committed position, in the background.
    pub async fn save_committed(&self, committed: Bytes) -> Result<(), SubmitError> {
        self.submit(vec![Record::Committed(committed)], Box::new(|| {})).await
    }

    /// Removes all entries from `index` on; durable on return.
    pub async fn truncate_from(&self, index: u64) -> Result<(), SubmitError> {
        self.sync(vec![Record::Truncate { from: index }]).await
    }

    /// Removes all entries up to `index`, in the background; never goes backwards.
    pub async fn purge_to(&self, term: u64, index: u64, payload: Bytes) -> Result<(), SubmitError> {
        self.submit(vec![Record::Purge { term, index, payload }], Box::new(|| {})).await
    }

    /// Notes that this replica lives here; durable on return.
    pub async fn host(&self, replica: u64) -> Result<(), SubmitError> {
        self.sync(vec![Record::Host { replica }]).await
    }

    /// The last replica that lived here and was retired: neither it nor an older one may come back.
    pub fn retired(&self) -> Option<u64> {
        locked(&self.group.state).view.retired
    }

    /// Forgets the group but for the id of the replica, which is not to live here again; durable on
    /// return.
    pub async fn retire(&self, replica: u64) -> Result<(), SubmitError> {
        // In this order: cut off between the two, the replica is still here and is retired again.
        self.sync(vec![Record::Tombstone { replica }, Record::Retire]).await
    }

    /// Submits records and waits until they are durable (lazy ones: written). Dropping the future does not take them back.
    pub async fn sync(&self, records: Vec<Record>) -> Result<(), SubmitError> {
        let (done, durable) = oneshot::channel();
        let done = move || {
            // The caller may have gone; the records stand all the same.
            let _ = done.send(());
        };
        self.submit(records, Box::new(done)).await?;
        durable.await.map_err(|_| SubmitError::Closed)
    }

    /// Puts records into the queue, all or none; waits only while the queue is full.
    pub async fn submit(&self, records: Vec<Record>, done: Done) -> Result<(), SubmitError> {
        let bytes = self.measure(&records)?;
        let room = (SUBMISSION_KIB + bytes / 1024).min(QUEUE_KIB) as u32;
        let permit = self.inner.room.acquire_many(room).await.map_err(|_| SubmitError::Closed)?;
        self.accept(Submission { group: Arc::clone(&self.group), records, bytes, room, done })?;
        // Given back by the commit thread.
        permit.forget();
        Ok(())
    }

    fn measure(&self, records: &[Record]) -> Result<usize, SubmitError> {
        let limit = self.inner.payload_bytes_max;
        let mut total = 0;
        for record in records {
            let bytes = record.payload().len();
            if bytes > limit {
                return Err(SubmitError::TooLarge { bytes, limit });
            }
            total += size(bytes);
        }
        Ok(total)
    }

    fn accept(&self, submission: Submission) -> Result<(), SubmitError> {
        let Some(queue) = &self.inner.queue else { return Err(SubmitError::Closed) };
        let mut state = locked(&self.group.state);
        state.view.check(self.group.id, &submission.records)?;
        for record in &submission.records {
            state.view.accept(record);
        }
        queue.send(submission).map_err(|_| SubmitError::Closed)
    }
}
