//! First outcomes, by Idempotency-Key. Invariant: an outcome is kept in the entry that made it.

use std::collections::BTreeMap;

use protocol::idempotency::{Claim, KEPT_MS, Kept, Once};
use protocol::{Applied, Digest, Outcome, Refusal, Reply, Time};

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
        if applied.outcome.as_ref().is_err_and(|refusal| !refusal.is_remembered()) {
            return;
        }
        let applied = Box::new(applied.clone());
        let kept = Kept { fingerprint: once.fingerprint, at: now, sealed: once.sealed, applied };
        self.insert(once.key, kept);
    }

    /// A call with this key is about to ask a shard. The key belongs to its request until as many
    /// calls were released as claimed it, or a day has passed.
    pub(super) fn claim(&mut self, index: u64, now: Time, claim: Claim) -> Outcome {
        let Claim { key, fingerprint } = claim;
        self.forget_before(now);
        let Some(kept) = self.kept.get_mut(&key) else {
            let applied = Box::new(super::fresh(index, Ok(Reply::Claimed { calls: 1 })));
            self.insert(key, Kept { fingerprint, at: now, sealed: None, applied });
            return Ok(Reply::Claimed { calls: 1 });
        };
        match &mut kept.applied.outcome {
            Ok(Reply::Claimed { calls }) if kept.fingerprint == fingerprint => {
                *calls = calls.saturating_add(1);
                Ok(Reply::Claimed { calls: *calls })
            }
            Ok(_) | Err(_) => Err(Refusal::IdempotencyMismatch),
        }
    }

    /// A call that claimed the key left nothing behind.
    pub(super) fn release(&mut self, claim: Claim) -> Outcome {
        let Claim { key, fingerprint } = claim;
        let kept = self.kept.get_mut(&key).filter(|kept| kept.fingerprint == fingerprint);
        let Some(kept) = kept else { return Err(Refusal::NotFound) };
        let at = kept.at;
        let Ok(Reply::Claimed { calls }) = &mut kept.applied.outcome else {
            return Err(Refusal::NotFound);
        };
        *calls = calls.saturating_sub(1);
        let left = *calls;
        if left == 0 {
            self.by_age.remove(&(at, key));
            self.kept.remove(&key);
        }
        Ok(Reply::Claimed { calls: left })
    }

    fn insert(&mut self, key: Digest, kept: Kept) {
        self.by_age.insert((kept.at, key), ());
        self.kept.insert(key, kept);
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
