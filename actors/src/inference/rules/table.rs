//! Patterns: triggers that start them and the expression that must follow, in normal form.
//!
//! `<NAME>` in an expression stands for the vocabulary below, `<N3>` for up to three words of the same sentence in
//! between. Expressions are anchored at the trigger and see ASCII word characters only.

mod code;
mod talk;
mod theft;
mod training;

use super::{Rule, Voice, expression};
use crate::inference::{
    LoadError,
    verdict::{Class, Severity},
};

/// A pattern before it is compiled.
pub(super) struct Pattern {
    class: Class,
    severity: Severity,
    detail: &'static str,
    voice: Voice,
    line: bool,
    /// Words separated by `|`; each begins the pattern where it stands.
    triggers: &'static str,
    expression: &'static str,
}

impl Pattern {
    pub(super) fn triggers(&self) -> Vec<String> {
        unfolded(self.triggers).split('|').map(str::to_owned).collect()
    }

    pub(super) fn rule(&self) -> Result<Rule, LoadError> {
        let Pattern { class, severity, detail, voice, line, .. } = *self;
        let pattern = Some(expression(self.expression)?);
        Ok(Rule { class, severity, detail, voice, line, pattern })
    }
}

/// Every pattern, in the order of the classes.
pub(super) fn patterns() -> impl Iterator<Item = &'static Pattern> {
    [talk::PATTERNS, theft::PATTERNS, training::PATTERNS, code::PATTERNS].into_iter().flatten()
}

const fn said(
    class: Class,
    severity: Severity,
    triggers: &'static str,
    expression: &'static str,
) -> Pattern {
    Pattern { class, severity, detail: "", voice: Voice::Talk, line: false, triggers, expression }
}

const fn ordered(
    class: Class,
    severity: Severity,
    triggers: &'static str,
    expression: &'static str,
) -> Pattern {
    Pattern { class, severity, detail: "", voice: Voice::Order, line: false, triggers, expression }
}

const fn marked(
    class: Class,
    severity: Severity,
    triggers: &'static str,
    expression: &'static str,
) -> Pattern {
    Pattern { class, severity, detail: "", voice: Voice::Mark, line: false, triggers, expression }
}

/// Replaces the names of the vocabulary by their alternatives.
pub(super) fn unfolded(source: &str) -> String {
    let mut text = source.to_owned();
    for (name, words) in VOCABULARY {
        text = text.replace(name, words);
    }
    text
}

const VOCABULARY: &[(&str, &str)] = &[
    ("<N2>", r"(?:[^\w.!?;]+\w+){0,2}?[^\w.!?;]+"),
    ("<N4>", r"(?:[^\w.!?;]+\w+){0,4}?[^\w.!?;]+"),
    ("<N6>", r"(?:[^\w.!?;]+\w+){0,6}?[^\w.!?;]+"),
    ("<N9>", r"(?:[^\w.!?;]+\w+){0,9}?[^\w.!?;]+"),
    ("<REST>", r"[^.!?]{0,110}?"),
    (
        "<OVERRIDE>",
        "ignore|disregard|forget|discard|override|overwrite|set aside|do not follow|don't follow|stop following|no longer follow|pay no attention to|neglect|drop|erase|cancel|skip|abandon|dismiss|put aside|throw away|throw out|disobey|ignoring|disregarding|forgetting",
    ),
    (
        "<PRIOR>",
        "(?:previous|previously|prior|earlier|above|preceding|original|initial|existing|former|past|foregoing|system|safety|default|current|given|hidden|built-in|all|any|every|your|you|everything)",
    ),
    (
        "<ORDERS>",
        r"(?:instructions?|directions?|directives?|rules?|guidelines?|commands?|orders?|prompts?|constraints?|restrictions?|polic(?:y|ies)|programming|training|guardrails?|guidance|messages? above)\b",
    ),
    (
        "<SHOW>",
        "reveal|print|show|display|output|repeat|disclose|tell me|tell us|leak|write out|recite|dump|return|echo|give me|give us|expose|share|provide|list|send me|hand over|write down|reproduce|quote|recount|email me|mail me|text me|paste|extract|summarize|summarise|translate|copy|read me|read out|type out|spell out",
    ),
    (
        "<PROMPT>",
        r"(?:(?:system|hidden|initial|original|secret|internal|confidential|developer|base|starting|pre-?|meta)[ -]?(?:prompts?|instructions?|messages?|rules|guidelines|directives|configuration)|your (?:\w+ )?(?:prompt|instructions|directives|guidelines|configuration)|preprompt|(?:prompt|instructions) (?:above|you (?:were|have been|are) given))\b",
    ),
    (
        "<SWITCH>",
        "disable|turn off|bypass|remove|override|deactivate|switch off|circumvent|evade|lift|suspend|ignore|drop|get around|shut off|disabling|bypassing|removing",
    ),
    (
        "<SAFETY>",
        r"(?:(?:safety|content|ethical|moral|ethics|moderation|alignment|security|usage|openai|anthropic|model)[ -]?(?:and \w+ )?(?:filters?|filtering|guardrails?|polic(?:y|ies)|protocols?|restrictions?|checks?|limits?|limitations?|guidelines?|measures?|settings?|mechanisms?|safeguards?|rules?|constraints?|features?|layers?)|guardrails?|safeguards?|censorship|safety training|refusal(?: behaviou?r| training)?s?)\b",
    ),
    (
        "<FREE>",
        r"(?:(?:no|zero) (?:\w+ )?(?:restrictions?|rules|limits|limitations|filters?|ethics|morals|guidelines|boundaries|censorship|constraints)|without (?:any |all )?(?:\w+ )?(?:restrictions?|rules|limits|limitations|filters?|ethics|morals|guidelines|boundaries|censorship|constraints)|unrestricted|unfiltered|uncensored|free of (?:all )?(?:restrictions|rules|limits)|can do anything|anything goes|never refuses?|ignores? (?:all|any|every|its|the)|not bound by|evil|amoral|unethical|jailbroken|does not care about)",
    ),
    (
        "<SECRET>",
        r"(?:(?:api|secret|private|ssh|aws|encryption|signing|access|service|master)[ _-]?keys?|(?:secret|security|authenti\w+)[ _-](?:tokens?|codes?|values?)|passwords?|passphrases?|passcodes?|credentials?|secrets|(?:access|auth|bearer|session|refresh|api)[ _-]?tokens?|environment variables|env vars|\.env\b|connection strings?|session cookies?|login details|seed phrase|one-time code)\b",
    ),
    (
        "<DEMAND>",
        "reveal|disclose|leak|expose|tell me|give me|send me|show me|hand over|steal|grab|harvest|divulge|print out|dump|type out",
    ),
    (
        "<PRIVATE>",
        r"(?:conversation(?: history)?|chat(?: history| log)?s?|transcript|user(?:'s|s'?)? (?:data|emails?|messages?|records?|information|details|contacts)|customer(?:'s|s'?)? (?:data|records?|list|information|details|database|emails)|personal (?:data|information|details)|private (?:data|messages|information|files)|(?:client|customer|user|member|patient|employee|subscriber)s?'? (?:addresses|names|numbers|contacts|emails|accounts)|address book|contact list|contacts|inbox|mailbox|training data|database|internal (?:documents|files|data)|confidential \w+|sensitive \w+|medical records|payroll|memory|context window|browsing history|system prompt|<SECRETS>)",
    ),
    ("<SECRETS>", r"api keys?|passwords?|credentials?|secrets|tokens?|cookies|private keys?"),
    (
        "<SINK>",
        r"(?:https?://|hxxps?://|www\.|ftp://|webhook|attacker|\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|my (?:server|email|address|inbox|endpoint|site|website|account)|(?:an |the |this |that )?(?:external|remote|third-party|outside|following) (?:server|address|url|endpoint|host|site|number|email)|this (?:url|endpoint|number|link)|pastebin|ngrok|discord|telegram)",
    ),
    (
        "<SAFE>",
        r"(?:safe|benign|ham|legitimate|harmless|non-?toxic|trusted|not spam|not malicious|genuine|approved|clean|normal|low risk|low-risk|positive|non-?malicious)\b",
    ),
    (
        "<BAD>",
        r"(?:spam|malicious|phishing|toxic|fraud\w*|harmful|unsafe|dangerous|hateful|malware|scams?|abusive|high-risk|suspicious|negative)",
    ),
];
