//! Scanning documents at once, and the record that a scan or a job gives for each.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Answer, Call, Client, ClientError};

/// A document to scan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Document {
    pub id: String,
    pub content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
}

impl Document {
    pub fn new(id: impl Into<String>, content: impl Into<String>) -> Document {
        Document { id: id.into(), content: content.into(), metadata: None }
    }
}

/// What was found in one document.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Finding {
    pub doc_id: String,
    pub risk: u8,
    pub quarantine: bool,
    #[serde(default)]
    pub reasons: Vec<String>,
    #[serde(default)]
    pub action: String,
    #[serde(default)]
    pub signals: Value,
    #[serde(default)]
    pub confidence: f64,
    #[serde(default)]
    pub spans: Vec<Span>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub engine: Option<String>,
    #[serde(default)]
    pub cached: bool,
    #[serde(default)]
    pub sha256: Option<String>,
}

/// A place in a document that raised its risk.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Span {
    pub start: u64,
    pub end: u64,
    #[serde(default)]
    pub text: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub severity: Value,
}

/// The answer to a scan.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Scan {
    pub results: Vec<Finding>,
    pub summary: Summary,
}

/// A scan in six figures.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Summary {
    pub total_docs: u64,
    pub quarantined_count: u64,
    pub allowed_count: u64,
    pub avg_risk: f64,
    pub max_risk: u8,
    pub batch_id: String,
}

/// The answer to an analysis of bare texts.
#[derive(Debug, Clone, Deserialize)]
pub struct Analysis {
    pub results: Vec<AnalysedText>,
}

/// What was found in one text.
#[derive(Debug, Clone, Deserialize)]
pub struct AnalysedText {
    #[serde(deserialize_with = "crate::lenient::text")]
    pub text_id: String,
    pub risk: u8,
    pub quarantine: bool,
    #[serde(default)]
    pub reasons: Vec<String>,
    #[serde(default)]
    pub signals: Value,
}

impl Client {
    /// Scans at most 1,000 documents. With an idempotency key it is safe to repeat and billed once.
    pub async fn scan(
        &self,
        documents: &[Document],
        idempotency_key: Option<&str>,
    ) -> Result<Answer<Scan>, ClientError> {
        #[derive(Serialize)]
        struct Body<'a> {
            docs: &'a [Document],
        }
        let mut call = Call::post("/v1/scan").json(&Body { docs: documents })?;
        if let Some(key) = idempotency_key {
            call = call.idempotency_key(key);
        }
        self.json(call).await
    }

    /// Scans bare texts.
    pub async fn analyze(&self, texts: &[String]) -> Result<Answer<Analysis>, ClientError> {
        self.json(Call::post("/v1/analyze").json(&serde_json::json!({ "texts": texts }))?).await
    }
}
