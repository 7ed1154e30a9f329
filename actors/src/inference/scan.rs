//! The whole way of a list of texts: rules per text, model windows of all texts in shared batches, one verdict each.

use super::{
    batch::Batches,
    detect::{Findings, detect},
    engine::{Batch, Engine, EngineError},
    features::{self, SMOOTHING, Word},
    fusion::{self, Opinion},
    model::{self, LABELS, Label, PADDING_ID},
    normal::Normal,
    rules::Rules,
    verdict::Verdict,
};

/// Feature ids held at once. A request may bring 1,000 texts of 20,000 characters; they go through in groups.
const GROUP_IDS_MAX: usize = 1 << 16;

/// A verdict and what the model alone would have said.
#[derive(Debug)]
pub(super) struct Examined {
    pub(super) verdict: Verdict,
    pub(super) label: Label,
}

/// Examines all texts, in order.
pub(super) fn examine(
    rules: &Rules,
    engine: &dyn Engine,
    padded_tokens: usize,
    texts: &[&str],
) -> Result<Vec<Examined>, EngineError> {
    let mut examined = Vec::with_capacity(texts.len());
    let mut group = Group::default();
    for text in texts {
        group.add(rules, text);
        if group.ids.len() >= GROUP_IDS_MAX {
            group.finish(engine, padded_tokens, &mut examined)?;
        }
    }
    group.finish(engine, padded_tokens, &mut examined)?;
    Ok(examined)
}

/// Texts whose windows run together.
#[derive(Default)]
struct Group<'t> {
    texts: Vec<Prepared<'t>>,
    windows: Vec<Window>,
    ids: Vec<i32>,
    words: Vec<Word>,
}

/// A text after its rules and before its model scores.
struct Prepared<'t> {
    text: &'t str,
    findings: Findings,
    tokens: u32,
    /// Its windows in [`Group::windows`].
    first: usize,
    past: usize,
}

/// One window: where its ids lie, and where it stands in its text.
struct Window {
    start: usize,
    length: usize,
    place: (u32, u32),
}

impl<'t> Group<'t> {
    fn add(&mut self, rules: &Rules, text: &'t str) {
        let normal = Normal::of(text);
        let findings = detect(rules, text, &normal);
        self.words.clear();
        features::words(normal.text.as_bytes(), &mut self.words);
        let first = self.windows.len();
        for range in features::windows(self.words.len()) {
            let window = &self.words[range];
            let start = self.ids.len();
            features::window_ids(window, &mut self.ids);
            let place = match (window.first(), window.last()) {
                (Some(from), Some(to)) => normal.origin(from.bytes().start, to.bytes().end),
                _ => (0, 0),
            };
            self.windows.push(Window { start, length: self.ids.len() - start, place });
        }
        let (tokens, past) = (self.words.len() as u32, self.windows.len());
        self.texts.push(Prepared { text, findings, tokens, first, past });
    }

    /// Runs the model over the windows and empties the group into `examined`.
    fn finish(
        &mut self,
        engine: &dyn Engine,
        padded_tokens: usize,
        examined: &mut Vec<Examined>,
    ) -> Result<(), EngineError> {
        let scores = self.scores(engine, padded_tokens)?;
        for prepared in self.texts.drain(..) {
            let windows = prepared.first..prepared.past;
            let opinions =
                windows.map(|at| Opinion { scores: scores[at], place: self.windows[at].place });
            let Some(opinion) = opinions.reduce(worse) else { continue };
            let verdict =
                fusion::verdict(prepared.text, prepared.findings, &opinion, prepared.tokens);
            examined.push(Examined { verdict, label: opinion.label() });
        }
        self.windows.clear();
        self.ids.clear();
        Ok(())
    }

    /// Probabilities per window, in the order of the windows.
    fn scores(
        &self,
        engine: &dyn Engine,
        padded_tokens: usize,
    ) -> Result<Vec<[f32; LABELS]>, EngineError> {
        let lengths: Vec<usize> = self.windows.iter().map(|window| window.length).collect();
        let mut scores = vec![[0.0; LABELS]; self.windows.len()];
        let mut batch = Batch::default();
        for members in Batches::plan(&lengths, padded_tokens).iter() {
            self.fill(&mut batch, members);
            let logits = engine.run(&batch)?;
            for (member, logits) in members.iter().zip(logits.chunks_exact(LABELS)) {
                scores[*member] = model::probabilities(logits);
            }
        }
        Ok(scores)
    }

    fn fill(&self, batch: &mut Batch, members: &[usize]) {
        let longest = members.iter().map(|&member| self.windows[member].length).max();
        batch.rows = members.len();
        batch.width = longest.unwrap_or(0).max(1);
        batch.ids.clear();
        batch.mask.clear();
        batch.inverse_counts.clear();
        for &member in members {
            let window = &self.windows[member];
            batch.ids.extend(&self.ids[window.start..window.start + window.length]);
            batch.mask.resize(batch.ids.len(), 1.0);
            let row_ends = (batch.inverse_counts.len() + 1) * batch.width;
            batch.ids.resize(row_ends, PADDING_ID);
            batch.mask.resize(row_ends, 0.0);
            batch.inverse_counts.push(1.0 / (window.length + SMOOTHING) as f32);
        }
    }
}

/// The opinion that is more of an attack; of equal ones the more personal, then the earlier.
fn worse(first: Opinion, second: Opinion) -> Opinion {
    let key = |opinion: &Opinion| (opinion.attack(), opinion.scores[Label::PersonalData as usize]);
    if key(&second) > key(&first) { second } else { first }
}
