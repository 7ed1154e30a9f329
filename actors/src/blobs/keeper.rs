//! Brings the blobs of a shard to a node that got a replica of it, from the nodes that had one before.
//!
//! Whoever stores a blob stores it on the nodes that the map names at that moment. So a new replica
//! looks for what was stored before it came, and once more for what was on its way just then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use protocol::jobs::{Blob, TaskState};
use protocol::{GroupId, JobId, ReplicaId, TenantId};
use raft::Group;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Blobs;

/// How often new replicas are looked for, and a pass that found less than all is repeated.
const INTERVAL: Duration = Duration::from_millis(200);
/// Between two passes over a replica that is new and seemed to have all.
const AGAIN: Duration = Duration::from_secs(5);
/// Nobody is still storing by a map from before a replica that is this old.
const YOUNG: Duration = Duration::from_secs(30);
/// Jobs that are looked at under one lock of the state.
const JOBS_MAX: usize = 256;
/// Blobs that are looked for at a time.
const BLOBS_MAX: usize = 8;
/// Passes in which a blob that no replica has is looked for.
const PASSES_MAX: u32 = 40;

/// Log index of each group up to which all blobs are here.
pub(crate) type Kept = Arc<Mutex<BTreeMap<GroupId, u64>>>;

/// What is known of one replica.
#[derive(Clone, Copy)]
struct Watched {
    replica: ReplicaId,
    since: Instant,
    next: Instant,
    vain: u32,
    over: bool,
}

impl Blobs {
    /// Keeps the blobs of every group that has a replica here, from now on.
    pub(crate) fn start_keeping(&self) -> Kept {
        let kept = Kept::default();
        tokio::spawn(self.clone().keep_all(Arc::clone(&kept)));
        kept
    }

    async fn keep_all(self, kept: Kept) {
        let mut watched: BTreeMap<GroupId, Watched> = BTreeMap::new();
        let mut ticks = raft::ticks::ticks(INTERVAL);
        loop {
            ticks.tick().await;
            let here = self.host.groups();
            let is_here = |id: &GroupId| here.iter().any(|group| group.id() == *id);
            watched.retain(|id, _| is_here(id));
            for group in here.iter().filter(|group| !group.id().is_meta()) {
                let now = Instant::now();
                let new = Watched {
                    replica: group.replica(),
                    since: now,
                    next: now,
                    vain: 0,
                    over: false,
                };
                let seen = watched.entry(group.id()).or_insert(new);
                if seen.replica != group.replica() {
                    *seen = new;
                    locked(&kept).remove(&group.id());
                }
                if !seen.over && now >= seen.next {
                    self.look(group, seen, &kept).await;
                }
            }
            locked(&kept).retain(|id, _| is_here(id));
        }
    }

    async fn look(&self, group: &Group, seen: &mut Watched, kept: &Kept) {
        let index = group.applied();
        let missing = self.pass(group).await;
        if missing > 0 {
            seen.vain += 1;
            if seen.vain < PASSES_MAX {
                return;
            }
            warn!(group = %group.id(), missing, "blobs that no replica has");
        }
        seen.vain = 0;
        locked(kept).insert(group.id(), index);
        let own = group.replica();
        let votes = group.members().iter().any(|member| member.voter && member.replica == own);
        seen.over = votes && seen.since.elapsed() >= YOUNG;
        // A learner is waited for, and has more of the log every moment.
        let young = seen.since.elapsed() < AGAIN;
        seen.next = Instant::now() + if young { INTERVAL } else { AGAIN };
    }

    /// Looks for every blob that the state names; gives how many were not to be had.
    async fn pass(&self, group: &Group) -> usize {
        let mut after = None;
        let (mut missing, mut fetched) = (0, 0);
        loop {
            let (named, last) = named(group, after);
            let looked = stream::iter(named)
                .map(|(tenant, blob)| async move { self.keep(group.id(), tenant, blob).await });
            let mut looked = std::pin::pin!(looked.buffer_unordered(BLOBS_MAX));
            while let Some(kept) = looked.next().await {
                match kept {
                    Ok(brought) => fetched += usize::from(brought),
                    Err(error) => {
                        debug!(group = %group.id(), %error, "blob not brought here");
                        missing += 1;
                    }
                }
            }
            if last.is_none() {
                break;
            }
            after = last;
        }
        if fetched > 0 {
            info!(group = %group.id(), fetched, missing, "blobs brought here");
        }
        missing
    }
}

type At = (TenantId, JobId);

/// Blobs of some jobs beyond one, and the last of these jobs if there may be more.
fn named(group: &Group, after: Option<At>) -> (Vec<(TenantId, Blob)>, Option<At>) {
    let view = group.view();
    let (mut blobs, mut last, mut jobs) = (Vec::new(), None, 0);
    for (tenant, job) in view.jobs.beyond(after).take(JOBS_MAX) {
        for task in &job.tasks {
            blobs.push((tenant, task.input));
            if let TaskState::Done(result) = &task.state {
                blobs.push((tenant, result.output));
            }
        }
        last = Some((tenant, job.id));
        jobs += 1;
    }
    (blobs, last.filter(|_| jobs == JOBS_MAX))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| std::process::abort())
}
