//! Characters that hide or disguise text.

use super::{
    detect::{Findings, Hit},
    normal::Normal,
    verdict::{Class, Severity},
};

/// Places kept per kind; a text of invisible characters has thousands.
const PLACES_MAX: usize = 16;
/// Letters of mathematical alphabets before they count: one `ℝ` or a 𝐛 in a formula is mathematics.
const STYLED_MIN: usize = 8;
/// Control characters before they weigh more than a copied form feed.
const CONTROLS_MIN: usize = 3;
/// Words with look-alikes from which it is no slip of the keyboard.
const HOMOGLYPH_WORDS_MIN: usize = 2;

/// Runs of suspicious characters, as character ranges.
#[derive(Default)]
struct Runs {
    places: Vec<(u32, u32)>,
    characters: usize,
}

impl Runs {
    fn add(&mut self, at: u32) {
        self.characters += 1;
        if let Some(last) = self.places.last_mut().filter(|last| last.1 == at) {
            last.1 = at + 1;
        } else if self.places.len() < PLACES_MAX {
            self.places.push((at, at + 1));
        }
    }

    fn report(&self, severity: Severity, detail: &'static str, found: &mut Findings) {
        for place in &self.places {
            found.push(Hit::new(Class::UnicodeObfuscation, severity, *place).detail(detail));
        }
    }
}

/// Adds what the characters of the text themselves give away.
pub(super) fn find(text: &str, normal: &Normal, found: &mut Findings) {
    if text.bytes().all(|byte| matches!(byte, 0x20..=0x7e | b'\n' | b'\t' | b'\r')) {
        return;
    }
    let mut seen = Seen::default();
    let mut before = '\n';
    let mut rest = text.chars().peekable();
    let mut at = 0;
    while let Some(c) = rest.next() {
        seen.character(c, before, rest.peek().copied().unwrap_or('\n'), at);
        before = c;
        at += 1;
    }
    seen.report(found);
    homoglyphs(normal, found);
}

#[derive(Default)]
struct Seen {
    zero_width: Runs,
    bidi_override: Runs,
    bidi_mark: Runs,
    tags: Runs,
    selectors: Runs,
    controls: Runs,
    styled: Runs,
    right_to_left: bool,
    in_flag: bool,
}

impl Seen {
    fn character(&mut self, c: char, before: char, after: char, at: u32) {
        match c {
            // A black flag followed by tags is an emoji (the flag of Scotland).
            '\u{1f3f4}' => self.in_flag = true,
            '\u{e0001}'..='\u{e007f}' if self.in_flag => self.in_flag = c != '\u{e007f}',
            '\u{e0001}'..='\u{e007f}' => self.tags.add(at),
            // One selector after a base is typography; a run of them carries bytes.
            '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' if is_selector(before) => {
                self.selectors.add(at)
            }
            '\u{202d}' | '\u{202e}' => self.bidi_override.add(at),
            '\u{202a}'..='\u{202c}' | '\u{2066}'..='\u{2069}' => self.bidi_mark.add(at),
            '\u{200b}'
            | '\u{2060}'..='\u{2064}'
            | '\u{180e}'
            | '\u{200c}'
            | '\u{200d}'
            | '\u{ad}'
            | '\u{feff}'
                if joins_latin(before, after) =>
            {
                self.zero_width.add(at);
            }
            '\u{1d400}'..='\u{1d7ff}' | '\u{24b6}'..='\u{24e9}' | '\u{1f130}'..='\u{1f189}' => {
                self.styled.add(at)
            }
            '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}' => {
                self.right_to_left = true
            }
            '\n' | '\t' | '\r' => {}
            _ if c.is_control() => self.controls.add(at),
            _ => self.in_flag = false,
        }
    }

    fn report(&self, found: &mut Findings) {
        let zero_width =
            if self.zero_width.characters >= 2 { Severity::High } else { Severity::Medium };
        self.zero_width.report(zero_width, "zero_width", found);
        self.tags.report(Severity::High, "tag_characters", found);
        self.bidi_override.report(Severity::High, "bidi_override", found);
        if !self.right_to_left {
            self.bidi_mark.report(Severity::Medium, "bidi_mark", found);
        }
        let selectors = if self.selectors.characters >= 4 { Severity::High } else { Severity::Low };
        self.selectors.report(selectors, "variation_selectors", found);
        if self.styled.characters >= STYLED_MIN {
            self.styled.report(Severity::Medium, "styled_letters", found);
        }
        let controls =
            if self.controls.characters >= CONTROLS_MIN { Severity::Medium } else { Severity::Low };
        self.controls.report(controls, "control_characters", found);
        found.unicode = self.strength();
    }

    fn strength(&self) -> f32 {
        let runs = [
            (&self.zero_width, 0.3),
            (&self.tags, 0.25),
            (&self.bidi_override, 0.8),
            (&self.bidi_mark, 0.2),
            (&self.selectors, 0.2),
            (&self.controls, 0.15),
            (&self.styled, 0.03),
        ];
        runs.iter().map(|(runs, weight)| runs.characters as f32 * weight).sum::<f32>().min(1.0)
    }
}

fn homoglyphs(normal: &Normal, found: &mut Findings) {
    let words = normal.homoglyphs.len();
    let severity = if words >= HOMOGLYPH_WORDS_MIN { Severity::High } else { Severity::Medium };
    for place in normal.homoglyphs.iter().take(PLACES_MAX) {
        found.push(Hit::new(Class::UnicodeObfuscation, severity, *place).detail("homoglyphs"));
    }
    found.homoglyphs = (words as f32 * 0.4).min(1.0);
}

fn is_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Joiners belong in emoji and in Persian, Hindi and other scripts; inside a Latin word they hide something.
fn joins_latin(before: char, after: char) -> bool {
    let latin = |c: char| c.is_ascii_alphanumeric();
    let invisible = super::normal::is_invisible;
    (latin(before) || invisible(before)) && (latin(after) || invisible(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let mut found = Findings::default();
        find(text, &Normal::of(text), &mut found);
        let reasons: Vec<String> = found
            .hits
            .iter()
            .map(|hit| format!("{}-{} {}", hit.start, hit.end, hit.detail))
            .collect();
        assert_eq!(reasons, expected, "{text:?}");
    }

    #[test]
    fn hidden_characters_are_found_where_they_stand() {
        check("ig\u{200b}no\u{200d}re", &["2-3 zero_width", "5-6 zero_width"]);
        check("pay \u{202e}txt.exe", &["4-5 bidi_override"]);
        check("ok \u{e0069}\u{e0067}", &["3-5 tag_characters"]);
        check("pаsswоrd раypal", &["0-8 homoglyphs", "9-15 homoglyphs"]);
        check("a\u{fe0f}\u{fe01}\u{fe02}\u{fe03}\u{fe04}", &["2-6 variation_selectors"]);
    }

    #[test]
    fn honest_scripts_and_emoji_are_left_alone() {
        check(
            "👨‍👩‍👧 family, 🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f} Scotland ❤️",
            &[],
        );
        check("می‌خواهم کتاب بخوانم", &[]);
        check("Поезд приходит вечером", &[]);
        check("שלום \u{2066}world\u{2069}", &[]);
        check("\u{feff}A file with a byte order mark", &[]);
    }
}
