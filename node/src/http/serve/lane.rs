//! The fast lane: a warm `POST /v1/limits/check` is answered where its bytes arrive.
//!
//! A request in its plainest form, whole in the buffer, whose key and units are at hand on this node,
//! needs neither the HTTP parser nor the route table. Everything else goes the ordinary way, which
//! decides alone what is refused: this lane only ever says yes.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actors::grants::{Admitted, Grants, Pass, Tight};
use bytes::BytesMut;
use prometheus::{Histogram, IntCounter};
use protocol::id::base62_digits;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::http::context::Edge;
use crate::http::limits::reset_s;

const REQUEST_LINE: &[u8] = b"POST /v1/limits/check HTTP/1.1\r\n";
/// The longest body that is looked at: `{"units": 1000000}` with some air.
const BODY_BYTES_MAX: usize = 64;
const UNITS_MAX: u64 = 1_000_000;
const CREDENTIAL_BYTES_MAX: usize = 512;

/// What admits and counts. Clones are the same lane.
#[derive(Clone)]
pub struct Lane {
    inner: Arc<Inner>,
}

struct Inner {
    grants: Grants,
    edge: Edge,
    answered: IntCounter,
    seconds: Histogram,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lane")
    }
}

impl Lane {
    /// A lane into these grants.
    pub fn new(grants: Grants, edge: Edge) -> Self {
        let (answered, seconds) = edge.metrics.handles("POST", "/v1/limits/check", "200");
        Self { inner: Arc::new(Inner { grants, edge, answered, seconds }) }
    }

    /// The length of the body that follows a head which may be for the lane.
    pub(super) fn body_of(head: &[u8]) -> Option<usize> {
        head.starts_with(REQUEST_LINE).then(|| Plain::read(head).map(|plain| plain.length))?
    }

    /// Answers a whole request into `out`, or leaves it to the ordinary way.
    pub(super) fn answer(&self, head: &[u8], body: &[u8], out: &mut BytesMut) -> bool {
        let began = Instant::now();
        let Some(plain) = Plain::read(head) else { return false };
        let Some(units) = units(body) else { return false };
        let write = |pass: &Pass, admitted: &Admitted| self.write(pass, admitted, out);
        if self.inner.grants.admit(plain.credential, units, write).is_none() {
            return false;
        }
        self.inner.answered.inc();
        self.inner.seconds.observe(began.elapsed().as_secs_f64());
        true
    }

    fn write(&self, pass: &Pass, admitted: &Admitted, out: &mut BytesMut) {
        LOCAL.with_borrow_mut(|local| {
            local.body(admitted.tight.as_ref());
            out.reserve(640);
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n");
            if let Some(tight) = &admitted.tight {
                local.limits(tight, pass.policies(), out);
            }
            out.extend_from_slice(b"x-request-id: req_");
            local.request_id(out);
            out.extend_from_slice(b"\r\ntraceparent: ");
            local.trace(out);
            if let Some(node) = self.inner.edge.status.node() {
                out.extend_from_slice(b"\r\nskep-node: ");
                out.extend_from_slice(node.as_bytes());
            }
            if let Some(owner) = admitted.owner {
                out.extend_from_slice(b"\r\nskep-owner: ");
                write_into(out, format_args!("{owner}"));
            }
            out.extend_from_slice(b"\r\ncontent-length: ");
            write_into(out, format_args!("{}", local.body.len()));
            out.extend_from_slice(b"\r\ndate: ");
            out.extend_from_slice(local.date());
            out.extend_from_slice(b"\r\n\r\n");
            out.extend_from_slice(local.body.as_bytes());
        });
    }
}

/// What the lane needs of a head.
struct Plain<'h> {
    credential: &'h str,
    length: usize,
}

impl<'h> Plain<'h> {
    /// Reads a head of known fields only: one that means something else must not be overlooked. The
    /// framer has seen to it that the head is well-formed.
    fn read(head: &'h [u8]) -> Option<Self> {
        let fields = head.get(REQUEST_LINE.len()..head.len().checked_sub(2)?)?;
        let (mut credential, mut length, mut json, mut host) = (None, None, false, false);
        for line in fields.split_inclusive(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r\n")?;
            let colon = line.iter().position(|&byte| byte == b':')?;
            let value = line[colon + 1..].trim_ascii();
            match Field::of(&line[..colon])? {
                Field::Bearer => {
                    let (scheme, token) = value.split_at_checked(7)?;
                    if !scheme.eq_ignore_ascii_case(b"bearer ") || credential.is_some() {
                        return None;
                    }
                    credential = Some(plausible(token)?);
                }
                Field::Key if credential.is_none() => credential = Some(plausible(value)?),
                Field::Length if length.is_none() => {
                    length = number(value).filter(|&length| length <= BODY_BYTES_MAX as u64);
                    length?;
                }
                Field::Type if !json => {
                    json = value.eq_ignore_ascii_case(b"application/json");
                    if !json {
                        return None;
                    }
                }
                Field::Host if !host => host = true,
                Field::Key | Field::Length | Field::Type | Field::Host => return None,
                Field::Ignored => {}
            }
        }
        let length = length? as usize;
        (json && host).then_some(Self { credential: credential?, length })
    }
}

/// Fields that a plain request may have.
enum Field {
    Bearer,
    Key,
    Length,
    Type,
    Host,
    /// It changes nothing about the answer.
    Ignored,
}

impl Field {
    fn of(name: &[u8]) -> Option<Self> {
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        match name.len() {
            4 if is(b"host") => Some(Self::Host),
            6 if is(b"accept") => Some(Self::Ignored),
            9 if is(b"x-api-key") => Some(Self::Key),
            10 if is(b"user-agent") => Some(Self::Ignored),
            12 if is(b"content-type") => Some(Self::Type),
            13 if is(b"authorization") => Some(Self::Bearer),
            14 if is(b"content-length") => Some(Self::Length),
            15 if is(b"accept-encoding") || is(b"accept-language") => Some(Self::Ignored),
            _ => None,
        }
    }
}

fn plausible(token: &[u8]) -> Option<&str> {
    let fits = (1..=CREDENTIAL_BYTES_MAX).contains(&token.len());
    let graphic = || token.iter().all(u8::is_ascii_graphic);
    (fits && graphic()).then(|| std::str::from_utf8(token).ok())?
}

fn number(digits: &[u8]) -> Option<u64> {
    let fits = (1..=7).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    fits.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// The units of `{}` or `{"units": n}`; anything else is for the ordinary way.
fn units(body: &[u8]) -> Option<u64> {
    let inner = body.trim_ascii().strip_prefix(b"{")?.strip_suffix(b"}")?.trim_ascii();
    if inner.is_empty() {
        return Some(1);
    }
    let value = inner.strip_prefix(b"\"units\"")?.trim_ascii_start().strip_prefix(b":")?;
    let digits = value.trim_ascii();
    // JSON has no leading zeros.
    let units = number(digits).filter(|_| digits[0] != b'0')?;
    (1..=UNITS_MAX).contains(&units).then_some(units)
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::new(Local::new());
}

/// What a thread keeps from answer to answer.
struct Local {
    random: SmallRng,
    body: String,
    date: [u8; 29],
    date_at: Option<Instant>,
    /// Milliseconds since 1970 at `date_at`.
    date_ms: u64,
}

impl Local {
    fn new() -> Self {
        let random = SmallRng::from_rng(&mut rand::rng());
        Self { random, body: String::new(), date: [0; 29], date_at: None, date_ms: 0 }
    }

    fn body(&mut self, tight: Option<&Tight>) {
        self.body.clear();
        self.body.push_str("{\"allowed\":true");
        match tight {
            Some(tight) => {
                self.field("policy", format_args!("\"{}\"", tight.policy));
                self.field("limit", format_args!("{}", tight.limit));
                self.field("remaining", format_args!("{}", tight.remaining));
                self.field("reset_s", format_args!("{}", reset_s(tight.reset_ms)));
            }
            None => self
                .body
                .push_str(",\"policy\":null,\"limit\":null,\"remaining\":null,\"reset_s\":0"),
        }
        self.body.push('}');
    }

    fn field(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        // A string takes whatever is written into it.
        let _ = write!(self.body, ",\"{name}\":{value}");
    }

    fn limits(&mut self, tight: &Tight, policies: &str, out: &mut BytesMut) {
        out.extend_from_slice(b"ratelimit-policy: ");
        out.extend_from_slice(policies.as_bytes());
        let (policy, limit, left) = (tight.policy, tight.limit, tight.remaining);
        let reset_s = reset_s(tight.reset_ms);
        let reset_at = self.now_ms() / 1000 + reset_s;
        write_into(
            out,
            format_args!(
                "\r\nratelimit: \"{policy}\";r={left};t={reset_s}\r\nx-ratelimit-limit: {limit}\r\n\
                 x-ratelimit-remaining: {left}\r\nx-ratelimit-reset: {reset_at}\r\n"
            ),
        );
    }

    /// 22 digits of a `UUIDv7`, as `context::request_id` writes it.
    fn request_id(&mut self, out: &mut BytesMut) {
        let ms = u128::from(self.now_ms());
        let low = u128::from(self.random.next_u64() >> 2) | 0b10 << 62;
        let id = ms << 80 | 0x7 << 76 | u128::from(self.random.next_u32() & 0xfff) << 64 | low;
        out.extend_from_slice(&base62_digits(id));
    }

    /// A trace of its own: the lane takes no request that belongs to one.
    fn trace(&mut self, out: &mut BytesMut) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let mut fill = |part: std::ops::Range<usize>, random: &mut SmallRng| {
            for digits in text[part].chunks_mut(16) {
                let mut bits = random.next_u64() | 1;
                for digit in digits {
                    *digit = HEX[(bits & 15) as usize];
                    bits >>= 4;
                }
            }
        };
        fill(3..35, &mut self.random);
        fill(36..52, &mut self.random);
        out.extend_from_slice(&text);
    }

    fn now_ms(&mut self) -> u64 {
        self.date();
        self.date_at.map_or(0, |at| self.date_ms + at.elapsed().as_millis() as u64)
    }

    /// The date of this second (RFC 9110, section 5.6.7).
    fn date(&mut self) -> &[u8; 29] {
        if self.date_at.is_none_or(|at| at.elapsed() >= Duration::from_millis(500)) {
            let now = SystemTime::now();
            let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let text = httpdate::fmt_http_date(now);
            if let Some(text) = text.as_bytes().first_chunk() {
                self.date = *text;
            }
            self.date_at = Some(Instant::now());
            self.date_ms = since.as_millis() as u64;
        }
        &self.date
    }
}

fn write_into(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    // A buffer that grows takes whatever is written into it.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &str) -> Vec<u8> {
        let line = std::str::from_utf8(REQUEST_LINE).unwrap();
        format!("{line}host: a\r\ncontent-type: application/json\r\n{fields}\r\n").into_bytes()
    }

    #[test]
    fn only_plain_bodies_are_read() {
        let read = ["{}", " { } ", "{\"units\":7}", "{ \"units\" : 1000000 }\n"];
        assert_eq!(
            read.map(|body| units(body.as_bytes())),
            [Some(1), Some(1), Some(7), Some(1_000_000)]
        );
        for body in [
            "",
            "{",
            "[]",
            "null",
            "{\"units\":0}",
            "{\"units\":01}",
            "{\"units\":1.0}",
            "{\"units\":-1}",
            "{\"units\":1000001}",
            "{\"units\":1,}",
            "{\"units\":1}}",
            "{\"policy\":\"rate\"}",
            "{\"units\":1,\"units\":2}",
            "{\"units\":\"1\"}",
            "{\"unit\":1}",
            "{}\0",
            "{\"units\":99999999999999999999}",
        ] {
            assert_eq!(units(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn only_plain_heads_are_read() {
        let plain = head("Authorization: bearer sk_live_x\r\nContent-Length: 2\r\naccept: */*\r\n");
        let read = Plain::read(&plain).unwrap();
        assert_eq!((read.credential, read.length), ("sk_live_x", 2));
        let key = head("X-API-Key: sk_live_y\r\ncontent-length: 0\r\n");
        assert_eq!(Plain::read(&key).unwrap().credential, "sk_live_y");
        for fields in [
            "content-length: 2\r\n",
            "authorization: Bearer x\r\n",
            "authorization: Bearer x\r\ncontent-length: 65\r\n",
            "authorization: Bearer x\r\ncontent-length: -1\r\n",
            "authorization: Bearer x\r\ncontent-length: 2\r\ncontent-length: 2\r\n",
            "authorization: Bearer x\r\nauthorization: Bearer x\r\ncontent-length: 2\r\n",
            "authorization: Bearer x\r\nx-api-key: x\r\ncontent-length: 2\r\n",
            "authorization: Basic x\r\ncontent-length: 2\r\n",
            "authorization: Bearer x y\r\ncontent-length: 2\r\n",
            "authorization: Bearer x\r\ncontent-length: 2\r\nidempotency-key: 1\r\n",
            "authorization: Bearer x\r\ncontent-length: 2\r\nx-tenant-id: t\r\n",
            "authorization: Bearer x\r\ncontent-length: 2\r\nconnection: close\r\n",
            "authorization: Bearer x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n",
            "authorization: Bearer x\r\ncontent-length: 2\r\ncontent-encoding: gzip\r\n",
            "authorization: Bearer x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n",
            "authorization: Bearer x\r\ncontent-length: 2\r\ntraceparent: 00-1-1-00\r\n",
            "authorization: Bearer x\r\ncontent-length: 2\r\nhost: b\r\n",
            "authorization: Bearer x\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n",
        ] {
            assert!(Plain::read(&head(fields)).is_none(), "{fields}");
        }
        assert!(Lane::body_of(b"POST /v1/limits/check HTTP/1.0\r\n\r\n").is_none());
        assert!(Lane::body_of(b"POST /v1/limits/check?a=1 HTTP/1.1\r\n\r\n").is_none());
        assert!(Lane::body_of(REQUEST_LINE).is_none());
    }

    #[test]
    fn ids_are_unique_and_sort_by_time() {
        let mut local = Local::new();
        let ids: Vec<_> = (0..1_000)
            .map(|_| {
                let mut out = BytesMut::new();
                local.request_id(&mut out);
                out
            })
            .collect();
        assert!(ids.iter().all(|id| id.len() == 22));
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
        let ordinary = crate::http::context::request_id();
        // The same millisecond or a few later: the first digits agree.
        assert_eq!(&ordinary.as_bytes()[4..8], &ids[0][..4]);
    }

    #[test]
    fn an_answer_without_limits_has_nulls() {
        let mut local = Local::new();
        local.body(None);
        let body: protocol::wire::limits::Checked = serde_json::from_str(&local.body).unwrap();
        assert_eq!((body.allowed, body.policy, body.limit), (true, None, None));
    }
}
