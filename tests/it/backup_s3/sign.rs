//! Checks signatures of version 4 as the S3 service of AWS does, from the request alone.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::http::request::Parts;
use sha2::{Digest as _, Sha256};

/// Who may do everything.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

/// Why a request is not one of a known user: a code of S3 and a message.
pub(super) struct Refused(pub(super) &'static str, pub(super) String);

/// What `Authorization` consists of.
struct Given<'a> {
    id: &'a str,
    scope: &'a str,
    signed: &'a str,
    signature: &'a str,
}

/// Whether the request was signed with the keys, and its body is the one that was signed.
pub(super) fn check(parts: &Parts, body: &[u8], keys: &Keys) -> Result<(), Refused> {
    let given = given(parts).ok_or_else(|| Refused("AccessDenied", "Access Denied".to_owned()))?;
    if given.id != keys.id {
        return Err(Refused("InvalidAccessKeyId", "The key id does not exist".to_owned()));
    }
    if header(parts, "x-amz-security-token") != keys.token.as_deref() {
        return Err(Refused("InvalidToken", "The token is not valid".to_owned()));
    }
    let sum = header(parts, "x-amz-content-sha256").unwrap_or_default();
    if sum != hex(&Sha256::digest(body)) {
        return Err(Refused("XAmzContentSHA256Mismatch", "The body is another".to_owned()));
    }
    let must = ["host", "x-amz-content-sha256", "x-amz-date"];
    let token = keys.token.as_ref().map(|_| "x-amz-security-token");
    for name in must.into_iter().chain(token) {
        if !given.signed.split(';').any(|signed| signed == name) {
            return Err(Refused("AccessDenied", format!("{name} must be signed")));
        }
    }
    let canonical = canonical(parts, given.signed, sum);
    let date = header(parts, "x-amz-date").unwrap_or_default();
    let (scope, digest) = (given.scope, hex(&Sha256::digest(&canonical)));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
    if hex(&signature(&keys.secret, scope, &to_sign)) == given.signature
        && date.starts_with(&scope[..8])
    {
        return Ok(());
    }
    // AWS says what it had expected to see, with every header that was signed.
    let text = "The request signature we calculated does not match the signature you provided.";
    let told = format!("{text}</Message><CanonicalRequest>{canonical}</CanonicalRequest><Message>");
    Err(Refused("SignatureDoesNotMatch", told))
}

fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts.headers.get(name)?.to_str().ok()
}

fn given(parts: &Parts) -> Option<Given<'_>> {
    let text = header(parts, "authorization")?.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let mut fields = text.split(',').filter_map(|field| field.trim().split_once('='));
    let mut field =
        |wanted| fields.next().filter(|(name, _)| *name == wanted).map(|(_, value)| value);
    let (id, scope) = field("Credential")?.split_once('/')?;
    let known = scope.len() > 8 && scope.is_ascii() && scope.ends_with("/s3/aws4_request");
    let (signed, signature) = (field("SignedHeaders")?, field("Signature")?);
    known.then_some(Given { id, scope, signed, signature })
}

fn canonical(parts: &Parts, signed: &str, sum: &str) -> String {
    let path = encode(&decode(parts.uri.path()), b"/");
    let pairs = parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<String> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            format!("{}={}", encode(&decode(name), b""), encode(&decode(value), b""))
        })
        .collect();
    pairs.sort();
    let mut headers = String::new();
    for name in signed.split(';') {
        let values: Vec<&str> =
            parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        let _ = writeln!(headers, "{name}:{}", values.join(",").trim());
    }
    let method = &parts.method;
    format!("{method}\n{path}\n{}\n{headers}\n{signed}\n{sum}", pairs.join("&"))
}

fn signature(secret: &str, scope: &str, to_sign: &str) -> Vec<u8> {
    let mut key = format!("AWS4{secret}").into_bytes();
    for word in scope.split('/').chain([to_sign]) {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length is a key");
        mac.update(word.as_bytes());
        key = mac.finalize().into_bytes().to_vec();
    }
    key
}

/// Without the percent signs.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let mut words = text.split('%');
    let mut decoded = words.next().unwrap_or_default().as_bytes().to_vec();
    for word in words {
        let byte = word.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.extend(byte);
        decoded.extend(word.as_bytes().get(2..).unwrap_or_default());
    }
    decoded
}

fn encode(bytes: &[u8], also: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || also.contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
