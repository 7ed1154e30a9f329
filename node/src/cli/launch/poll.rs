//! Waiting for a condition instead of for a time.

use std::time::{Duration, Instant};

use super::LaunchError;

/// Short beside everything that is waited for, long beside one loopback request.
const PAUSE: Duration = Duration::from_millis(20);

/// What a look at the condition found.
#[derive(Debug)]
pub enum Probe<T> {
    Done(T),
    /// Not yet, and why; the last reason becomes part of the error.
    NotYet(String),
}

/// Looks until the condition holds, a look fails for good, or `within` has passed.
pub async fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<Probe<T>, LaunchError>,
) -> Result<T, LaunchError> {
    let began = Instant::now();
    loop {
        let last = match look().await? {
            Probe::Done(value) => return Ok(value),
            Probe::NotYet(reason) => reason,
        };
        if began.elapsed() >= within {
            return Err(LaunchError::TimedOut { what: what.to_owned(), within, last });
        }
        tokio::time::sleep(PAUSE).await;
    }
}
