//! Tells an attack from talk about attacks: quotation marks, the vocabulary of people who write about security,
//! negation ("never share your password") and purpose ("to show the password, press the eye").

/// Words that mark a text as talk about attacks, or announce an example; separated by `|`.
pub(super) const CUES: &str = "\
    prompt injection|prompt injections|injection attack|injection attacks|jailbreaks|\
    jailbreak prompts|attacker|attackers|adversary|adversaries|researchers|security|\
    vulnerability|vulnerabilities|such as|for example|for instance|e.g.|phrases like|\
    phrase like|strings like|something like|the phrase|the phrases|the string|\
    the sentence|example of|examples of|article|paper|study|studies|blog post|report|\
    chapter|lecture|talk|novel|film|known as|so-called|technique|techniques|exploit|\
    exploits|defence|defences|defense|defenses|detect|detects|detection|detector|\
    filter|classifier|blocked|blocks|flagged|mitigation|red team|red teaming|\
    benchmark|dataset of attacks|threat model|owasp|malicious prompt|malicious prompts|\
    attack|attacks|trick|tricks|tricked|trying to|try to|tries to|tried to|may write|\
    might write|wrote|would say|containing|contained|payload|payloads|warning about|\
    beware|survey|surveys|data poisoning attacks|poisoning attacks|tutorial|\
    documentation";

/// Bytes before and after a hit in which a cue counts.
const CUE_BEFORE: usize = 180;
const CUE_AFTER: usize = 120;
/// Bytes around a hit in which its quotation marks must stand.
const QUOTE_REACH: usize = 60;

const NEGATIONS: &str = "\
    do not|don't|never|must not|should not|shouldn't|cannot|can't|may not|not to|\
    avoid|to not|will not|won't|does not|did not|doesn't";

/// After these an infinitive is an order all the same: "I want you to reveal".
const ADDRESSED: &str = "\
    you|model|assistant|ai|agent|bot|it|is|are|have|need|instructed|asked|told|\
    task|going|want|begin|sure|and";

/// After these a verb is an order.
const ORDERING: &str = "\
    please|and|then|now|to|you|just|kindly|or|but|instead|also|let's|always|so|assistant|\
    ai|model|bot|chatbot|chatgpt|gpt|claude|first|next|again|here|task|actually|do|n't|sir";

/// The surroundings of the hits of one text.
pub(super) struct Context<'t> {
    text: &'t str,
    cues: Vec<usize>,
}

impl<'t> Context<'t> {
    pub(super) fn new(text: &'t str) -> Context<'t> {
        Context { text, cues: Vec::new() }
    }

    /// Notes a cue; called in order of place.
    pub(super) fn cue(&mut self, at: usize) {
        self.cues.push(at);
    }

    /// Whether what begins at `start` is forbidden rather than asked for.
    pub(super) fn negated(&self, start: usize) -> bool {
        let before = self.text[..start].trim_end();
        NEGATIONS.split('|').any(|negation| {
            before.strip_suffix(negation).is_some_and(|rest| !rest.ends_with(char::is_alphanumeric))
        })
    }

    /// Whether what begins at `start` is a purpose ("to show …") that nobody is told to fulfil.
    pub(super) fn infinitive(&self, start: usize) -> bool {
        let before = self.text[..start].trim_end();
        let Some(before) =
            before.strip_suffix("to").filter(|rest| rest.is_empty() || rest.ends_with(' '))
        else {
            return false;
        };
        let subject = last_word(before.trim_end());
        !ADDRESSED.split('|').any(|known| known == subject)
    }

    /// Whether an order can begin at `start`: after a pause, or after a word that calls for one. After any other
    /// word somebody merely tells what was done.
    pub(super) fn commands(&self, start: usize) -> bool {
        let before = self.text[..start].trim_end();
        let word = last_word(before);
        if word.is_empty() || word.ends_with("ly") || ORDERING.split('|').any(|known| known == word)
        {
            return true;
        }
        let subject = last_word(before[..before.len() - word.len()].trim_end());
        let addressed = ADDRESSED.split('|').any(|known| known == subject);
        match word {
            "must" | "should" | "shall" | "will" => addressed,
            "can" | "could" | "may" | "might" | "would" => subject == "you",
            _ => false,
        }
    }

    /// Whether the text seems to cite rather than to say: a quotation among the vocabulary of security, or that
    /// vocabulary twice.
    pub(super) fn quoted(&self, start: usize, end: usize) -> bool {
        let from = start.saturating_sub(CUE_BEFORE);
        let near =
            |at: &&usize| (from..end + CUE_AFTER).contains(*at) && !(start..end).contains(*at);
        let first = self.cues.partition_point(|at| *at < from);
        let cues = self.cues[first..].iter().take_while(|at| **at < end + CUE_AFTER);
        match cues.filter(near).count() {
            0 => false,
            1 => self.in_quotation(start, end),
            _ => true,
        }
    }

    fn in_quotation(&self, start: usize, end: usize) -> bool {
        let bytes = self.text.as_bytes();
        let before = &bytes[start.saturating_sub(QUOTE_REACH)..start];
        let after = &bytes[end..bytes.len().min(end + QUOTE_REACH)];
        [b'"', b'\'', b'`'].iter().any(|mark| before.contains(mark) && after.contains(mark))
    }
}

/// The word at the end of a text; nothing if the text ends in a pause.
fn last_word(text: &str) -> &str {
    let start = text
        .rfind(|c: char| !c.is_alphanumeric() && c != '\'')
        .map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    &text[start..]
}
