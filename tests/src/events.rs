//! A reader of a job's events, as a browser would be one: it can be cut off at any moment and go on
//! elsewhere with the last number that it has.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the head of an answer may take.
const HEAD_WITHIN: Duration = Duration::from_secs(20);
/// Nothing at all for so long, not even a comment, is a stream that hangs.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: u64,
    pub name: String,
    pub data: Value,
}

/// An open stream. Dropping it cuts the connection.
#[derive(Debug)]
pub struct Events {
    stream: BufReader<TcpStream>,
}

impl Events {
    /// Opens the stream of a job at a node, after an event or from the first.
    pub async fn open(url: &str, key: &str, job: &str, after: Option<u64>) -> Result<Events> {
        let address = url.strip_prefix("http://").context("a URL of http")?;
        let mut stream = TcpStream::connect(address).await?;
        let last = after.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        let head = format!(
            "GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: skep\r\nAuthorization: Bearer {key}\r\n\
             {last}Connection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut events = Events { stream: BufReader::new(stream) };
        let status = timeout(HEAD_WITHIN, events.line()).await??.context("no answer")?;
        ensure!(status.starts_with("HTTP/1.1 200"), "{status}");
        let mut typed = false;
        loop {
            let line = timeout(HEAD_WITHIN, events.line()).await??.context("half a head")?;
            typed |= line.eq_ignore_ascii_case("content-type: text/event-stream");
            if line.is_empty() {
                ensure!(typed, "the answer is no stream of events");
                return Ok(events);
            }
        }
    }

    /// The next event; `None` when the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        let (mut id, mut name) = (None, None);
        loop {
            let line = timeout(SILENCE_MAX, self.line()).await.context("a silent stream")?;
            // The lines of chunks are none of ours.
            let Some(line) = line? else { return Ok(None) };
            if let Some(text) = line.strip_prefix("id: ") {
                id = Some(text.parse().context("an id is a number")?);
            } else if let Some(text) = line.strip_prefix("event: ") {
                name = Some(text.to_owned());
            } else if let Some(text) = line.strip_prefix("data: ") {
                let (Some(id), Some(name)) = (id, name) else {
                    bail!("data before its id: {text}")
                };
                return Ok(Some(Event { id, name, data: serde_json::from_str(text)? }));
            }
        }
    }

    /// All that follow until the server ends the stream.
    pub async fn rest(mut self) -> Result<Vec<Event>> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await? {
            all.push(event);
        }
        Ok(all)
    }

    async fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        match self.stream.read_line(&mut line).await {
            // The node was killed, maybe in the middle of a line.
            Ok(_) if !line.ends_with('\n') => Ok(None),
            Ok(_) => Ok(Some(line.trim_end().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
