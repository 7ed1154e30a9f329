//! Answers of `/v1/scan` and `/v1/analyze`, as the published `SentinelDF` client reads them.

use std::sync::Arc;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
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

// What serde makes of a flattened struct goes through a serializer of its own, field by field: a third of
// the time of an answer. So those that hold one write its fields themselves.

impl Verdict {
    pub(super) fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Self { risk, quarantine, reasons, action, signals, confidence, spans } = self;
        map.serialize_entry("risk", risk)?;
        map.serialize_entry("quarantine", quarantine)?;
        map.serialize_entry("reasons", reasons)?;
        map.serialize_entry("action", action)?;
        map.serialize_entry("signals", signals)?;
        map.serialize_entry("confidence", confidence)?;
        map.serialize_entry("spans", spans)
    }
}

impl Provenance {
    pub(super) fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Self { model, engine, cached, sha256 } = self;
        map.serialize_entry("model", model)?;
        map.serialize_entry("engine", engine)?;
        map.serialize_entry("cached", cached)?;
        map.serialize_entry("sha256", sha256)
    }
}

/// One document of a scan.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
pub struct ScanResult {
    pub doc_id: String,
    #[serde(flatten)]
    #[schema(value_type = Verdict)]
    pub verdict: Arc<Verdict>,
    #[serde(flatten)]
    pub provenance: Provenance,
}

impl Serialize for ScanResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { doc_id, verdict, provenance } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("doc_id", doc_id)?;
        verdict.write(&mut map)?;
        provenance.write(&mut map)?;
        map.end()
    }
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
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
pub struct AnalyzeResult {
    pub text_id: usize,
    #[serde(flatten)]
    #[schema(value_type = Verdict)]
    pub verdict: Arc<Verdict>,
    #[serde(flatten)]
    pub provenance: Provenance,
}

impl Serialize for AnalyzeResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { text_id, verdict, provenance } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("text_id", text_id)?;
        verdict.write(&mut map)?;
        provenance.write(&mut map)?;
        map.end()
    }
}

/// Answer of `POST /v1/analyze`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AnalyzeAnswer {
    pub results: Vec<AnalyzeResult>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::wire) fn verdict() -> Arc<Verdict> {
        let signals = Signals {
            heuristic: 0.5,
            embedding: 0.25,
            unicode: 0.0,
            compression_bomb: 0.0,
            homoglyphs: 1.0,
        };
        Arc::new(Verdict {
            risk: 7,
            quarantine: false,
            reasons: vec!["\"r\"".to_owned()],
            action: "allow".to_owned(),
            signals,
            confidence: 0.75,
            spans: Vec::new(),
        })
    }

    pub(in crate::wire) fn provenance() -> Provenance {
        let (model, engine) = ("m@1".into(), "e".into());
        Provenance { model, engine, cached: true, sha256: "00".to_owned() }
    }

    /// As serde flattens it.
    pub(in crate::wire) const VERDICT: &str = r#""risk":7,"quarantine":false,"reasons":["\"r\""],"action":"allow","signals":{"heuristic":0.5,"embedding":0.25,"unicode":0.0,"compression_bomb":0.0,"homoglyphs":1.0},"confidence":0.75,"spans":[]"#;
    pub(in crate::wire) const PROVENANCE: &str =
        r#""model":"m@1","engine":"e","cached":true,"sha256":"00""#;

    #[test]
    fn results_are_written_as_they_are_read() {
        let scanned =
            ScanResult { doc_id: "d".to_owned(), verdict: verdict(), provenance: provenance() };
        let text = serde_json::to_string(&scanned).unwrap();
        assert_eq!(text, format!(r#"{{"doc_id":"d",{VERDICT},{PROVENANCE}}}"#));
        assert_eq!(serde_json::from_str::<ScanResult>(&text).unwrap(), scanned);
        let analyzed = AnalyzeResult { text_id: 3, verdict: verdict(), provenance: provenance() };
        let text = serde_json::to_string(&analyzed).unwrap();
        assert_eq!(text, format!(r#"{{"text_id":3,{VERDICT},{PROVENANCE}}}"#));
        assert_eq!(serde_json::from_str::<AnalyzeResult>(&text).unwrap(), analyzed);
    }
}
