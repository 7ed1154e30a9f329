//! Words written letter by letter (`i g n o r e`, `i.g.n.o.r.e`) and in leetspeak (`1gn0r3`).

/// Longest token that can be a spelled word.
pub(super) const TOKEN_BYTES_MAX: usize = 48;
/// Letters of a run from which it is spelling and not initials.
const LETTERS_MIN: usize = 6;

/// A spelled run as one text, and its byte range.
#[derive(Debug, Default)]
pub(super) struct Spelled {
    pub(super) text: String,
    pub(super) start: usize,
    pub(super) end: usize,
    letters: usize,
}

/// Collects neighbouring spelled tokens.
#[derive(Debug, Default)]
pub(super) struct Speller {
    run: Spelled,
}

impl Speller {
    /// Takes the next token; a token that is not spelled ends the run before it.
    pub(super) fn token(&mut self, token: &str, at: usize) -> Option<Spelled> {
        if token.len() == 1 && token.as_bytes()[0].is_ascii_alphanumeric() {
            // More than one blank between letters is the blank between words.
            let gap = self.run.letters > 0 && at > self.run.end + 1;
            self.add(token, gap, at, at + 1);
            return None;
        }
        if let Some(word) = dotted(token) {
            self.add(&word, true, at, at + token.len());
            return None;
        }
        self.finish()
    }

    pub(super) fn finish(&mut self) -> Option<Spelled> {
        let run = std::mem::take(&mut self.run);
        (run.letters >= LETTERS_MIN).then_some(run)
    }

    fn add(&mut self, letters: &str, gap: bool, start: usize, end: usize) {
        if self.run.letters == 0 {
            self.run.start = start;
        } else if gap {
            self.run.text.push(' ');
        }
        self.run.text.push_str(letters);
        self.run.letters += letters.len();
        self.run.end = end;
    }
}

/// The letters of `i.g.n.o.r.e`: one separator, the same all through, single letters between.
fn dotted(token: &str) -> Option<String> {
    let bytes = token.as_bytes();
    let separator = *bytes.get(1)?;
    let separates = matches!(separator, b'.' | b'-' | b'_' | b'*' | b'|' | b'/' | b'+' | b'~');
    if !separates || bytes.len() < 5 || bytes.len().is_multiple_of(2) {
        return None;
    }
    let fits = |(place, byte): (usize, &u8)| {
        if place % 2 == 0 { byte.is_ascii_alphanumeric() } else { *byte == separator }
    };
    let spelled = bytes.iter().enumerate().all(fits);
    spelled.then(|| bytes.iter().step_by(2).map(|byte| char::from(*byte)).collect())
}

/// The text with digits and signs inside words read as letters, byte for byte; `one` is what `1` stands for.
/// Nothing if no word mixes them.
pub(in crate::inference) fn leetspeak(text: &str, one: u8) -> Option<String> {
    let mut bytes = text.as_bytes().to_vec();
    let mut changed = false;
    for word in bytes.split_mut(|byte| *byte == b' ') {
        let letters = word.iter().filter(|byte| byte.is_ascii_alphabetic()).count();
        let signs = word.iter().filter(|byte| letter(**byte, one).is_some()).count();
        if letters == 0 || signs == 0 || word.len() > TOKEN_BYTES_MAX {
            continue;
        }
        let last = word.len() - 1;
        for (place, byte) in word.iter_mut().enumerate() {
            // A mark at the end of a word is punctuation.
            let punctuation = place == last && matches!(byte, b'!' | b'|');
            if let Some(read) = letter(*byte, one).filter(|_| !punctuation) {
                *byte = read;
                changed = true;
            }
        }
    }
    if changed { String::from_utf8(bytes).ok() } else { None }
}

fn letter(byte: u8, one: u8) -> Option<u8> {
    match byte {
        b'0' => Some(b'o'),
        b'1' => Some(one),
        b'!' => Some(b'i'),
        b'|' => Some(b'l'),
        b'3' => Some(b'e'),
        b'4' | b'@' => Some(b'a'),
        b'5' | b'$' => Some(b's'),
        b'7' => Some(b't'),
        b'8' => Some(b'b'),
        b'9' => Some(b'g'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leetspeak_reads_signs_as_letters_only_inside_words() {
        assert_eq!(
            leetspeak("1gn0r3 4ll pr3v10us!", b'i').as_deref(),
            Some("ignore all previous!")
        );
        assert_eq!(leetspeak("ru1es", b'l').as_deref(), Some("rules"));
        assert_eq!(leetspeak("room 12 at 10:30", b'i'), None);
    }
}
