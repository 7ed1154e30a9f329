//! CPU time of processes, from `/proc/<pid>/stat`: user and system, children that were waited for
//! included.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::table::line;

/// Milliseconds of one tick of `/proc`: `USER_HZ` is part of the kernel's ABI, 100 on x86 and ARM.
const TICK_MS: f64 = 10.0;
/// How long idle processes are watched.
const IDLE: Duration = Duration::from_secs(3);
/// What they may use then in a second, and how long they may take to get there.
const IDLE_MS_MAX: f64 = 60.0;
const IDLE_WITHIN: Duration = Duration::from_secs(120);

/// CPU milliseconds that the processes have used so far.
pub(crate) fn used_ms(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|&pid| used_by(pid)).sum()
}

fn used_by(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("{path}: has it ended?"))?;
    ticks(&stat).map(|ticks| ticks as f64 * TICK_MS).with_context(|| format!("{path}: {stat}"))
}

fn ticks(stat: &str) -> Option<u64> {
    // The name, in brackets, may hold anything; after it come fields 3, 4, …
    let (_, fields) = stat.rsplit_once(')')?;
    let times: Vec<u64> =
        fields.split_whitespace().skip(14 - 3).take(4).flat_map(str::parse).collect();
    (times.len() == 4).then(|| times.iter().sum())
}

/// Waits until processes that nobody asks anything of have done what they had left, and tells for how long
/// they did and what they use then.
pub(crate) async fn settle(who: &str, pids: &[u32]) -> Result<()> {
    let begin = Instant::now();
    loop {
        let (before, waited) = (used_ms(pids)?, begin.elapsed().as_secs());
        tokio::time::sleep(IDLE).await;
        let per_second = (used_ms(pids)? - before) / IDLE.as_secs_f64();
        if per_second <= IDLE_MS_MAX || begin.elapsed() > IDLE_WITHIN {
            let count = pids.len();
            line(&format!(
                "idle: {who}, {count} processes, after {waited} s, {per_second:.0} CPU-ms a second"
            ));
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ticks;

    #[test]
    fn the_four_times_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4 1 2 3 4 100 20 3 4 20 0 9 0 5";
        assert_eq!(ticks(stat), Some(127));
        assert_eq!(ticks("7 (a) S 1"), None);
    }
}
