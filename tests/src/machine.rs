//! What the machine gives to its tests.

use std::time::Duration;

/// Of `/proc`: `USER_HZ` is part of the kernel's ABI, 100 on x86 and ARM.
const TICK: Duration = Duration::from_millis(10);

/// Time that a virtual machine was ready to run and was not let, since its start and as the mean of its
/// processors. A bound on time holds for what a machine gives: take off what was stolen meanwhile. Zero
/// where the kernel does not tell.
pub fn stolen() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    mean_stolen(&stat).unwrap_or_default()
}

fn mean_stolen(stat: &str) -> Option<Duration> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let processors = stat.lines().filter(|line| line.starts_with("cpu")).count() - 1;
    // user, nice, system, idle, iowait, irq, softirq, steal
    let ticks: u32 = all.split_whitespace().nth(7)?.parse().ok()?;
    (TICK * ticks).checked_div(u32::try_from(processors).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_the_processors_is_told() {
        let stat = "cpu  9 8 7 6 5 4 3 300 1 0\ncpu0 1 1 1 1 1 1 1 100 0 0\ncpu1 1 1 1 1 1 1 1 200 0 0\nintr 7\n";
        assert_eq!(mean_stolen(stat), Some(Duration::from_millis(1_500)));
        assert_eq!(mean_stolen("intr 7\n"), None);
        assert_eq!(mean_stolen("cpu  9 8 7\ncpu0 9 8 7\n"), None);
    }
}
