//! Tenants, as operators manage them, and `me`, as a tenant sees itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plans::Limits;
use crate::{Answer, Call, Client, ClientError, List, Method};

/// Limits by name; `None` is written as `null` and means unlimited.
pub type Overrides = BTreeMap<String, Option<u64>>;

/// The limits that a plan sets and an override may lift.
pub const LIMITS: [&str; 14] = [
    "rate",
    "burst",
    "key_rate",
    "key_burst",
    "per_minute",
    "per_day",
    "per_month",
    "concurrency",
    "budget",
    "max_documents",
    "max_bytes",
    "max_backlog",
    "max_running",
    "weight",
];

/// Overrides that lift every limit.
pub fn unlimited() -> Overrides {
    LIMITS.iter().map(|name| ((*name).to_owned(), None)).collect()
}

/// A tenant. `api_key` is there only in the answer that created it.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Tenant {
    pub id: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub plan: String,
    #[serde(default)]
    pub status: String,
    /// The limits in force: those of the plan under those of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What requests without a model get; `None` is as the plan says.
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_ends_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Counts changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
}

/// What a new tenant is to be.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NewTenant {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Overrides>,
}

/// The plan that a tenant is to be on.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SetPlan {
    pub plan: String,
    /// Limits over those of the plan, in place of all that the tenant had; `None` leaves them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Value>,
}

/// What `GET /v1/me` says.
#[derive(Debug, Clone, Deserialize)]
pub struct Me {
    pub tenant: Value,
    #[serde(default)]
    pub key: Value,
    #[serde(default)]
    pub scopes: Vec<String>,
    #[serde(default)]
    pub plan: Value,
    #[serde(default)]
    pub limits: Value,
}

/// The answer to a deletion.
#[derive(Debug, Clone, Deserialize)]
pub struct Deleted {
    pub deleted: bool,
}

const TENANTS: &str = "/v1/tenants";

impl Client {
    /// Creates a tenant and its first key. `idempotency_key` makes it safe to repeat.
    pub async fn create_tenant(
        &self,
        tenant: &NewTenant,
        idempotency_key: &str,
    ) -> Result<Answer<Tenant>, ClientError> {
        self.json(Call::post(TENANTS).json(tenant)?.idempotency_key(idempotency_key)).await
    }

    pub async fn tenants(
        &self,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Answer<List<Tenant>>, ClientError> {
        self.json(Call::get(TENANTS).query("limit", limit).query("cursor", cursor)).await
    }

    pub async fn tenant(&self, id: &str) -> Result<Answer<Tenant>, ClientError> {
        self.json(Call::get(TENANTS).segment(id)).await
    }

    /// Changes the fields that `changes` names.
    pub async fn change_tenant(
        &self,
        id: &str,
        changes: &Value,
    ) -> Result<Answer<Tenant>, ClientError> {
        self.json(Call::new(Method::PATCH, TENANTS).segment(id).json(changes)?).await
    }

    pub async fn delete_tenant(&self, id: &str) -> Result<Answer<Deleted>, ClientError> {
        self.json(Call::delete(TENANTS).segment(id)).await
    }

    /// Refuses the tenant's keys on every node. `idempotency_key` makes it safe to repeat.
    pub async fn suspend_tenant(
        &self,
        id: &str,
        idempotency_key: &str,
    ) -> Result<Answer<Tenant>, ClientError> {
        let call = Call::post(TENANTS).segment(id).segment("suspend");
        self.json(call.idempotency_key(idempotency_key)).await
    }

    /// Lets the tenant's keys work again. `idempotency_key` makes it safe to repeat.
    pub async fn resume_tenant(
        &self,
        id: &str,
        idempotency_key: &str,
    ) -> Result<Answer<Tenant>, ClientError> {
        let call = Call::post(TENANTS).segment(id).segment("resume");
        self.json(call.idempotency_key(idempotency_key)).await
    }

    /// Moves a tenant to a plan. `idempotency_key` makes it safe to repeat.
    pub async fn put_tenant_plan(
        &self,
        id: &str,
        plan: &SetPlan,
        idempotency_key: &str,
    ) -> Result<Answer<Tenant>, ClientError> {
        let call = Call::put(TENANTS).segment(id).segment("plan").json(plan)?;
        self.json(call.idempotency_key(idempotency_key)).await
    }

    /// The tenant, key, scopes, plan and limits that the credential stands for.
    pub async fn me(&self) -> Result<Answer<Me>, ClientError> {
        self.json(Call::get("/v1/me")).await
    }
}
