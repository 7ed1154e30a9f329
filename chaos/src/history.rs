//! What the cluster has acknowledged, and what it answered meanwhile. Invariant: writes of a tenant
//! follow each other and each is repeated until it is settled, so that a ledger is exact.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use client::{ClientError, Meta, Outcome};

/// What one tenant was told that it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    /// Keys by id, with their names.
    pub(crate) keys: BTreeMap<u64, String>,
    pub(crate) revoked: BTreeSet<u64>,
    pub(crate) plan: String,
    pub(crate) name: String,
    pub(crate) calls: u64,
    pub(crate) documents: u64,
    /// Jobs with their number of documents.
    pub(crate) jobs: BTreeMap<String, u64>,
}

/// How attempts were answered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) acked: u64,
    /// Surely not applied.
    pub(crate) refused: u64,
    /// Perhaps applied; settled by a repetition with the same key.
    pub(crate) unknown: u64,
    /// Of the acknowledged ones, answered as replays: the unknown attempt had been applied.
    pub(crate) replayed: u64,
}

/// What clients of a tenant were told that they used, and what they may have used besides.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) acked: Used,
    /// Perhaps applied, and never settled.
    pub(crate) unknown: Used,
    /// Ids of the acknowledged requests.
    pub(crate) requests: Vec<String>,
}

/// Calls, and the documents in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) calls: u64,
    pub(crate) documents: u64,
}

impl Used {
    pub(crate) fn add(&mut self, other: Used) {
        self.calls += other.calls;
        self.documents += other.documents;
    }
}

impl Tally {
    /// A request with so many documents was acknowledged.
    pub(crate) fn ack(&mut self, documents: u64, meta: &Meta) {
        self.acked.add(Used { calls: 1, documents });
        self.requests.extend(meta.request_id.clone());
    }

    /// A request with so many documents was not: as the answer says, it was not applied, or it may
    /// have been.
    pub(crate) fn fail(&mut self, documents: u64, failure: &ClientError) {
        if may_stand(failure) {
            self.unknown.add(Used { calls: 1, documents });
        }
    }

    pub(crate) fn add(&mut self, other: Tally) {
        self.acked.add(other.acked);
        self.unknown.add(other.unknown);
        self.requests.extend(other.requests);
    }
}

/// Whether what failed so may have been applied.
pub(crate) fn may_stand(failure: &ClientError) -> bool {
    match failure {
        ClientError::Problem(problem) => problem.outcome == Outcome::Unknown,
        ClientError::Transport { sent, .. } => *sent,
        ClientError::Setup(_) => false,
        // It was answered, and not understood.
        ClientError::Decode { .. } | ClientError::TooLarge { .. } => true,
    }
}

/// What all writers of a round see together.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Round>);

#[derive(Debug, Default)]
struct Round {
    counts: Counts,
    acks_by_shard: BTreeMap<u32, u64>,
    fault: Option<Instant>,
    resumed: BTreeMap<u32, Duration>,
}

impl Board {
    /// An attempt on `shard` that began at `began` was acknowledged just now.
    pub(crate) fn acked(&self, shard: u32, began: Instant, replayed: bool) {
        let now = Instant::now();
        let mut round = self.round();
        round.counts.acked += 1;
        round.counts.replayed += u64::from(replayed);
        *round.acks_by_shard.entry(shard).or_default() += 1;
        let Some(fault) = round.fault else { return };
        // A replay shows only that an old write stands, not that new ones are taken.
        if began >= fault && !replayed {
            round.resumed.entry(shard).or_insert(now - fault);
        }
    }

    pub(crate) fn refused(&self) {
        self.round().counts.refused += 1;
    }

    pub(crate) fn unknown(&self) {
        self.round().counts.unknown += 1;
    }

    /// The fault happens now.
    pub(crate) fn fault(&self) {
        self.round().fault = Some(Instant::now());
    }

    pub(crate) fn counts(&self) -> Counts {
        self.round().counts
    }

    /// Acknowledged writes of the shard that has the fewest among `shards`.
    pub(crate) fn acks_min(&self, shards: &BTreeSet<u32>) -> u64 {
        let round = self.round();
        let acks = shards.iter().map(|shard| round.acks_by_shard.get(shard).copied());
        acks.map(Option::unwrap_or_default).min().unwrap_or(0)
    }

    /// From the fault to the first acknowledged new write, by shard.
    pub(crate) fn resumed(&self) -> BTreeMap<u32, Duration> {
        self.round().resumed.clone()
    }

    fn round(&self) -> MutexGuard<'_, Round> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    pub(crate) fn add(&mut self, other: Counts) {
        self.acked += other.acked;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.replayed += other.replayed;
    }

    /// `812 acked, 3 refused, 12 unknown (5 had been applied)`.
    pub(crate) fn told(&self) -> String {
        let Counts { acked, refused, unknown, replayed } = self;
        format!("{acked} acked, {refused} refused, {unknown} unknown ({replayed} had been applied)")
    }
}
