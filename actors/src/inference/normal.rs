//! A text as the rules and the model see it: lower case, compatibility forms unfolded, marks and invisible characters
//! gone, look-alike letters in mixed words made Latin, white space one blank. Every byte knows where it came from.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use super::confusables;

/// Letters that a word needs before a foreign look-alike in it counts as a trick: `µm` and `Δt` are not.
const HOMOGLYPH_LETTERS_MIN: usize = 4;

/// The normal form of one text.
#[derive(Debug, Default)]
pub(super) struct Normal {
    pub(super) text: String,
    /// For each byte of `text` the character (not byte) of the original it stands for.
    origins: Vec<u32>,
    /// Bytes of `text` that begin a line of the original.
    pub(super) line_starts: Vec<u32>,
    /// Characters of the original.
    pub(super) characters: u32,
    /// Words that mixed Latin with look-alikes, as character ranges of the original.
    pub(super) homoglyphs: Vec<(u32, u32)>,
}

impl Normal {
    pub(super) fn of(text: &str) -> Normal {
        let mut normal = Normal::default();
        normal.text.reserve(text.len());
        normal.origins.reserve(text.len());
        normal.line_starts.push(0);
        if text.is_ascii() {
            normal.read_ascii(text.as_bytes());
        } else {
            Reader { normal: &mut normal, word: Word::default() }.read(text);
        }
        normal
    }

    /// The same places with other letters; for rewrites that keep every byte where it is.
    pub(super) fn rewritten(&self, text: String) -> Normal {
        debug_assert_eq!(text.len(), self.text.len());
        Normal {
            text,
            origins: self.origins.clone(),
            line_starts: self.line_starts.clone(),
            characters: self.characters,
            homoglyphs: Vec::new(),
        }
    }

    /// Character range in the original of a non-empty byte range of the normal text.
    pub(super) fn origin(&self, start: usize, end: usize) -> (u32, u32) {
        let first = self.origins.get(start).copied().unwrap_or(self.characters);
        let last = end.checked_sub(1).and_then(|at| self.origins.get(at)).copied();
        (first, last.map_or(first, |last| last + 1).max(first))
    }

    pub(super) fn starts_line(&self, at: usize) -> bool {
        self.line_starts.binary_search(&(at as u32)).is_ok()
    }

    fn read_ascii(&mut self, bytes: &[u8]) {
        for (index, &byte) in bytes.iter().enumerate() {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                    self.blank(index as u32, byte == b'\n')
                }
                0x20..=0x7e => self.push(char::from(byte.to_ascii_lowercase()), index as u32),
                _ => {}
            }
        }
        self.characters = bytes.len() as u32;
    }

    fn push(&mut self, c: char, origin: u32) {
        self.text.push(c);
        for _ in 0..c.len_utf8() {
            self.origins.push(origin);
        }
    }

    fn blank(&mut self, origin: u32, line_ends: bool) {
        if !self.text.ends_with(' ') && !self.text.is_empty() {
            self.push(' ', origin);
        }
        if line_ends {
            let here = self.text.len() as u32;
            if self.line_starts.last() != Some(&here) {
                self.line_starts.push(here);
            }
        }
    }
}

/// Reads a text with characters beyond ASCII.
struct Reader<'n> {
    normal: &'n mut Normal,
    word: Word,
}

/// What is known of the word being read.
#[derive(Default)]
struct Word {
    start: usize,
    letters: usize,
    latin: usize,
    /// Where look-alikes stand, and the Latin letter for each.
    alike: Vec<(usize, char)>,
    /// A letter that is neither Latin nor like Latin: the word is honest in its own script.
    foreign: bool,
}

impl Reader<'_> {
    fn read(mut self, text: &str) {
        let mut index = 0;
        for c in text.chars() {
            self.character(c, index);
            index += 1;
        }
        self.end_word();
        self.normal.characters = index;
    }

    fn character(&mut self, c: char, index: u32) {
        match c {
            _ if c.is_ascii() => self.plain(c, index),
            _ if is_invisible(c) => {}
            '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{2032}' | '\u{2bc}' => {
                self.plain('\'', index)
            }
            '\u{201c}'..='\u{201f}' | '\u{ab}' | '\u{bb}' | '\u{2033}' => self.plain('"', index),
            '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{2043}' => self.plain('-', index),
            _ if confusables::latin(c).is_some() => self.letter(c, index),
            _ => {
                for part in std::iter::once(c).nfkd().filter(|part| !is_combining_mark(*part)) {
                    self.plain(part, index);
                }
            }
        }
    }

    fn plain(&mut self, c: char, index: u32) {
        if c.is_whitespace() {
            self.end_word();
            self.normal.blank(index, c == '\n' || c == '\u{2028}' || c == '\u{2029}');
        } else if c.is_alphabetic() {
            self.letter(c, index);
        } else if !c.is_control() {
            if !c.is_ascii_digit() {
                self.end_word();
            }
            self.normal.push(c, index);
        }
    }

    fn letter(&mut self, c: char, index: u32) {
        if self.word.letters == 0 {
            self.word.start = self.normal.text.len();
        }
        self.word.letters += 1;
        if c.is_ascii() {
            self.word.latin += 1;
        } else if let Some(latin) = confusables::latin(c) {
            self.word.alike.push((self.normal.text.len(), latin));
        } else {
            self.word.foreign = true;
        }
        for lower in c.to_lowercase() {
            self.normal.push(lower, index);
        }
    }

    fn end_word(&mut self) {
        let word = std::mem::take(&mut self.word);
        let mixed = word.latin >= 2 && !word.alike.is_empty() && !word.foreign;
        if mixed && word.letters >= HOMOGLYPH_LETTERS_MIN {
            self.make_latin(&word);
        }
    }

    /// Writes the word again with Latin letters in the places of their look-alikes.
    fn make_latin(&mut self, word: &Word) {
        let (start, end) = (word.start, self.normal.text.len());
        let range = self.normal.origin(start, end);
        self.normal.homoglyphs.push(range);
        let tail = self.normal.text.split_off(start);
        let origins = self.normal.origins.split_off(start);
        for (at, c) in tail.char_indices() {
            let alike = word.alike.iter().find(|(place, _)| *place == start + at);
            self.normal.push(alike.map_or(c, |(_, latin)| *latin), origins[at]);
        }
    }
}

/// Characters that print nothing: joiners, marks of direction, tags, variation selectors, soft hyphen.
pub(super) fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let normal = Normal::of(text);
        assert_eq!(normal.text, expected);
        assert_eq!(normal.origins.len(), normal.text.len());
        assert_eq!(normal.characters as usize, text.chars().count());
    }

    #[test]
    fn case_space_marks_and_compatibility_forms_are_folded() {
        check("  Ignore\t\tALL \n rules ", "ignore all rules ");
        check("ｉｇｎｏｒｅ 𝐚𝐥𝐥 ﬁles", "ignore all files");
        check("ígnóre “all” rules — now", "ignore \"all\" rules - now");
        check("i\u{200b}gn\u{2060}ore\u{feff}", "ignore");
    }

    #[test]
    fn only_mixed_words_are_made_latin() {
        check("ignоre аll", "ignore аll");
        check("Поезд приходит, SQLом", "поезд приходит, sqlом");
        check("10 μm and Δt, α-helix", "10 μm and δt, α-helix");
        assert_eq!(Normal::of("x ignоre").homoglyphs, [(2, 8)]);
    }

    #[test]
    fn places_lead_back_to_characters_of_the_original() {
        let normal = Normal::of("é\u{200b}  ＡＢ\ncd");
        assert_eq!(normal.text, "e ab cd");
        assert_eq!(normal.origin(2, 4), (4, 6));
        assert_eq!(normal.origin(5, 7), (7, 9));
        assert!(normal.starts_line(5) && normal.starts_line(0) && !normal.starts_line(2));
    }
}
