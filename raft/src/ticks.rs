//! The moments at which an idle node wakes.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Ticks at once, and then at whole multiples of `every` since the process began, and leaves out those
/// that it is late for. What ticks equally often ticks at the same moments, and what ticks seldom does so
/// together with what ticks often: an idle node wakes once for all of them.
pub fn ticks(every: Duration) -> Interval {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = *BEGAN.get_or_init(Instant::now);
    let passed = Instant::now().saturating_duration_since(began).as_micros() / every.as_micros();
    // In the past, and so due at once.
    let last = began + every * passed as u32;
    let mut ticks = tokio::time::interval_at(last, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_begins_later_ticks_at_the_same_moments() {
        const EVERY: Duration = Duration::from_millis(40);
        let mut early = ticks(EVERY);
        tokio::time::sleep(EVERY / 3).await;
        let (mut late, mut seldom) = (ticks(EVERY), ticks(EVERY * 2));
        for ticks in [&mut early, &mut late, &mut seldom] {
            ticks.tick().await;
        }
        let (first, second) = (early.tick().await, late.tick().await);
        assert_eq!(first, second);
        let seldom = seldom.tick().await;
        assert!(seldom == first || seldom == early.tick().await);
    }
}
