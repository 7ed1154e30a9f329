//! Models, as operators manage them: versions of an artefact, and which of them serves.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Answer, Call, Client, ClientError, List};

/// A model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Model {
    pub name: String,
    pub versions: Vec<Version>,
    /// What serves; `None` until a version was chosen.
    pub alias: Option<Alias>,
    /// What a rollback lets serve again.
    pub previous: Option<Alias>,
    /// Counts changes from 1.
    pub revision: u64,
    pub created_at: String,
}

/// A version of a model; nothing of it changes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Version {
    pub version: u32,
    /// Of the uploaded tar.
    pub sha256: String,
    pub bytes: u64,
    /// `encoder` or `classifier`.
    pub task: String,
    pub precision: String,
    #[serde(default)]
    pub batch_dependent: bool,
    #[serde(default)]
    pub labels: Vec<String>,
    pub added_at: String,
}

/// Which versions serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub struct Alias {
    pub version: u32,
    pub canary: Option<Canary>,
}

/// A share of the documents that gets another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub struct Canary {
    pub version: u32,
    /// Of a thousand documents.
    pub per_mille: u16,
}

const MODELS: &str = "/v1/models";
/// An artefact travels, is proven and stored; a version is warmed on every node.
const PATIENCE: Duration = Duration::from_secs(300);

impl Client {
    /// Every model but the built-in one, by name.
    pub async fn models(&self) -> Result<Answer<List<Model>>, ClientError> {
        self.json(Call::get(MODELS)).await
    }

    pub async fn model(&self, name: &str) -> Result<Answer<Model>, ClientError> {
        self.json(Call::get(MODELS).segment(name)).await
    }

    /// Makes a model without a version.
    pub async fn create_model(
        &self,
        name: &str,
        idempotency_key: &str,
    ) -> Result<Answer<Model>, ClientError> {
        let call = Call::post(MODELS).json(&json!({ "name": name }))?;
        self.json(call.idempotency_key(idempotency_key)).await
    }

    /// Adds a version: a tar and its SHA-256 in lower-case hex.
    pub async fn upload_model(
        &self,
        name: &str,
        tar: Bytes,
        sha256: &str,
        idempotency_key: &str,
    ) -> Result<Answer<Version>, ClientError> {
        let call = Call::post(MODELS).segment(name).segment("versions");
        let call = call.query("sha256", Some(sha256)).body("application/x-tar", tar);
        self.clone().with_timeout(PATIENCE).json(call.idempotency_key(idempotency_key)).await
    }

    /// Lets a version serve, once it is warm on every node.
    pub async fn set_model_alias(
        &self,
        name: &str,
        alias: Alias,
        idempotency_key: &str,
    ) -> Result<Answer<Model>, ClientError> {
        let call = Call::put(MODELS).segment(name).segment("alias").json(&alias)?;
        self.clone().with_timeout(PATIENCE).json(call.idempotency_key(idempotency_key)).await
    }

    /// Lets serve again what served before.
    pub async fn roll_back_model(
        &self,
        name: &str,
        idempotency_key: &str,
    ) -> Result<Answer<Model>, ClientError> {
        let call = Call::post(MODELS).segment(name).segment("rollback");
        self.clone().with_timeout(PATIENCE).json(call.idempotency_key(idempotency_key)).await
    }

    /// Removes a version that does not serve.
    pub async fn remove_model_version(
        &self,
        name: &str,
        version: u32,
        idempotency_key: &str,
    ) -> Result<Answer<serde_json::Value>, ClientError> {
        let call = Call::delete(MODELS).segment(name).segment("versions");
        let call = call.segment(version.to_string());
        self.json(call.idempotency_key(idempotency_key)).await
    }
}
