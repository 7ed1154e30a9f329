//! A caller's promise that repeated sends are one request.

use serde::{Deserialize, Serialize};

use crate::{Applied, Digest, Refusal};

/// How long an outcome is kept, in shard time.
pub const KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// What an `Idempotency-Key` becomes before it is replicated. Neither the key nor the request is
/// in it, only digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Once {
    /// Keyed SHA-256 of scope and key.
    pub key: Digest,
    /// SHA-256 of method, path, query and parsed body.
    pub fingerprint: Digest,
    /// A secret of the answer (a new API key), encrypted under a key that only the holder of the
    /// `Idempotency-Key` can derive.
    pub sealed: Option<Vec<u8>>,
}

/// Which request an operator's key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Both as in [`Once`].
    pub key: Digest,
    pub fingerprint: Digest,
}

/// What is kept of the first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub fingerprint: Digest,
    pub at: crate::Time,
    pub sealed: Option<Vec<u8>>,
    pub applied: Box<Applied>,
}

impl Refusal {
    /// Whether it is the answer of its Idempotency-Key from now on. What a caller can mend is not, as
    /// API.md has it: 400, 401, 403, 404, 413, 422 and 429.
    #[must_use]
    pub fn is_remembered(&self) -> bool {
        match self {
            Self::Exists
            | Self::JobEnded(_)
            | Self::TaskDone
            | Self::Budget { .. }
            | Self::VersionMismatch { .. }
            | Self::NodeIs { .. }
            | Self::LastNode { .. }
            | Self::NodeHolds { .. }
            | Self::Moving { .. }
            | Self::BreaksQuorum { .. }
            | Self::NoVoter { .. }
            | Self::Unspoken { .. }
            | Self::NotRaised { .. }
            | Self::NothingFailed
            | Self::Retried { .. }
            | Self::VersionServes { .. }
            | Self::Initialised => true,
            Self::NotFound
            | Self::NoTenant
            | Self::StaleOwner { .. }
            | Self::StaleAttempt { .. }
            | Self::Expired
            | Self::ScopeMissing(_)
            | Self::ScopesExceeded
            | Self::TenantSuspended
            | Self::TrialExpired
            | Self::IdempotencyMismatch
            | Self::Quota { .. }
            | Self::Rate { .. }
            | Self::BacklogFull { .. }
            | Self::Concurrency { .. }
            | Self::StaleAsk
            | Self::TooMany { .. }
            | Self::BadToken => false,
        }
    }
}
