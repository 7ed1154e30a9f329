//! A closed loop over HTTP/1.1: each connection asks again as soon as it is answered. One task per
//! connection, no client library: its cost would be measured as well.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::time::{Instant, timeout};

use crate::answer::Answer;
use crate::cpu;
use crate::sample::{Sample, Seen};

/// What one answer, and the wait for the last one, may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// The bytes of a request.
pub(crate) fn request(line: &str, address: &str, key: Option<&str>, body: Option<&str>) -> Vec<u8> {
    request_for(line, address, key, None, body)
}

/// The same, of an operator for a tenant.
pub(crate) fn request_for(
    line: &str,
    address: &str,
    key: Option<&str>,
    tenant: Option<&str>,
    body: Option<&str>,
) -> Vec<u8> {
    let mut text = format!("{line} HTTP/1.1\r\nHost: {address}\r\n");
    if let Some(key) = key {
        text.push_str(&format!("Authorization: Bearer {key}\r\n"));
    }
    if let Some(tenant) = tenant {
        text.push_str(&format!("X-Tenant-Id: {tenant}\r\n"));
    }
    if let Some(body) = body {
        let length = body.len();
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body.unwrap_or_default());
    text.into_bytes()
}

/// Requests that one connection sends in turn, over and over.
pub(crate) type Cycle = Arc<[Vec<u8>]>;

/// Sends each of `requests` on a connection of its own, over and over, for `time`. CPU is that of
/// `pids`, connecting not counted.
pub(crate) async fn closed_loop(
    address: &str,
    requests: Vec<Vec<u8>>,
    time: Duration,
    pids: &[u32],
) -> Result<Sample> {
    let cycles = requests.into_iter().map(|request| Cycle::from([request])).collect();
    Loop { address, cycles, lead_in: Duration::ZERO, time, pids }.run().await
}

/// A closed loop with a connection per cycle.
#[derive(Debug)]
pub(crate) struct Loop<'a> {
    pub(crate) address: &'a str,
    pub(crate) cycles: Vec<Cycle>,
    /// What goes before the clock starts, once it is at least one turn of each cycle: what is
    /// fetched at a first touch is there by then. Errors count all the same.
    pub(crate) lead_in: Duration,
    pub(crate) time: Duration,
    /// Whose CPU is measured.
    pub(crate) pids: &'a [u32],
}

impl Loop<'_> {
    pub(crate) async fn run(self) -> Result<Sample> {
        let Loop { address, cycles, lead_in, time, pids } = self;
        let connections = try_join_all(cycles.iter().map(|_| Connection::open(address))).await?;
        let start = Arc::new(Barrier::new(connections.len() + 1));
        let askers = connections.into_iter().zip(cycles).map(|(connection, cycle)| {
            let mut asker = Asker { connection, cycle, next: 0, seen: Seen::default() };
            let start = Arc::clone(&start);
            tokio::spawn(async move {
                let led_in = asker.lead_in(lead_in).await;
                // Also after an error: the others wait for everybody.
                start.wait().await;
                led_in?;
                asker.ask_for(time).await?;
                anyhow::Ok(asker.seen)
            })
        });
        let askers: Vec<_> = askers.collect();
        start.wait().await;
        let cpu_before = cpu::used_ms(pids)?;
        let begin = Instant::now();
        let mut seen = Seen::default();
        for asked in try_join_all(askers).await? {
            seen.add(asked?);
        }
        let mut sample = seen.sample(begin.elapsed());
        sample.cpu_ms = cpu::used_ms(pids)? - cpu_before;
        if sample.ops == 0 {
            bail!("no request to {address} succeeded: {}", sample.complaint.unwrap_or_default());
        }
        Ok(sample)
    }
}

/// One connection of a closed loop.
struct Asker {
    connection: Connection,
    cycle: Cycle,
    next: usize,
    seen: Seen,
}

impl Asker {
    async fn lead_in(&mut self, least: Duration) -> Result<()> {
        if least.is_zero() {
            return Ok(());
        }
        let begin = Instant::now();
        for turn in 0.. {
            if turn >= self.cycle.len() && begin.elapsed() >= least {
                break;
            }
            self.ask().await?;
        }
        self.seen.latencies_us.clear();
        Ok(())
    }

    async fn ask_for(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.ask().await?;
        }
        Ok(())
    }

    async fn ask(&mut self) -> Result<()> {
        let since = Instant::now();
        match self.connection.ask(&self.cycle[self.next]).await? {
            200 => self.seen.success(since.elapsed()),
            status => self.seen.error(|| format!("{status} {}", self.connection.text())),
        }
        self.next = (self.next + 1) % self.cycle.len();
        Ok(())
    }
}

/// A connection that is kept, and its last answer.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    answer: Answer,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, answer: Answer::new() })
    }

    /// Sends a request and gives the status of its answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<u16> {
        let answered = timeout(ANSWER_WITHIN, self.exchange(request));
        answered.await.context("no answer in time")?
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> &[u8] {
        self.answer.body()
    }

    /// The same as text.
    pub(crate) fn text(&self) -> String {
        self.answer.text()
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        self.answer.begin();
        loop {
            let read = self.stream.read(self.answer.space()?).await?;
            if let Some(status) = self.answer.arrived(read)? {
                return Ok(status);
            }
        }
    }
}
