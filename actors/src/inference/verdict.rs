//! What a scan says about one text.
//!
//! A reason is stable: `class`, then `.detail` where the class has several ways, then ` via layer` (outermost first,
//! joined by `>`) when it was found in decoded text, then ` quoted` when the text seems to talk about the attack rather
//! than to make it. Classes are those of [`super::verdict::Class`]; `model.<label>` means that the model alone says so.

use serde::{Deserialize, Serialize};

/// Risk at and above which a document is quarantined.
pub const QUARANTINE_AT: u8 = 70;

/// Spans of one verdict; the most severe are kept.
pub const SPANS_MAX: usize = 64;

/// Characters of the original text repeated in a span.
pub const SPAN_TEXT_MAX: usize = 256;

/// The verdict on one document. Equal texts get bit-equal verdicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// 0 harmless to 100 certain.
    pub risk: u8,
    /// Whether `risk` has reached [`QUARANTINE_AT`].
    pub quarantine: bool,
    /// What was found, most severe first, each once. The grammar is that of the module.
    pub reasons: Vec<String>,
    pub action: Action,
    pub signals: Signals,
    /// 0.5 on the threshold to 1.0 far from it.
    pub confidence: f32,
    /// Where it was found, in order of place.
    pub spans: Vec<Span>,
    /// Words of the document, for metering; counted before any cap.
    pub tokens: u32,
}

/// What to do with the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Allow,
    Quarantine,
}

/// Strength of each detector, 0 to 1 in steps of 0.001.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Signals {
    /// The rules together.
    pub heuristic: f32,
    /// The model: probability that the worst window is an attack.
    pub embedding: f32,
    /// Invisible, bidirectional and styled characters.
    pub unicode: f32,
    /// Repetition.
    pub compression_bomb: f32,
    /// Words that mix look-alike letters.
    pub homoglyphs: f32,
}

/// One finding in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First character (Unicode scalar value, not byte) of the original text.
    pub start: u32,
    /// One past the last character.
    pub end: u32,
    /// The original text there, cut after [`SPAN_TEXT_MAX`] characters.
    pub text: String,
    pub reason: String,
    pub severity: Severity,
}

/// How much one finding weighs. Alone, `High` and above quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// One step milder.
    pub(super) fn softened(self) -> Severity {
        match self {
            Severity::Low | Severity::Medium => Severity::Low,
            Severity::High => Severity::Medium,
            Severity::Critical => Severity::High,
        }
    }
}

/// The 14 attack classes, and personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Orders to drop or replace the instructions in force.
    InstructionOverride,
    /// A new identity without rules.
    RoleHijack,
    /// Asks for the hidden prompt.
    SystemPromptLeak,
    /// Asks to switch safety off.
    Jailbreak,
    /// Moves private content to a place outside.
    DataExfiltration,
    /// Asks for, or carries, credentials.
    SecretExfiltration,
    /// A token that is to change the behaviour of a model.
    BackdoorTrigger,
    /// Wrong labels or facts meant to be learned.
    DataPoisoning,
    /// Active markup.
    HtmlJsInjection,
    /// Text posing as a system turn.
    FencedSystemBlock,
    /// Makes an agent or interpreter act.
    ToolAbuse,
    /// An attack inside an encoding.
    EncodedPayload,
    /// Characters that hide or disguise text.
    UnicodeObfuscation,
    /// Repetition that expands or drowns.
    CompressionBomb,
    /// Data about a person. Reported; it quarantines only by numbers that are worth stealing, or in bulk.
    PersonalData,
}

impl Class {
    /// Every class, attacks first.
    pub const ALL: [Class; 15] = [
        Class::InstructionOverride,
        Class::RoleHijack,
        Class::SystemPromptLeak,
        Class::Jailbreak,
        Class::DataExfiltration,
        Class::SecretExfiltration,
        Class::BackdoorTrigger,
        Class::DataPoisoning,
        Class::HtmlJsInjection,
        Class::FencedSystemBlock,
        Class::ToolAbuse,
        Class::EncodedPayload,
        Class::UnicodeObfuscation,
        Class::CompressionBomb,
        Class::PersonalData,
    ];

    /// The word that begins a reason.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Class::InstructionOverride => "instruction_override",
            Class::RoleHijack => "role_hijack",
            Class::SystemPromptLeak => "system_prompt_leak",
            Class::Jailbreak => "jailbreak",
            Class::DataExfiltration => "data_exfiltration",
            Class::SecretExfiltration => "secret_exfiltration",
            Class::BackdoorTrigger => "backdoor_trigger",
            Class::DataPoisoning => "data_poisoning",
            Class::HtmlJsInjection => "html_js_injection",
            Class::FencedSystemBlock => "fenced_system_block",
            Class::ToolAbuse => "tool_abuse",
            Class::EncodedPayload => "encoded_payload",
            Class::UnicodeObfuscation => "unicode_obfuscation",
            Class::CompressionBomb => "compression_bomb",
            Class::PersonalData => "pii",
        }
    }
}
