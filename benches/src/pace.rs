//! An open loop: requests fall due at a steady rate, whatever the server does. Invariant: a latency
//! counts from the moment at which its request was due, so a server that stalls cannot hide what
//! piled up meanwhile behind clients that waited with it.
//!
//! One thread holds all connections and waits for answers and due times at once: the timers of an async
//! runtime tick in milliseconds, which is more than what is measured here, and a thread for each
//! connection costs two switches a request, which on two cores is more than what the server does. It steps
//! before the servers, where it may, as one on a machine of its own would not wait for them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::thread::{Timespec, set_current_timer_slack};

use crate::answer::Answer;
use crate::sample::Seen;
use crate::table::line;

/// How long after its end an offer may still be worked off; a server that cannot is not measured.
const OVERDUE_MAX: Duration = Duration::from_secs(15);
/// From when the connections are there to the first request.
const AHEAD: Duration = Duration::from_millis(50);
/// The kernel's usual slack is 50 microseconds, a tenth of what is measured.
const TIMER_SLACK: Option<NonZeroU64> = NonZeroU64::new(1);

/// Niceness of the generator; to have it needs a privilege.
const NICENESS: i32 = -10;

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
        set_current_timer_slack(TIMER_SLACK)?;
        if let Err(error) = nice_to(NICENESS) {
            line(&format!(
                "SKIPPED the priority of the generator, whose waits are in the figures: {error}"
            ));
        }
        let lines: Result<Vec<_>> = (0..self.connections).map(|_| Line::open(self)).collect();
        let mut lines = lines?;
        let start = Instant::now() + AHEAD;
        let counted = start + self.lead_in;
        let end = counted + self.time;
        let due = |number: u64| start + Duration::from_secs_f64(number as f64 / self.per_second);
        let (mut seen, mut next) = (Seen::default(), 0);
        loop {
            while due(next) < end
                && due(next) <= Instant::now()
                // The one that has been free for longest: a server may end one that is left alone.
                && let Some(line) = lines.iter_mut().filter(|line| line.due.is_none()).min_by_key(|line| line.used)
            {
                next += 1;
                line.send(&self.request, due(next - 1), next)?;
            }
            let all_sent = due(next) >= end;
            if all_sent && lines.iter().all(|line| line.due.is_none()) {
                return Ok(seen);
            }
            let overdue = Instant::now() > end + OVERDUE_MAX;
            ensure!(!overdue, "{:.0} requests a second are not answered", self.per_second);
            let until = if all_sent { end + OVERDUE_MAX } else { due(next) };
            for line in wait(&mut lines, until)? {
                let Some((status, due)) = line.receive()? else { continue };
                match status {
                    200 if due < counted => {}
                    200 => seen.success(due.elapsed()),
                    status => seen.error(|| format!("{status} {}", line.answer.text())),
                }
            }
        }
    }
}

/// Sets the niceness of this thread alone, whatever it was.
fn nice_to(niceness: i32) -> rustix::io::Result<()> {
    rustix::process::setpriority_process(None, niceness)
}

/// Those to which something has come, at the latest when one is due that a free line can take.
fn wait(lines: &mut [Line], until: Instant) -> Result<impl Iterator<Item = &mut Line>> {
    let any_free = lines.iter().any(|line| line.due.is_none());
    let wait = until.saturating_duration_since(Instant::now());
    // Without a free line what is due has to wait for an answer.
    let wait = if any_free { wait } else { wait.max(OVERDUE_MAX) };
    let mut polled: Vec<_> =
        lines.iter().map(|line| PollFd::new(&line.stream, PollFlags::IN)).collect();
    match poll(&mut polled, Some(&Timespec::try_from(wait)?)) {
        // A signal may end it early: the loop looks again.
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error).context("poll"),
    }
    let come: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
    Ok(lines.iter_mut().zip(come).filter(|(_, come)| *come).map(|(line, _)| line))
}

/// A connection that does not block.
#[derive(Debug)]
struct Line {
    stream: TcpStream,
    answer: Answer,
    /// When the request was due that is under way.
    due: Option<Instant>,
    /// Which one it was, of all, or the last one.
    used: u64,
}

impl Line {
    fn open(offer: &Offer) -> Result<Line> {
        let stream = TcpStream::connect(&offer.address).context("no connection")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Line { stream, answer: Answer::new(), due: None, used: 0 })
    }

    fn send(&mut self, request: &[u8], due: Instant, number: u64) -> Result<()> {
        // Nothing else is on its way to the server, so there is room for all of it.
        self.stream.write_all(request).context("request not sent")?;
        self.answer.begin();
        (self.due, self.used) = (Some(due), number);
        Ok(())
    }

    /// Takes what has come; with the last of it gives the status and when it was due.
    fn receive(&mut self) -> Result<Option<(u16, Instant)>> {
        let read = match self.stream.read(self.answer.space()?) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            read => read.context("no answer")?,
        };
        let status = self.answer.arrived(read)?;
        Ok(status.zip(status.and_then(|_| self.due.take())))
    }
}
