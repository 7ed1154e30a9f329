//! The audit: what was asked, by whom, and what was answered.

use serde::{Deserialize, Serialize};

use crate::{Digest, KeyId, Outcome, Refusal, TenantId, Time};

/// Calls that one command appends, at most.
pub const CALLS_MAX: usize = 64;

/// What the node that was asked knows of a call before anything is decided. No secret is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// `req_…`
    pub request: String,
    /// The masked key, or `operator`.
    pub actor: String,
    pub key: Option<KeyId>,
    pub method: String,
    /// With the query, cut to [`PATH_MAX`] characters.
    pub path: String,
    /// Where the call came from.
    pub address: String,
    /// SHA-256 of the body's bytes.
    pub body: Digest,
    /// HTTP status if it succeeds.
    pub status: u16,
    /// From the head of the call until this was written.
    pub ms: u32,
    /// The caller promised to send it once: it had an Idempotency-Key.
    pub once: bool,
}

/// Characters of a path that are kept.
pub const PATH_MAX: usize = 256;
/// What secrets begin with, that somebody may have put into a URL.
const SECRETS: [&str; 3] = ["sk_live_", "sk_admin_", "skep_join_"];

/// A path with its query as an audit has it: cut, and without what might be a secret.
#[must_use]
pub fn shown_path(path: &str) -> String {
    let mut shown = path.to_owned();
    for prefix in SECRETS {
        let mut from = 0;
        while let Some(at) = shown[from..].find(prefix) {
            let begin = from + at + prefix.len();
            let rest = &shown[begin..];
            let secret = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            shown.replace_range(begin..begin + secret, "…");
            from = begin;
        }
    }
    shown.chars().take(PATH_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::{PATH_MAX, shown_path};

    #[test]
    fn what_might_be_a_secret_is_cut_out_of_a_path() {
        let path = "/v1/keys/sk_live_0aB9?api_key=sk_admin_xyz&t=skep_join_1.2&name=x";
        let shown = "/v1/keys/sk_live_…?api_key=sk_admin_…&t=skep_join_….2&name=x";
        assert_eq!(shown_path(path), shown);
        assert_eq!(shown_path("/v1/me"), "/v1/me");
        assert_eq!(shown_path(&"é".repeat(1_000)), "é".repeat(PATH_MAX));
        // Cut afterwards: what is beyond the end cannot come back by it.
        let late = format!("/{}sk_live_{}", "x".repeat(PATH_MAX - 10), "s".repeat(100));
        assert!(!shown_path(&late).contains("sss"));
    }
}

/// A call that was decided without an entry of its own: refused by the node, or a read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub note: Note,
    /// `ok`, or the code of the problem.
    pub code: String,
    /// It was given the answer of an earlier call.
    pub replayed: bool,
    /// Calls like this one that stand behind the record; more than 1 only in a flood.
    pub count: u32,
}

/// What is asked of a tenant's audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Append(Vec<Call>),
}

/// A link of a tenant's chain, without its hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// From 1.
    pub seq: u64,
    /// Shard time.
    pub time: Time,
    /// Of the log entry that it was written in, and that had the effect if there was one.
    pub index: u64,
    pub note: Note,
    pub status: u16,
    pub code: String,
    /// SHA-256 of the committed outcome in its stored form; of nothing when none was committed.
    pub response: Digest,
    /// It repeated an earlier call and was given that one's answer.
    pub replayed: bool,
    pub count: u32,
}

/// A record with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    pub record: Record,
    pub prev: Digest,
    pub hash: Digest,
}

/// Which records of a chain are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub tenant: TenantId,
    /// Neither this record nor those on its far side.
    pub beyond: u64,
    pub limit: u32,
    /// Those that follow `beyond`, and not those before it with the newest first.
    pub ascending: bool,
}

/// Records of a chain, and where the chain ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub records: Vec<Linked>,
    pub seq: u64,
    pub head: Digest,
    /// The log entry up to which this is true.
    pub applied: u64,
}

/// What replicas are asked to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub tenant: TenantId,
    pub seq: u64,
    pub head: Digest,
    /// The replica signs when it has applied this much.
    pub applied: u64,
}

/// A replica's word for a head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    pub node: crate::NodeId,
    pub key_id: String,
    /// Ed25519 (RFC 8032), 64 bytes.
    pub sig: Vec<u8>,
}

/// HTTP status and code of a committed outcome, as the API tells it.
#[must_use]
pub fn told(outcome: &Outcome, success: u16) -> (u16, &'static str) {
    match outcome {
        Ok(_) => (success, "ok"),
        Err(refusal) => refused(refusal),
    }
}

fn refused(refusal: &Refusal) -> (u16, &'static str) {
    match refusal {
        Refusal::NotFound | Refusal::NoTenant => (404, "not_found"),
        Refusal::Exists
        | Refusal::TaskDone
        | Refusal::StaleAttempt { .. }
        | Refusal::JobEnded(_)
        | Refusal::Initialised
        | Refusal::BadToken
        | Refusal::NodeIs { .. }
        | Refusal::LastNode { .. }
        | Refusal::NodeHolds { .. }
        | Refusal::Moving { .. }
        | Refusal::BreaksQuorum { .. }
        | Refusal::NoVoter { .. }
        | Refusal::Unspoken { .. }
        | Refusal::NotRaised { .. }
        | Refusal::Expired
        | Refusal::NothingFailed
        | Refusal::Retried { .. }
        | Refusal::VersionServes { .. }
        | Refusal::StaleAsk => (409, "conflict"),
        Refusal::StaleOwner { .. } => (503, "no_leader"),
        Refusal::ScopeMissing(_) | Refusal::ScopesExceeded => (403, "scope_missing"),
        Refusal::TenantSuspended => (403, "tenant_suspended"),
        Refusal::TrialExpired => (403, "trial_expired"),
        Refusal::IdempotencyMismatch => (422, "idempotency_mismatch"),
        Refusal::VersionMismatch { .. } => (412, "precondition_failed"),
        Refusal::TooMany { .. } => (413, "too_large"),
        Refusal::Quota { .. } => (429, "quota_exceeded"),
        Refusal::Rate { .. } => (429, "rate_limited"),
        Refusal::Concurrency { .. } => (429, "concurrency_exceeded"),
        Refusal::Budget { .. } => (402, "plan_limit"),
        Refusal::BacklogFull { .. } => (429, "queue_full"),
    }
}
