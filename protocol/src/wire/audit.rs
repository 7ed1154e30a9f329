//! The audit on the wire: one record per line, each bound to the one before it.
//!
//! The hash of a record is SHA-256 over, in this order: `prev`, `seq`, `time`, `index`, `request_id`,
//! `actor`, `key_id`, `method`, `path`, `address`, `request_sha256`, `status`, `code`,
//! `response_sha256`, `ms`, `flags` joined by commas, `count`. Each is taken as its text in UTF-8 (an
//! absent `key_id` as the empty text) and preceded by its length in bytes as eight bytes, most
//! significant first. The first record's `prev` is 64 zeros.

use std::fmt::{Display, Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::audit::Linked;
use crate::{ClusterId, Digest, TenantId};

/// A call and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// From 1, without gaps.
    pub seq: u64,
    pub time: String,
    /// The log entry that holds it.
    pub index: u64,
    pub request_id: String,
    /// The masked key, or `operator`.
    pub actor: String,
    pub key_id: Option<u32>,
    pub method: String,
    pub path: String,
    pub address: String,
    pub request_sha256: String,
    pub status: u16,
    /// `ok`, or the code of the problem.
    pub code: String,
    /// Of the committed outcome in its stored form; zeros when none was committed.
    pub response_sha256: String,
    pub ms: u32,
    /// `once` had an Idempotency-Key, `replayed` was given an earlier answer.
    pub flags: Vec<String>,
    /// Calls like this one, in a flood of refusals.
    pub count: u32,
    pub prev: String,
    pub hash: String,
}

/// The last line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Always `checkpoint`.
    #[serde(rename = "type")]
    pub kind: String,
    pub cluster_id: String,
    pub tenant_id: String,
    pub seq: u64,
    pub head: String,
    pub signatures: Vec<Signature>,
}

/// The type of an export's last line.
pub const CHECKPOINT: &str = "checkpoint";
/// What a record may be marked with, in this order: its caller promised to send it once; it was given the
/// answer of an earlier call.
pub const FLAGS: [&str; 2] = ["once", "replayed"];

/// A node's signature under a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    pub node: String,
    pub key_id: String,
    /// Ed25519, 128 hex digits.
    pub sig: String,
}

/// Answer of `GET /admin/v1/trust`: whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trust {
    pub cluster_id: String,
    /// Signatures of different nodes that a checkpoint needs.
    pub quorum: usize,
    /// Those that a checkpoint of the cluster's own audit needs: every node has a replica of it.
    pub cluster_quorum: usize,
    pub nodes: Vec<TrustedKey>,
}

/// A node's public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrustedKey {
    pub node: String,
    pub key_id: String,
    /// Always `ed25519`.
    pub algorithm: String,
    /// 64 hex digits.
    pub public_key: String,
}

impl Record {
    /// A link of the chain as it is shown.
    #[must_use]
    pub fn of(linked: &Linked) -> Self {
        let Linked { record, prev, hash } = linked;
        let note = &record.note;
        let flags = FLAGS.into_iter().zip([note.once, record.replayed]);
        let set = flags.filter(|(_, set)| *set);
        Self {
            seq: record.seq,
            time: record.time.to_string(),
            index: record.index,
            request_id: note.request.clone(),
            actor: note.actor.clone(),
            key_id: note.key.map(|key| key.0),
            method: note.method.clone(),
            path: note.path.clone(),
            address: note.address.clone(),
            request_sha256: note.body.to_string(),
            status: record.status,
            code: record.code.clone(),
            response_sha256: record.response.to_string(),
            ms: note.ms,
            flags: set.map(|(name, _)| name.to_owned()).collect(),
            count: record.count,
            prev: prev.to_string(),
            hash: hash.to_string(),
        }
    }

    /// The hash that its fields make.
    #[must_use]
    pub fn computed(&self) -> Digest {
        let mut parts = Parts::default();
        parts.text(&self.prev);
        parts.shown(self.seq);
        parts.text(&self.time);
        parts.shown(self.index);
        parts.text(&self.request_id);
        parts.text(&self.actor);
        parts.optional(self.key_id);
        for text in [&self.method, &self.path, &self.address, &self.request_sha256] {
            parts.text(text);
        }
        parts.shown(self.status);
        parts.text(&self.code);
        parts.text(&self.response_sha256);
        parts.shown(self.ms);
        parts.text(&self.flags.join(","));
        parts.shown(self.count);
        parts.digest()
    }
}

impl Linked {
    /// The hash of the record as it would be shown. Every request that changes something has one made, so
    /// the shown form is not.
    #[must_use]
    pub fn computed(&self) -> Digest {
        let (record, note) = (&self.record, &self.record.note);
        let mut parts = Parts::default();
        parts.shown(self.prev);
        parts.shown(record.seq);
        parts.shown(record.time);
        parts.shown(record.index);
        parts.text(&note.request);
        parts.text(&note.actor);
        parts.optional(note.key.map(|key| key.0));
        for text in [&note.method, &note.path, &note.address] {
            parts.text(text);
        }
        parts.shown(note.body);
        parts.shown(record.status);
        parts.text(&record.code);
        parts.shown(record.response);
        parts.shown(note.ms);
        let [once, replayed] = FLAGS;
        parts.text(match (note.once, record.replayed) {
            (false, false) => "",
            (true, false) => once,
            (false, true) => replayed,
            (true, true) => "once,replayed",
        });
        parts.shown(record.count);
        parts.digest()
    }
}

/// Hashes texts with their lengths.
#[derive(Default)]
struct Parts {
    hasher: Sha256,
    /// Where what is no text is written first.
    scratch: String,
}

impl Parts {
    fn text(&mut self, text: &str) {
        self.hasher.update((text.len() as u64).to_be_bytes());
        self.hasher.update(text);
    }

    fn shown(&mut self, value: impl Display) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        // A string takes whatever is written into it.
        let _ = write!(scratch, "{value}");
        self.text(&scratch);
        self.scratch = scratch;
    }

    fn optional(&mut self, value: Option<u32>) {
        match value {
            Some(value) => self.shown(value),
            None => self.text(""),
        }
    }

    fn digest(self) -> Digest {
        Digest(self.hasher.finalize().into())
    }
}

/// The bytes that nodes sign for a checkpoint: the name of the form, then each part as text with its
/// length before it, as in a record's hash.
#[must_use]
pub fn signed(cluster: ClusterId, tenant: TenantId, seq: u64, head: &Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    let parts = ["skep-audit-1", &cluster.to_string(), &tenant.to_string(), &seq.to_string()];
    for text in parts.into_iter().chain([head.to_string().as_str()]) {
        bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}
