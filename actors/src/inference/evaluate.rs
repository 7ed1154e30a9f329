//! Precision and recall over labelled documents: what `skep model evaluate` prints.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

use super::{EngineError, Scanner, model::Label, scan, verdict::Class};

/// The hand-written evaluation set; nothing in it came from the training generator.
pub const EVALUATION: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/models/evaluation.jsonl"));

/// Why a document list could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A line is not a labelled document.
    #[error("line {line} is not a labelled document: {reason}")]
    Line { line: usize, reason: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// One line of the set: `{"text", "label", "classes", "quarantine"}`.
#[derive(Debug, Deserialize)]
struct Document {
    text: String,
    /// `benign`, `pii` or the model label of the attack.
    label: String,
    /// Attack classes, and kinds of personal data as `pii.<kind>`, that a reason must name.
    #[serde(default)]
    classes: Vec<String>,
    quarantine: bool,
}

/// Right and wrong answers about one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Said and true.
    pub hits: u32,
    /// Said and not true.
    pub false_alarms: u32,
    /// True and not said.
    pub misses: u32,
}

impl Tally {
    fn count(&mut self, said: bool, is: bool) {
        self.hits += u32::from(said && is);
        self.false_alarms += u32::from(said && !is);
        self.misses += u32::from(!said && is);
    }

    /// Share of what was said that is true; 1 when nothing was said.
    #[must_use]
    pub fn precision(&self) -> f64 {
        share(self.hits, self.hits + self.false_alarms)
    }

    /// Share of what is true that was said; 1 when there was nothing to say.
    #[must_use]
    pub fn recall(&self) -> f64 {
        share(self.hits, self.hits + self.misses)
    }
}

fn share(part: u32, whole: u32) -> f64 {
    if whole == 0 { 1.0 } else { f64::from(part) / f64::from(whole) }
}

/// The outcome over one set. Its `Display` is a table.
#[derive(Debug, Default)]
pub struct Report {
    pub documents: u32,
    /// Documents that must not be quarantined.
    pub harmless: u32,
    /// Quarantine against the verdict of the author of the set.
    pub quarantine: Tally,
    /// Each class by whether a reason names it, in the order of [`Class::ALL`], then kinds of personal data.
    pub classes: Vec<(String, Tally)>,
    /// The model alone, by its labels.
    pub model: Vec<(String, Tally)>,
    /// The documents where quarantine was wrong: line, risk, beginning of the text.
    pub wrong: Vec<(usize, u8, String)>,
}

impl Report {
    /// Share of harmless documents that were quarantined.
    #[must_use]
    pub fn false_positive_rate(&self) -> f64 {
        share(self.quarantine.false_alarms, self.harmless.max(1))
    }
}

/// Scans labelled documents, one JSON object per line, and counts.
pub fn evaluate(scanner: &Scanner, jsonl: &str) -> Result<Report, EvaluateError> {
    let documents = parse(jsonl)?;
    let texts: Vec<&str> = documents.iter().map(|(_, document)| document.text.as_str()).collect();
    let examined =
        scan::examine(&scanner.rules, scanner.engine.as_ref(), scanner.padded_tokens, &texts)?;
    let mut report = Report::default();
    let mut classes: BTreeMap<String, Tally> = BTreeMap::new();
    let mut labels = [Tally::default(); Label::ALL.len()];
    for ((line, document), examined) in documents.iter().zip(&examined) {
        let verdict = &examined.verdict;
        report.documents += 1;
        report.harmless += u32::from(!document.quarantine);
        report.quarantine.count(verdict.quarantine, document.quarantine);
        if verdict.quarantine != document.quarantine {
            let beginning = document.text.chars().take(90).collect();
            report.wrong.push((*line, verdict.risk, beginning));
        }
        for class in class_names() {
            let said = verdict.reasons.iter().any(|reason| names(reason, &class));
            let is = document.classes.iter().any(|known| names(known, &class));
            classes.entry(class).or_default().count(said, is);
        }
        for (label, tally) in Label::ALL.iter().zip(&mut labels) {
            tally.count(examined.label == *label, document.label == label.name());
        }
    }
    report.classes = class_names().filter_map(|name| classes.remove_entry(&name)).collect();
    report.model = Label::ALL.iter().map(|label| label.name().to_owned()).zip(labels).collect();
    Ok(report)
}

fn parse(jsonl: &str) -> Result<Vec<(usize, Document)>, EvaluateError> {
    let lines = jsonl.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let parsed = serde_json::from_str(line);
            let document = parsed.map_err(|error| EvaluateError::Line {
                line: index + 1,
                reason: error.to_string(),
            })?;
            Ok((index + 1, document))
        })
        .collect()
}

fn class_names() -> impl Iterator<Item = String> {
    let kinds = ["email", "phone", "credit_card", "ssn", "iban", "ip"];
    let classes = Class::ALL.iter().map(|class| class.name().to_owned());
    classes.chain(kinds.map(|kind| format!("pii.{kind}")))
}

/// Whether a reason is of a class. A quotation is talk about the class and does not count.
fn names(reason: &str, class: &str) -> bool {
    let rest = reason.strip_prefix(class);
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        && !reason.ends_with(" quoted")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} documents, {} of them harmless", self.documents, self.harmless)?;
        writeln!(f, "false positive rate at quarantine: {:.3}", self.false_positive_rate())?;
        writeln!(
            f,
            "{:<24}{:>10}{:>8}{:>7}{:>7}{:>7}",
            "", "precision", "recall", "hits", "false", "missed"
        )?;
        row(f, "quarantine", &self.quarantine)?;
        for (name, tally) in &self.classes {
            row(f, name, tally)?;
        }
        for (name, tally) in &self.model {
            row(f, &format!("model alone: {name}"), tally)?;
        }
        for (line, risk, text) in &self.wrong {
            writeln!(f, "wrong at line {line}: risk {risk}: {text:?}")?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, tally: &Tally) -> fmt::Result {
    let Tally { hits, false_alarms, misses } = tally;
    let (precision, recall) = (tally.precision(), tally.recall());
    writeln!(f, "{name:<24}{precision:>10.3}{recall:>8.3}{hits:>7}{false_alarms:>7}{misses:>7}")
}
