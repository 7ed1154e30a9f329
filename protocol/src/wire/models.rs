//! Models on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A model that operators brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    pub name: String,
    /// By number.
    pub versions: Vec<Version>,
    /// What serves; `null` until a version was chosen.
    pub alias: Option<Alias>,
    /// What a rollback lets serve again.
    pub previous: Option<Alias>,
    /// Counts changes from 1; the entity tag.
    pub revision: u64,
    pub created_at: String,
}

/// A version of a model; nothing of it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    pub version: u32,
    /// Of the uploaded tar, lower-case hex; results name it.
    pub sha256: String,
    pub bytes: u64,
    /// `encoder` or `classifier`.
    pub task: String,
    pub precision: String,
    /// Its documents run alone, since a result of it may depend on the rest of a batch.
    pub batch_dependent: bool,
    /// What a classifier tells apart.
    pub labels: Vec<String>,
    pub added_at: String,
}

/// Which versions serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alias {
    pub version: u32,
    pub canary: Option<Canary>,
}

/// A share of the documents that gets another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Canary {
    pub version: u32,
    /// Of a thousand documents; which ones is decided by their content.
    pub per_mille: u16,
}

/// Answer of `DELETE /v1/models/{name}/versions/{version}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionDeleted {
    pub version: u32,
    pub deleted: bool,
}
