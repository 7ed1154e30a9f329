//! Tenants, limits, and who is calling.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The limits in force; `null` is unlimited. Rates are per second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    pub rate: Option<u64>,
    pub burst: Option<u64>,
    pub key_rate: Option<u64>,
    pub key_burst: Option<u64>,
    pub per_minute: Option<u64>,
    pub per_day: Option<u64>,
    pub per_month: Option<u64>,
    pub concurrency: Option<u64>,
    /// Cents per calendar month.
    pub budget: Option<u64>,
    pub max_documents: Option<u64>,
    pub max_bytes: Option<u64>,
    pub max_backlog: Option<u64>,
    /// Tasks of jobs that run at the same time.
    #[serde(default)]
    pub max_running: Option<u64>,
    /// Share of the nodes' time beside other tenants; `null` is that of the plan as it is shipped.
    #[serde(default)]
    pub weight: Option<u64>,
    /// Policies that count and never refuse.
    #[serde(default)]
    pub shadow: Vec<String>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    pub id: String,
    pub name: String,
    pub plan: String,
    /// `trial`, `active`, `suspended` or `expired`.
    pub status: String,
    pub limits: Limits,
    #[serde(default)]
    pub time_zone: Option<String>,
    /// What requests without a model get; `null` is as the plan says.
    #[serde(default)]
    pub model: Option<String>,
    pub domain: Option<String>,
    pub region: Option<String>,
    pub trial_ends_at: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    /// Counts changes; also the `ETag`.
    pub version: u64,
    /// The shard that it lives in.
    pub shard: u32,
}

/// A tenant that was just made, with its first key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewTenant {
    #[serde(flatten)]
    pub tenant: Tenant,
    /// Shown here and never again.
    pub api_key: String,
    pub key_id: u32,
    pub key_prefix: String,
}

/// Answer of a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    pub id: String,
    pub deleted: bool,
}

/// One limit and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitState {
    pub policy: String,
    /// `tenant` or `key`.
    pub scope: String,
    /// `null` is unlimited.
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
}

/// Answer of `GET /v1/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    pub tenant: Tenant,
    pub key: MyKey,
    /// What the key may do, and the tenant's plan: the two that callers branch on.
    pub scopes: Vec<String>,
    pub plan: String,
    pub limits: Vec<LimitState>,
}

/// The key that was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MyKey {
    pub key_id: u32,
    pub name: String,
    pub key_prefix: String,
    pub scopes: Vec<String>,
}
