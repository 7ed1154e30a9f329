//! The keys of a tenant.

use serde::{Deserialize, Serialize};

use crate::tenants::Deleted;
use crate::{Answer, Call, Client, ClientError, List};

/// A key. `api_key` is there only in the answer that made it.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Key {
    pub key_id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub key_prefix: String,
    #[serde(default)]
    pub scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
}

/// What a new key is to be.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NewKey {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

const KEYS: &str = "/v1/keys";

impl Client {
    /// Creates a key. `idempotency_key` makes it safe to repeat.
    pub async fn create_key(
        &self,
        key: &NewKey,
        idempotency_key: &str,
    ) -> Result<Answer<Key>, ClientError> {
        self.json(Call::post(KEYS).json(key)?.idempotency_key(idempotency_key)).await
    }

    pub async fn keys(
        &self,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Answer<List<Key>>, ClientError> {
        self.json(Call::get(KEYS).query("limit", limit).query("cursor", cursor)).await
    }

    pub async fn key(&self, key_id: u64) -> Result<Answer<Key>, ClientError> {
        self.json(Call::get(KEYS).segment(key_id.to_string())).await
    }

    /// Makes a key with the name, scopes and limits of another, which ends `overlap_s` seconds from
    /// now. `idempotency_key` makes it safe to repeat.
    pub async fn rotate_key(
        &self,
        key_id: u64,
        overlap_s: u64,
        idempotency_key: &str,
    ) -> Result<Answer<Key>, ClientError> {
        let call = Call::post(KEYS).segment(key_id.to_string()).segment("rotate");
        let call = call.json(&serde_json::json!({ "overlap_s": overlap_s }))?;
        self.json(call.idempotency_key(idempotency_key)).await
    }

    pub async fn revoke_key(&self, key_id: u64) -> Result<Answer<Deleted>, ClientError> {
        self.json(Call::delete(KEYS).segment(key_id.to_string())).await
    }
}
