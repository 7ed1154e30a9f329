//! Strict query strings: [`Query<T>`] reads, [`FromQuery`] says which parameters a route has.
//!
//! Unknown, repeated and unreadable parameters are 400 with the pointer `?name`, all at once. A GET
//! route without parameters takes [`NoQuery`], or nobody would notice a misspelt one.

mod cursor;

use std::fmt::Display;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use protocol::Name;
use protocol::id::{JobId, KeyId, NodeId, TenantId};

pub use self::cursor::{Cursor, CursorKey};
use super::error::{MISTAKES_MAX, Mistake, Problem};

/// Items on a page when the caller names no number.
pub const PAGE_LIMIT_DEFAULT: usize = 50;
/// Items on a page at most; more is refused, not clamped.
pub const PAGE_LIMIT_MAX: usize = 1000;
/// Parameters in one query string.
const PARAMETERS_MAX: usize = 100;
const CURSOR_CHARS_MAX: usize = 512;

/// A type that a query string can be read into.
pub trait FromQuery: Sized {
    /// Asks for each parameter; those that are left over are mistakes.
    fn from_query(parameters: &mut Parameters<'_>) -> Option<Self>;
}

/// The query string of a request.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

/// The query string of a route that has no parameters.
pub type NoQuery = Query<()>;

impl FromQuery for () {
    fn from_query(_: &mut Parameters<'_>) -> Option<Self> {
        Some(())
    }
}

impl<S: Sync, T: FromQuery> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let mut parameters = Parameters::split(parts.uri.query().unwrap_or_default());
        let value = T::from_query(&mut parameters);
        parameters.finish()?;
        // A reader that gives up has noted why; the answer below is for one that forgot to.
        value.map(Self).ok_or_else(|| Problem::malformed("the query is not valid"))
    }
}

/// The parameters of a query string that nobody has asked for yet.
#[derive(Debug)]
pub struct Parameters<'q> {
    pairs: Vec<(String, String)>,
    mistakes: Vec<Mistake>,
    query: &'q str,
}

impl<'q> Parameters<'q> {
    fn split(query: &'q str) -> Self {
        let mut parameters = Self { pairs: Vec::new(), mistakes: Vec::new(), query };
        for part in query.split('&').filter(|part| !part.is_empty()).take(PARAMETERS_MAX + 1) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let Some(name) = decode(name) else {
                parameters.mistake("", "is not percent-encoded UTF-8");
                continue;
            };
            if parameters.pairs.iter().any(|(known, _)| *known == name) {
                parameters.mistake(&name, "is repeated");
                continue;
            }
            match decode(value) {
                Some(value) => parameters.pairs.push((name, value)),
                None => parameters.mistake(&name, "is not percent-encoded UTF-8"),
            }
        }
        parameters
    }

    /// The text of a parameter, if it was sent.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(known, _)| known == name)?;
        Some(self.pairs.remove(at).1)
    }

    /// A parameter that a parser accepts; the parser's error is the detail.
    pub fn parsed<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(cause) => {
                self.mistake(name, cause);
                None
            }
        }
    }

    /// As [`Self::parsed`], and absence is a mistake.
    pub fn required<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if !self.pairs.iter().any(|(known, _)| known == name) {
            // A parameter that was sent twice or unreadably has been reported already.
            if !self.mistakes.iter().any(|mistake| mistake.pointer == format!("?{name}")) {
                self.mistake(name, "is missing");
            }
            return None;
        }
        self.parsed(name, parse)
    }

    /// A whole number in a range, written in plain digits.
    pub fn integer(&mut self, name: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        self.parsed(name, |text| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = if digits { text.parse().ok() } else { None };
            number
                .filter(|number| range.contains(number))
                .ok_or_else(|| format!("must be {} to {}", range.start(), range.end()))
        })
    }

    /// One of a few words.
    pub fn one_of<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        self.parsed(name, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                format!("must be one of {}", words.join(", "))
            })
        })
    }

    /// A switch: `?name`, `?name=true`, `?name=false`.
    pub fn flag(&mut self, name: &str) -> bool {
        self.one_of(name, &[("true", true), ("", true), ("false", false)]).unwrap_or(false)
    }

    /// Notes a mistake at a parameter.
    pub fn mistake(&mut self, name: &str, detail: impl Display) {
        if self.mistakes.len() < MISTAKES_MAX {
            let pointer = format!("?{name}");
            self.mistakes.push(Mistake { pointer, detail: detail.to_string() });
        }
    }

    /// The query string as sent, without `cursor` and `limit`: what a cursor is bound to.
    fn scope(&self) -> String {
        let bound = |part: &&str| {
            let name = part.split('=').next().unwrap_or_default();
            !matches!(name, "cursor" | "limit" | "")
        };
        let mut parts: Vec<_> = self.query.split('&').filter(bound).collect();
        parts.sort_unstable();
        parts.join("&")
    }

    fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            self.mistake(&name, "is not a parameter of this route");
        }
        match self.mistakes {
            none if none.is_empty() => Ok(()),
            mistakes => Err(Problem::bad_request(mistakes)),
        }
    }
}

/// Percent-decoding with `+` as space. Unlike forms in browsers, a broken escape is refused.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Which way a list runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Oldest first.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

/// `?limit=&cursor=&order=` of every list. Routes with more parameters call [`Page::read`] from
/// their own [`FromQuery`].
#[derive(Debug, Clone)]
pub struct Page {
    /// At most so many items.
    pub limit: usize,
    /// Which way.
    pub order: Order,
    cursor: Option<String>,
    scope: String,
}

impl Page {
    /// Reads the three parameters.
    pub fn read(parameters: &mut Parameters<'_>) -> Self {
        let limit = parameters.integer("limit", 1..=PAGE_LIMIT_MAX as u64);
        let words = [("asc", Order::Ascending), ("desc", Order::Descending)];
        let order = parameters.one_of("order", &words);
        let cursor = parameters.parsed("cursor", |text| match text.len() {
            1..=CURSOR_CHARS_MAX => Ok(text.to_owned()),
            _ => Err("is not a cursor of this list"),
        });
        let scope = parameters.scope();
        Self {
            limit: limit.map_or(PAGE_LIMIT_DEFAULT, |limit| limit as usize),
            order: order.unwrap_or_default(),
            cursor,
            scope,
        }
    }

    /// The position after which the page begins, for this tenant and route; `None` is the start.
    /// A cursor that was altered, or that belongs to another tenant, route or query, is 400.
    pub fn after(
        &self,
        key: &CursorKey,
        tenant: &str,
        route: &str,
    ) -> Result<Option<Vec<u8>>, Problem> {
        let Some(text) = &self.cursor else { return Ok(None) };
        let position = Cursor { tenant, route, query: &self.scope }.decode(key, text);
        position.map(Some).ok_or_else(|| {
            Problem::bad_request(vec![Mistake {
                pointer: "?cursor".to_owned(),
                detail: "is not a cursor of this list".to_owned(),
            }])
        })
    }

    /// The cursor of the page that follows `position`, for `next_cursor`.
    pub fn next(&self, key: &CursorKey, tenant: &str, route: &str, position: &[u8]) -> String {
        Cursor { tenant, route, query: &self.scope }.encode(key, position)
    }
}

impl FromQuery for Page {
    fn from_query(parameters: &mut Parameters<'_>) -> Option<Self> {
        Some(Self::read(parameters))
    }
}

/// A type that one segment of a path can be read into; any failure is 404.
pub trait FromSegment: Sized {
    /// Reads a decoded segment.
    fn from_segment(segment: &str) -> Option<Self>;
}

impl FromSegment for String {
    fn from_segment(segment: &str) -> Option<Self> {
        Some(segment.to_owned())
    }
}

macro_rules! parsed_segments {
    ($($id:ty),+) => {$(
        impl FromSegment for $id {
            fn from_segment(segment: &str) -> Option<Self> {
                Self::parse(segment).ok()
            }
        }
    )+};
}

parsed_segments!(JobId, KeyId, NodeId, TenantId, Name);

/// The variables of a path, in order: `Segments<(TenantId,)>`, `Segments<(JobId, u64)>`. A
/// syntactically bad id is 404 like a missing one.
#[derive(Debug, Clone, Copy)]
pub struct Segments<T>(pub T);

macro_rules! segments {
    ($($name:ident),+) => {
        impl<State: Sync + Send, $($name: FromSegment),+> FromRequestParts<State> for Segments<($($name,)+)> {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, Problem> {
                let raw = RawPathParams::from_request_parts(parts, state).await;
                let raw = raw.map_err(|_undecodable| Problem::not_found())?;
                let mut raw = raw.iter();
                Ok(Self(($(
                    raw.next()
                        .and_then(|(_, text)| $name::from_segment(text))
                        .ok_or_else(Problem::not_found)?,
                )+)))
            }
        }
    };
}

segments!(A);
segments!(A, B);

#[cfg(test)]
mod tests;
