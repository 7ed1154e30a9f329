//! Personal data with its own check where it has one: cards (Luhn), IBAN (mod 97), SSN ranges, e-mail, phone, IP.
//!
//! Numbers worth stealing (card, SSN, IBAN) weigh `High`; a way to reach a person is `Low`, and `High` in bulk.

use super::{
    detect::{Findings, Hit},
    normal::Normal,
    verdict::{Class, Severity},
};

/// Contacts in one text from which it is a list of people and not a signature.
const BULK_MIN: usize = 8;
/// Findings kept of one text.
const PLACES_MAX: usize = 64;

struct Finder<'t> {
    bytes: &'t [u8],
    hits: Vec<(&'static str, Severity, usize, usize)>,
}

/// Adds the personal data of a normal form.
pub(super) fn find(normal: &Normal, found: &mut Findings) {
    let mut finder = Finder { bytes: normal.text.as_bytes(), hits: Vec::new() };
    finder.walk();
    let contacts = finder.hits.iter().filter(|hit| hit.1 == Severity::Low).count();
    for (detail, severity, start, end) in finder.hits {
        let bulk = severity == Severity::Low && contacts >= BULK_MIN;
        let severity = if bulk { Severity::High } else { severity };
        found.push(
            Hit::new(Class::PersonalData, severity, normal.origin(start, end)).detail(detail),
        );
    }
}

impl Finder<'_> {
    fn walk(&mut self) {
        let mut at = 0;
        while at < self.bytes.len() && self.hits.len() < PLACES_MAX {
            at = match self.bytes[at] {
                b'@' => self.email(at),
                b'0'..=b'9' | b'+' | b'(' if self.begins_number(at) => self.number(at),
                b'a'..=b'z'
                    if self.begins_word(at) && self.digit_at(at + 2) && self.digit_at(at + 3) =>
                {
                    self.iban(at)
                }
                _ => at + 1,
            };
        }
    }

    fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(b' ')
    }

    fn digit_at(&self, at: usize) -> bool {
        self.byte(at).is_ascii_digit()
    }

    fn begins_word(&self, at: usize) -> bool {
        at == 0 || !self.bytes[at - 1].is_ascii_alphanumeric()
    }

    fn begins_number(&self, at: usize) -> bool {
        let after_sign = self.bytes[at].is_ascii_digit() || self.digit_at(at + 1);
        after_sign
            && (at == 0
                || !matches!(self.bytes[at - 1], b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'#' | b'$'))
    }

    fn email(&mut self, at: usize) -> usize {
        let local = |byte: &u8| byte.is_ascii_alphanumeric() || b"._%+-".contains(byte);
        let start =
            at - self.bytes[..at].iter().rev().take(64).take_while(|byte| local(byte)).count();
        let host = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
        let mut end =
            at + 1 + self.bytes[at + 1..].iter().take(253).take_while(|byte| host(byte)).count();
        while end > at + 1 && matches!(self.bytes[end - 1], b'.' | b'-') {
            end -= 1;
        }
        let domain = &self.bytes[at + 1..end];
        let top = domain.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        let letters = top.len() >= 2 && top.iter().all(u8::is_ascii_alphabetic);
        if start < at && letters && top.len() < domain.len() {
            self.hits.push(("email", Severity::Low, start, end));
        }
        end.max(at + 1)
    }

    /// Reads one run of digits with the separators that cards, phones, SSNs and addresses use.
    fn number(&mut self, start: usize) -> usize {
        let mut end = start;
        let mut digits = Vec::with_capacity(20);
        let mut groups = 1;
        while digits.len() < 20 {
            let byte = self.byte(end);
            if byte.is_ascii_digit() {
                digits.push(byte - b'0');
            } else if self.separates(end) {
                groups += usize::from(end > start && !digits.is_empty());
            } else {
                break;
            }
            end += 1;
        }
        while end > start && !self.bytes[end - 1].is_ascii_digit() {
            end -= 1;
        }
        let glued = self.byte(end).is_ascii_alphanumeric() || self.byte(end) == b'_';
        let kind = if glued { None } else { self.kind(start, end, &digits, groups) };
        if let Some((detail, severity)) = kind {
            self.hits.push((detail, severity, start, end));
        }
        end.max(start + 1)
    }

    /// Whether the byte may stand inside a number: one blank, dot or dash before a digit, brackets around a prefix.
    fn separates(&self, at: usize) -> bool {
        let next = self.byte(at + 1);
        match self.byte(at) {
            b'+' | b'(' => next.is_ascii_digit(),
            b')' => next == b' ' || next == b'-' || next.is_ascii_digit(),
            b' ' | b'-' | b'.' => next.is_ascii_digit() || (next == b'(' && self.digit_at(at + 2)),
            _ => false,
        }
    }

    fn kind(
        &self,
        start: usize,
        end: usize,
        digits: &[u8],
        groups: usize,
    ) -> Option<(&'static str, Severity)> {
        let text = &self.bytes[start..end];
        if is_ssn(text) {
            return Some(("ssn", Severity::High));
        }
        if is_ip(text) {
            return Some(("ip", Severity::Low));
        }
        if (13..=19).contains(&digits.len()) && is_card(digits, text) {
            return Some(("credit_card", Severity::High));
        }
        if (10..=15).contains(&digits.len()) && is_phone(text, digits, groups) {
            return Some(("phone", Severity::Low));
        }
        None
    }

    fn iban(&mut self, start: usize) -> usize {
        let mut characters = Vec::with_capacity(34);
        let mut end = start;
        while characters.len() < 34 {
            let byte = self.byte(end);
            if byte.is_ascii_alphanumeric() {
                characters.push(byte);
            } else if !(byte == b' '
                && characters.len() % 4 == 0
                && self.byte(end + 1).is_ascii_alphanumeric())
            {
                break;
            }
            end += 1;
            if is_iban(&characters) && !self.byte(end).is_ascii_alphanumeric() {
                self.hits.push(("iban", Severity::High, start, end));
                return end;
            }
        }
        start + 4
    }
}

/// Three, two and four digits with dashes or blanks, in ranges that were ever issued.
fn is_ssn(text: &[u8]) -> bool {
    let [a, b, c, s, d, e, t, f, g, h, i] = text else { return false };
    let digits = [a, b, c, d, e, f, g, h, i].iter().all(|byte| byte.is_ascii_digit());
    let area = [*a, *b, *c];
    let issued = area != *b"000"
        && area != *b"666"
        && *a != b'9'
        && [*d, *e] != *b"00"
        && [*f, *g, *h, *i] != *b"0000";
    digits && s == t && matches!(s, b'-' | b' ') && issued
}

fn is_ip(text: &[u8]) -> bool {
    let mut parts = 0;
    for part in text.split(|byte| *byte == b'.') {
        let fits = (1..=3).contains(&part.len()) && part.iter().all(u8::is_ascii_digit);
        let digit = |byte: &u8| u32::from(byte.wrapping_sub(b'0'));
        if !fits || part.iter().fold(0, |value, byte| value * 10 + digit(byte)) > 255 {
            return false;
        }
        parts += 1;
    }
    // 1.2.3.4 is a version or a section more often than a host.
    parts == 4 && text.len() >= 9
}

fn is_card(digits: &[u8], text: &[u8]) -> bool {
    let separated = text.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b' ' | b'-'));
    let issuer = matches!(
        digits,
        [3, 4 | 7 | 0 | 6 | 8, ..] | [4, ..] | [5, 1..=5, ..] | [2, 2..=7, ..] | [6, 0 | 4 | 5, ..]
    );
    let varied = digits.iter().any(|digit| *digit != digits[0]);
    separated && issuer && varied && luhn(digits)
}

fn luhn(digits: &[u8]) -> bool {
    let doubled = |digit: u8| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| u32::from(if place % 2 == 1 { doubled(*digit) } else { *digit }))
        .sum();
    sum.is_multiple_of(10)
}

/// An international prefix, or the shape of a number written for people to dial. Bare digits are an order number.
fn is_phone(text: &[u8], digits: &[u8], groups: usize) -> bool {
    let international = text[0] == b'+';
    let bracketed = text[0] == b'(' && digits.len() == 10;
    let national = digits.len() == 10
        && groups == 3
        && matches!(text, [_, _, _, b'-' | b'.' | b' ', _, _, _, b'-' | b'.' | b' ', ..]);
    let trunk = (10..=12).contains(&digits.len())
        && digits[0] == 0
        && (2..=6).contains(&groups)
        && text.contains(&b' ');
    international || bracketed || national || trunk
}

/// Country, length and the remainder 1 of ISO 13616.
fn is_iban(characters: &[u8]) -> bool {
    if characters.len() < 15 || !characters[..2].iter().all(u8::is_ascii_lowercase) {
        return false;
    }
    let rearranged = characters[4..].iter().chain(&characters[..4]);
    let mut remainder = 0u32;
    for byte in rearranged {
        remainder = match byte {
            b'0'..=b'9' => remainder * 10 + u32::from(byte - b'0'),
            _ => remainder * 100 + u32::from(byte - b'a') + 10,
        } % 97;
    }
    remainder == 1 && characters.iter().filter(|byte| byte.is_ascii_digit()).count() >= 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let normal = Normal::of(text);
        let mut found = Findings::default();
        find(&normal, &mut found);
        let cut = |hit: &Hit| {
            text.chars()
                .skip(hit.start as usize)
                .take((hit.end - hit.start) as usize)
                .collect::<String>()
        };
        let reasons: Vec<String> =
            found.hits.iter().map(|hit| format!("{} {}", hit.detail, cut(hit))).collect();
        assert_eq!(reasons, expected, "{text:?}");
    }

    #[test]
    fn each_kind_is_found_with_its_check() {
        check("Mail Anna.Becker@Example.com now.", &["email Anna.Becker@Example.com"]);
        check("SSN 219-09-9999.", &["ssn 219-09-9999"]);
        check("card 4111 1111 1111 1111 exp", &["credit_card 4111 1111 1111 1111"]);
        check("IBAN DE89 3704 0044 0532 0130 00 please", &["iban DE89 3704 0044 0532 0130 00"]);
        check("GB29NWBK60161331926819", &["iban GB29NWBK60161331926819"]);
        check(
            "call +49 30 1234 5678 or (212) 555-0147",
            &["phone +49 30 1234 5678", "phone (212) 555-0147"],
        );
        check("from 192.168.10.24 at noon", &["ip 192.168.10.24"]);
    }

    #[test]
    fn look_alikes_are_left_alone() {
        check("order 4111111111111112, id 000-12-3456, 666-12-3456", &[]);
        check("version 1.2.3.4, 10.5.2, 300.1.1.1000, 2024-05-17 10:22:33", &[]);
        check("user@localhost, @handle, a@b", &[]);
        check("1234567890 1700000000000 3.14159265358979", &[]);
        check("0000 0000 0000 0000", &[]);
        check("DE89370400440532013001", &[]);
    }
}
