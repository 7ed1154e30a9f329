//! The faults, one file each.

pub(crate) mod crash_all;
pub(crate) mod crash_one;
pub(crate) mod fsync_order;
pub(crate) mod job_owner;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::report::Report;
use crate::workloads::Working;

/// What all scenarios of a run share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) report: Report,
    pub(crate) keep: bool,
}

/// Short beside everything that is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// Looks until the writers have come so far; an error if they have not within `within`.
async fn written(
    what: &str,
    within: Duration,
    working: &Working,
    mut enough: impl FnMut() -> bool,
) -> Result<()> {
    let began = Instant::now();
    while !enough() {
        ensure!(began.elapsed() < within, "{what} did not happen within {within:?}");
        if working.ensure_writing().is_err() {
            // Resting gives the writer's own words.
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
