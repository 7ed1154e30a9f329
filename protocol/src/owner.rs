//! Ownership of a group: Raft leadership, fenced by an entry.

use serde::{Deserialize, Serialize};

use crate::{NodeId, Time};

/// The number of an ownership: the log index of the entry that opened it. Every command carries
/// it, and one of another number is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// Who owns a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub node: NodeId,
    pub incarnation: u64,
    pub term: u64,
    pub epoch: Epoch,
    pub since: Time,
}

/// Asked by a new leader of itself; the epoch is the index at which it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenOwner {
    pub node: NodeId,
    pub incarnation: u64,
    pub term: u64,
}
