//! The state of one group as a file of a backup, and as the beginning of another cluster.
//!
//! [`file`] has the bytes; [`rebirth`] makes a data directory out of states that were read back.
//! Invariant: what is read is the state that was written, to the bit, or an error.

use protocol::{BackupId, ClusterId, Digest, GroupId};
use serde::{Deserialize, Serialize};

pub mod file;
pub mod rebirth;

#[cfg(test)]
mod tests;

pub use file::{FileError, Reading, State, WriteError, Writing, Written};
pub use rebirth::{Rebirth, RebirthError, Seats};

/// Which group of which backup a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub cluster: ClusterId,
    pub backup: BackupId,
    pub group: GroupId,
}

/// What a state that was read back is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The entry of the group's log that it is the state of.
    pub index: u64,
    pub term: u64,
    /// As [`crate::machine::Machine::digest`] has it.
    pub digest: Digest,
    pub rows: u64,
    /// Of the file.
    pub bytes: u64,
    pub sha256: Digest,
}
