//! Names that people give to tenants and keys.

use std::fmt;

use serde::{Deserialize, Serialize};
use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::UnicodeNormalization;

/// The longest name, in Unicode scalar values after NFC.
pub const NAME_CHARS_MAX: usize = 200;

/// 1–200 characters in NFC; no control, bidirectional-override or unassigned characters, no outer
/// spaces. Two names that look alike may still differ: names need not be unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error("must have 1 to {NAME_CHARS_MAX} characters")]
    Length,
    #[error("must not begin or end with a space")]
    OuterSpace,
    #[error("must not contain control, bidirectional-override or unassigned characters")]
    Character,
}

impl Name {
    /// A name out of this build, which keeps to the rules.
    pub(crate) fn shipped(name: &'static str) -> Self {
        Self(name.into())
    }

    /// Normalises to NFC and checks.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        // NFC never triples a text, so this bound costs no valid name and stops a flood early.
        if text.len() > NAME_CHARS_MAX * 16 {
            return Err(BadName::Length);
        }
        let name: String = text.nfc().collect();
        if !(1..=NAME_CHARS_MAX).contains(&name.chars().count()) {
            return Err(BadName::Length);
        }
        if name.trim() != name {
            return Err(BadName::OuterSpace);
        }
        if name.chars().any(is_forbidden) {
            return Err(BadName::Character);
        }
        Ok(Self(name))
    }

    /// The normalised text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn is_forbidden(c: char) -> bool {
    let bidi =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    bidi || matches!(
        get_general_category(c),
        GeneralCategory::Control
            | GeneralCategory::Unassigned
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
            | GeneralCategory::PrivateUse
            | GeneralCategory::Surrogate
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_checked() {
        assert_eq!(Name::parse("e\u{301}clair").unwrap().as_str(), "\u{e9}clair");
        assert!(Name::parse("Prod Key 🐝").is_ok());
        assert!(Name::parse(&"x".repeat(200)).is_ok());
        assert_eq!(Name::parse(&"x".repeat(201)), Err(BadName::Length));
        assert_eq!(Name::parse(""), Err(BadName::Length));
        assert_eq!(Name::parse(" x"), Err(BadName::OuterSpace));
        assert_eq!(Name::parse("a\nb"), Err(BadName::Character));
        assert_eq!(Name::parse("a\u{202e}b"), Err(BadName::Character));
        assert_eq!(Name::parse("a\u{378}b"), Err(BadName::Character));
    }
}
