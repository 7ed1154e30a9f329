//! The clocks of this machine: do they go, do they agree, does somebody keep them right.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Finding, grade};

/// A wall clock that is slewed is off by less in the time that this takes.
const JUMP_WARN_MS: u128 = 50;
const JUMP_FAIL_MS: u128 = 1_000;
/// At least so long is looked at.
const LOOK: Duration = Duration::from_millis(300);
const TOOL_TIMEOUT: Duration = Duration::from_secs(2);

/// What the clocks showed at one moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    wall: Duration,
    monotonic: Duration,
    boot: Duration,
}

/// The clocks since they were read first.
#[derive(Debug)]
pub(super) struct Clocks(Reading);

impl Reading {
    fn now() -> Self {
        let read = |clock| {
            let at = clock_gettime(clock);
            Duration::new(at.tv_sec.unsigned_abs(), at.tv_nsec.unsigned_abs() as u32)
        };
        Self {
            wall: read(ClockId::Realtime),
            monotonic: read(ClockId::Monotonic),
            boot: read(ClockId::Boottime),
        }
    }
}

impl Clocks {
    pub(super) fn start() -> Self {
        Self(Reading::now())
    }

    /// Compares them with what they show now.
    pub(super) async fn check(self) -> Vec<Finding> {
        let looked = Reading::now().boot.saturating_sub(self.0.boot);
        tokio::time::sleep(LOOK.saturating_sub(looked)).await;
        vec![goes(self.0, Reading::now()), kept().await]
    }
}

fn goes(before: Reading, after: Reading) -> Finding {
    let check = "clock pace";
    let advice = "leases and elections go by these clocks: look at the machine's virtualisation";
    let passed = after.boot.saturating_sub(before.boot);
    if passed.is_zero() || after.monotonic <= before.monotonic {
        return Finding::fail(check, "the monotonic clock stands still").advice(advice);
    }
    let apart = |clock: Duration, then: Duration| {
        (clock.as_nanos() as i128 - then.as_nanos() as i128 - passed.as_nanos() as i128)
            .unsigned_abs()
            / 1_000_000
    };
    let steady_ms = apart(after.monotonic, before.monotonic);
    let wall_ms = apart(after.wall, before.wall);
    let found = format!("in {passed:.1?} the wall clock was off by {wall_ms} ms");
    Finding::new(check, grade(wall_ms.max(steady_ms), JUMP_WARN_MS, JUMP_FAIL_MS), found)
        .bound(format!("{JUMP_WARN_MS} ms"))
        .advice("something sets the clock in steps: let NTP slew it")
}

/// The kernel's own answer needs a call that is not safe; the tool of every systemd has it.
async fn kept() -> Finding {
    let check = "clock kept";
    let mut ask = Command::new("timedatectl");
    ask.args(["show", "--property=NTPSynchronized", "--value"]).kill_on_drop(true);
    let answer = match timeout(TOOL_TIMEOUT, ask.output()).await {
        Ok(Ok(output)) if output.status.success() => output.stdout,
        Ok(_) | Err(_) => return Finding::skip(check, "timedatectl does not say"),
    };
    match String::from_utf8_lossy(&answer).trim() {
        "yes" => Finding::ok(check, "synchronised"),
        said => Finding::warn(check, format!("not synchronised ({said:?})"))
            .advice("run NTP: shard time follows the median of the nodes' clocks"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn at(wall_ms: u64, monotonic_ms: u64, boot_ms: u64) -> Reading {
        let [wall, monotonic, boot] = [wall_ms, monotonic_ms, boot_ms].map(Duration::from_millis);
        Reading { wall, monotonic, boot }
    }

    #[test]
    fn a_clock_that_jumps_or_stands_is_told() {
        let start = at(1_000_000, 500, 700);
        assert_eq!(goes(start, at(1_000_310, 810, 1_010)).verdict, Verdict::Ok);
        assert_eq!(goes(start, at(1_000_400, 810, 1_010)).verdict, Verdict::Warn);
        assert_eq!(goes(start, at(999_000, 810, 1_010)).verdict, Verdict::Fail);
        assert_eq!(goes(start, at(1_000_310, 500, 1_010)).verdict, Verdict::Fail);
        assert_eq!(goes(start, at(1_000_310, 810, 700)).verdict, Verdict::Fail);
    }

    #[tokio::test]
    async fn the_clocks_of_this_machine_go() {
        let found = Clocks::start().check().await;
        assert_ne!(found[0].verdict, Verdict::Fail, "{found:?}");
    }
}
