//! Repetition: text that expands to nothing new, to drown a model or a training set.

use super::{
    detect::{Findings, Hit},
    verdict::{Class, Severity},
};

/// Bytes from which the share of distinct stretches says something.
const BYTES_MIN: usize = 400;
/// Bytes of one stretch.
const STRETCH: usize = 8;
/// Slots of the set of stretches, as a power of two. Texts beyond it are examined in blocks of that size.
const SLOTS_BITS: u32 = 14;
const BLOCK: usize = 1 << (SLOTS_BITS - 2);
/// Shares of distinct stretches: below the first it is a bomb, below the second it is odd.
const BOMB_BELOW: f32 = 0.10;
const ODD_BELOW: f32 = 0.18;
/// One character in a row that no ruler or table border needs.
const RUN_MIN: usize = 400;
/// Words from which one word's share counts, and the share itself.
const WORDS_MIN: usize = 20;
const WORD_SHARE: f32 = 0.7;

/// Adds a hit for the whole text when it mostly repeats itself.
pub(super) fn find(text: &str, found: &mut Findings) {
    let distinct = distinct_share(text.as_bytes());
    found.repetition = if distinct < 1.0 { (1.0 - distinct / 0.4).clamp(0.0, 1.0) } else { 0.0 };
    let (detail, severity) = if distinct < BOMB_BELOW {
        ("repetition", Severity::High)
    } else if longest_run(text.as_bytes()) >= RUN_MIN {
        ("character_run", Severity::High)
    } else if one_word_rules(text) {
        ("word", Severity::High)
    } else if distinct < ODD_BELOW {
        ("repetition", Severity::Medium)
    } else {
        return;
    };
    found.repetition = found.repetition.max(if severity == Severity::High { 0.9 } else { 0.5 });
    let end = text.chars().count() as u32;
    found.push(Hit::new(Class::CompressionBomb, severity, (0, end)).detail(detail));
}

/// The share of stretches that occur for the first time in their block.
fn distinct_share(bytes: &[u8]) -> f32 {
    if bytes.len() < BYTES_MIN {
        return 1.0;
    }
    let mut seen = [0u64; 1 << (SLOTS_BITS - 6)];
    let mut total = 0;
    let mut fresh = 0;
    for block in bytes.chunks(BLOCK) {
        seen.fill(0);
        let mut window: u64 = 0;
        for (index, &byte) in block.iter().enumerate() {
            window = (window << 8) | u64::from(byte);
            if index + 1 < STRETCH {
                continue;
            }
            let slot = (window.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS_BITS)) as usize;
            let bit = 1 << (slot % 64);
            total += 1;
            fresh += u32::from(seen[slot / 64] & bit == 0);
            seen[slot / 64] |= bit;
        }
    }
    fresh as f32 / total.max(1) as f32
}

fn longest_run(bytes: &[u8]) -> usize {
    let mut longest = 0;
    let mut run = 0;
    let mut before = 0;
    for &byte in bytes {
        run = if byte == before { run + 1 } else { 1 };
        before = byte;
        if !matches!(byte, b' ' | b'-' | b'=' | b'_' | b'.' | b'*' | b'#' | b'\n') {
            longest = longest.max(run);
        }
    }
    longest
}

/// Whether one word is most of the text. A majority is found in one pass by voting, then counted.
fn one_word_rules(text: &str) -> bool {
    let mut candidate = "";
    let mut votes = 0usize;
    for word in text.split_ascii_whitespace() {
        match votes {
            0 => (candidate, votes) = (word, 1),
            _ if word == candidate => votes += 1,
            _ => votes -= 1,
        }
    }
    if votes == 0 {
        return false;
    }
    let (mut total, mut equal) = (0usize, 0usize);
    for word in text.split_ascii_whitespace() {
        total += 1;
        equal += usize::from(word == candidate);
    }
    total >= WORDS_MIN && equal as f32 >= WORD_SHARE * total as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let mut found = Findings::default();
        find(text, &mut found);
        assert_eq!(found.hits.first().map(|hit| hit.detail), expected);
    }

    #[test]
    fn repetition_is_told_from_prose() {
        check(&"A".repeat(5_000), Some("repetition"));
        check(&"lorem ipsum dolor sit amet ".repeat(300), Some("repetition"));
        check(&"buy ".repeat(40), Some("word"));
        check("No, no, no. We said no to that, and no again.", None);
        check(&format!("a table\n{}\nends", "-".repeat(120)), None);
        check(&(0..900).map(|n| format!("{} ", n * 7919 % 104_729)).collect::<String>(), None);
    }
}
