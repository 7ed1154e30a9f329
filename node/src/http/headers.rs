//! What request headers mean: credential, tenant, Idempotency-Key, trace; and what responses carry.
//!
//! A mistake here is 400 with the header's name as pointer; a credential that is merely wrong is 401.

use std::fmt;

use axum::http::header::{AUTHORIZATION, HeaderName};
use axum::http::{HeaderMap, HeaderValue};
use rand::RngExt as _;

use super::error::{Mistake, Problem};

/// The caller's key, alternative to `Authorization`.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The tenant that an operator acts for.
pub const X_TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");
/// Makes a write repeatable.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Our name of the request.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The node that served.
pub const SKEP_NODE: HeaderName = HeaderName::from_static("skep-node");
/// The node that decided.
pub const SKEP_OWNER: HeaderName = HeaderName::from_static("skep-owner");
/// `shard:index` of the log entry of a write.
pub const SKEP_INDEX: HeaderName = HeaderName::from_static("skep-index");

/// No key is longer; a longer one is refused before anybody hashes it.
const CREDENTIAL_BYTES_MAX: usize = 512;
const IDEMPOTENCY_KEY_MAX: usize = 255;

/// Who decided and where it is in the log. A handler puts it into the response's extensions
/// (`Extension(Served { .. })`) and the context layer turns it into headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Node id of the owner.
    pub owner: Option<String>,
    /// `shard:index`, on writes.
    pub index: Option<String>,
}

impl Served {
    /// Adds the headers that are known.
    pub fn write(&self, headers: &mut HeaderMap) {
        for (name, value) in [(SKEP_OWNER, &self.owner), (SKEP_INDEX, &self.index)] {
            let value = value.as_deref().and_then(|value| HeaderValue::from_str(value).ok());
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

/// A key as it was sent, unchecked. Shows nothing of itself in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(String);

impl Credential {
    /// The key itself, for the one place that checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads `Authorization: Bearer …` or `X-API-Key: …`. None or nonsense is 401, two are 400.
    pub fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut bearer = headers.get_all(AUTHORIZATION).iter();
        let mut key = headers.get_all(X_API_KEY).iter();
        let first = (bearer.next(), key.next());
        if bearer.next().is_some() || key.next().is_some() || matches!(first, (Some(_), Some(_))) {
            return Err(mistake(&AUTHORIZATION, "send one credential, not two"));
        }
        let text = match first {
            (Some(value), _) => value.to_str().ok().and_then(strip_bearer),
            (None, Some(value)) => value.to_str().ok(),
            (None, None) => None,
        };
        let plausible = |text: &&str| {
            (1..=CREDENTIAL_BYTES_MAX).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let text = text.filter(plausible).ok_or_else(Problem::unauthenticated)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

fn strip_bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// The raw `X-Tenant-Id`, if sent. Two of them, or one that is no text, are 400; whether the caller
/// may send it at all, and whether the tenant exists, is for the caller's check.
pub fn tenant_id(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    single(headers, &X_TENANT_ID)
}

/// The Idempotency-Key, quoted or bare: 1–255 printable ASCII characters.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = single(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let key = match value.strip_prefix('"') {
        None => Some(value.to_owned()),
        Some(rest) => rest.strip_suffix('"').and_then(unquote),
    };
    let printable = |key: &String| {
        (1..=IDEMPOTENCY_KEY_MAX).contains(&key.len()) && key.bytes().all(|byte| byte >= b' ')
    };
    key.filter(printable)
        .map(Some)
        .ok_or_else(|| mistake(&IDEMPOTENCY_KEY, "must be 1 to 255 printable ASCII characters"))
}

/// A structured-field string escapes `"` and `\` with `\`, and nothing else.
fn unquote(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.push(characters.next().filter(|next| matches!(next, '"' | '\\'))?),
            '"' => return None,
            other => plain.push(other),
        }
    }
    Some(plain)
}

/// A header that may be sent once and must be printable ASCII (`If-Match`, `Last-Event-ID`, …).
pub fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(mistake(name, "must be sent once"));
    }
    // `to_str` admits a tab; nothing that we read contains one.
    let text = value.to_str().ok().filter(|text| !text.contains('\t'));
    text.map(Some).ok_or_else(|| mistake(name, "must be printable ASCII"))
}

/// 400 for one header.
pub fn mistake(name: &HeaderName, detail: &str) -> Problem {
    Problem::bad_request(vec![Mistake {
        pointer: name.as_str().to_owned(),
        detail: detail.to_owned(),
    }])
}

/// Trace of a request: the caller's trace id where it sent a valid one, and a span of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    trace: u128,
    span: u64,
    flags: u8,
}

impl Trace {
    /// Continues the trace in `traceparent`, or begins one.
    pub fn read(headers: &HeaderMap) -> Self {
        let span = rand::rng().random_range(1..=u64::MAX);
        let sent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        match sent.and_then(parse_traceparent) {
            Some((trace, flags)) => Self { trace, span, flags },
            None => Self { trace: rand::rng().random_range(1..=u128::MAX), span, flags: 0 },
        }
    }

    /// The 32 hex digits that join log lines of one call across systems.
    pub fn id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The header for the response and for calls that we make.
    pub fn header(&self) -> HeaderValue {
        let text = format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags);
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("00"))
    }
}

fn parse_traceparent(text: &str) -> Option<(u128, u8)> {
    let mut parts = text.split('-');
    let (version, trace) = (hex(parts.next()?, 2)?, hex(parts.next()?, 32)?);
    let (span, flags) = (hex(parts.next()?, 16)?, hex(parts.next()?, 2)?);
    let known = version != 0xff && (version != 0 || parts.next().is_none());
    (known && trace != 0 && span != 0).then_some((trace, (flags & 1) as u8))
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(lower))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn credential(pairs: &[(&'static str, &'static str)]) -> String {
        match Credential::read(&headers(pairs)) {
            Ok(key) => key.expose().to_owned(),
            Err(problem) => problem.code().meaning().status.as_u16().to_string(),
        }
    }

    #[test]
    fn one_credential_is_read_none_is_401_two_are_400() {
        assert_eq!(credential(&[("authorization", "Bearer k1")]), "k1");
        assert_eq!(credential(&[("authorization", "bearer k1")]), "k1");
        assert_eq!(credential(&[("x-api-key", "k2")]), "k2");
        assert_eq!(credential(&[]), "401");
        assert_eq!(credential(&[("authorization", "")]), "401");
        assert_eq!(credential(&[("authorization", "Bearer")]), "401");
        assert_eq!(credential(&[("authorization", "Bearer  k1")]), "401");
        assert_eq!(credential(&[("authorization", "Basic k1")]), "401");
        assert_eq!(credential(&[("x-api-key", "ключ")]), "401");
        assert_eq!(credential(&[("authorization", "Bearer a"), ("x-api-key", "a")]), "400");
        assert_eq!(credential(&[("authorization", "x"), ("authorization", "x")]), "400");
        assert_eq!(format!("{:?}", Credential("secret".to_owned())), "Credential(…)");
    }

    fn key(values: &[&'static str]) -> String {
        let pairs: Vec<_> = values.iter().map(|value| ("idempotency-key", *value)).collect();
        match idempotency_key(&headers(&pairs)) {
            Ok(key) => format!("{key:?}"),
            Err(problem) => problem.code().meaning().status.as_u16().to_string(),
        }
    }

    #[test]
    fn an_idempotency_key_is_quoted_or_bare() {
        assert_eq!(key(&[]), "None");
        assert_eq!(key(&["a b"]), "Some(\"a b\")");
        assert_eq!(key(&["\"a b\""]), "Some(\"a b\")");
        assert_eq!(key(&[r#""a\"b""#]), r#"Some("a\"b")"#);
        for bad in ["", "\"\"", "\"a", "é", r#""a"b""#, "a\tb"] {
            assert_eq!(key(&[bad]), "400", "{bad}");
        }
        assert_eq!(key(&["a", "a"]), "400");
        assert_eq!(key(&[Box::leak("x".repeat(255).into_boxed_str())]).len(), 263);
        assert_eq!(key(&[Box::leak("x".repeat(256).into_boxed_str())]), "400");
    }

    #[test]
    fn a_valid_trace_is_continued_and_an_invalid_one_replaced() {
        let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = Trace::read(&headers(&[("traceparent", sent)]));
        assert_eq!(trace.id(), "0af7651916cd43dd8448eb211c80319c");
        let answer = trace.header();
        assert!(answer.to_str().unwrap().ends_with("-01"));
        assert_ne!(answer, sent);
        for bad in ["", "00-0-0-0", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
            let trace = Trace::read(&headers(&[("traceparent", bad)]));
            assert!(parse_traceparent(trace.header().to_str().unwrap()).is_some(), "{bad}");
        }
    }
}
