//! Limits on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::limits::Scope;
use crate::peer::LimitState;

/// Answer of `POST /v1/limits/check` when the units were spent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checked {
    pub allowed: bool,
    /// The policy that refuses first; null when nothing limits.
    pub policy: Option<String>,
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    /// Seconds until there is more.
    pub reset_s: u64,
}

/// One limit with what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limit {
    pub policy: String,
    /// `tenant` or `key`.
    pub scope: String,
    /// Requests per second of a rate, cents of a budget, else the most that the window holds.
    pub limit: u64,
    /// What the bucket of a rate holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Length of a window that has a fixed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_s: Option<u64>,
    pub used: u64,
    /// Held by nodes, or for work that is not done.
    pub reserved: u64,
    pub remaining: u64,
    /// When nothing is used any more, if nothing more is spent.
    pub reset_at: String,
    /// It counts and never refuses.
    pub shadow: bool,
}

/// The value of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10, section 3): every limit
/// that refuses. Empty when there is none.
#[must_use]
pub fn policy_field(states: &[LimitState]) -> String {
    let policy = |state: &LimitState| {
        let name = state.policy.name();
        // Partition key: the word `key`, as a byte sequence.
        let scope = if state.scope == Scope::Key { ";pk=:a2V5:" } else { "" };
        match (state.burst, state.window_s) {
            (Some(burst), _) => format!("\"{name}\";q={};w=1;burst={burst}{scope}", state.limit),
            (None, Some(window)) => format!("\"{name}\";q={};w={window}{scope}", state.limit),
            (None, None) => format!("\"{name}\";q={}{scope}", state.limit),
        }
    };
    let listed: Vec<_> = states.iter().filter(|state| !state.shadow).map(policy).collect();
    listed.join(", ")
}

/// Answer of `POST /v1/limits/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explained {
    pub route: String,
    pub units: u64,
    /// Whether such a request would be admitted now.
    pub allowed: bool,
    /// Every limit that such a request meets, in the order in which they are looked at.
    pub rules: Vec<Rule>,
}

/// A limit and what it says of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rule {
    #[serde(flatten)]
    pub limit: Limit,
    /// What the request takes of it.
    pub takes: u64,
    pub allows: bool,
    pub why: String,
}
