//! Answers of `/v1/scan` and `/v1/analyze`, as the published `SentinelDF` client reads them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Strength of each detector, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Signals {
    pub heuristic: f32,
    pub embedding: f32,
    pub unicode: f32,
    pub compression_bomb: f32,
    pub homoglyphs: f32,
}

/// One finding in its place, in characters of the original text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Span {
    pub start: u32,
    /// One past the last character.
    pub end: u32,
    pub text: String,
    pub reason: String,
    /// `low`, `medium`, `high` or `critical`.
    pub severity: String,
}

/// The verdict on one document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// 0 harmless to 100 certain.
    pub risk: u8,
    /// Whether the risk is 70 or more.
    pub quarantine: bool,
    pub reasons: Vec<String>,
    /// `allow` or `quarantine`.
    pub action: String,
    pub signals: Signals,
    /// 0.5 on the threshold to 1.0 far from it.
    pub confidence: f32,
    pub spans: Vec<Span>,
}

/// What made a result; with the text it decides the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Provenance {
    /// Name, version and hash of the model: `docrisk@1 sha256:…`.
    #[schema(value_type = String)]
    pub model: Arc<str>,
    /// Engine, its version and the precision: `rten 0.27.0 int8-weights`.
    #[schema(value_type = String)]
    pub engine: Arc<str>,
    /// Whether an earlier result of the same text was used.
    pub cached: bool,
    /// Of the document's UTF-8 bytes, lower-case hex.
    pub sha256: String,
}

/// One document of a scan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScanResult {
    pub doc_id: String,
    #[serde(flatten)]
    #[schema(value_type = Verdict)]
    pub verdict: Arc<Verdict>,
    #[serde(flatten)]
    pub provenance: Provenance,
}

/// Totals of a scan, over all its pages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    pub total_docs: usize,
    pub quarantined_count: usize,
    pub allowed_count: usize,
    pub avg_risk: f64,
    pub max_risk: u8,
    /// Names the batch by its content.
    pub batch_id: String,
}

/// Answer of `POST /v1/scan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScanAnswer {
    pub results: Vec<ScanResult>,
    pub summary: Summary,
    pub page: usize,
    pub page_size: usize,
    pub total_pages: usize,
}

/// One text of an analysis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AnalyzeResult {
    pub text_id: usize,
    #[serde(flatten)]
    #[schema(value_type = Verdict)]
    pub verdict: Arc<Verdict>,
    #[serde(flatten)]
    pub provenance: Provenance,
}

/// Answer of `POST /v1/analyze`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AnalyzeAnswer {
    pub results: Vec<AnalyzeResult>,
}
