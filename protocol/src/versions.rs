//! The version of everything that is stored or sent, in one place. A build reads the versions that are
//! named here, refuses newer ones, and writes the newest that every node of the cluster can read.

use serde::{Deserialize, Serialize};

/// Segments of the log (`wal/*.seg`).
pub const LOG_SEGMENT: u32 = 1;
/// Frames of values: entries of the log, rows and heads of checkpoints, requests between nodes.
pub const FRAME: u8 = 1;
/// What is in a checkpoint (`checkpoint/*.redb`), and in a state on its way to a peer.
pub const CHECKPOINT: u32 = 1;
/// `node.json`.
pub const NODE_FILE: u32 = 2;
/// The store of blobs (`blobs/format`): packs, and what is in them.
pub const BLOB_STORE: u32 = 2;
/// Cached results on disk (`cache/format`). Those of another version are deleted.
pub const CACHE: u32 = 3;
/// Envelopes of actors' messages.
pub const ENVELOPE: u8 = 1;
/// Cursors of lists.
pub const CURSOR: u8 = 1;

/// The versions of the wire that a build speaks: what nodes say to each other and write into the
/// replicated log. The first message of a connection is read by every build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    pub min: u16,
    pub max: u16,
}

impl Wire {
    /// Of this build.
    pub const OURS: Self = Self { min: 1, max: 3 };
    /// The first in which jobs have more than a priority, and plans a weight.
    pub const JOB_LIFE: u16 = 2;
    /// The first in which an operator's Idempotency-Key is one for the whole cluster.
    pub const CLAIMS: u16 = 3;

    /// Whether a version is one of them.
    #[must_use]
    pub fn speaks(self, version: u16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// The newest version that all speak; `None` of nobody, and where there is none.
    #[must_use]
    pub fn common(all: impl IntoIterator<Item = Self>) -> Option<u16> {
        let meet = |a: Self, b: Self| Self { min: a.min.max(b.min), max: a.max.min(b.max) };
        let common = all.into_iter().reduce(meet)?;
        (common.min <= common.max).then_some(common.max)
    }
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_version_is_the_newest_that_all_speak() {
        let common =
            |all: &[(u16, u16)]| Wire::common(all.iter().map(|&(min, max)| Wire { min, max }));
        assert_eq!(common(&[]), None);
        assert_eq!(common(&[(1, 3)]), Some(3));
        assert_eq!(common(&[(1, 3), (2, 2), (1, 5)]), Some(2));
        assert_eq!(common(&[(1, 1), (2, 3)]), None);
    }

    #[test]
    fn a_range_speaks_what_is_in_it() {
        let wire = Wire { min: 2, max: 3 };
        assert_eq!([1, 2, 3, 4].map(|version| wire.speaks(version)), [false, true, true, false]);
        assert_eq!(wire.to_string(), "2 to 3");
    }
}
