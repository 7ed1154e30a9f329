//! The thread that readies disk space ahead of the log and takes old segments away, so that the commit thread does neither.
//!
//! Invariant: whatever it has not done in time, the commit thread does itself through the same functions; being late costs
//! speed only. A failed write or sync ends the process here as it does there.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
};

use tracing::warn;

use super::{Options, die, locked, segment::Segment};

/// Tasks waiting for the preparer; beyond this the commit thread does without it.
pub(super) const TASKS_MAX: usize = 64;

#[derive(Debug)]
pub(super) enum Task {
    /// Ready the segment up to this offset.
    Extend(Arc<Segment>, u64),
    /// Create the segment with this sequence and ready all of it.
    Create(u64),
    /// Delete the file.
    Remove(PathBuf),
}

/// The next segment, made ahead of need.
#[derive(Debug)]
pub(super) struct Spare {
    dir: PathBuf,
    options: Options,
    slot: Mutex<Slot>,
    closing: AtomicBool,
}

#[derive(Debug)]
struct Slot {
    spare: Option<Arc<Segment>>,
    /// Highest sequence ever created, so that a late task does not create it again.
    created: u64,
}

impl Spare {
    pub(super) fn new(
        dir: PathBuf,
        options: Options,
        spare: Option<Arc<Segment>>,
        created: u64,
    ) -> Self {
        let slot = Mutex::new(Slot { spare, created });
        Self { dir, options, slot, closing: AtomicBool::new(false) }
    }

    /// The segment with this sequence, created now if nobody has.
    pub(super) fn take(&self, sequence: u64) -> io::Result<Arc<Segment>> {
        let mut slot = locked(&self.slot);
        match slot.spare.take() {
            Some(spare) if spare.sequence == sequence => Ok(spare),
            _ => self.create(&mut slot, sequence),
        }
    }

    /// Stops preparing; deletions are still carried out.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    // Only the first bytes are made under the lock: a waiting commit thread gets its segment at once.
    fn create(&self, slot: &mut Slot, sequence: u64) -> io::Result<Arc<Segment>> {
        let first = self.options.first_bytes;
        let segment = Segment::create(&self.dir, sequence, self.options.segment_bytes, first)?;
        slot.created = sequence;
        Ok(Arc::new(segment))
    }

    fn make(&self, sequence: u64) -> io::Result<()> {
        let mut slot = locked(&self.slot);
        if slot.created >= sequence {
            return Ok(());
        }
        let segment = self.create(&mut slot, sequence)?;
        slot.spare = Some(Arc::clone(&segment));
        drop(slot);
        self.extend(&segment, segment.capacity)
    }

    fn extend(&self, segment: &Segment, upto: u64) -> io::Result<()> {
        while segment.prepared() < upto && !self.closing.load(Ordering::Relaxed) {
            segment.prepare(upto.min(segment.prepared() + self.options.step_bytes))?;
        }
        Ok(())
    }
}

/// The preparer's thread: until the commit thread is gone.
pub(super) fn run(spare: &Spare, tasks: &Receiver<Task>) {
    while let Ok(task) = tasks.recv() {
        let done = match task {
            Task::Extend(segment, upto) => spare.extend(&segment, upto),
            Task::Create(_) if spare.closing.load(Ordering::Relaxed) => Ok(()),
            Task::Create(sequence) => spare.make(sequence),
            Task::Remove(path) => {
                remove(&path);
                Ok(())
            }
        };
        if let Err(error) = done {
            die("preparing a segment", &error);
        }
    }
}

/// Deletes a segment that no longer counts; if that fails, the next start tries again.
pub(super) fn remove(path: &PathBuf) {
    if let Err(error) = fs::remove_file(path) {
        warn!(?path, %error, "old log segment not deleted");
    }
}
