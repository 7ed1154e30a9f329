//! Bytes to a tree, strictly: what RFC 8259 leaves open (duplicate keys, depth, size) is refused.
//!
//! The tree borrows from the body: a 64 MiB scan costs no second copy of its documents, except where
//! a string has escapes.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use sha2::{Digest as _, Sha256};

/// Values in one body: ten thousand documents with metadata fit, a bomb of small numbers does not.
pub const VALUES_MAX: usize = 500_000;
/// Objects with more keys look for duplicates by hash instead of by comparing.
const SMALL_OBJECT_KEYS: usize = 16;

/// A JSON value. Objects keep their keys in the order sent, each once.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'v> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number without fraction or exponent that fits 64 bits.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// Text, unescaped.
    Text(Cow<'v, str>),
    /// `[…]`
    List(Vec<Value<'v>>),
    /// `{…}`
    Object(Vec<(Cow<'v, str>, Value<'v>)>),
}

/// Why there is no tree.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Not JSON as we accept it.
    Syntax {
        /// What is wrong.
        detail: String,
        /// Where reading stopped.
        offset: usize,
    },
    /// More than [`VALUES_MAX`].
    TooManyValues,
    /// A number beyond every type, as 1e400.
    Number {
        /// Where it is.
        pointer: String,
    },
}

impl Value<'_> {
    /// What it is, for "must be … but is …".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// The same as `serde_json` has it, for values that are only carried.
    pub fn into_json(self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(flag) => flag.into(),
            Self::Integer(number) => match u64::try_from(number) {
                Ok(number) => number.into(),
                Err(_) => (number as i64).into(),
            },
            Self::Float(number) => number.into(),
            Self::Text(text) => text.into_owned().into(),
            Self::List(items) => items.into_iter().map(Value::into_json).collect(),
            Self::Object(fields) => {
                let fields = fields.into_iter();
                fields.map(|(key, value)| (key.into_owned(), value.into_json())).collect()
            }
        }
    }

    /// Hashes the meaning: spaces, escapes and the order of keys do not count. Each value is
    /// tagged and each length written, so that no two trees look alike.
    pub fn hash_into(&self, hasher: &mut Sha256) {
        match self {
            Self::Null => hasher.update(b"n"),
            Self::Bool(flag) => hasher.update([b'b', u8::from(*flag)]),
            Self::Integer(number) => {
                hasher.update(b"i");
                hasher.update(number.to_be_bytes());
            }
            Self::Float(number) => {
                hasher.update(b"f");
                hasher.update(number.to_bits().to_be_bytes());
            }
            Self::Text(text) => hash_text(hasher, text),
            Self::List(items) => {
                hasher.update(b"l");
                hasher.update((items.len() as u64).to_be_bytes());
                items.iter().for_each(|item| item.hash_into(hasher));
            }
            Self::Object(fields) => {
                hasher.update(b"o");
                hasher.update((fields.len() as u64).to_be_bytes());
                let mut sorted: Vec<_> = fields.iter().collect();
                sorted.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
                for (key, value) in sorted {
                    hash_text(hasher, key);
                    value.hash_into(hasher);
                }
            }
        }
    }
}

fn hash_text(hasher: &mut Sha256, text: &str) {
    hasher.update(b"t");
    hasher.update((text.len() as u64).to_be_bytes());
    hasher.update(text.as_bytes());
}

/// Parses exactly one value. `serde_json` brings UTF-8, surrogates, numbers and the depth of 127.
pub fn parse(bytes: &[u8]) -> Result<Value<'_>, Unreadable> {
    let progress = Progress::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = Seed(&progress).deserialize(&mut deserializer);
    let parsed = parsed.and_then(|value| deserializer.end().map(|()| value));
    parsed.map_err(|cause| {
        if progress.values.get() > VALUES_MAX {
            return Unreadable::TooManyValues;
        }
        let message = cause.to_string();
        let detail = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
        if detail == "number out of range" {
            return Unreadable::Number { pointer: progress.pointer() };
        }
        let offset = offset(bytes, cause.line(), cause.column());
        Unreadable::Syntax { detail: detail.to_owned(), offset }
    })
}

fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let mut starts =
        bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let start = match line.checked_sub(2) {
        Some(newlines) => starts.nth(newlines).unwrap_or(0),
        None => 0,
    };
    (start + column).saturating_sub(1).min(bytes.len())
}

/// How far the parser is; the path is kept only to name a number that is out of range.
#[derive(Default)]
struct Progress {
    values: Cell<usize>,
    path: RefCell<Vec<Step>>,
}

enum Step {
    Key(String),
    Index(usize),
}

impl Progress {
    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in self.path.borrow().iter() {
            pointer.push('/');
            match step {
                Step::Key(key) => pointer.push_str(&super::shape::escape(key)),
                Step::Index(index) => pointer.push_str(&index.to_string()),
            }
        }
        pointer
    }
}

struct Seed<'p>(&'p Progress);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        let values = &self.0.values;
        values.set(values.get() + 1);
        if values.get() > VALUES_MAX {
            return Err(D::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value<'de>, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        let mut list = Vec::new();
        self.0.path.borrow_mut().push(Step::Index(0));
        while let Some(item) = items.next_element_seed(Seed(self.0))? {
            list.push(item);
            if let Some(Step::Index(index)) = self.0.path.borrow_mut().last_mut() {
                *index = list.len();
            }
        }
        self.0.path.borrow_mut().pop();
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value<'de>, A::Error> {
        let mut fields: Vec<(Cow<'de, str>, Value<'de>)> = Vec::new();
        let mut seen: HashSet<Cow<'de, str>> = HashSet::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            let duplicate = if fields.len() < SMALL_OBJECT_KEYS {
                fields.iter().any(|(known, _)| *known == key)
            } else {
                if seen.is_empty() {
                    seen.extend(fields.iter().map(|(known, _)| known.clone()));
                }
                !seen.insert(key.clone())
            };
            if duplicate {
                return Err(A::Error::custom("duplicate key"));
            }
            self.0.path.borrow_mut().push(Step::Key(key.chars().take(40).collect()));
            let value = entries.next_value_seed(Seed(self.0))?;
            self.0.path.borrow_mut().pop();
            fields.push((key, value));
        }
        Ok(Value::Object(fields))
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset_of(bytes: &[u8]) -> String {
        match parse(bytes) {
            Ok(value) => format!("{value:?}"),
            Err(Unreadable::Syntax { detail, offset }) => format!("{detail} @{offset}"),
            Err(other) => format!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_offset() {
        assert_eq!(offset_of(b"{\"a\":1}x"), "trailing characters @7");
        assert_eq!(offset_of(b"\xef\xbb\xbf{}"), "expected value @0");
        assert_eq!(offset_of(b"{\"a\":NaN}"), "expected value @5");
        assert_eq!(offset_of(b"{\n\n\"a\":\n nope}"), "expected ident @10");
        assert!(offset_of(b"{\"a\":\"\\ud800\"}").contains('@'));
        assert!(offset_of(b"{\"a\":\"\xff\"}").starts_with("invalid unicode code point @"));
        assert!(offset_of(b"{\"a\":01}").contains("@"));
        assert!(offset_of(b"{\"a\":1,\"\\u0061\":2}").starts_with("duplicate key @"));
        assert!(
            offset_of("{}".as_bytes().iter().flat_map(|b| [*b, 0]).collect::<Vec<_>>().as_slice())
                .contains('@')
        );
    }

    #[test]
    fn duplicate_keys_are_found_in_large_objects_too() {
        let mut fields: Vec<String> = (0..100).map(|n| format!("\"k{n}\":{n}")).collect();
        assert!(parse(format!("{{{}}}", fields.join(",")).as_bytes()).is_ok());
        fields.push("\"k3\":0".to_owned());
        let text = format!("{{{}}}", fields.join(","));
        assert!(offset_of(text.as_bytes()).starts_with("duplicate key"));
    }

    #[test]
    fn depth_127_is_read_and_128_is_not() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(127).as_bytes()).is_ok());
        assert!(offset_of(nested(128).as_bytes()).starts_with("recursion limit exceeded"));
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn too_many_values_stop_the_parser() {
        let bomb = format!("[{}0]", "0,".repeat(VALUES_MAX));
        assert_eq!(parse(bomb.as_bytes()), Err(Unreadable::TooManyValues));
    }

    #[test]
    fn a_number_beyond_every_type_is_named_by_its_pointer() {
        let pointer = "/a/2/b~1c".to_owned();
        assert_eq!(parse(b"{\"a\":[1,2,{\"b/c\":1e400}]}"), Err(Unreadable::Number { pointer }));
    }

    #[test]
    fn the_digest_sees_meaning_only() {
        let digest = |text: &str| {
            let mut hasher = Sha256::new();
            parse(text.as_bytes()).unwrap().hash_into(&mut hasher);
            hasher.finalize()
        };
        assert_eq!(digest(r#"{"a":1,"b":["x"]}"#), digest(r#" {"b": ["\u0078"], "a": 1} "#));
        assert_ne!(digest(r#"{"a":1}"#), digest(r#"{"a":"1"}"#));
        assert_ne!(digest(r#"["a",["b"]]"#), digest(r#"["a","b"]"#));
    }
}
