//! Requests exactly as written, mistakes included: no client library corrects them on the way. Every
//! answer that is an error can be held against the one shape that the contract allows.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long any answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Every problem stays below this many bytes.
const PROBLEM_BYTES_MAX: usize = 4096;
/// The members that every problem has.
const MEMBERS: [&str; 8] =
    ["type", "title", "status", "detail", "instance", "code", "request_id", "retryable"];
/// What must not be read in any error: our insides.
const INSIDES: [&str; 6] = [".rs:", "panicked", "/.cargo/", "RUST_BACKTRACE", "Err(", "serde"];

/// A request of which every byte is the caller's choice.
#[derive(Debug, Clone)]
pub struct Request {
    line: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// A request with nothing but its line, `Host` and `Connection: close`.
    pub fn new(method: &str, target: &str) -> Request {
        let line = format!("{method} {target} HTTP/1.1");
        Request { line, headers: Vec::new(), body: None }
    }

    pub fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    pub fn post(target: &str) -> Request {
        Request::new("POST", target)
    }

    /// One more header, also if there is one of that name.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Request {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn bearer(self, key: &str) -> Request {
        self.header("Authorization", format!("Bearer {key}"))
    }

    /// A body that says it is JSON, whether it is or not.
    pub fn json(self, body: impl AsRef<[u8]>) -> Request {
        self.header("Content-Type", "application/json").body(body)
    }

    /// A body that says nothing of its type.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Request {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes =
            format!("{}\r\nHost: skep\r\nConnection: close\r\n", self.line).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: ").as_bytes());
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if let Some(body) = &self.body {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends it to the node at `url`.
    pub async fn send(&self, url: &str) -> Result<Response> {
        let sent = send_bytes(url, &self.bytes()).await;
        sent.with_context(|| format!("{} to {url}", shorten(&self.line)))
    }
}

fn shorten(line: &str) -> String {
    line.chars().take(120).collect()
}

/// Sends bytes that need not be a request, and reads the first answer to them.
pub async fn send_bytes(url: &str, bytes: &[u8]) -> Result<Response> {
    let address = url.strip_prefix("http://").context("the URL has no http://")?;
    let stream = TcpStream::connect(address).await?;
    let (mut reader, mut writer) = stream.into_split();
    let sending = async {
        // An early answer makes the server stop reading; that it does is what is being tested.
        let _ = writer.write_all(bytes).await;
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = timeout(ANSWER_WITHIN, read(&mut reader)) => answer,
        () = sending => bail!("the sender ended"),
    };
    answer.context("no answer in time")?
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// In the order sent, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The server ended the connection.
    pub closed: bool,
}

impl Response {
    /// The value of a header that is there once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
    }

    /// The names of all headers, sorted.
    pub fn header_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Result<Value> {
        let parsed = serde_json::from_slice(&self.body);
        parsed.with_context(|| format!("{} with no JSON: {}", self.status, self.text()))
    }

    /// The body of a success.
    pub fn ok(&self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "{status} expected, got {}: {}", self.status, self.text());
        self.json()
    }

    /// The body of an error, which must have `status` and `code` and every property that the
    /// contract promises of all errors.
    pub fn problem(&self, status: u16, code: &str) -> Result<Value> {
        let text = self.text();
        ensure!(self.status == status, "{status} {code} expected, got {}: {text}", self.status);
        let kind = self.header("content-type").unwrap_or_default();
        ensure!(kind == "application/problem+json", "content type {kind:?}: {text}");
        ensure!(self.body.len() < PROBLEM_BYTES_MAX, "a problem of {} bytes", self.body.len());
        let body = self.json()?;
        for member in MEMBERS {
            ensure!(!body[member].is_null(), "no member {member}: {text}");
        }
        ensure!(body["status"] == status, "the status in the body differs: {text}");
        ensure!(body["code"] == code, "code {code} expected: {text}");
        ensure!(body["type"] == format!("/problems/{code}"), "the type differs: {text}");
        ensure!(body.get("outcome").is_some() == (status >= 500), "outcome: {text}");
        let id = self.header("x-request-id").context("no X-Request-Id")?;
        ensure!(body["request_id"] == id, "request id {id} expected: {text}");
        for name in ["traceparent", "skep-node"] {
            ensure!(self.header(name).is_some(), "no {name}: {:?}", self.headers);
        }
        let leak = INSIDES.iter().find(|inside| text.contains(**inside));
        ensure!(leak.is_none(), "the answer shows our insides: {text}");
        Ok(body)
    }
}

async fn read(reader: &mut (impl AsyncReadExt + Unpin)) -> Result<Response> {
    let mut bytes = Vec::new();
    let mut closed = false;
    loop {
        if let Some(response) = parse(&bytes, closed)? {
            return Ok(response);
        }
        ensure!(!closed, "the connection ended after {:?}", String::from_utf8_lossy(&bytes));
        // A reset after the answer is the end of the answer.
        closed = match reader.read_buf(&mut bytes).await {
            Ok(read) => read == 0,
            Err(cause) if bytes.is_empty() => return Err(cause.into()),
            Err(_) => true,
        };
    }
}

/// The first answer in `bytes`, once it is whole.
fn parse(bytes: &[u8], closed: bool) -> Result<Option<Response>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status: u16 = status.with_context(|| format!("no status in {head:?}"))?;
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers = lines.map(|line| pair(line).context("a header without a colon"));
    let headers = headers.collect::<Result<Vec<_>>>()?;
    let response = Response { status, headers, body: Vec::new(), closed };
    let rest = &bytes[end + 4..];
    let chunked = response.header("transfer-encoding") == Some("chunked");
    let length = response.header("content-length").and_then(|text| text.parse().ok());
    let body = match length {
        _ if status < 200 || status == 204 => Some(Vec::new()),
        _ if chunked => unchunked(rest)?,
        // The answer to HEAD has a length and no body, and then the connection ends.
        Some(length) if rest.len() >= length => Some(rest[..length].to_vec()),
        Some(_) if closed && rest.is_empty() => Some(Vec::new()),
        _ => closed.then(|| rest.to_vec()),
    };
    Ok(body.map(|body| Response { body, ..response }))
}

/// The body, once its last chunk is there.
fn unchunked(mut rest: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end])?, 16)?;
        let chunk = &rest[end + 2..];
        if size == 0 {
            return Ok(Some(body));
        }
        if chunk.len() < size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&chunk[..size]);
        rest = &chunk[size + 2..];
    }
}
