//! First outcomes, by Idempotency-Key. Invariant: an outcome is kept in the entry that made it.

use std::collections::BTreeMap;

use protocol::idempotency::{KEPT_MS, Kept, Once};
use protocol::{Applied, Digest, Refusal, Time};

use super::rows::Hasher;
use super::table::Table;

/// The outcomes of the last 24 hours of shard time.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub(super) kept: Table<Digest, Kept>,
    /// The same by age, for forgetting.
    by_age: BTreeMap<(Time, Digest), ()>,
}

impl Book {
    /// The first outcome of this key, or a refusal when it was another request.
    #[must_use]
    pub fn find(&self, once: &Once) -> Option<Result<Applied, Refusal>> {
        let kept = self.kept.get(&once.key)?;
        if kept.fingerprint != once.fingerprint {
            return Some(Err(Refusal::IdempotencyMismatch));
        }
        let earlier = Applied { replayed: Some(kept.sealed.clone()), ..(*kept.applied).clone() };
        Some(Ok(earlier))
    }

    pub(super) fn keep(&mut self, now: Time, once: Once, applied: &Applied) {
        if applied.outcome.as_ref().is_err_and(|refusal| !is_remembered(refusal)) {
            return;
        }
        self.by_age.insert((now, once.key), ());
        let applied = Box::new(applied.clone());
        let kept = Kept { fingerprint: once.fingerprint, at: now, sealed: once.sealed, applied };
        self.kept.insert(once.key, kept);
    }

    pub(super) fn forget_before(&mut self, now: Time) {
        while let Some((&(at, key), ())) = self.by_age.first_key_value() {
            if now.ms_since(at) < KEPT_MS {
                return;
            }
            self.by_age.pop_first();
            self.kept.remove(&key);
        }
    }

    /// Makes what follows from rows that were loaded.
    pub(super) fn restore(&mut self) {
        self.by_age = self.kept.iter().map(|(&key, kept)| ((kept.at, key), ())).collect();
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        hasher.table(&self.kept);
    }
}

/// API.md: 400, 401, 403, 404, 413, 422 and 429 are not remembered; conflicts are.
fn is_remembered(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Exists
        | Refusal::JobEnded(_)
        | Refusal::TaskDone
        | Refusal::VersionMismatch { .. }
        | Refusal::NodeIs { .. }
        | Refusal::LastNode { .. }
        | Refusal::NodeHolds { .. }
        | Refusal::Moving { .. }
        | Refusal::BreaksQuorum { .. }
        | Refusal::NoVoter { .. }
        | Refusal::Unspoken { .. }
        | Refusal::NotRaised { .. }
        | Refusal::NothingFailed
        | Refusal::Retried { .. }
        | Refusal::VersionServes { .. }
        | Refusal::Initialised => true,
        Refusal::NotFound
        | Refusal::NoTenant
        | Refusal::StaleOwner { .. }
        | Refusal::StaleAttempt { .. }
        | Refusal::Expired
        | Refusal::ScopeMissing(_)
        | Refusal::ScopesExceeded
        | Refusal::TenantSuspended
        | Refusal::TrialExpired
        | Refusal::IdempotencyMismatch
        | Refusal::Quota { .. }
        | Refusal::Rate { .. }
        | Refusal::BacklogFull { .. }
        | Refusal::Concurrency { .. }
        | Refusal::Budget { .. }
        | Refusal::StaleAsk
        | Refusal::TooMany { .. }
        | Refusal::BadToken => false,
    }
}
