//! Strict JSON bodies: [`Json<T>`] reads, [`FromShape`] says what a request looks like.
//!
//! Two steps, because a client should learn all its mistakes at once: [`tree`] parses the bytes
//! (anything wrong is 400 with a byte offset), [`shape`] reads the tree (anything wrong is noted with
//! its pointer, and all of it is one 422). A request type is written like this:
//!
//! ```ignore
//! struct CreateTenant { name: Name, rate: Option<Option<u64>>, documents: Vec<Document> }
//!
//! impl FromShape for CreateTenant {
//!     fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
//!         let name = object.required("name", |name| name.parsed(Name::parse));
//!         let rate = object.nullable("rate", |rate| rate.integer(0..=1_000_000));
//!         let documents = object.required("documents", |list| {
//!             list.excess_is_413().list(1..=1000, |document| document.object(Document::from_shape))
//!         });
//!         object.lacking("region", "regions are not part of this build");
//!         Some(Self { name: name?, rate, documents: documents? })
//!     }
//! }
//! ```
//!
//! `required`, `optional` and `nullable` say whether it may be absent; the closure says what it is.
//! Fields that nobody asked for are mistakes without further ado.

pub mod shape;
pub mod tree;

use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use protocol::Digest;
use sha2::{Digest as _, Sha256};

use self::shape::Findings;
pub use self::shape::{FromShape, Item, Object};
use self::tree::Unreadable;
use super::body::{self, Room};
use super::context::Context;
use super::error::{Code, Mistake, Problem};
use super::headers::IDEMPOTENCY_KEY;

/// Bodies above this are parsed on a blocking thread: an executor thread is not ours for longer.
const INLINE_BYTES_MAX: usize = 128 << 10;

/// A body that has the shape of `T`. Put it last among the arguments of a handler.
#[derive(Debug)]
pub struct Json<T> {
    /// The request.
    pub value: T,
    /// What tells this body from others.
    pub marks: Marks,
    /// Keeps the request counted against the memory of all bodies until the handler is done.
    pub room: Room,
}

/// Digests of a body.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// Of the parsed body (order of keys and spaces do not count), when the request carries an
    /// Idempotency-Key.
    pub parsed: Option<[u8; 32]>,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// How many they are.
    pub bytes: u64,
}

impl Marks {
    /// Of a request without a body.
    pub fn of_nothing() -> Self {
        Self { parsed: None, sha256: Sha256::digest(b"").into(), bytes: 0 }
    }
}

/// The shape of calls that have nothing to say: no body, or `{}`.
#[derive(Debug, Clone, Copy, utoipa::ToSchema)]
pub struct Empty;

impl FromShape for Empty {
    fn from_shape(_: &mut Object<'_, '_>) -> Option<Self> {
        Some(Self)
    }
}

impl<S: Sync, T: FromShape> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (head, body) = request.into_parts();
        body::check_head(&head.headers, T::BODY_BYTES_MAX)?;
        let media = media_type(&head.headers);
        if matches!(media, Media::Other) {
            return Err(unsupported().closing());
        }
        let body::Whole { bytes, room } =
            body::read(&head.headers, body, T::BODY_BYTES_MAX).await?;
        if matches!(media, Media::Missing) && !bytes.is_empty() {
            return Err(unsupported());
        }
        let length = bytes.len();
        let digest_wanted = head.headers.contains_key(IDEMPOTENCY_KEY);
        let context = head.extensions.get::<Context>().cloned();
        let parse = move || {
            let sha256 = Sha256::digest(&bytes).into();
            if let Some(context) = context {
                // Read once; a second reader would have the same bytes.
                let _ = context.body.set(Digest(sha256));
            }
            let marks = Marks { parsed: None, sha256, bytes: bytes.len() as u64 };
            parse(&bytes, digest_wanted, marks)
        };
        let (value, marks) = if length <= INLINE_BYTES_MAX {
            parse()?
        } else {
            let parsing = tokio::task::spawn_blocking(parse);
            parsing.await.map_err(|_panic| Problem::new(Code::Internal))??
        };
        Ok(Self { value, marks, room })
    }
}

/// Parses and reads a whole body.
fn parse<T: FromShape>(bytes: &Bytes, digest: bool, marks: Marks) -> Result<(T, Marks), Problem> {
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    let tree = tree::parse(text).map_err(|unreadable| match unreadable {
        Unreadable::Syntax { detail, offset } => {
            Problem::malformed(format!("{detail} at byte {offset}"))
        }
        Unreadable::TooManyValues => {
            let limit = tree::VALUES_MAX as u64;
            Problem::too_large(limit, limit + 1).detail("the body has too many values")
        }
        Unreadable::Number { pointer } => Problem::validation(vec![Mistake {
            pointer,
            detail: "is a number that no field can hold".to_owned(),
        }]),
    })?;
    let parsed = digest.then(|| {
        let mut hasher = Sha256::new();
        tree.hash_into(&mut hasher);
        hasher.finalize().into()
    });
    let findings = Findings::default();
    let value = shape::read(tree, &findings);
    findings.conclude()?;
    // A reader that gives up has noted why; the answer below is for one that forgot to.
    let value = value.ok_or_else(|| Problem::new(Code::Validation))?;
    Ok((value, Marks { parsed, ..marks }))
}

enum Media {
    Json,
    Missing,
    Other,
}

fn media_type(headers: &HeaderMap) -> Media {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = values.next() else { return Media::Missing };
    let Ok(text) = value.to_str() else { return Media::Other };
    let mut parts = text.split(';').map(str::trim);
    let json = parts.next().is_some_and(|media| media.eq_ignore_ascii_case("application/json"));
    let utf8 = parts.filter(|part| !part.is_empty()).all(|parameter| {
        let Some((name, value)) = parameter.split_once('=') else { return false };
        // RFC 8259 has no parameters; a charset is harmless if it is the right one.
        !name.trim().eq_ignore_ascii_case("charset")
            || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    if json && utf8 && values.next().is_none() { Media::Json } else { Media::Other }
}

fn unsupported() -> Problem {
    Problem::new(Code::UnsupportedMediaType)
        .detail("the body must be application/json in UTF-8, and say so")
}

#[cfg(test)]
mod tests;
