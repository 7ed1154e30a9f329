//! The state that a peer sends, until it is whole.
//!
//! The same log entry has the same state everywhere, so a transfer that was cut off goes on where it
//! ended, whoever sends the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use protocol::{GroupId, ReplicaId};
use redb::{Database, Durability, ReadableDatabase as _};

use super::{
    Checkpoint, CheckpointError, Failure, Head, Loaded, ROWS, Row, load_rows, locked, open_file,
    read_head, write_head,
};
use crate::types::LogId;

/// Why a part of a state is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StagingError {
    /// The sender has to begin with asking how far this is.
    #[error("another part is expected")]
    OutOfOrder,
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// States on their way to this node, one of each group.
#[derive(Debug)]
pub(crate) struct Arrivals {
    dir: PathBuf,
    of: Mutex<BTreeMap<GroupId, Arc<Mutex<Arrival>>>>,
}

#[derive(Debug)]
struct Arrival {
    head: Head,
    staged: Staged,
    database: Database,
    /// Key of the last row that is here.
    last: Bytes,
}

impl Arrivals {
    /// Parts of states that a former process left in `dir` are removed.
    pub(crate) fn open(dir: &Path) -> std::io::Result<Self> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "incoming") {
                std::fs::remove_file(path)?;
            }
        }
        Ok(Self { dir: dir.to_owned(), of: Mutex::default() })
    }

    /// Begins with a state, or goes on with it: returns the key of the last row that is here.
    pub(crate) fn begin(&self, group: GroupId, head: Head) -> Result<Bytes, StagingError> {
        let mut all = locked(&self.of);
        if let Some(arrival) = all.get(&group) {
            let arrival = locked(arrival);
            if arrival.head.applied == head.applied {
                return Ok(arrival.last.clone());
            }
        }
        // The file of another state goes first: the new one takes its name.
        all.remove(&group);
        let staged = Staged { path: self.dir.join(format!("{}.incoming", group.0)) };
        let database = open_file(&staged.path, false).map_err(|failure| staged.failure(failure))?;
        let arrival = Arrival { head, staged, database, last: Bytes::new() };
        all.insert(group, Arc::new(Mutex::new(arrival)));
        Ok(Bytes::new())
    }

    /// Takes the rows that follow `after`.
    pub(crate) fn take(
        &self,
        group: GroupId,
        applied: LogId,
        after: &[u8],
        rows: &[Row],
    ) -> Result<(), StagingError> {
        let arrival = self.arrival(group)?;
        let mut arrival = locked(&arrival);
        if arrival.head.applied != applied || arrival.last[..] != *after {
            return Err(StagingError::OutOfOrder);
        }
        let taken = put(&arrival.database, rows);
        taken.map_err(|failure| arrival.staged.failure(failure))?;
        if let Some((key, _)) = rows.last() {
            arrival.last = Bytes::copy_from_slice(key);
        }
        Ok(())
    }

    /// The state is whole: what was staged, as that of a replica of this node.
    pub(crate) fn finish(
        &self,
        group: GroupId,
        applied: LogId,
        replica: ReplicaId,
    ) -> Result<(Head, Staged), StagingError> {
        let arrival = self.arrival(group)?;
        if locked(&arrival).head.applied != applied {
            return Err(StagingError::OutOfOrder);
        }
        locked(&self.of).remove(&group);
        // Whoever still puts rows in holds it: it is out of order then.
        let arrival = Arc::try_unwrap(arrival).map_err(|_| StagingError::OutOfOrder)?;
        let arrival = arrival.into_inner().unwrap_or_else(|_| std::process::abort());
        let Arrival { head, staged, database, .. } = arrival;
        let head = Head { replica, ..head };
        let sealed = seal(&database, &head);
        sealed.map_err(|failure| staged.failure(failure))?;
        Ok((head, staged))
    }

    fn arrival(&self, group: GroupId) -> Result<Arc<Mutex<Arrival>>, StagingError> {
        locked(&self.of).get(&group).cloned().ok_or(StagingError::OutOfOrder)
    }
}

/// Nothing is durable before the state is whole.
fn put(database: &Database, rows: &[Row]) -> Result<(), Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::None).map_err(redb::Error::from)?;
    {
        let mut table = transaction.open_table(ROWS)?;
        for (key, value) in rows {
            table.insert(&key[..], &value[..])?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn seal(database: &Database, head: &Head) -> Result<(), Failure> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    // Of a state without rows no part has come.
    drop(transaction.open_table(ROWS)?);
    write_head(&transaction, head)?;
    transaction.commit()?;
    Ok(())
}

/// A file beside the checkpoint that is removed unless it becomes the checkpoint.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
}

impl Staged {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the state back from the file, which proves that it is whole.
    pub(crate) fn load(&self, of: &Checkpoint) -> Result<Loaded, CheckpointError> {
        let database = open_file(&self.path, false).map_err(|failure| self.failure(failure))?;
        let transaction = database.begin_read().map_err(|error| self.failure(error.into()))?;
        let head = read_head(&transaction).map_err(|failure| self.failure(failure))?;
        let head = head.ok_or_else(|| CheckpointError::Damaged {
            file: self.path.clone(),
            detail: "it has no head".to_owned(),
        })?;
        let head = of.parse_head(&head)?;
        let machine = load_rows(&transaction, &head).map_err(|failure| self.failure(failure))?;
        Ok(Loaded { head, machine })
    }

    fn failure(&self, failure: Failure) -> CheckpointError {
        failure.of(self.path.clone())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.path) {
            Ok(()) => {}
            // It became the checkpoint.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(file = %self.path.display(), %error, "file left behind"),
        }
    }
}
