//! Everything but the model: rules, characters, personal data and repetition over one text and its decoded layers.

use super::{
    decode::{self, Budget, Kind, Layer, Path},
    normal::Normal,
    personal, repetition,
    rules::{self, Hints, Rules},
    unicode,
    verdict::{Class, Severity},
};

/// Hits kept of one class and severity. A text may repeat one trigger thousands of times, and must not thereby hide
/// what another rule would find behind it.
const HITS_MAX: u8 = 16;
/// Words of attacks that must show in disguise before the disguise is taken off.
const HINTS_MIN: u32 = 2;

/// One finding, in characters of the original text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hit {
    pub(super) class: Class,
    pub(super) detail: &'static str,
    pub(super) severity: Severity,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) path: Path,
    pub(super) quoted: bool,
}

impl Hit {
    pub(super) fn new(class: Class, severity: Severity, (start, end): (u32, u32)) -> Hit {
        Hit { class, detail: "", severity, start, end, path: Path::default(), quoted: false }
    }

    pub(super) fn detail(self, detail: &'static str) -> Hit {
        Hit { detail, ..self }
    }

    /// The stable words of the finding; the grammar is in `verdict`.
    pub(super) fn reason(&self) -> String {
        let mut reason = self.class.name().to_owned();
        if !self.detail.is_empty() {
            reason.push('.');
            reason.push_str(self.detail);
        }
        self.path.describe(&mut reason);
        if self.quoted {
            reason.push_str(" quoted");
        }
        reason
    }
}

/// What was found in one text.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) hits: Vec<Hit>,
    pub(super) unicode: f32,
    pub(super) homoglyphs: f32,
    pub(super) repetition: f32,
    counts: [[u8; 4]; Class::ALL.len()],
}

impl Findings {
    pub(super) fn push(&mut self, hit: Hit) {
        if !self.is_full(hit.class, hit.severity) {
            self.counts[hit.class as usize][hit.severity as usize] += 1;
            self.hits.push(hit);
        }
    }

    /// Whether another hit of this kind would be dropped.
    pub(super) fn is_full(&self, class: Class, severity: Severity) -> bool {
        self.counts[class as usize][severity as usize] >= HITS_MAX
    }
}

/// Examines a text and all it hides. `normal` is its normal form, shared with the model.
pub(super) fn detect(rules: &Rules, text: &str, normal: &Normal) -> Findings {
    let mut found = Findings::default();
    unicode::find(text, normal, &mut found);
    repetition::find(text, &mut found);
    let hints = rules.apply(normal, &mut found);
    personal::find(normal, &mut found);
    disguises(rules, normal, hints, &mut found);
    let mut budget = Budget::default();
    for layer in decode::layers(text, &mut budget) {
        inner(rules, layer, Path::default(), &mut budget, &mut found);
    }
    if budget.exhausted {
        // What could not be examined must not pass for harmless.
        let whole = Hit::new(Class::EncodedPayload, Severity::Medium, (0, normal.characters));
        found.push(whole.detail("unexamined"));
    }
    found
}

/// Reads the whole text as if written in disguise. Every letter keeps its place, so findings do too.
fn disguises(rules: &Rules, normal: &Normal, hints: Hints, found: &mut Findings) {
    for one in [b'i', b'l'] {
        if one == b'l' && !normal.text.contains('1') {
            continue;
        }
        if let Some(text) = decode::leetspeak(&normal.text, one) {
            disguised(rules, Kind::Leetspeak, &normal.rewritten(text), found);
        }
    }
    if hints.rot13 >= HINTS_MIN {
        let turned = normal.rewritten(rules::rot13(&normal.text));
        disguised(rules, Kind::Rot13, &turned, found);
    }
    if hints.reversed >= HINTS_MIN {
        let turned = Normal::of(&normal.text.chars().rev().collect::<String>());
        let mut inside = Findings::default();
        rules.apply(&turned, &mut inside);
        let whole = (0, normal.characters);
        report(inside, Kind::Reversed, Path::default(), Some(whole), found);
    }
}

fn disguised(rules: &Rules, kind: Kind, normal: &Normal, found: &mut Findings) {
    let mut inside = Findings::default();
    rules.apply(normal, &mut inside);
    // What shows without the disguise has been found already.
    let known =
        |hit: &Hit| found.hits.iter().any(|old| old.class == hit.class && old.start == hit.start);
    inside.hits.retain(|hit| !known(hit));
    report(inside, kind, Path::default(), None, found);
}

/// Examines one decoded layer and what it hides in turn. Its findings stand where the encoded text stands.
fn inner(rules: &Rules, layer: Layer, outer: Path, budget: &mut Budget, found: &mut Findings) {
    let normal = Normal::of(&layer.text);
    let mut inside = Findings::default();
    rules.apply(&normal, &mut inside);
    if layer.kind == Kind::SpacedLetters {
        rules.apply_squeezed(&normal, &mut inside);
    }
    let place = (layer.start, layer.end);
    report(inside, layer.kind, outer, Some(place), found);
    let path = outer.then(layer.kind);
    if path.is_full() {
        return;
    }
    for deeper in decode::layers(&layer.text, budget) {
        let placed = Layer { start: place.0, end: place.1, ..deeper };
        inner(rules, placed, path, budget, found);
    }
}

/// Passes on what a layer held, and that it was hidden, if it held anything of weight.
fn report(
    inside: Findings,
    kind: Kind,
    outer: Path,
    place: Option<(u32, u32)>,
    found: &mut Findings,
) {
    let Some(worst) = inside.hits.iter().max_by_key(|hit| hit.severity).cloned() else { return };
    let path = outer.then(kind);
    for hit in inside.hits {
        let (start, end) = place.unwrap_or((hit.start, hit.end));
        found.push(Hit { start, end, path, ..hit });
    }
    if worst.severity >= Severity::Medium {
        let place = place.unwrap_or((worst.start, worst.end));
        found.push(
            Hit { path: outer, ..Hit::new(kind.class(), Severity::High, place) }
                .detail(kind.name()),
        );
    }
}
