//! The decoders. Each answers only when the result reads like text, so that hashes, identifiers and paths stay quiet.

/// Share of characters that must be letters, digits, blanks or punctuation, and of letters and blanks.
const PRINTABLE_MIN: f32 = 0.95;
const WORDY_MIN: f32 = 0.6;
/// Shorter results match by chance.
const TEXT_MIN: usize = 5;

/// The bytes as text, if a person could read it. UTF-16 of ASCII counts.
pub(super) fn readable(mut bytes: Vec<u8>) -> Option<String> {
    let zeros = bytes.iter().skip(1).step_by(2).filter(|byte| **byte == 0).count();
    if bytes.len() >= 8 && zeros * 2 >= bytes.len() - 1 {
        bytes = bytes.into_iter().step_by(2).collect();
    }
    let text = String::from_utf8(bytes).ok()?;
    let total = text.chars().count() as f32;
    let printable =
        text.chars().filter(|c| !c.is_control() || c.is_ascii_whitespace()).count() as f32;
    let wordy = text.chars().filter(|c| c.is_alphabetic() || *c == ' ').count() as f32;
    let reads = printable >= PRINTABLE_MIN * total && wordy >= WORDY_MIN * total;
    (text.len() >= TEXT_MIN && reads).then_some(text)
}

/// Standard and URL alphabet, padding included.
pub(super) fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=')
}

/// Either alphabet, padded or not.
pub(super) fn base64(run: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(run.len() * 3 / 4);
    let (mut held, mut bits) = (0u32, 0);
    for byte in run.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => break,
            _ => return None,
        };
        held = (held << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    readable(bytes)
}

pub(super) fn hex(run: &str) -> Option<String> {
    let run = run.strip_prefix("0x").unwrap_or(run).as_bytes();
    if !run.len().is_multiple_of(2) {
        return None;
    }
    let pairs = run.chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?));
    readable(pairs.collect::<Option<Vec<u8>>>()?)
}

pub(super) fn binary(run: &str) -> Option<String> {
    let bytes = run.as_bytes().chunks_exact(8);
    readable(bytes.map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | (bit & 1))).collect())
}

/// `%20` and the rest as it stands.
pub(super) fn percent(token: &str) -> Option<String> {
    let bytes = token.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let (mut at, mut decoded) = (0, 0);
    while at < bytes.len() {
        if bytes[at] == b'%'
            && let Some([high, low]) = bytes.get(at + 1..at + 3)
            && let (Some(high), Some(low)) = (nibble(*high), nibble(*low))
        {
            out.push(high << 4 | low);
            at += 3;
            decoded += 1;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    if decoded >= super::ESCAPES_MIN { readable(out) } else { None }
}

/// `&#105;` and `&#x69;`.
pub(super) fn entities(token: &str) -> Option<String> {
    let mut out = String::with_capacity(token.len());
    let mut rest = token;
    let mut decoded = 0;
    while let Some((before, after)) = rest.split_once("&#") {
        out.push_str(before);
        let length = after.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let digits = &after[..length];
        let code = match digits.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => digits.parse(),
        };
        if let Some(c) = code.ok().and_then(char::from_u32) {
            out.push(c);
            decoded += 1;
        }
        let tail = &after[length..];
        rest = tail.strip_prefix(';').unwrap_or(tail);
    }
    out.push_str(rest);
    if decoded >= super::ESCAPES_MIN { readable(out.into_bytes()) } else { None }
}

/// `\x41` and `\u0041`.
pub(super) fn backslashes(token: &str) -> Option<String> {
    let mut out = String::with_capacity(token.len());
    let mut rest = token;
    let mut decoded = 0;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let length = match after.as_bytes().first() {
            Some(b'x') => 3,
            Some(b'u') => 5,
            _ => 0,
        };
        let code = after.get(1..length).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        if let Some(c) = code.and_then(char::from_u32) {
            out.push(c);
            decoded += 1;
            rest = &after[length..];
        } else {
            out.push('\\');
            rest = after;
        }
    }
    out.push_str(rest);
    if decoded >= super::ESCAPES_MIN { readable(out.into_bytes()) } else { None }
}

/// The ASCII character a tag character stands for.
pub(super) fn tag(c: char) -> Option<u8> {
    let code = u32::from(c).checked_sub(0xe0000)?;
    (0x20..0x7f).contains(&code).then_some(code as u8)
}

/// The byte that a variation selector carries: 16 in the first block, 240 in the second.
pub(super) fn selector(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0xfe00..=0xfe0f => Some((code - 0xfe00) as u8),
        code @ 0xe0100..=0xe01ef => Some((code - 0xe0100 + 16) as u8),
        _ => None,
    }
}

fn nibble(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}
