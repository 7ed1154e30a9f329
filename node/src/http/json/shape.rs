//! Reads a [`Value`] into a request type and notes every mistake with its JSON pointer.
//!
//! A reader returns `None` after it has noted why, so nobody has to carry errors: ask for every field
//! first, then build the result with `?`. Whatever it returns is thrown away if anything was noted.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::tree::Value;
use crate::http::body;
use crate::http::error::{MISTAKES_MAX, Mistake, Problem};

/// A type that a JSON object can be read into.
pub trait FromShape: Sized + Send + 'static {
    /// Largest body in bytes.
    const BODY_BYTES_MAX: usize = body::BODY_BYTES_MAX;

    /// Asks for each field; those that are left over are mistakes.
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self>;
}

/// Reads a whole body.
pub(super) fn read<T: FromShape>(value: Value<'_>, findings: &Findings) -> Option<T> {
    Item { value, at: Pointer::Root, findings, excess_is_413: false }.object(T::from_shape)
}

/// The mistakes so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    mistakes: RefCell<Vec<Mistake>>,
    excess: Cell<Option<(u64, u64)>>,
}

impl Findings {
    fn note(&self, at: Pointer<'_>, detail: impl Display) {
        let mut mistakes = self.mistakes.borrow_mut();
        if mistakes.len() < MISTAKES_MAX {
            mistakes.push(Mistake { pointer: at.render(), detail: detail.to_string() });
        }
    }

    /// 413 before 422: sizes are checked before meaning.
    pub(super) fn conclude(self) -> Result<(), Problem> {
        if let Some((limit, got)) = self.excess.get() {
            return Err(Problem::too_large(limit, got));
        }
        match self.mistakes.into_inner() {
            none if none.is_empty() => Ok(()),
            mistakes => Err(Problem::validation(mistakes)),
        }
    }
}

/// Where we are; a chain on the stack, so that a path costs nothing until it is needed.
#[derive(Clone, Copy)]
enum Pointer<'a> {
    Root,
    Key(&'a Pointer<'a>, &'a str),
    Index(&'a Pointer<'a>, usize),
}

impl Pointer<'_> {
    fn render(self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Key(parent, key) => format!("{}/{}", parent.render(), escape(key)),
            Self::Index(parent, index) => format!("{}/{index}", parent.render()),
        }
    }
}

/// Escapes a key for a JSON pointer.
pub(super) fn escape(key: &str) -> Cow<'_, str> {
    if key.contains(['~', '/']) {
        return key.replace('~', "~0").replace('/', "~1").into();
    }
    key.into()
}

/// An object whose fields are being asked for.
pub struct Object<'a, 'v> {
    fields: Vec<(Cow<'v, str>, Value<'v>)>,
    at: Pointer<'a>,
    findings: &'a Findings,
}

impl std::fmt::Debug for Object<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be documents or keys; only the names are shown.
        f.debug_list().entries(self.fields.iter().map(|(key, _)| key)).finish()
    }
}

impl<'v> Object<'_, 'v> {
    /// A field that has to be there and is not `null`.
    pub fn required<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Item<'_, 'v>) -> Option<T>,
    ) -> Option<T> {
        match self.take(name) {
            Some(value) => self.item(name, value, read),
            None => {
                self.mistake(name, "is missing");
                None
            }
        }
    }

    /// A field that may be absent; `null` is the same as absent.
    pub fn optional<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Item<'_, 'v>) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(name).filter(|value| *value != Value::Null)?;
        self.item(name, value, read)
    }

    /// A field where `null` means something: absent is `None`, `null` is `Some(None)`.
    pub fn nullable<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Item<'_, 'v>) -> Option<T>,
    ) -> Option<Option<T>> {
        let value = self.take(name)?;
        if value == Value::Null {
            return Some(None);
        }
        self.item(name, value, read).map(Some)
    }

    /// A documented field that this build cannot honour: its presence is a mistake.
    pub fn lacking(&mut self, name: &str, why: &str) {
        if self.take(name).is_some_and(|value| value != Value::Null) {
            self.mistake(name, why);
        }
    }

    /// Notes a mistake at a field that only several fields together show.
    pub fn mistake(&self, name: &str, detail: impl Display) {
        self.findings.note(Pointer::Key(&self.at, name), detail);
    }

    fn take(&mut self, name: &str) -> Option<Value<'v>> {
        let at = self.fields.iter().position(|(key, _)| key == name)?;
        // Order matters for the report of unknown fields only, and objects are short.
        Some(self.fields.remove(at).1)
    }

    fn item<T>(
        &self,
        name: &str,
        value: Value<'v>,
        read: impl FnOnce(Item<'_, 'v>) -> Option<T>,
    ) -> Option<T> {
        let at = Pointer::Key(&self.at, name);
        read(Item { value, at, findings: self.findings, excess_is_413: false })
    }

    fn finish(self) {
        for (name, _) in self.fields.iter().take(MISTAKES_MAX) {
            self.mistake(name, "is not a field of this request");
        }
    }
}

/// One value, with the place it came from.
pub struct Item<'a, 'v> {
    value: Value<'v>,
    at: Pointer<'a>,
    findings: &'a Findings,
    excess_is_413: bool,
}

impl std::fmt::Debug for Item<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.value.kind())
    }
}

impl<'v> Item<'_, 'v> {
    /// Over the maximum of the next reader is 413 `too_large` instead of 422.
    #[must_use]
    pub fn excess_is_413(mut self) -> Self {
        self.excess_is_413 = true;
        self
    }

    /// Notes a mistake at this value.
    pub fn wrong<T>(self, detail: impl Display) -> Option<T> {
        self.findings.note(self.at, detail);
        None
    }

    /// Text of so many characters (Unicode scalar values), whatever they are.
    pub fn text(self, characters: RangeInclusive<usize>) -> Option<String> {
        let (text, rest) = self.take_text()?;
        // Counting is skipped where the bytes already settle it.
        let count = if text.len() <= *characters.start() || text.len() > *characters.end() {
            text.chars().count()
        } else {
            text.len()
        };
        if *characters.start() == 1 && text.is_empty() {
            return rest.wrong("must not be empty");
        }
        rest.bounded(count, &characters, "characters")?;
        Some(text.into_owned())
    }

    /// Text that a parser of the domain accepts; the parser's error is the detail.
    pub fn parsed<T, E: Display>(self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let (text, rest) = self.take_text()?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(cause) => rest.wrong(cause),
        }
    }

    /// One of a few words.
    pub fn one_of<T: Copy>(self, words: &[(&str, T)]) -> Option<T> {
        let (text, rest) = self.take_text()?;
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Some(*value),
            None => {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                rest.wrong(format_args!("must be one of {}", words.join(", ")))
            }
        }
    }

    /// A whole number in a range. `1.0`, `"1"` and numbers beyond the type are mistakes.
    pub fn integer<T>(self, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + PartialOrd + Display + TryFrom<i128>,
    {
        let (low, high) = (*range.start(), *range.end());
        let Value::Integer(number) = self.value else {
            if matches!(self.value, Value::Float(_)) {
                return self.wrong(format_args!("must be an integer, {low} to {high}"));
            }
            return self.expected("an integer");
        };
        match T::try_from(number).ok().filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => self.wrong(format_args!("must be {low} to {high}")),
        }
    }

    /// Any number in a range.
    pub fn number(self, range: RangeInclusive<f64>) -> Option<f64> {
        let number = match self.value {
            Value::Integer(number) => number as f64,
            Value::Float(number) => number,
            Value::Null | Value::Bool(_) | Value::Text(_) | Value::List(_) | Value::Object(_) => {
                return self.expected("a number");
            }
        };
        if range.contains(&number) {
            return Some(number);
        }
        self.wrong(format_args!("must be {} to {}", range.start(), range.end()))
    }

    /// `true` or `false`.
    pub fn boolean(self) -> Option<bool> {
        let Value::Bool(flag) = self.value else { return self.expected("a boolean") };
        Some(flag)
    }

    /// An array of so many items. All items are read, also after a bad one.
    pub fn list<T>(
        mut self,
        lengths: RangeInclusive<usize>,
        mut read: impl FnMut(Item<'_, 'v>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::List(items) = std::mem::replace(&mut self.value, Value::Null) else {
            return self.expected("an array");
        };
        let (at, findings) = (self.at, self.findings);
        self.bounded(items.len(), &lengths, "items")?;
        let mut list = Vec::with_capacity(items.len());
        for (index, value) in items.into_iter().enumerate() {
            let at = Pointer::Index(&at, index);
            list.extend(read(Item { value, at, findings, excess_is_413: false }));
        }
        Some(list)
    }

    /// An object with known fields.
    pub fn object<T>(mut self, read: impl FnOnce(&mut Object<'_, 'v>) -> Option<T>) -> Option<T> {
        let Value::Object(fields) = self.take_if_object()? else { return None };
        let mut object = Object { fields, at: self.at, findings: self.findings };
        let value = read(&mut object);
        object.finish();
        value
    }

    /// An object with keys of the caller's choice.
    pub fn map<T>(
        mut self,
        lengths: RangeInclusive<usize>,
        mut read: impl FnMut(&str, Item<'_, 'v>) -> Option<T>,
    ) -> Option<Vec<(String, T)>> {
        let Value::Object(fields) = self.take_if_object()? else { return None };
        let (at, findings) = (self.at, self.findings);
        self.bounded(fields.len(), &lengths, "fields")?;
        let mut map = Vec::with_capacity(fields.len());
        for (key, value) in fields {
            let item = Item { value, at: Pointer::Key(&at, &key), findings, excess_is_413: false };
            let value = read(&key, item);
            map.extend(value.map(|value| (key.into_owned(), value)));
        }
        Some(map)
    }

    /// Any value, only carried.
    pub fn json(self) -> Option<serde_json::Value> {
        Some(self.value.into_json())
    }

    fn take_text(mut self) -> Option<(Cow<'v, str>, Self)> {
        let Value::Text(text) = &mut self.value else { return self.expected("a string") };
        let text = std::mem::take(text);
        Some((text, self))
    }

    fn take_if_object(&mut self) -> Option<Value<'v>> {
        if matches!(self.value, Value::Object(_)) {
            return Some(std::mem::replace(&mut self.value, Value::Null));
        }
        self.findings.note(self.at, format_args!("must be an object but is {}", self.value.kind()));
        None
    }

    fn bounded(self, got: usize, range: &RangeInclusive<usize>, unit: &str) -> Option<()> {
        if range.contains(&got) {
            return Some(());
        }
        let (low, high) = (*range.start(), *range.end());
        if self.excess_is_413 && got > high {
            let excess = self.findings.excess.get();
            self.findings.excess.set(excess.or(Some((high as u64, got as u64))));
            return None;
        }
        self.wrong(format_args!("must have {low} to {high} {unit} but has {got}"))
    }

    fn expected<T>(self, what: &str) -> Option<T> {
        if self.value == Value::Null {
            return self.wrong(format_args!("must be {what}, not null"));
        }
        let kind = self.value.kind();
        self.wrong(format_args!("must be {what} but is {kind}"))
    }
}
