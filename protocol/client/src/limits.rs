//! Limits: spend units of them, see what is left, ask what they would say.

use serde::{Deserialize, Serialize};

use crate::{Answer, Call, Client, ClientError, List};

/// Units that were spent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Checked {
    pub allowed: bool,
    /// The policy that refuses first; `None` when nothing limits.
    #[serde(default)]
    pub policy: Option<String>,
    #[serde(default)]
    pub limit: Option<u64>,
    #[serde(default)]
    pub remaining: Option<u64>,
    #[serde(default)]
    pub reset_s: u64,
}

/// One limit with what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Limit {
    pub policy: String,
    pub scope: String,
    pub limit: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_s: Option<u64>,
    pub used: u64,
    pub reserved: u64,
    pub remaining: u64,
    #[serde(default)]
    pub reset_at: String,
    /// It counts and never refuses.
    #[serde(default)]
    pub shadow: bool,
}

/// What the limits would say of a request now.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Explained {
    pub route: String,
    pub units: u64,
    pub allowed: bool,
    /// Every limit that such a request meets.
    pub rules: Vec<Rule>,
}

/// A limit and what it says of a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Rule {
    #[serde(flatten)]
    pub limit: Limit,
    /// What the request takes of it.
    pub takes: u64,
    pub allows: bool,
    #[serde(default)]
    pub why: String,
}

/// What is to be spent.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Check<'a> {
    pub units: u64,
    /// Of this policy alone; else of all that count requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'a str>,
}

impl Client {
    /// Spends units. With an Idempotency-Key it is spent once however often it is sent.
    pub async fn check_limits(
        &self,
        check: Check<'_>,
        idempotency_key: Option<&str>,
    ) -> Result<Answer<Checked>, ClientError> {
        let call = Call::post("/v1/limits/check").json(&check)?;
        let call = match idempotency_key {
            Some(key) => call.idempotency_key(key),
            None => call,
        };
        self.json(call).await
    }

    /// The limits of the key's tenant and of the key.
    pub async fn limits(&self) -> Result<Answer<List<Limit>>, ClientError> {
        self.json(Call::get("/v1/limits")).await
    }

    /// What the limits would say of a request of `units` to a route that spends. Nothing is spent.
    pub async fn explain_limits(
        &self,
        route: &str,
        units: u64,
    ) -> Result<Answer<Explained>, ClientError> {
        let body = serde_json::json!({ "route": route, "units": units });
        self.json(Call::post("/v1/limits/explain").json(&body)?.harmless()).await
    }
}
