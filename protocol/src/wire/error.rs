//! The one JSON shape of every answer that is not a success: RFC 9457 with our members.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether a call that ended in a 5xx may have changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing changed and nothing will: repeating the call is safe.
    NotApplied,
    /// It may have been applied, now or later: repeat only with the same Idempotency-Key.
    Unknown,
}

/// One mistake of a request and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mistake {
    /// JSON pointer into the body (`/docs/0/id`), or `?limit` for a parameter, or a header's name.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

/// Body of every error, with the media type `application/problem+json`.
///
/// `code` is text, not an enum: a client has to read the codes of newer servers too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `/problems/{code}`: a page that every node serves, also offline.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short name of the code, the same for every occurrence.
    pub title: String,
    /// The HTTP status, repeated for readers that only have the body.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// Path of the request.
    pub instance: String,
    /// Stable machine-readable reason.
    pub code: String,
    /// The same as the header `X-Request-Id`.
    pub request_id: String,
    /// Whether the same request, unchanged, may succeed later.
    pub retryable: bool,
    /// On every 5xx; absent otherwise, because a 4xx is never applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// All mistakes at once, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Mistake>,
    /// Which policy said no (429).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The limit that was met (413, 429).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// What was sent (413), as far as it was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub got: Option<u64>,
    /// What is left of the limit (429).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// Seconds until the limit is whole again (429).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_s: Option<u64>,
    /// After this many milliseconds a client that is alone is admitted (429, 503).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}
