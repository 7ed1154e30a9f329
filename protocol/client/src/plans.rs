//! Plans, as operators manage them: limits, a price and features that tenants are put on.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Answer, Call, Client, ClientError, List};

/// Limits; `None` is unlimited. Rates are per second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
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
    pub max_running: Option<u64>,
    /// Share of the nodes' time beside other tenants; `null` is that of the plan as it is shipped.
    pub weight: Option<u64>,
    /// Policies that count and never refuse.
    pub shadow: Vec<String>,
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Plan {
    pub name: String,
    #[serde(flatten)]
    pub limits: Limits,
    /// Price of one unit in millionths of a US dollar.
    #[serde(default)]
    pub unit_price_micros: u64,
    /// Price of one that is answered from the cache.
    #[serde(default)]
    pub cached_price_micros: u64,
    #[serde(default)]
    pub features: Vec<String>,
    /// Days after which a tenant that was made on it is refused.
    #[serde(default)]
    pub trial_days: Option<u32>,
    /// Models that its tenants may name beside the built-in one; `None` is every one.
    #[serde(default)]
    pub models: Option<Vec<String>>,
    /// What a request without a model gets; `None` is the built-in one.
    #[serde(default)]
    pub default_model: Option<String>,
    /// Counts changes from 1.
    pub version: u64,
}

const PLANS: &str = "/v1/plans";

impl Client {
    /// Every plan, by name.
    pub async fn plans(&self) -> Result<Answer<List<Plan>>, ClientError> {
        self.json(Call::get(PLANS)).await
    }

    pub async fn plan(&self, name: &str) -> Result<Answer<Plan>, ClientError> {
        self.json(Call::get(PLANS).segment(name)).await
    }

    /// Makes a plan or replaces it whole: a limit that `terms` does not name is lifted. With a
    /// version only if that is the one in force; 0 is that of a plan that is not there.
    /// `idempotency_key` makes it safe to repeat.
    pub async fn put_plan(
        &self,
        name: &str,
        terms: &Value,
        if_version: Option<u64>,
        idempotency_key: &str,
    ) -> Result<Answer<Plan>, ClientError> {
        let call = Call::put(PLANS).segment(name).json(terms)?.idempotency_key(idempotency_key);
        self.json(match if_version {
            Some(version) => call.if_match(format!("\"{version}\"")),
            None => call,
        })
        .await
    }
}
