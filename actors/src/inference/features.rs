//! Words of a text as hashed feature ids. Twin of `deploy/models/docrisk_features.py`: a golden test holds the two equal.

use std::ops::Range;

/// Words of one model window.
pub(super) const WINDOW_WORDS: usize = 64;
/// Words from the start of one window to the start of the next.
pub(super) const WINDOW_STRIDE: usize = 48;
/// Added to the number of ids under each mean, so that two words cannot be as sure as twenty.
pub(super) const SMOOTHING: usize = 16;
/// Windows of one text. 20,000 characters give at most 209; a longer text is scored by its first windows.
pub(super) const WINDOWS_MAX: usize = 256;

const WORD_BYTES_MAX: usize = 24;
const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

/// One word: its id, the id of the pair it ends, and where it stands in the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word {
    single: i32,
    pair: i32,
    start: u32,
    end: u32,
}

impl Word {
    pub(super) fn bytes(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Appends the words of `text` to `found`.
pub(super) fn words(text: &[u8], found: &mut Vec<Word>) {
    let mut before = FNV_OFFSET;
    let mut at = 0;
    while at < text.len() {
        let Some(first) = FOLD[usize::from(text[at])].word() else {
            at += 1;
            continue;
        };
        let start = at;
        let mut single = mix(FNV_OFFSET, first);
        let mut pair = mix(mix(before, b' '), first);
        let mut length = 1;
        at += 1;
        while at < text.len() {
            let Some(byte) = FOLD[usize::from(text[at])].word() else {
                if text[at] == b'\'' {
                    at += 1;
                    continue;
                }
                break;
            };
            if length < WORD_BYTES_MAX {
                single = mix(single, byte);
                pair = mix(pair, byte);
                length += 1;
            }
            at += 1;
        }
        found.push(Word {
            single: fold(single),
            pair: fold(pair),
            start: start as u32,
            end: at as u32,
        });
        before = single;
    }
}

/// The word ranges of every window; at least one, perhaps empty.
pub(super) fn windows(words: usize) -> impl Iterator<Item = Range<usize>> {
    let rest = words.saturating_sub(WINDOW_WORDS).div_ceil(WINDOW_STRIDE);
    (0..(rest + 1).min(WINDOWS_MAX)).map(move |index| {
        let start = index * WINDOW_STRIDE;
        start..(start + WINDOW_WORDS).min(words)
    })
}

/// Appends the ids of one window: its words in order, then its pairs in order.
pub(super) fn window_ids(window: &[Word], ids: &mut Vec<i32>) {
    ids.extend(window.iter().map(|word| word.single));
    ids.extend(window.iter().skip(1).map(|word| word.pair));
}

fn mix(state: u32, byte: u8) -> u32 {
    (state ^ u32::from(byte)).wrapping_mul(FNV_PRIME)
}

fn fold(state: u32) -> i32 {
    ((state ^ (state >> 15)) & 0x7fff) as i32
}

/// What a byte becomes inside a word; zero separates words.
#[derive(Clone, Copy)]
struct Folded(u8);

impl Folded {
    fn word(self) -> Option<u8> {
        (self.0 != 0).then_some(self.0)
    }
}

static FOLD: [Folded; 256] = {
    let mut table = [Folded(0); 256];
    let mut byte = 0;
    while byte < 256 {
        let raw = byte as u8;
        table[byte] = Folded(match raw {
            b'0'..=b'9' => b'0',
            b'A'..=b'Z' => raw + 32,
            b'a'..=b'z' | 0x80..=0xff => raw,
            _ => 0,
        });
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    pub(crate) struct Golden {
        text: String,
        words: usize,
        ids: Vec<i32>,
    }

    const GOLDEN: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/models/golden.json"));

    #[test]
    fn ids_are_those_the_model_was_trained_on() {
        for golden in serde_json::from_str::<Vec<Golden>>(GOLDEN).unwrap() {
            let mut found = Vec::new();
            words(golden.text.as_bytes(), &mut found);
            let mut ids = Vec::new();
            window_ids(&found, &mut ids);
            assert_eq!((found.len(), ids), (golden.words, golden.ids), "{:?}", golden.text);
        }
    }

    #[test]
    fn windows_cover_every_word_and_stay_bounded() {
        let ranges = |words| windows(words).collect::<Vec<_>>();
        assert_eq!(ranges(0), vec![0..0; 1]);
        assert_eq!(ranges(64), vec![0..64; 1]);
        assert_eq!(ranges(65), [0..64, 48..65]);
        assert_eq!(ranges(112), [0..64, 48..112]);
        assert_eq!(ranges(113), [0..64, 48..112, 96..113]);
        assert_eq!(ranges(10_000_000).len(), WINDOWS_MAX);
    }
}
