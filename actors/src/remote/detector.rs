//! Decides whether a connected peer is alive. Invariant: a peer is given up only after it left
//! [`MISSES_MAX`] probes in a row unanswered while this process itself was running on time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tracing::debug;

use super::PeerId;
use super::gateway::Desk;
use super::link::{Link, PROBE_DEADLINE, Phase};
use super::session::Sessions;

/// How often a peer that is silent is asked for a sign of life.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// One that sent something just now is not asked: nodes tell how they stand every 400 ms ...
const JUST_NOW: Duration = Duration::from_millis(450);
/// ... but at every so many moments it is, for to send and to answer are two things.
const ASKED_EVERY: u64 = 10;
/// Probes missed in a row until the peer counts as down: 1.6 s after the first of them.
const MISSES_MAX: u32 = 4;
/// A tick this late says that we were stopped or starved, and that the misses are our own.
const LATE: Duration = Duration::from_millis(750);
/// From the stream being handed over to the session being ready.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// Accompanies a link from its opening to its end.
pub(super) async fn attend(sessions: Arc<Sessions>, desk: Arc<Desk>, link: Arc<Link>) {
    let ready = tokio::time::timeout(READY_TIMEOUT, link.reached(Phase::Ready)).await;
    if ready.is_err() {
        return sessions.close(&link, "session not ready in time");
    }
    tokio::select! {
        () = link.reached(Phase::Closed) => {}
        () = silence(&sessions, &desk, &link) => sessions.close(&link, "probes unanswered"),
    }
}

/// Probes until the peer has been silent for too long.
async fn silence(sessions: &Sessions, desk: &Desk, link: &Arc<Link>) {
    let mut ticks = raft::ticks::ticks(PROBE_EVERY);
    let mut ticked = Instant::now();
    let mut probes = FuturesUnordered::new();
    let (mut misses, mut moments) = (0, 0_u64);
    while misses < MISSES_MAX {
        tokio::select! {
            // The tick first: waking up late, it must clear the probes before their timeouts count.
            biased;
            _ = ticks.tick() => {
                if ticked.elapsed() > LATE {
                    probes.clear();
                    misses = 0;
                }
                ticked = Instant::now();
                let speaks = || peer(link).is_some_and(|peer| desk.heard_within(peer, JUST_NOW));
                let due = moments.is_multiple_of(ASKED_EVERY) || !probes.is_empty();
                if due || !speaks() {
                    probes.push(Arc::clone(link).probe());
                }
                moments += 1;
            }
            Some(answered) = probes.next() => {
                if answered {
                    sessions.mark_up(link);
                }
                // A busy peer that answers calls is alive even when probes wait behind them.
                if answered || link.heard_within(PROBE_DEADLINE) {
                    misses = 0;
                } else {
                    misses += 1;
                    debug!(peer = link.node, misses, "probe missed");
                }
            }
        }
    }
}

/// The boot at the other end, once it is known.
fn peer(link: &Link) -> Option<PeerId> {
    let route = link.route.get()?;
    Some(PeerId { node: link.node, incarnation: route.incarnation })
}
