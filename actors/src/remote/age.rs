//! How old a message is, although the clocks of two hosts cannot be compared. Invariant: an age is
//! never overstated by more than the delay of the fastest recent message from the same boot.
//!
//! A stopped process that wakes up finds everything that was sent to it meanwhile in its socket
//! and would execute commands whose callers gave up long ago. The difference between its clock and
//! the sender's is unknown but nearly constant, so the smallest difference seen lately is the
//! baseline and everything above it is delay.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::PeerId;

/// Senders remembered. Far more than a cluster has; beyond it the table starts anew.
const SENDERS_MAX: usize = 1024;
/// How fast a baseline may rise: one part in a thousand, ten times the drift of a bad clock.
const DRIFT_DIVISOR: i64 = 1000;

#[derive(Debug)]
pub(super) struct Ages {
    started: Instant,
    baselines: Mutex<BTreeMap<u64, Baseline>>,
}

#[derive(Clone, Copy, Debug)]
struct Baseline {
    incarnation: u64,
    difference_us: i64,
    seen_us: i64,
}

impl Ages {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, baselines: Mutex::new(BTreeMap::new()) }
    }

    /// The delay of a message that was sent at `sent_us` of the sender's clock, now.
    pub(super) fn age(&self, from: PeerId, sent_us: u64) -> Duration {
        self.age_at(from, sent_us, clock_us(self.started))
    }

    /// Whether a message of this boot came in the last `span`.
    pub(super) fn heard_within(&self, from: PeerId, span: Duration) -> bool {
        let baselines = self.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = baselines.get(&from.node).filter(|seen| seen.incarnation == from.incarnation);
        let silent_us = |seen: &Baseline| signed(clock_us(self.started)) - seen.seen_us;
        seen.is_some_and(|seen| u128::from(silent_us(seen).unsigned_abs()) < span.as_micros())
    }

    fn age_at(&self, from: PeerId, sent_us: u64, now_us: u64) -> Duration {
        let (now_us, sent_us) = (signed(now_us), signed(sent_us));
        let difference_us = now_us.saturating_sub(sent_us);
        let fresh = Baseline { incarnation: from.incarnation, difference_us, seen_us: now_us };
        let mut baselines = self.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        if baselines.len() >= SENDERS_MAX && !baselines.contains_key(&from.node) {
            baselines.clear();
        }
        let baseline = baselines.entry(from.node).or_insert(fresh);
        if baseline.incarnation != from.incarnation {
            *baseline = fresh;
        }
        let risen_us = (now_us - baseline.seen_us).max(0) / DRIFT_DIVISOR;
        let raised_us = baseline.difference_us.saturating_add(risen_us);
        baseline.difference_us = difference_us.min(raised_us);
        baseline.seen_us = now_us;
        Duration::from_micros(difference_us.saturating_sub(baseline.difference_us).unsigned_abs())
    }
}

/// Microseconds since `started`, on the clock that goes on while the process is stopped.
pub(super) fn clock_us(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The range is 292,000 years; a larger reading is nonsense and any age will do.
fn signed(clock_us: u64) -> i64 {
    i64::try_from(clock_us).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: PeerId = PeerId { node: 1, incarnation: 7 };

    fn check(readings: &[(PeerId, u64, u64)], ages_ms: &[u128]) {
        let ages = Ages::new(Instant::now());
        let seen: Vec<_> = readings
            .iter()
            .map(|&(from, sent_ms, now_ms)| {
                ages.age_at(from, sent_ms * 1000, now_ms * 1000).as_millis()
            })
            .collect();
        assert_eq!(seen, ages_ms);
    }

    #[test]
    fn what_waited_in_a_stopped_process_is_as_old_as_the_stop() {
        check(&[(SENDER, 1000, 50), (SENDER, 1250, 300), (SENDER, 1500, 33_550)], &[0, 0, 32_966]);
    }

    #[test]
    fn a_new_boot_of_the_sender_starts_a_new_baseline() {
        let rebooted = PeerId { incarnation: 8, ..SENDER };
        check(&[(SENDER, 90_000, 50), (rebooted, 10, 60), (rebooted, 20, 1060)], &[0, 0, 989]);
    }

    #[test]
    fn a_drifting_clock_does_not_age_messages() {
        let drifting: Vec<_> =
            (0..1000_u64).map(|i| (SENDER, 10_000 + i * 1000, i * 1000 + i / 10)).collect();
        check(&drifting, &[0; 1000]);
    }
}
