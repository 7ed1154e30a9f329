//! How long before a task ends the next is fetched. What is here waits, though an idle node could have
//! it and the next in turn may be another tenant's; what comes too late leaves a slot idle. So it is
//! twice what fetching one takes here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// However fast owners answer: nodes are not asked for more than they can tell apart.
const LEAST: Duration = Duration::from_millis(50);
/// However slow.
const MOST: Duration = Duration::from_millis(400);
/// The part of a shorter time that counts at once; a longer one counts whole.
const FALL: u64 = 8;

/// What was seen of fetching, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Lead {
    asking_us: AtomicU64,
    reading_us: AtomicU64,
}

impl Lead {
    /// An owner took so long to lease a task.
    pub(super) fn asked(&self, took: Duration) {
        note(&self.asking_us, took);
    }

    /// The documents of a task took so long to come.
    pub(super) fn read(&self, took: Duration) {
        note(&self.reading_us, took);
    }

    /// A task that is done sooner than this makes room for another.
    pub(super) fn time(&self) -> Duration {
        let [asking, reading] =
            [&self.asking_us, &self.reading_us].map(|us| us.load(Ordering::Relaxed));
        (Duration::from_micros(asking + reading) * 2).clamp(LEAST, MOST)
    }
}

/// Two at once may lose one of them, which the next makes good.
fn note(seen: &AtomicU64, took: Duration) {
    let took = took.min(MOST).as_micros() as u64;
    let before = seen.load(Ordering::Relaxed);
    let now = if took >= before { took } else { before - (before - took).div_ceil(FALL) };
    seen.store(now, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_at_once_and_falls_slowly_within_bounds() {
        let (lead, ms) = (Lead::default(), Duration::from_millis);
        assert_eq!(lead.time(), LEAST);
        lead.asked(ms(10));
        lead.read(ms(40));
        assert_eq!(lead.time(), ms(100));
        lead.read(ms(8));
        assert_eq!(lead.time(), ms(92));
        (0..99).for_each(|_| lead.read(Duration::ZERO));
        assert_eq!(lead.time(), LEAST);
        lead.asked(Duration::from_secs(9));
        assert_eq!(lead.time(), MOST);
    }
}
