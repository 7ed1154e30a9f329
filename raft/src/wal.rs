//! The write-ahead log of one node, shared by all Raft groups of the node.
//!
//! Invariants: what was acknowledged is on disk; records of one group keep the order in which they were accepted; a
//! damaged log is refused, never shortened, except for a torn tail that nobody was told about. See `recover.rs` for
//! that line, `record.rs` for the bytes, `commit.rs` for the one thread that writes.

mod commit;
mod directory;
mod group;
mod inspect;
mod ledger;
mod prepare;
mod read;
mod reclaim;
mod record;
mod recover;
mod segment;
mod tail;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::Semaphore;
use tracing::{error, warn};

pub use directory::Directory;
pub use group::{Done, GroupLog, SubmitError};
pub use inspect::{Inspection, inspect};
pub use read::ReadError;
pub use record::{RECORD_BYTES_MAX, Record};

use commit::{Committer, Submission};
use ledger::Ledger;
use prepare::{Spare, TASKS_MAX};
use recover::Recovery;
use segment::Segment;
use tail::Tail;
use view::View;

/// Size of a segment file.
pub const SEGMENT_BYTES: u32 = 64 << 20;
/// Payloads of the newest entries that each group keeps in memory.
pub const CACHE_BYTES: usize = 4 << 20;
/// Bytes after which a batch takes no more submissions.
const BATCH_BYTES: usize = 4 << 20;
/// What may wait to be written, in KiB; beyond it submitters wait.
const QUEUE_KIB: usize = 64 << 10;
/// Segments after the oldest live one before its few live records are rewritten.
const LAG_SEGMENTS: u64 = 8;
/// How far ahead of the log its file is made ready.
const STEP_BYTES: u64 = 4 << 20;
/// Made ready at once with a new file, so that the first start is quick.
const FIRST_BYTES: u64 = 64 << 10;
/// Quiet time after which the last batch is proven by a mark.
const IDLE: Duration = Duration::from_millis(50);

/// What tests make small.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) segment_bytes: u32,
    pub(crate) first_bytes: u64,
    pub(crate) step_bytes: u64,
    pub(crate) batch_bytes: usize,
    pub(crate) cache_bytes: usize,
    pub(crate) lag_segments: u64,
    pub(crate) idle: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            first_bytes: FIRST_BYTES,
            step_bytes: STEP_BYTES,
            batch_bytes: BATCH_BYTES,
            cache_bytes: CACHE_BYTES,
            lag_segments: LAG_SEGMENTS,
            idle: IDLE,
        }
    }
}

impl Options {
    /// A segment must hold its header, its mark and the largest record.
    fn payload_bytes_max(&self) -> usize {
        let room = self.segment_bytes as usize - segment::HEADER_BYTES as usize;
        RECORD_BYTES_MAX.min(room - 2 * record::HEAD_BYTES - 8)
    }
}

/// An entry of a group's log, or the position up to which it was purged. `payload` means nothing to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub term: u64,
    pub index: u64,
    pub payload: bytes::Bytes,
}

/// What a start found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Groups that live here, with their replica ids.
    pub groups: BTreeMap<u32, u64>,
    /// Segment files in use.
    pub segments: usize,
    /// Records read.
    pub records: u64,
    /// What was dropped from the end.
    pub torn: Option<Torn>,
}

/// A write that was cut off before it was acknowledged, and dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    pub file: PathBuf,
    pub offset: u64,
    pub bytes: u64,
}

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it; it may be stopped, or this one has the wrong directory.
    #[error("log directory {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// Acknowledged records are lost: the node's replicas have to be replaced from their peers.
    #[error("log segment {} is damaged at {offset}: {detail}", file.display())]
    Damaged { file: PathBuf, offset: u64, detail: &'static str },
    /// The records are sound but do not add up: treat it like damage.
    #[error("log of group {group} goes on with {found} where {expected} should be")]
    Gap { group: u32, expected: u64, found: u64 },
    /// Written by another release.
    #[error("log segment {} has format {version}, which this release does not know", file.display())]
    Version { file: PathBuf, version: u32 },
    /// The directory could not be read or written.
    #[error("log directory cannot be used")]
    Io(#[from] io::Error),
}

/// The open log. Clones are the same log; it is closed, with all it accepted, when the last clone and handle are gone.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

impl Wal {
    /// Opens or creates the log in `dir/wal`. Blocks for as long as it takes to read it.
    pub fn open(dir: &Path) -> Result<(Self, Recovered), OpenError> {
        Self::open_with(dir, Options::default())
    }

    pub(crate) fn open_with(dir: &Path, options: Options) -> Result<(Self, Recovered), OpenError> {
        Directory::lock(dir)?.open_with(options)
    }

    fn start(wal: PathBuf, lock: File, options: Options) -> Result<(Self, Recovered), OpenError> {
        let recovery = recover::recover(&wal, options)?;
        let report = recovery.report.clone();
        if let Some(torn) = &report.torn {
            let Torn { file, offset, bytes } = torn;
            warn!(?file, offset, bytes, "torn tail of the log dropped, it was never acknowledged");
        }
        let inner = Inner::start(wal, lock, recovery, options)?;
        Ok((Self { inner: Arc::new(inner) }, report))
    }

    /// The log of one group; empty if nothing is known of the group.
    pub fn group(&self, group: u32) -> GroupLog {
        let mut groups = locked(&self.inner.table.groups);
        let shared = groups.entry(group).or_insert_with(|| Arc::new(Group::new(group)));
        GroupLog::new(Arc::clone(&self.inner), Arc::clone(shared))
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").finish_non_exhaustive()
    }
}

/// Groups and segments, shared by handles, readers and the commit thread. Locks are taken in the order group, segments.
#[derive(Debug, Default)]
struct Table {
    groups: Mutex<BTreeMap<u32, Arc<Group>>>,
    segments: Mutex<BTreeMap<u64, Arc<Segment>>>,
}

impl Table {
    fn segment(&self, sequence: u64) -> Option<Arc<Segment>> {
        locked(&self.segments).get(&sequence).cloned()
    }
}

#[derive(Debug)]
struct Group {
    id: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// As accepted.
    view: View,
    /// As written.
    ledger: Ledger,
}

impl Group {
    fn new(id: u32) -> Self {
        Self { id, state: Mutex::default() }
    }
}

/// What all handles share.
struct Inner {
    table: Arc<Table>,
    queue: Option<mpsc::Sender<Submission>>,
    room: Arc<Semaphore>,
    payload_bytes_max: usize,
    thread: Option<JoinHandle<()>>,
}

impl Inner {
    fn start(dir: PathBuf, lock: File, found: Recovery, options: Options) -> io::Result<Self> {
        let table = Arc::new(Table::default());
        *locked(&table.segments) = found.segments;
        for (id, ledger) in found.ledgers {
            let state = State { view: View::of(&ledger), ledger };
            let group = Group { id, state: Mutex::new(state) };
            locked(&table.groups).insert(id, Arc::new(group));
        }
        let created = found.position.current.sequence + u64::from(found.spare.is_some());
        let spare = Arc::new(Spare::new(dir, options, found.spare, created));
        let (tasks, todo) = mpsc::sync_channel(TASKS_MAX);
        let preparing = Arc::clone(&spare);
        let preparer = thread::Builder::new()
            .name("skep-wal-prep".to_owned())
            .spawn(move || prepare::run(&preparing, &todo))?;
        let (queue, submissions) = mpsc::channel();
        let room = Arc::new(Semaphore::new(QUEUE_KIB));
        let committer = Committer {
            tail: Tail::new(Arc::clone(&table), spare, tasks, options, found.position),
            usage: found.usage,
            queue: submissions,
            room: Arc::clone(&room),
            marked: found.marked,
            stuck: false,
            batch: Vec::new(),
            places: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name("skep-wal".to_owned())
            .spawn(move || work(committer, preparer, lock))?;
        let payload_bytes_max = options.payload_bytes_max();
        Ok(Self { table, queue: Some(queue), room, payload_bytes_max, thread: Some(thread) })
    }
}

impl Drop for Inner {
    // Waits for what was accepted to be written, so that the directory can be opened again at once.
    fn drop(&mut self) {
        self.queue = None;
        let Some(thread) = self.thread.take() else { return };
        // A completion that holds the last handle runs on the very thread; that one ends by itself.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            warn!("commit thread of the log ended in a panic");
        }
    }
}

/// The commit thread. It holds the directory's lock to its very end.
fn work(mut committer: Committer, preparer: JoinHandle<()>, lock: File) {
    // Whatever broke, the ledgers can no longer be trusted: stop before more is written.
    if catch_unwind(AssertUnwindSafe(|| committer.run())).is_err() {
        error!("commit thread of the log panicked");
        std::process::abort();
    }
    // Hangs up on the preparer, which then ends.
    drop(committer);
    if preparer.join().is_err() {
        warn!("preparer of the log ended in a panic");
    }
    drop(lock);
}

/// Ends the process: the state of the disk is unknown, and a failed sync must not be tried again.
fn die(what: &str, error: &io::Error) -> ! {
    error!(what, %error, "log failed, the process ends");
    std::process::abort();
}

// A poisoned lock means a panic on a thread that is about to end the process; the data is as good as ever until then.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
