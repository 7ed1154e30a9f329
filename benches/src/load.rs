//! A closed loop over HTTP/1.1: each connection asks again as soon as it is answered. One task per
//! connection, no client library: its cost would be measured as well.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::cpu;
use crate::sample::{Sample, Seen};

/// What one answer, and the wait for the last one, may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// No answer here is longer.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The bytes of a request.
pub(crate) fn request(line: &str, address: &str, key: Option<&str>, body: Option<&str>) -> Vec<u8> {
    let mut text = format!("{line} HTTP/1.1\r\nHost: {address}\r\n");
    if let Some(key) = key {
        text.push_str(&format!("Authorization: Bearer {key}\r\n"));
    }
    if let Some(body) = body {
        let length = body.len();
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body.unwrap_or_default());
    text.into_bytes()
}

/// Sends each of `requests` on a connection of its own, over and over, for `time`. CPU is that of
/// `pids`, connecting not counted.
pub(crate) async fn closed_loop(
    address: &str,
    requests: Vec<Vec<u8>>,
    time: Duration,
    pids: &[u32],
) -> Result<Sample> {
    let connections = try_join_all(requests.iter().map(|_| Connection::open(address))).await?;
    let cpu_before = cpu::used_ms(pids)?;
    let begin = Instant::now();
    let until = begin + time;
    let askers = connections.into_iter().zip(requests);
    let askers = askers.map(|(connection, request)| {
        tokio::spawn(async move { ask_until(connection, &request, until).await })
    });
    let mut seen = Seen::default();
    for asked in try_join_all(askers.collect::<Vec<_>>()).await? {
        seen.add(asked?);
    }
    let mut sample = seen.sample(begin.elapsed());
    sample.cpu_ms = cpu::used_ms(pids)? - cpu_before;
    if sample.ops == 0 {
        bail!("no request to {address} succeeded: {}", sample.complaint.unwrap_or_default());
    }
    Ok(sample)
}

async fn ask_until(mut connection: Connection, request: &[u8], until: Instant) -> Result<Seen> {
    let mut seen = Seen::default();
    loop {
        let since = Instant::now();
        if since >= until {
            return Ok(seen);
        }
        match connection.ask(request).await? {
            200 => seen.success(since.elapsed()),
            status => seen.error(|| format!("{status} {}", connection.text())),
        }
    }
}

/// A connection that is kept, and its last answer.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    body_at: usize,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: vec![0; 8192], filled: 0, body_at: 0 })
    }

    /// Sends a request and gives the status of its answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<u16> {
        let answered = timeout(ANSWER_WITHIN, self.exchange(request));
        answered.await.context("no answer in time")?
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> &[u8] {
        &self.buffer[self.body_at..self.filled]
    }

    /// The same as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.body()).into_owned()
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        self.filled = 0;
        let head = loop {
            self.receive().await?;
            if let Some(head) = Head::of(&self.buffer[..self.filled])? {
                break head;
            }
        };
        self.body_at = head.bytes;
        while !head.is_whole(&self.buffer[..self.filled]) {
            self.receive().await?;
        }
        Ok(head.status)
    }

    async fn receive(&mut self) -> Result<()> {
        if self.filled == self.buffer.len() {
            if self.filled >= ANSWER_BYTES_MAX {
                bail!("an answer of more than {ANSWER_BYTES_MAX} bytes");
            }
            self.buffer.resize(2 * self.filled, 0);
        }
        let read = self.stream.read(&mut self.buffer[self.filled..]).await?;
        if read == 0 {
            bail!("the server ended the connection");
        }
        self.filled += read;
        Ok(())
    }
}

/// What the head of an answer says of the rest.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    /// `None`: chunked.
    content: Option<usize>,
}

impl Head {
    /// The head, once it is there whole.
    fn of(bytes: &[u8]) -> Result<Option<Head>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&bytes[..end]).context("the head is no text")?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let content = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let status = status.with_context(|| format!("no status: {head}"))?;
        Ok(Some(Head { status, bytes: end + 4, content }))
    }

    fn is_whole(&self, bytes: &[u8]) -> bool {
        match self.content {
            Some(content) => bytes.len() >= self.bytes + content,
            None => bytes.ends_with(b"0\r\n\r\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Head;

    #[test]
    fn a_head_says_where_the_answer_ends() {
        assert_eq!(Head::of(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let head = Head::of(whole).unwrap().unwrap();
        assert_eq!(head, Head { status: 200, bytes: 38, content: Some(2) });
        assert!(head.is_whole(whole) && !head.is_whole(&whole[..39]));
        let chunked = b"HTTP/1.1 503 Busy\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        let head = Head::of(chunked).unwrap().unwrap();
        assert_eq!((head.status, head.content), (503, None));
        assert!(head.is_whole(chunked) && !head.is_whole(&chunked[..30]));
        assert!(Head::of(b"no http\r\n\r\n").is_err());
    }
}
