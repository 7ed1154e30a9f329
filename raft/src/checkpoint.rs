//! The checkpoint of one replica: its state on disk as of one log entry, in a redb file of its own.
//!
//! Invariant: rows and the index that they belong to change in one transaction, so the file always
//! holds the state of exactly one entry. What was frozen in one state of the machine is written
//! before another takes its place: whoever freezes or replaces holds [`Checkpoint::hold`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use protocol::codec::{self, CodecError};
// redb has a version of its own for how it is written.
use protocol::versions::CHECKPOINT as FORMAT;
use protocol::{GroupId, ReplicaId};
use redb::backends::FileBackend;
use redb::{
    Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::machine::{Change, Machine, Scalars, Stored};
use crate::types::{LogId, SnapshotMeta, StoredMembership};

pub(crate) mod keeper;
pub(crate) mod staging;
pub(crate) mod stream;

#[cfg(test)]
mod tests;

/// Pages that redb keeps in memory while a file is open.
const CACHE_BYTES: usize = 8 << 20;
/// Holds the one head.
const HEAD: TableDefinition<'_, (), &[u8]> = TableDefinition::new("head");
/// Rows by number of their table and key.
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk does not do what it is told.
    #[error("checkpoint {}: {cause}", file.display())]
    Io { file: PathBuf, cause: io::Error },
    /// What was acknowledged may be lost here: the replica has to be made anew from its peers.
    #[error("checkpoint {} is damaged: {detail}", file.display())]
    Damaged { file: PathBuf, detail: String },
    /// Written by another release.
    #[error("checkpoint {} has format {format}, which this release does not know", file.display())]
    Version { file: PathBuf, format: u32 },
}

/// Which state a checkpoint holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Head {
    format: u32,
    pub(crate) group: GroupId,
    /// Whose state it is; that of another replica on the same node is none.
    pub(crate) replica: ReplicaId,
    pub(crate) applied: LogId,
    pub(crate) membership: StoredMembership,
    pub(crate) scalars: Scalars,
}

impl Head {
    pub(crate) fn new(
        group: GroupId,
        replica: ReplicaId,
        applied: LogId,
        membership: StoredMembership,
        scalars: Scalars,
    ) -> Self {
        Self { format: FORMAT, group, replica, applied, membership, scalars }
    }

    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: Some(self.applied), last_membership: self.membership.clone() }
    }
}

/// A state that was read from disk.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) head: Head,
    pub(crate) machine: Machine,
}

/// The checkpoint of one replica. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    group: GroupId,
    replica: ReplicaId,
    /// See [`Checkpoint::hold`].
    holding: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    head: Option<Arc<Head>>,
    /// Open only while it is used, so that idle groups cost no memory.
    open: Weak<Database>,
}

impl Checkpoint {
    /// The checkpoint of a replica, and what it holds; a file of another replica of the group is
    /// removed. Blocks.
    pub(crate) fn open(
        dir: &Path,
        group: GroupId,
        replica: ReplicaId,
    ) -> Result<(Self, Option<Loaded>), CheckpointError> {
        let checkpoint = Self::at(dir, group, replica);
        if !checkpoint.inner.path.exists() {
            return Ok((checkpoint, None));
        }
        let loaded = checkpoint.load()?.filter(|loaded| loaded.head.replica == replica);
        match &loaded {
            Some(loaded) => locked(&checkpoint.inner.state).head = Some(loaded.head.clone().into()),
            None => checkpoint.remove()?,
        }
        Ok((checkpoint, loaded))
    }

    fn at(dir: &Path, group: GroupId, replica: ReplicaId) -> Self {
        let path = dir.join(format!("{}.redb", group.0));
        let (holding, state) = (Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { path, group, replica, holding, state }) }
    }

    /// Removes the file of whichever replica of the group there was.
    pub(crate) fn discard(dir: &Path, group: GroupId) -> Result<(), CheckpointError> {
        Self::at(dir, group, ReplicaId(0)).remove()
    }

    /// Moves the file of whichever replica of the group there was into another directory.
    pub(crate) fn set_aside(dir: &Path, group: GroupId, to: &Path) -> Result<(), CheckpointError> {
        let checkpoint = Self::at(dir, group, ReplicaId(0));
        let file = checkpoint.inner.path.clone();
        let name = file.file_name().unwrap_or_default();
        match std::fs::rename(&file, to.join(name)).and_then(|()| checkpoint.sync_dir()) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(CheckpointError::Io { file, cause })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether the log, which begins after `purged`, goes on from here.
    pub(crate) fn reaches(&self, purged: u64) -> Result<(), CheckpointError> {
        let applied = self.head().map_or(0, |head| head.applied.index);
        if applied < purged {
            let detail = format!("it ends at entry {applied}, the log begins after {purged}");
            return Err(CheckpointError::Damaged { file: self.inner.path.clone(), detail });
        }
        Ok(())
    }

    /// The directory is made if it is not there.
    pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    pub(crate) fn group(&self) -> GroupId {
        self.inner.group
    }

    pub(crate) fn replica(&self) -> ReplicaId {
        self.inner.replica
    }

    /// What is on disk.
    pub(crate) fn head(&self) -> Option<Arc<Head>> {
        locked(&self.inner.state).head.clone()
    }

    /// From a freeze of the machine until it is written, and while the machine is replaced, this is
    /// held by whoever does it.
    pub(crate) fn hold(&self) -> MutexGuard<'_, ()> {
        locked(&self.inner.holding)
    }

    /// Writes a state in one transaction: `next` gives its changed rows until there are none, and
    /// `whole` says that they are all; then they go to a new file, whatever is wrong with this one.
    /// The caller holds [`Self::hold`]. Returns the bytes of rows written. Blocks.
    pub(crate) fn write(
        &self,
        head: Head,
        whole: bool,
        next: impl FnMut() -> Vec<Stored>,
    ) -> Result<u64, CheckpointError> {
        // The first one is whole too: a file that is begun in its place and cut off reads as damage.
        if whole || self.head().is_none() {
            return self.write_anew(head, next);
        }
        let database = self.database()?;
        let written = write(&database, &head, next).map_err(|error| self.failure(error))?;
        locked(&self.inner.state).head = Some(head.into());
        Ok(written)
    }

    fn write_anew(
        &self,
        head: Head,
        next: impl FnMut() -> Vec<Stored>,
    ) -> Result<u64, CheckpointError> {
        let path = self.inner.path.with_extension("new");
        let failed = |failure: Failure| failure.of(path.clone());
        match std::fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(CheckpointError::Io { file: path, cause });
            }
            Ok(()) | Err(_) => {}
        }
        let database = open_file(&path, false).map_err(failed)?;
        let written = write(&database, &head, next).map_err(failed)?;
        drop(database);
        self.replace(&path, head)?;
        Ok(written)
    }

    /// The state on disk, which stays as it is for as long as it is read.
    pub(crate) fn reader(&self) -> Result<Option<Reader>, CheckpointError> {
        let Some(head) = self.head() else { return Ok(None) };
        let database = self.database()?;
        let transaction = database.begin_read().map_err(|error| self.failure(error.into()))?;
        // A checkpoint may have been written since: the transaction says which state it is of.
        let head = match read_head(&transaction).map_err(|error| self.failure(error))? {
            Some(bytes) => Arc::new(self.parse_head(&bytes)?),
            None => head,
        };
        let bytes = std::fs::metadata(&self.inner.path);
        let bytes = bytes.map_err(|error| self.failure(redb::Error::Io(error).into()))?.len();
        Ok(Some(Reader { head, transaction, bytes, _open: database }))
    }

    /// Puts the file of a received state in the place of this one. The caller holds [`Self::hold`].
    pub(crate) fn replace(&self, staged: &Path, head: Head) -> Result<(), CheckpointError> {
        let mut state = locked(&self.inner.state);
        let moved = std::fs::rename(staged, &self.inner.path).and_then(|()| self.sync_dir());
        moved.map_err(|cause| CheckpointError::Io { file: self.inner.path.clone(), cause })?;
        *state = State { head: Some(head.into()), open: Weak::new() };
        Ok(())
    }

    /// Removes the file.
    pub(crate) fn remove(&self) -> Result<(), CheckpointError> {
        *locked(&self.inner.state) = State::default();
        match std::fs::remove_file(&self.inner.path).and_then(|()| self.sync_dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed
                .map_err(|cause| CheckpointError::Io { file: self.inner.path.clone(), cause }),
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        let dir = self.inner.path.parent().unwrap_or_else(|| Path::new("."));
        std::fs::File::open(dir)?.sync_all()
    }

    fn database(&self) -> Result<Arc<Database>, CheckpointError> {
        let mut state = locked(&self.inner.state);
        if let Some(open) = state.open.upgrade() {
            return Ok(open);
        }
        let opened = open_file(&self.inner.path, false).map_err(|error| self.failure(error))?;
        let opened = Arc::new(opened);
        state.open = Arc::downgrade(&opened);
        Ok(opened)
    }

    fn load(&self) -> Result<Option<Loaded>, CheckpointError> {
        let path = &self.inner.path;
        let database = open_file(path, true).map_err(|error| self.failure(error))?;
        let transaction = database.begin_read().map_err(|error| self.failure(error.into()))?;
        let Some(bytes) = read_head(&transaction).map_err(|error| self.failure(error))? else {
            // The first transaction was cut off.
            return Ok(None);
        };
        let head = self.parse_head(&bytes)?;
        let machine = load_rows(&transaction, &head).map_err(|error| self.failure(error))?;
        Ok(Some(Loaded { head, machine }))
    }

    fn parse_head(&self, bytes: &[u8]) -> Result<Head, CheckpointError> {
        let file = self.inner.path.clone();
        let Some((format, head)) = bytes.split_first_chunk() else {
            return Err(self.failure(Failure::Codec(CodecError::Short { bytes: bytes.len() })));
        };
        // Before anything that another release may write in another way.
        let format = u32::from_le_bytes(*format);
        if format != FORMAT {
            return Err(CheckpointError::Version { file, format });
        }
        let head: Head =
            codec::decode(head).map_err(|error| self.failure(Failure::Codec(error)))?;
        if head.group != self.inner.group {
            let detail = format!("it is of group {}", head.group);
            return Err(CheckpointError::Damaged { file, detail });
        }
        Ok(head)
    }

    fn failure(&self, failure: Failure) -> CheckpointError {
        failure.of(self.inner.path.clone())
    }
}

/// A state on disk, fixed.
pub(crate) struct Reader {
    head: Arc<Head>,
    transaction: ReadTransaction,
    bytes: u64,
    _open: Arc<Database>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "checkpoint of {} at {}", self.head.group, self.head.applied)
    }
}

impl Reader {
    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Of the file, in which some is free.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Rows after `after`, in order, of about `bytes_max` bytes; none when there are no more.
    pub(crate) fn rows(&self, after: &[u8], bytes_max: usize) -> io::Result<Vec<Row>> {
        let read = || -> Result<Vec<Row>, Failure> {
            let rows = self.transaction.open_table(ROWS)?;
            let beyond = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
            let (mut taken, mut bytes) = (Vec::new(), 0);
            for row in rows.range::<&[u8]>(beyond)? {
                let (key, value) = row?;
                let row: Row = (key.value().to_vec().into(), value.value().to_vec().into());
                bytes += row.0.len() + row.1.len();
                taken.push(row);
                if bytes >= bytes_max {
                    break;
                }
            }
            Ok(taken)
        };
        read().map_err(|failure| io::Error::other(failure.of(PathBuf::from("snapshot"))))
    }
}

/// Number of a table and key, and value: read and written as bytes and not one by one.
pub(crate) type Row = (Bytes, Bytes);

/// What goes wrong, before it is known of which file.
#[derive(Debug)]
enum Failure {
    Store(redb::Error),
    Codec(CodecError),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

impl Failure {
    fn of(self, file: PathBuf) -> CheckpointError {
        let damaged = |detail: String| CheckpointError::Damaged { file: file.clone(), detail };
        match self {
            Self::Codec(CodecError::Version { got }) => {
                CheckpointError::Version { file, format: u32::from(got) }
            }
            Self::Codec(error) => damaged(error.to_string()),
            Self::Store(redb::Error::Io(cause)) if is_of_the_disk(&cause) => {
                CheckpointError::Io { file, cause }
            }
            Self::Store(error) => damaged(error.to_string()),
        }
    }
}

/// A file that is too short or begins with something else is an I/O error to redb.
fn is_of_the_disk(cause: &io::Error) -> bool {
    !matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Whether every page is verified first: redb trusts what it wrote, and panics when that was altered.
fn open_file(path: &Path, verified: bool) -> Result<Database, Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(redb::Error::Io)?;
    let backend = FileBackend::new(file)?;
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(verified);
    Ok(builder.create_with_backend(backend)?)
}

fn write(
    database: &Database,
    head: &Head,
    next: impl FnMut() -> Vec<Stored>,
) -> Result<u64, Failure> {
    let mut transaction = database.begin_write()?;
    // After a crash the file is to be open at once, however large it is.
    transaction.set_quick_repair(true);
    let written = write_rows(&transaction, next)?;
    write_head(&transaction, head)?;
    transaction.commit()?;
    Ok(written)
}

fn write_rows(
    transaction: &WriteTransaction,
    mut next: impl FnMut() -> Vec<Stored>,
) -> Result<u64, Failure> {
    let mut rows = transaction.open_table(ROWS)?;
    let mut written = 0;
    loop {
        let changes = next();
        if changes.is_empty() {
            return Ok(written);
        }
        for Stored { table, change: Change { key, value } } in changes {
            let name = [&[table], key.as_slice()].concat();
            written += (name.len() + value.as_ref().map_or(0, Vec::len)) as u64;
            match value {
                Some(value) => rows.insert(name.as_slice(), value.as_slice())?,
                None => rows.remove(name.as_slice())?,
            };
        }
    }
}

fn write_head(transaction: &WriteTransaction, head: &Head) -> Result<(), Failure> {
    let mut bytes = FORMAT.to_le_bytes().to_vec();
    bytes.extend(codec::encode(head).map_err(Failure::Codec)?);
    transaction.open_table(HEAD)?.insert((), bytes.as_slice())?;
    Ok(())
}

fn read_head(transaction: &ReadTransaction) -> Result<Option<Vec<u8>>, Failure> {
    match transaction.open_table(HEAD) {
        Ok(table) => Ok(table.get(())?.map(|head| head.value().to_vec())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn load_rows(transaction: &ReadTransaction, head: &Head) -> Result<Machine, Failure> {
    let mut machine = Machine::new(head.group);
    for row in transaction.open_table(ROWS)?.iter()? {
        let (name, value) = row?;
        let Some((&table, key)) = name.value().split_first() else {
            return Err(Failure::Codec(CodecError::Short { bytes: 0 }));
        };
        machine.load(table, key, value.value()).map_err(Failure::Codec)?;
    }
    machine.restore(head.scalars.clone()).map_err(Failure::Codec)?;
    Ok(machine)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // redb may panic on a damaged file; what these protect is whole all the same.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
