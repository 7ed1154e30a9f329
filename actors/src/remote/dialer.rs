//! Keeps a connection to one peer. Invariant: between two attempts lies a pause of at least
//! [`PAUSE_MIN`], growing to [`PAUSE_MAX`] and a half more while they fail, so a flapping peer is not hammered.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::Notify;
use tracing::debug;

use super::Core;
use super::link::Phase;
use super::stream::Wire;

/// Opens a stream to a node, on which both sides have already said who they are.
pub type Dial = Arc<dyn Fn(u64) -> BoxFuture<'static, io::Result<Wire>> + Send + Sync>;

const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Nodes are few, and a peer that is back is needed at once.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Connecting and introducing together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that held this long was a good one, and the pauses begin small again.
const HELD_WELL: Duration = Duration::from_secs(10);

/// Dials until the task is aborted. `wake` cuts a pause short when the peer is known to be back.
pub(super) async fn keep(core: Arc<Core>, node: u64, wake: Arc<Notify>) {
    let mut pause = PAUSE_MIN;
    loop {
        match hold(&core, node).await {
            Ok(held) if held > HELD_WELL => pause = PAUSE_MIN,
            Ok(_) => {}
            Err(error) => debug!(peer = node, %error, "dial failed"),
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => pause = (pause * 2).min(PAUSE_MAX),
            () = wake.notified() => pause = PAUSE_MIN,
        }
    }
}

/// One connection, from the dial to its end, and how long it held.
async fn hold(core: &Arc<Core>, node: u64) -> io::Result<Duration> {
    let stream = tokio::time::timeout(DIAL_TIMEOUT, (core.dial)(node)).await??;
    let link = core.hand_over(stream, node, None).map_err(io::Error::other)?;
    let begun = Instant::now();
    link.reached(Phase::Closed).await;
    Ok(begun.elapsed())
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(1.0..1.5))
}
