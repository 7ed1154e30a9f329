//! A caller's promise that repeated sends are one request.

use serde::{Deserialize, Serialize};

use crate::{Applied, Digest};

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

/// What is kept of the first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub fingerprint: Digest,
    pub at: crate::Time,
    pub sealed: Option<Vec<u8>>,
    pub applied: Box<Applied>,
}
