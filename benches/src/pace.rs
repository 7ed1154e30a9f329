//! An open loop: requests fall due at a steady rate, whatever the server does. Invariant: a latency
//! counts from the moment at which its request was due, so a server that stalls cannot hide what
//! piled up meanwhile behind clients that waited with it.
//!
//! Each connection is a thread of its own that blocks: the timers of an async runtime tick in
//! milliseconds, which is more than what is measured here.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::thread::{Timespec, nanosleep, set_current_timer_slack};

use crate::answer::Answer;
use crate::sample::Seen;

/// What one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long after its end an offer may still be worked off; a server that cannot is not measured.
const OVERDUE_MAX: Duration = Duration::from_secs(5);
/// From when the connections are there to the first request.
const AHEAD: Duration = Duration::from_millis(50);
/// The kernel's usual slack is 50 microseconds, a tenth of what is measured.
const TIMER_SLACK: Option<NonZeroU64> = NonZeroU64::new(1);

/// What is offered to a server.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) address: String,
    pub(crate) request: Vec<u8>,
    pub(crate) per_second: f64,
    /// Requests that can be under way at a time.
    pub(crate) connections: usize,
    /// Requests of this time are sent before any is counted.
    pub(crate) lead_in: Duration,
    pub(crate) time: Duration,
}

impl Offer {
    /// Makes the offer and gives what became of it.
    pub(crate) async fn run(self) -> Result<Seen> {
        tokio::task::spawn_blocking(move || self.block()).await?
    }

    fn block(&self) -> Result<Seen> {
        let lines: Result<Vec<_>> = (0..self.connections).map(|_| Line::open(self)).collect();
        let next = AtomicU64::new(0);
        let start = Instant::now() + AHEAD;
        let mut seen = Seen::default();
        std::thread::scope(|threads| {
            let run = |line: Line| threads.spawn(|| self.work(line, &next, start));
            let threads: Vec<_> = lines?.into_iter().map(run).collect();
            for thread in threads {
                let worked = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
                seen.add(worked?);
            }
            anyhow::Ok(())
        })?;
        Ok(seen)
    }

    /// Takes the request that is due next, waits for its time, asks, and so on.
    fn work(&self, mut line: Line, next: &AtomicU64, start: Instant) -> Result<Seen> {
        set_current_timer_slack(TIMER_SLACK)?;
        let counted = start + self.lead_in;
        let end = counted + self.time;
        let mut seen = Seen::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let due = start + Duration::from_secs_f64(number as f64 / self.per_second);
            if due >= end {
                return Ok(seen);
            }
            if Instant::now() > end + OVERDUE_MAX {
                bail!("{:.0} requests a second are more than it can answer", self.per_second);
            }
            sleep_until(due)?;
            match line.ask(&self.request)? {
                200 if due < counted => {}
                200 => seen.success(due.elapsed()),
                status => seen.error(|| format!("{status} {}", line.answer.text())),
            }
        }
    }
}

/// The runtime has nothing to do on this thread, and a condition to wait for is only the time.
fn sleep_until(due: Instant) -> Result<()> {
    loop {
        let wait = due.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        // A signal may end it early: the loop looks again.
        let _ = nanosleep(&Timespec::try_from(wait)?);
    }
}

/// A connection that blocks.
#[derive(Debug)]
struct Line {
    stream: TcpStream,
    answer: Answer,
}

impl Line {
    fn open(offer: &Offer) -> Result<Line> {
        let stream = TcpStream::connect(&offer.address).context("no connection")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(Line { stream, answer: Answer::new() })
    }

    fn ask(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request)?;
        self.answer.begin();
        loop {
            let read = self.stream.read(self.answer.space()?).context("no answer")?;
            if let Some(status) = self.answer.arrived(read)? {
                return Ok(status);
            }
        }
    }
}
