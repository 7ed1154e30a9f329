//! Threads for work that may take its time: requests and elections do not wait for a core beside it.

use std::io;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};
use tracing::warn;

/// The niceness of these threads, as that of inference.
const NICENESS: i32 = 10;
/// Threads of the process; more work than that waits for one.
const THREADS: usize = 4;

/// Runs what blocks and must not hold up others: it gets a tenth of a core for which requests compete,
/// and all of one that is free. It must not hold a lock that a request waits for. A panic of `work` is an
/// error.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    static THREADS_OF_ITS_OWN: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let runtime = THREADS_OF_ITS_OWN.get_or_init(start).as_ref();
    let runtime = runtime.map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
    runtime.spawn_blocking(work).await.map_err(io::Error::other)
}

/// Only its threads for blocking work are used, each of which ends after seconds without any.
fn start() -> io::Result<Runtime> {
    let step_back = || {
        if let Err(error) = rustix::process::nice(NICENESS) {
            warn!(%error, "background work keeps its priority");
        }
    };
    Builder::new_current_thread()
        .thread_name("skep-background")
        .max_blocking_threads(THREADS)
        .on_thread_start(step_back)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_runs_in_the_background_steps_back() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        assert_eq!(run(niceness).await.unwrap(), (before + NICENESS).min(19));
        assert_eq!(niceness(), before);
        let blocking = tokio::task::spawn_blocking(niceness).await.unwrap();
        assert_eq!(blocking, before);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_ends_nothing_else() {
        let panicked = run(|| -> u8 { panic!("on purpose") }).await;
        assert!(panicked.unwrap_err().to_string().contains("on purpose"));
        assert_eq!(run(|| 7).await.unwrap(), 7);
    }
}
