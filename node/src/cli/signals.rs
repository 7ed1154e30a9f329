//! Waiting to be told to stop.

use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;

/// Waits for SIGINT or SIGTERM and names it.
pub(super) async fn stop_requested() -> Result<&'static str, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}
