//! Phrases and patterns of the attack classes over a normal form: one Aho-Corasick pass finds phrases and the words
//! that may begin a pattern; a pattern's expression then runs only there, anchored, over a bounded stretch.

mod context;
mod phrases;
mod table;

use std::collections::BTreeMap;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex::bytes::{Regex, RegexBuilder};

use self::context::Context;
use super::{
    LoadError,
    detect::{Findings, Hit},
    normal::Normal,
    verdict::{Class, Severity},
};

/// Bytes after a trigger that its pattern may use.
const PATTERN_BYTES_MAX: usize = 240;

/// Bound on one compiled expression, so that a careless rule fails the build's tests and not a node's memory.
const EXPRESSION_BYTES_MAX: usize = 4 << 20;

/// A fixed phrase, or a pattern that begins at one of its triggers.
struct Rule {
    class: Class,
    severity: Severity,
    detail: &'static str,
    voice: Voice,
    /// Only at the start of a line.
    line: bool,
    pattern: Option<Regex>,
}

/// How a rule speaks, and so what its surroundings can mean for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voice {
    /// Markup, control tokens, code: means the same wherever it stands.
    Mark,
    /// Words that could also be said about an attack.
    Talk,
    /// Words that begin with a verb, and order something only where an order can stand.
    Order,
}

/// What finding a needle means.
enum Meaning {
    Rule(usize),
    /// A word of people who write about attacks.
    Cue,
    /// A word of an attack in this disguise.
    Hint(Disguise),
}

/// Disguises of the whole text that are tried only when the text hints at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disguise {
    Rot13,
    Reversed,
}

/// How often each disguise was hinted at.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Hints {
    pub(super) rot13: u32,
    pub(super) reversed: u32,
}

/// All rules, compiled once and shared by every slot.
pub(super) struct Rules {
    needles: AhoCorasick,
    /// Per needle: what it means, and whether it must stand between word boundaries on its left and right.
    meanings: Vec<(Vec<Meaning>, bool, bool)>,
    rules: Vec<Rule>,
    squeezed: AhoCorasick,
}

impl Rules {
    pub(super) fn compile() -> Result<Rules, LoadError> {
        let mut needles: BTreeMap<String, Vec<Meaning>> = BTreeMap::new();
        let mut add = |needle: String, meaning| needles.entry(needle).or_default().push(meaning);
        let mut rules = Vec::new();
        for group in phrases::GROUPS {
            for phrase in group.phrases() {
                add(phrase.to_owned(), Meaning::Rule(rules.len()));
            }
            rules.push(group.rule());
        }
        for pattern in table::patterns() {
            for trigger in pattern.triggers() {
                add(trigger, Meaning::Rule(rules.len()));
            }
            rules.push(pattern.rule()?);
        }
        for cue in context::CUES.split('|') {
            add(cue.to_owned(), Meaning::Cue);
        }
        for word in phrases::HINTS {
            add(rot13(word), Meaning::Hint(Disguise::Rot13));
            add(word.chars().rev().collect(), Meaning::Hint(Disguise::Reversed));
        }
        let automaton = build(needles.keys(), "phrases")?;
        let meanings = needles.into_iter().map(|needle| bounded(needle, &rules)).collect();
        let squeezed = build(phrases::SQUEEZED.iter().map(|(needle, _)| needle), "squeezed")?;
        Ok(Rules { needles: automaton, meanings, rules, squeezed })
    }

    /// Adds every hit of one normal form, in order of place.
    pub(super) fn apply(&self, normal: &Normal, found: &mut Findings) -> Hints {
        let text = normal.text.as_str();
        let mut hints = Hints::default();
        let mut context = Context::new(text);
        let mut candidates = Vec::new();
        for hit in self.needles.find_overlapping_iter(text) {
            let (meanings, left, right) = &self.meanings[hit.pattern().as_usize()];
            if (*left && !starts_word(text, hit.start())) || (*right && !ends_word(text, hit.end()))
            {
                continue;
            }
            for meaning in meanings {
                match meaning {
                    Meaning::Rule(rule) => candidates.push((*rule, hit.start(), hit.end())),
                    Meaning::Cue => context.cue(hit.start()),
                    Meaning::Hint(Disguise::Rot13) => hints.rot13 += 1,
                    Meaning::Hint(Disguise::Reversed) => hints.reversed += 1,
                }
            }
        }
        for (rule, start, end) in candidates {
            let rule = &self.rules[rule];
            if !found.is_full(rule.class, rule.severity)
                && let Some(hit) = rule.judge(start, end, normal, &context)
            {
                found.push(hit);
            }
        }
        hints
    }

    /// Adds hits of a text whose blanks between words are lost.
    pub(super) fn apply_squeezed(&self, normal: &Normal, found: &mut Findings) {
        let text: String = normal.text.chars().filter(|c| *c != ' ').collect();
        for hit in self.squeezed.find_iter(&text) {
            let (_, class) = phrases::SQUEEZED[hit.pattern().as_usize()];
            found.push(Hit::new(class, Severity::High, (0, normal.characters)));
        }
    }
}

impl Rule {
    /// The hit, if the rule holds at a trigger, as severe as its surroundings allow.
    fn judge(
        &self,
        start: usize,
        end: usize,
        normal: &Normal,
        context: &Context<'_>,
    ) -> Option<Hit> {
        if self.line && !normal.starts_line(start) {
            return None;
        }
        let mut end = end;
        if let Some(pattern) = &self.pattern {
            let bytes = normal.text.as_bytes();
            let stretch = &bytes[start..bytes.len().min(start + PATTERN_BYTES_MAX)];
            end = start + pattern.find(stretch)?.end();
        }
        let hit =
            Hit::new(self.class, self.severity, normal.origin(start, end)).detail(self.detail);
        if self.voice == Voice::Mark {
            return Some(hit);
        }
        if context.negated(start) {
            return None;
        }
        if context.quoted(start, end) {
            return Some(Hit { severity: Severity::Low, quoted: true, ..hit });
        }
        let told =
            self.voice == Voice::Order && !normal.starts_line(start) && !context.commands(start);
        let severity =
            if told || context.infinitive(start) { hit.severity.softened() } else { hit.severity };
        Some(Hit { severity, ..hit })
    }
}

fn build<S: AsRef<[u8]>>(
    needles: impl IntoIterator<Item = S>,
    name: &str,
) -> Result<AhoCorasick, LoadError> {
    // The DFA takes about 2 MB, once per process, and halves the time of the pass.
    let mut builder = AhoCorasick::builder();
    builder.match_kind(MatchKind::Standard).kind(Some(AhoCorasickKind::DFA));
    let built = builder.build(needles);
    built.map_err(|error| LoadError::Rule { rule: name.to_owned(), reason: error.to_string() })
}

fn bounded(
    (needle, meanings): (String, Vec<Meaning>),
    rules: &[Rule],
) -> (Vec<Meaning>, bool, bool) {
    let word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    // A disguised word may stand anywhere: reversing moves endings to the front.
    let hint = meanings.iter().any(|meaning| matches!(meaning, Meaning::Hint(_)));
    // The trigger of a mark may be the beginning of a longer word, as in the prefix of a key.
    let prefix = meanings.iter().any(|meaning| match meaning {
        Meaning::Rule(rule) => rules[*rule].voice == Voice::Mark && rules[*rule].pattern.is_some(),
        Meaning::Cue | Meaning::Hint(_) => false,
    });
    let bytes = needle.as_bytes();
    (meanings, !hint && word(bytes.first()), !hint && !prefix && word(bytes.last()))
}

fn expression(pattern: &str) -> Result<Regex, LoadError> {
    let source = format!("^(?:{})", table::unfolded(pattern));
    let mut builder = RegexBuilder::new(&source);
    let built = builder.unicode(false).size_limit(EXPRESSION_BYTES_MAX).build();
    built.map_err(|error| LoadError::Rule { rule: pattern.to_owned(), reason: error.to_string() })
}

fn starts_word(text: &str, at: usize) -> bool {
    at == 0 || !text.as_bytes()[at - 1].is_ascii_alphanumeric()
}

fn ends_word(text: &str, at: usize) -> bool {
    !text.as_bytes().get(at).is_some_and(u8::is_ascii_alphanumeric)
}

/// Turns each letter half-way round the alphabet. Its own inverse.
pub(super) fn rot13(text: &str) -> String {
    let turn = |c: char| match c {
        'a'..='m' | 'A'..='M' => char::from(c as u8 + 13),
        'n'..='z' | 'N'..='Z' => char::from(c as u8 - 13),
        _ => c,
    };
    text.chars().map(turn).collect()
}
