//! Clients that ask for more than they may have, on all nodes, and note what they were given. One of
//! them scans documents, so that the same rate is spent on both paths and something is billed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::limits::Check;
use client::scan::Document;
use client::{Client, ClientError, Credential, Retry};
use futures::future::try_join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;

use crate::history::Tally;

/// A node that says nothing for this long is left for another.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two scans.
const SCAN_PAUSE: Duration = Duration::from_millis(50);

/// When a request that was admitted began and ended, in microseconds of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// What came of the requests.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) admitted: Vec<Span>,
    pub(crate) denied: u64,
    /// No answer, or one of 5xx: it may have been admitted.
    pub(crate) unknown: u64,
    /// What of it is billed.
    pub(crate) billed: Tally,
    pub(crate) took: Duration,
}

/// Clients at work.
pub(crate) struct Hammer {
    stop: Arc<AtomicBool>,
    began: Instant,
    clients: Vec<JoinHandle<Result<Taken>>>,
}

impl Hammer {
    /// `clients` clients begin, each at a node of its own, so that one that hangs does not spare the
    /// others; and one more that scans, anywhere. Each waits `pause` after an answer.
    pub(crate) fn begin(
        urls: &[String],
        key: &str,
        clients: usize,
        pause: Duration,
        seed: u64,
    ) -> Result<Hammer> {
        let stop = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let of_node = |url: &String| {
            let client = Client::new(vec![url.clone()], Credential::key(key))?;
            Ok::<_, ClientError>(client.with_retry(Retry::NEVER).with_timeout(ATTEMPT_TIMEOUT))
        };
        let clients = (0..=clients).map(|number| {
            let nodes: Vec<Client> = urls.iter().map(of_node).collect::<Result<_, _>>()?;
            let stop = Arc::clone(&stop);
            let mut dice = StdRng::seed_from_u64(seed ^ number as u64);
            let scans = number == clients;
            Ok(tokio::spawn(async move {
                let mut taken = Taken::default();
                let mut ticks = tokio::time::interval(if scans { SCAN_PAUSE } else { pause });
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    if scans {
                        let node = &nodes[dice.random_range(0..nodes.len())];
                        scan(node, began, &mut taken).await?;
                    } else {
                        check(&nodes[number % nodes.len()], began, &mut taken).await?;
                    }
                }
                Ok(taken)
            }))
        });
        let clients = clients.collect::<Result<_>>()?;
        Ok(Hammer { stop, began, clients })
    }

    /// Lets the clients end and puts together what they took.
    pub(crate) async fn end(self) -> Result<Taken> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Taken { took: self.began.elapsed(), ..Taken::default() };
        for taken in try_join_all(self.clients).await? {
            let taken = taken?;
            all.admitted.extend(taken.admitted);
            all.denied += taken.denied;
            all.unknown += taken.unknown;
            all.billed.add(taken.billed);
        }
        Ok(all)
    }
}

async fn check(node: &Client, began: Instant, taken: &mut Taken) -> Result<()> {
    let begin = began.elapsed();
    let answer = node.check_limits(Check { units: 1, policy: None }, None).await;
    taken.note(begin, began.elapsed(), answer.map(drop))
}

async fn scan(node: &Client, began: Instant, taken: &mut Taken) -> Result<()> {
    let begin = began.elapsed();
    let answer = node.scan(&[Document::new("d", "Nothing new this week.")], None).await;
    match &answer {
        Ok(scan) => taken.billed.ack(1, &scan.meta),
        Err(failure) => taken.billed.fail(1, failure),
    }
    taken.note(begin, began.elapsed(), answer.map(drop))
}

impl Taken {
    fn note(
        &mut self,
        begin: Duration,
        end: Duration,
        answer: Result<(), ClientError>,
    ) -> Result<()> {
        match answer {
            Ok(()) => {
                let (begin, end) = (begin.as_micros() as u64, end.as_micros() as u64);
                self.admitted.push(Span { begin, end });
            }
            Err(ClientError::Problem(problem)) if problem.status == 429 => self.denied += 1,
            Err(ClientError::Problem(problem)) if problem.status >= 500 => self.unknown += 1,
            Err(ClientError::Transport { .. }) => self.unknown += 1,
            Err(error) => return Err(error).context("an answer that no fault explains"),
        }
        Ok(())
    }

    /// For every interval: what began and ended in it is at most `burst + rate * time`. Gives the
    /// least room that any interval had left.
    pub(crate) fn ensure_within(&self, rate: u64, burst: u64) -> Result<u64> {
        const SECOND: u64 = 1_000_000;
        let mut by_end = self.admitted.clone();
        by_end.sort_unstable_by_key(|span| span.end);
        let mut least = u64::MAX;
        for from in self.admitted.iter().map(|span| span.begin) {
            let mut admitted = 0;
            for span in by_end.iter().filter(|span| span.begin >= from) {
                admitted += 1;
                let allowed = burst * SECOND + rate * (span.end - from);
                ensure!(
                    admitted * SECOND <= allowed,
                    "{admitted} were admitted in the {} us after {from} us",
                    span.end - from
                );
                least = least.min(allowed / SECOND - admitted);
            }
        }
        Ok(least)
    }

    /// Admitted, of what could have been at most.
    pub(crate) fn share(&self, rate: u64, burst: u64) -> f64 {
        self.admitted.len() as f64 / (burst as f64 + rate as f64 * self.took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::{Span, Taken};

    fn taken(spans: &[(u64, u64)]) -> Taken {
        let admitted = spans.iter().map(|&(begin, end)| Span { begin, end }).collect();
        Taken { admitted, ..Taken::default() }
    }

    #[test]
    fn one_request_too_many_in_any_interval_is_found() {
        // A burst of two, and one more in each tenth of a second.
        let fits = taken(&[(0, 10), (5, 20), (90_000, 100_000), (190_000, 210_000)]);
        assert_eq!(fits.ensure_within(10, 2).unwrap(), 0);
        let over = taken(&[(0, 10), (5, 20), (90_000, 99_000), (190_000, 210_000)]);
        assert!(over.ensure_within(10, 2).is_err());
    }
}
