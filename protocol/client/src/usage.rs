//! What a tenant has used, exact to the last acknowledged request.

use serde::{Deserialize, Serialize};

use crate::{Answer, Call, Client, ClientError};

/// Usage of one period.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Usage {
    pub period: String,
    pub total_calls: u64,
    pub documents_scanned: u64,
    #[serde(default)]
    pub documents_cached: u64,
    #[serde(default)]
    pub tokens_processed: u64,
    #[serde(default)]
    pub cost: Option<Money>,
    #[serde(default)]
    pub quota_limit: Option<u64>,
    #[serde(default)]
    pub quota_remaining: Option<u64>,
}

/// An amount in the smallest unit of its currency.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Money {
    pub amount_minor: i64,
    pub currency: String,
}

impl Client {
    /// Usage of the current month.
    pub async fn usage(&self) -> Result<Answer<Usage>, ClientError> {
        self.usage_of("current_month").await
    }

    /// Usage of `current_month`, `last_month` or `ytd`.
    pub async fn usage_of(&self, period: &str) -> Result<Answer<Usage>, ClientError> {
        self.json(Call::get("/v1/usage").query("period", Some(period))).await
    }
}
