//! Plans on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::tenants::Limits;

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    pub name: String,
    #[serde(flatten)]
    pub limits: Limits,
    /// Price of one unit in millionths of a US dollar.
    pub unit_price_micros: u64,
    /// Price of one that is answered from the cache.
    pub cached_price_micros: u64,
    pub features: Vec<String>,
    /// Days after which a tenant that was made on it is refused.
    pub trial_days: Option<u32>,
    /// Models that its tenants may name beside the built-in one; `null` is every one.
    #[serde(default)]
    pub models: Option<Vec<String>>,
    /// What a request without a model gets; `null` is the built-in one.
    #[serde(default)]
    pub default_model: Option<String>,
    pub version: u64,
}
