//! Usage.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Money;

/// Answer of `GET /v1/usage`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// `current_month`, `last_month` or `ytd`.
    pub period: String,
    pub total_calls: u64,
    pub documents_scanned: u64,
    pub documents_cached: u64,
    pub tokens_processed: u64,
    pub cost: Money,
    /// Units per month; `null` is unlimited.
    pub quota_limit: Option<u64>,
    pub quota_remaining: Option<u64>,
}
