//! One clock for all groups of a node. openraft ticks each group on its own, five times a heartbeat: with
//! seventeen groups that is most of what an idle node does. Here leaders send their heartbeats when the
//! node says so, all at once, so that those to one peer share a write; and a follower's clock stands
//! still for as long as its leader is heard.
//!
//! Invariant: a follower that has heard nothing for [`QUIET`], or nothing at all since it was started,
//! ticks. No election can be due before: the earliest is when the lease and then
//! [`super::ELECTION_MIN`] are over. Where the clock stands, time goes on: openraft compares instants,
//! and counts no ticks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use tracing::debug;

use super::{HEARTBEAT, Host};
use crate::group::Group;
use crate::ticks::ticks;

/// A leader with nothing to tell beats at every so many heartbeats.
const IDLE: u64 = 3;
/// So many heartbeats in a row after somebody has come up: it may not be there for the first one yet.
const GREETINGS: u64 = 3;
/// A leader that is silent for this long is watched.
const QUIET: Duration = Duration::from_millis(900);

impl Host {
    /// Lets the leaders of this node beat at once, whether or not they have something to tell.
    pub fn beat(&self) {
        self.beat.notify_one();
    }

    /// Runs for as long as the host does.
    pub(super) async fn pulse(self: Arc<Self>) {
        let mut beat = ticks(HEARTBEAT);
        let mut logs = BTreeMap::new();
        let mut greetings = 0;
        for number in 0_u64.. {
            tokio::select! {
                _ = beat.tick() => {}
                () = self.beat.notified() => greetings = GREETINGS,
            }
            let greets = greetings > 0;
            greetings = greetings.saturating_sub(1);
            for group in self.groups() {
                let leads = beats(&group);
                group.tick(!leads && group.silence() >= QUIET);
                let last = Some(group.last_index());
                // Followers hear with a beat what is committed: who has nothing to tell beats less often.
                let idle = logs.insert(group.id(), last) == Some(last);
                let due = leads && (!idle || greets || number.is_multiple_of(IDLE));
                if due && let Err(error) = group.raft().trigger().heartbeat().await {
                    // The node ends with the group, or the group is retired.
                    debug!(group = %group.id(), %error, "no heartbeat");
                }
            }
        }
    }
}

fn beats(group: &Group) -> bool {
    group.raft().server_metrics().borrow_watched().state == ServerState::Leader
}
