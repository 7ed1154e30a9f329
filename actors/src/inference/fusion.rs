//! From findings and model scores to one verdict. Plain arithmetic in a fixed order: the same on every machine.

use super::{
    detect::{Findings, Hit},
    model::{LABELS, Label},
    verdict::{
        Action, Class, QUARANTINE_AT, SPAN_TEXT_MAX, SPANS_MAX, Severity, Signals, Span, Verdict,
    },
};

/// Probability of an attack from which the model counts, and from which it adds a reason and a span of its own.
const MODEL_FROM: f32 = 0.5;
/// What the model alone can reach: it takes a probability of 0.986 to quarantine without any rule.
const MODEL_CEILING: f32 = 0.72;
/// What remains of the model's weight when the rules saw nothing but quotations.
const MODEL_QUOTED: f32 = 0.7;
/// What remains of a rule about words when the model is sure that they are harmless.
const DOUBTED: f32 = 0.88;
/// Personal data from which the model names it without a rule.
const PERSONAL_FROM: f32 = 0.8;

/// What the model says about the worst window of a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opinion {
    pub(super) scores: [f32; LABELS],
    /// The window, in characters of the original.
    pub(super) place: (u32, u32),
}

impl Opinion {
    /// Probability of any attack.
    pub(super) fn attack(&self) -> f32 {
        self.scores[1] + self.scores[2] + self.scores[3]
    }

    /// The attack that is most likely.
    fn kind(&self) -> Label {
        let attacks = [Label::PromptInjection, Label::DataPoisoning, Label::Exfiltration];
        let score = |label: &Label| self.scores[*label as usize];
        attacks
            .into_iter()
            .reduce(|best, label| if score(&label) > score(&best) { label } else { best })
            .unwrap_or(Label::PromptInjection)
    }

    fn personal(&self) -> f32 {
        self.scores[Label::PersonalData as usize]
    }

    /// One label for the text.
    pub(super) fn label(&self) -> Label {
        if self.attack() >= MODEL_FROM {
            self.kind()
        } else if self.personal() >= MODEL_FROM {
            Label::PersonalData
        } else {
            Label::Benign
        }
    }
}

/// The verdict on `text`.
pub(super) fn verdict(text: &str, mut found: Findings, opinion: &Opinion, tokens: u32) -> Verdict {
    merge(&mut found.hits);
    let attack = opinion.attack().min(1.0);
    let heuristic = combined(&found.hits, 1.0);
    let risk = percent(risk(&found.hits, attack));
    let quarantine = risk >= QUARANTINE_AT;
    Verdict {
        risk,
        quarantine,
        reasons: reasons(&found.hits, opinion),
        action: if quarantine { Action::Quarantine } else { Action::Allow },
        signals: Signals {
            heuristic: rounded(heuristic),
            embedding: rounded(attack),
            unicode: rounded(found.unicode),
            compression_bomb: rounded(found.repetition),
            homoglyphs: rounded(found.homoglyphs),
        },
        confidence: rounded(confidence(risk)),
        spans: spans(text, &found.hits, opinion),
        tokens,
    }
}

fn risk(hits: &[Hit], attack: f32) -> f32 {
    let doubt = DOUBTED + (1.0 - DOUBTED) * attack;
    let rules = combined(hits, doubt);
    let mut model = if attack > MODEL_FROM {
        MODEL_CEILING * (attack - MODEL_FROM) / (1.0 - MODEL_FROM)
    } else {
        0.0
    };
    let attacks = || hits.iter().filter(|hit| hit.class != Class::PersonalData);
    if attacks().count() > 0 && attacks().all(|hit| hit.quoted) {
        model *= MODEL_QUOTED;
    }
    1.0 - (1.0 - rules) * (1.0 - model)
}

/// The rules together: each class counts once, by its worst hit. `doubt` weighs those about words.
fn combined(hits: &[Hit], doubt: f32) -> f32 {
    let mut clear = 1.0;
    for class in Class::ALL {
        let worst = hits.iter().filter(|hit| hit.class == class).map(|hit| weight(hit, doubt));
        clear *= 1.0 - worst.fold(0.0, f32::max);
    }
    1.0 - clear
}

fn weight(hit: &Hit, doubt: f32) -> f32 {
    let personal = hit.class == Class::PersonalData;
    let weight: f32 = match hit.severity {
        Severity::Low if personal => 0.15,
        Severity::Low => 0.22,
        Severity::Medium => 0.5,
        Severity::High if personal => 0.72,
        Severity::High => 0.8,
        Severity::Critical => 0.95,
    };
    if about_words(hit.class) && hit.path == Default::default() { weight * doubt } else { weight }
}

/// Classes that the model was trained on; of the others it knows nothing.
fn about_words(class: Class) -> bool {
    match class {
        Class::InstructionOverride
        | Class::RoleHijack
        | Class::SystemPromptLeak
        | Class::Jailbreak
        | Class::DataExfiltration
        | Class::SecretExfiltration
        | Class::BackdoorTrigger
        | Class::DataPoisoning => true,
        Class::HtmlJsInjection
        | Class::FencedSystemBlock
        | Class::ToolAbuse
        | Class::EncodedPayload
        | Class::UnicodeObfuscation
        | Class::CompressionBomb
        | Class::PersonalData => false,
    }
}

/// Sorts by place, and joins overlapping hits that say the same.
fn merge(hits: &mut Vec<Hit>) {
    if hits.len() < 2 {
        return;
    }
    hits.sort_by_key(|hit| (hit.class, hit.detail, hit.start, hit.end));
    hits.dedup_by(|next, kept| {
        let same = (next.class, next.detail, next.path, next.quoted)
            == (kept.class, kept.detail, kept.path, kept.quoted);
        let overlaps = same && next.start < kept.end;
        if overlaps {
            kept.end = kept.end.max(next.end);
            kept.severity = kept.severity.max(next.severity);
        }
        overlaps
    });
}

fn reasons(hits: &[Hit], opinion: &Opinion) -> Vec<String> {
    let mut ranked: Vec<&Hit> = hits.iter().collect();
    ranked.sort_by_key(|hit| (std::cmp::Reverse(hit.severity), hit.class, hit.start));
    let mut reasons: Vec<String> = Vec::new();
    for hit in ranked {
        let reason = hit.reason();
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if opinion.attack() >= MODEL_FROM {
        reasons.push(model_reason(opinion.kind()));
    }
    if opinion.personal() >= PERSONAL_FROM {
        reasons.push(model_reason(Label::PersonalData));
    }
    reasons
}

fn model_reason(label: Label) -> String {
    format!("model.{}", label.name())
}

fn spans(text: &str, hits: &[Hit], opinion: &Opinion) -> Vec<Span> {
    let mut ranked: Vec<&Hit> = hits.iter().collect();
    if ranked.len() > SPANS_MAX {
        ranked.sort_by_key(|hit| (std::cmp::Reverse(hit.severity), hit.start));
        ranked.truncate(SPANS_MAX);
    }
    let mut spans: Vec<Span> = ranked
        .into_iter()
        .map(|hit| span(text, (hit.start, hit.end), hit.reason(), hit.severity))
        .collect();
    if opinion.attack() >= MODEL_FROM && spans.len() < SPANS_MAX {
        spans.push(span(text, opinion.place, model_reason(opinion.kind()), Severity::Medium));
    }
    spans.sort_by_key(|span| (span.start, span.end));
    spans
}

fn span(text: &str, (start, end): (u32, u32), reason: String, severity: Severity) -> Span {
    let length = (end.saturating_sub(start) as usize).min(SPAN_TEXT_MAX);
    let excerpt = match text.is_ascii() {
        true => text.get(start as usize..start as usize + length).unwrap_or_default().to_owned(),
        false => text.chars().skip(start as usize).take(length).collect(),
    };
    Span { start, end, text: excerpt, reason, severity }
}

/// 0.5 on the threshold, 1.0 at either end of the scale.
fn confidence(risk: u8) -> f32 {
    let (risk, threshold) = (f32::from(risk), f32::from(QUARANTINE_AT));
    let room = if risk >= threshold { 100.0 - threshold } else { threshold };
    0.5 + 0.5 * (risk - threshold).abs() / room
}

fn percent(share: f32) -> u8 {
    (share.clamp(0.0, 1.0) * 100.0).round() as u8
}

/// To steps of 0.001, so that a signal prints as it was meant.
fn rounded(value: f32) -> f32 {
    (value.clamp(0.0, 1.0) * 1000.0).round() / 1000.0
}
