//! The one wall clock, and the shard time that owners stamp commands with.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::{NodeId, Stamp, Steady, Time};
use rustix::time::{ClockId, clock_gettime};

/// Shard time follows the wall clock by at most this share of the time that passes.
const SLEW_DIVISOR: u64 = 20;
/// Older words about other walls do not count.
const HEARD_US_MAX: u64 = 5_000_000;

/// The time of day, which may jump. Nothing but [`ShardClock`], logs and the meta group reads it.
#[must_use]
pub fn wall() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(since.as_millis() as u64)
}

/// How much later other nodes' walls are than this node's unjumpable clock, in milliseconds, and
/// when they said so.
static PEERS: Mutex<BTreeMap<NodeId, (i64, u64)>> = Mutex::new(BTreeMap::new());

/// Notes what another node's wall shows.
pub(crate) fn hear(node: NodeId, wall: Time) {
    let boot_us = boot_us();
    let offset = wall.0 as i64 - (boot_us / 1000) as i64;
    PEERS.lock().unwrap_or_else(|_| std::process::abort()).insert(node, (offset, boot_us));
}

/// How many milliseconds the walls of others that were heard of lately are ahead of this one, less
/// what their word took to come here.
#[must_use]
pub fn walls_ahead() -> BTreeMap<NodeId, i64> {
    let boot_us = boot_us();
    let own = wall().0 as i64 - (boot_us / 1000) as i64;
    let peers = PEERS.lock().unwrap_or_else(|_| std::process::abort());
    let fresh = peers.iter().filter(|(_, (_, at))| boot_us.saturating_sub(*at) < HEARD_US_MAX);
    fresh.map(|(&node, (offset, _))| (node, offset - own)).collect()
}

/// The time of day that most nodes agree on: the median of this wall and of those heard lately, the
/// earlier of the middle two. One wall that jumps moves nothing.
fn agreed_wall(boot_us: u64) -> Time {
    let boot_ms = (boot_us / 1000) as i64;
    let mut offsets = vec![wall().0 as i64 - boot_ms];
    let peers = PEERS.lock().unwrap_or_else(|_| std::process::abort());
    let fresh = peers.values().filter(|(_, at)| boot_us.saturating_sub(*at) < HEARD_US_MAX);
    offsets.extend(fresh.map(|(offset, _)| offset));
    drop(peers);
    offsets.sort_unstable();
    let median = offsets[(offsets.len() - 1) / 2];
    Time((boot_ms + median).max(0) as u64)
}

/// Microseconds on the clock that never jumps and counts suspension.
pub(crate) fn boot_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// The time of one ownership. Never runs back; a jump of the wall clock changes its pace by at most
/// a twentieth, never its reading.
#[derive(Debug)]
pub struct ShardClock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    shard_us: u64,
    steady_us: u64,
    boot_us: u64,
}

impl ShardClock {
    /// The clock of an ownership that begins: not before what was applied, and not before the time
    /// that the nodes agree on, so that a cluster that rested does not date its work to the day before.
    /// Service time goes on where the last owner's was last applied.
    #[must_use]
    pub fn open(applied: Time, steady: Steady) -> Self {
        let start = applied.max(agreed_wall(boot_us()));
        let (shard_us, steady_us) = (start.0 * 1000, steady.0 * 1000);
        Self { state: Mutex::new(State { shard_us, steady_us, boot_us: boot_us() }) }
    }

    /// The shard's time now.
    #[must_use]
    pub fn now(&self) -> Time {
        self.stamp().time
    }

    /// Both times of the shard now, for a tenant of UTC.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let mut state = self.state.lock().unwrap_or_else(|_| std::process::abort());
        let boot_us = boot_us();
        state.advance(boot_us, agreed_wall(boot_us).0 * 1000);
        let (time, steady) = (Time(state.shard_us / 1000), Steady(state.steady_us / 1000));
        Stamp { time, steady, ..Stamp::default() }
    }
}

impl State {
    fn advance(&mut self, boot_us: u64, wall_us: u64) {
        let passed = boot_us.saturating_sub(self.boot_us);
        self.boot_us = self.boot_us.max(boot_us);
        self.steady_us += passed;
        let slew = passed / SLEW_DIVISOR;
        let steady = self.shard_us + passed;
        self.shard_us = wall_us.clamp(steady - slew, steady + slew);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_jumps_moves_shard_time_by_a_twentieth_of_the_time_passed() {
        let hour = 3_600_000_000;
        let mut state = State { shard_us: 10 * hour, steady_us: 7, boot_us: 0 };
        state.advance(1_000_000, 20 * hour);
        assert_eq!(state.shard_us, 10 * hour + 1_050_000);
        state.advance(2_000_000, hour);
        assert_eq!(state.shard_us, 10 * hour + 2_000_000);
        state.advance(2_000_000, 99 * hour);
        assert_eq!(state.shard_us, 10 * hour + 2_000_000);
        assert_eq!(state.steady_us, 2_000_007);
    }

    #[test]
    fn one_wall_that_jumps_is_outvoted() {
        let (now, hour) = (wall(), 3_600_000);
        hear(NodeId(2), now.plus_ms(3));
        hear(NodeId(3), now.plus_ms(hour));
        assert!(agreed_wall(boot_us()).ms_since(now) < hour / 2);
        // Alone with one that jumped ahead, the earlier of the two counts.
        hear(NodeId(2), now.plus_ms(hour));
        hear(NodeId(3), now.plus_ms(hour));
        assert!(agreed_wall(boot_us()).ms_since(now) > hour / 2);
        PEERS.lock().unwrap().remove(&NodeId(3));
        assert!(agreed_wall(boot_us()).ms_since(now) < hour / 2);
    }

    #[test]
    fn a_steady_wall_clock_is_followed_exactly() {
        let mut state = State { shard_us: 500, steady_us: 0, boot_us: 0 };
        state.advance(1_000_000, 1_000_600);
        assert_eq!(state.shard_us, 1_000_600);
    }
}
