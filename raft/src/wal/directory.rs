//! The directory of a log. It is locked by one process, whether or not the log in it can be opened.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{OpenError, Options, Recovered, Wal, segment};

/// A locked directory. What was opened from it keeps the lock.
#[derive(Debug)]
pub struct Directory {
    wal: PathBuf,
    lock: File,
}

impl Directory {
    /// Locks `data/wal`, which is made if it is not there.
    pub fn lock(data: &Path) -> Result<Self, OpenError> {
        let wal = data.join("wal");
        DirBuilder::new().recursive(true).mode(0o700).create(&wal)?;
        segment::sync_dir(data)?;
        let lock = lock(&wal)?;
        Ok(Self { wal, lock })
    }

    /// Opens the log, or begins one. Blocks for as long as it takes to read it.
    pub fn open(&self) -> Result<(Wal, Recovered), OpenError> {
        self.open_with(Options::default())
    }

    pub(super) fn open_with(&self, options: Options) -> Result<(Wal, Recovered), OpenError> {
        Wal::start(self.wal.clone(), self.lock.try_clone()?, options)
    }

    /// Moves the segments to `to`, which is made: the log that is opened next is a new one. Safe to
    /// repeat after a crash at any point.
    pub fn set_aside(&self, to: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(to)?;
        for item in fs::read_dir(&self.wal)? {
            let path = item?.path();
            if let Some(name) = path.file_name().filter(|name| *name != LOCK) {
                fs::rename(&path, to.join(name))?;
            }
        }
        segment::sync_dir(to)?;
        segment::sync_dir(&self.wal)
    }
}

const LOCK: &str = "lock";

fn lock(dir: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(dir.join(LOCK))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked(dir.to_owned())),
        Err(errno) => Err(OpenError::Io(errno.into())),
    }
}
