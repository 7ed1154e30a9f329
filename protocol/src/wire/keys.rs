//! API keys.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A key as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Key {
    pub key_id: u32,
    pub name: String,
    /// What may be shown of the text.
    pub key_prefix: String,
    pub scopes: Vec<String>,
    pub created_at: String,
    pub expires_at: Option<String>,
}

/// A key that was just made. Its text is shown here and never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewKey {
    pub api_key: String,
    #[serde(flatten)]
    pub key: Key,
}

/// Answer of a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    pub key_id: u32,
    pub deleted: bool,
}

/// Usage as the published client reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KeyUsage {
    pub total_calls: u64,
    pub documents_scanned: u64,
    pub tokens_used: u64,
    pub cost_dollars: f64,
    /// `null` is unlimited.
    pub quota_remaining: Option<u64>,
}
