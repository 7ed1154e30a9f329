//! Documents and results as blobs hold them: one JSON object per line.

use std::sync::Arc;

use bytes::Bytes;
use protocol::wire::jobs::{Label, Record};
use protocol::wire::scan::{Provenance, Signals, Span, Verdict};
use protocol::{Digest, Name};
use serde::{Deserialize, Serialize};

use crate::blobs::BLOB_BYTES_MAX;
use crate::cache::{Made, Scored};
use crate::inference::{self, ModelIdentity, Severity};

/// A document of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    pub id: String,
    pub content: String,
}

/// Lines that are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of a blob: {error}")]
pub struct BadLine {
    line: usize,
    error: serde_json::Error,
}

/// One line per item.
#[must_use]
pub fn lines<T: Serialize>(items: impl IntoIterator<Item = T>) -> Bytes {
    let mut items = items.into_iter();
    let mut out = Vec::new();
    let write = |item: T, out: &mut Vec<u8>| {
        // A struct of text and numbers always has a JSON form, and a Vec never fails to grow.
        if serde_json::to_writer(&mut *out, &item).is_ok() {
            out.push(b'\n');
        }
    };
    if let Some(first) = items.next() {
        write(first, &mut out);
        // Most are about as long, and to grow is to copy.
        out.reserve(out.len().saturating_mul(items.size_hint().0).min(BLOB_BYTES_MAX));
    }
    items.for_each(|item| write(item, &mut out));
    Bytes::from(out)
}

/// The documents of a task's input.
pub fn read(blob: &[u8]) -> Result<Vec<Document>, BadLine> {
    let documents = serde_json::Deserializer::from_slice(blob).into_iter();
    let numbered = documents.enumerate();
    numbered
        .map(|(number, read)| read.map_err(|error| BadLine { line: number + 1, error }))
        .collect()
}

/// What makes results, as they name it.
#[derive(Clone, Debug)]
pub struct Maker {
    model: Arc<str>,
    engine: Arc<str>,
    /// What the numbers of a classifier are of.
    labels: Arc<[Arc<str>]>,
}

impl Maker {
    /// A model on its engine.
    #[must_use]
    pub fn new(identity: &ModelIdentity) -> Self {
        let ModelIdentity { name, version, sha256, engine, engine_version, precision } = identity;
        Self {
            model: format!("{name}@{version} sha256:{sha256}").into(),
            engine: format!("{engine} {engine_version} {precision}").into(),
            labels: Arc::default(),
        }
    }

    /// The same, whose numbers are of these labels; without any they are an embedding.
    #[must_use]
    pub fn labelled(self, labels: &[Name]) -> Self {
        let labels = labels.iter().map(|label| Arc::from(label.as_str())).collect();
        Self { labels, ..self }
    }

    /// What a result of the text with this SHA-256 says of itself.
    #[must_use]
    pub fn provenance(&self, sha256: Digest, cached: bool) -> Provenance {
        let (model, engine) = (Arc::clone(&self.model), Arc::clone(&self.engine));
        Provenance { model, engine, cached, sha256: sha256.to_string() }
    }

    /// The record of one document.
    #[must_use]
    pub fn record(&self, id: String, scored: Scored, attempt: u32) -> Record {
        let mut record = Record {
            doc_id: id,
            status: "done".to_owned(),
            verdict: None,
            labels: None,
            embedding: None,
            attempt,
            provenance: self.provenance(scored.sha256, scored.cached),
            error: None,
        };
        match scored.result.map(|entry| entry.made) {
            Ok(Made::Verdict(verdict)) => record.verdict = Some(verdict),
            Ok(Made::Scores(scores)) if self.labels.is_empty() => {
                record.embedding = Some(scores.to_vec());
            }
            Ok(Made::Scores(scores)) => record.labels = Some(labelled(&self.labels, &scores)),
            Err(why) => {
                "failed".clone_into(&mut record.status);
                record.error = Some(why);
            }
        }
        record
    }
}

fn labelled(labels: &[Arc<str>], scores: &[f32]) -> Vec<Label> {
    let label = |(label, &score): (&Arc<str>, &f32)| Label { label: Arc::clone(label), score };
    labels.iter().zip(scores).map(label).collect()
}

/// A verdict as the API shows it.
#[must_use]
pub fn verdict(found: inference::Verdict) -> Verdict {
    let inference::Signals { heuristic, embedding, unicode, compression_bomb, homoglyphs } =
        found.signals;
    let action = if found.quarantine { "quarantine" } else { "allow" };
    Verdict {
        risk: found.risk,
        quarantine: found.quarantine,
        reasons: found.reasons,
        action: action.to_owned(),
        signals: Signals { heuristic, embedding, unicode, compression_bomb, homoglyphs },
        confidence: found.confidence,
        spans: found.spans.into_iter().map(span).collect(),
    }
}

fn span(span: inference::Span) -> Span {
    let inference::Span { start, end, text, reason, severity } = span;
    let severity = match severity {
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
        Severity::Critical => "critical",
    };
    Span { start, end, text, reason, severity: severity.to_owned() }
}

/// Bytes whose words, half as many at most, are counted in a byte.
const WORD_BYTES: usize = 256;

/// Words of a text, for metering: counted the same way by whoever admits it.
#[must_use]
pub fn words(text: &str) -> u64 {
    let (bytes, Some(&first)) = (text.as_bytes(), text.as_bytes().first()) else { return 0 };
    if !text.is_ascii() {
        return text.split_whitespace().count() as u64;
    }
    // The same for most texts in a twentieth of the time: every byte is looked at with the one before, and
    // what is counted in a byte, of which there are many in a register, is at most the half of a part.
    let is_blank = |byte: u8| (byte == b' ') | (byte.wrapping_sub(b'\t') < 5);
    let begins = |(&before, &byte): (&u8, &u8)| u8::from(is_blank(before) & !is_blank(byte));
    let parts = bytes.chunks(WORD_BYTES).zip(bytes[1..].chunks(WORD_BYTES));
    let counts = parts.map(|(before, bytes)| before.iter().zip(bytes).map(begins).sum::<u8>());
    u64::from(!is_blank(first)) + counts.map(u64::from).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_what_unicode_calls_blank_apart() {
        let check = |text: &str| {
            assert_eq!(words(text), text.split_whitespace().count() as u64, "{text:?}");
        };
        let ascii: Vec<char> = (0..128).map(|byte: u8| char::from(byte)).collect();
        for &a in &ascii {
            ascii.iter().for_each(|&b| check(&format!("{a}{b}")));
            check(&format!("x{a}y "));
        }
        for bytes in [255, 256, 257, 511, 513, 9_999] {
            check(&"a ".repeat(bytes)[..bytes]);
            check(&" b".repeat(bytes)[..bytes]);
        }
        ["", " ", "  two  words\n", "\u{a0}\u{85}\u{2003}none", "ein\u{a0}schöner\u{2028}Tag"]
            .into_iter()
            .for_each(check);
    }
}
