//! Text to ids, for models of the registry.

use std::path::Path;

use tokenizers::{Tokenizer, TruncationParams};

use super::bundle::{Manifest, TOKENIZER, Tokens};

/// Makes ids of texts, at most so many of each.
pub(super) enum Tokenize {
    Json(Box<Tokenizer>),
    Trigrams { mask: u32, tokens_max: usize },
}

impl Tokenize {
    pub(super) fn load(dir: &Path, manifest: &Manifest) -> Result<Self, String> {
        let tokens_max = manifest.tokens_max;
        match manifest.tokenizer {
            Tokens::Trigrams { vocabulary } => {
                Ok(Self::Trigrams { mask: vocabulary - 1, tokens_max })
            }
            Tokens::TokenizerJson => {
                let failed = |error: tokenizers::Error| format!("{TOKENIZER}: {error}");
                let mut tokenizer = Tokenizer::from_file(dir.join(TOKENIZER)).map_err(failed)?;
                let cut =
                    TruncationParams { max_length: tokens_max, ..TruncationParams::default() };
                tokenizer.with_truncation(Some(cut)).map_err(failed)?;
                // We pad ourselves, to a width that depends on the text alone.
                tokenizer.with_padding(None);
                Ok(Self::Json(Box::new(tokenizer)))
            }
        }
    }

    /// The ids of a text; at least one place of the graph is filled, if only with padding.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<i32>, String> {
        match self {
            Self::Trigrams { mask, tokens_max } => {
                Ok(trigrams(text.as_bytes(), *mask, *tokens_max))
            }
            Self::Json(tokenizer) => {
                let encoded = tokenizer.encode_fast(text, true);
                let encoded = encoded.map_err(|error| format!("not tokenised: {error}"))?;
                Ok(encoded.get_ids().iter().map(|&id| id as i32).collect())
            }
        }
    }
}

fn trigrams(bytes: &[u8], mask: u32, tokens_max: usize) -> Vec<i32> {
    let mut ids = Vec::with_capacity(bytes.len().min(tokens_max));
    for &[a, b, c] in bytes.array_windows().take(tokens_max) {
        let (a, b, c) = (u32::from(a), u32::from(b), u32::from(c));
        ids.push(((a * 65_599 + b * 257 + c) & mask) as i32);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigrams_are_three_bytes_each_up_to_the_bound() {
        let hash = |text: &[u8; 3]| {
            let [a, b, c] = text.map(u32::from);
            ((a * 65_599 + b * 257 + c) & 8_191) as i32
        };
        assert_eq!(trigrams(b"abcd", 8_191, 9), [hash(b"abc"), hash(b"bcd")]);
        assert_eq!(trigrams(b"abcd", 8_191, 1), [hash(b"abc")]);
        assert_eq!(trigrams(b"ab", 8_191, 9), [0i32; 0]);
    }
}
