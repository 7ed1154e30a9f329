//! What a node says of itself once a second for those who look after the cluster, so that any node
//! can show all of it. Nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use protocol::{GroupId, NodeId, ReplicaId, Time, codec};
use raft::{Group, Host};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::debug;

use crate::remote::{Envelope, PeerTransport};
use crate::standing::peers_up;

/// Envelope kind: [`Vitals`], posted.
pub(crate) const KIND_VITALS: u16 = 6;
/// How often a node tells its vitals.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many times the time between two checkpoints one may be old that lacks something.
const OVERDUE: u64 = 3;
/// What is older is not shown.
const AGE_MAX: Duration = Duration::from_secs(5);

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// When the certificate that it shows its peers ends, by its wall clock.
    pub certificate_ends: Time,
    /// For how long it was valid when it was made.
    pub certificate_term_s: u64,
    /// How often a checkpoint is written, if anything changed.
    pub checkpoint_every_s: u64,
    /// Documents without a result of the shards that it owns.
    pub backlog: u64,
    /// Logs and states that were found damaged since its process started.
    pub damaged: u64,
    pub replicas: BTreeMap<GroupId, ReplicaVitals>,
}

/// How a replica is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaVitals {
    pub replica: ReplicaId,
    pub applied: u64,
    /// Of the ownership in force.
    pub epoch: u64,
    /// Entry and age in seconds of the checkpoint that its process wrote last.
    pub checkpoint: Option<(u64, u64)>,
    /// Entries that each replica misses, where this one leads; `None` where nobody knows.
    pub lags: BTreeMap<ReplicaId, Option<u64>>,
}

impl Vitals {
    fn of(host: &Host) -> Self {
        let (groups, trust) = (host.groups(), host.peers().trust());
        let owned = groups.iter().filter(|group| group.leads());
        Self {
            certificate_ends: trust.expires_at(),
            certificate_term_s: trust.term().as_secs(),
            checkpoint_every_s: host.checkpoint_every().as_secs(),
            backlog: owned.map(|group| group.view().jobs.documents_waiting()).sum(),
            damaged: host.damage().len() as u64,
            replicas: groups.iter().map(|group| (group.id(), ReplicaVitals::of(group))).collect(),
        }
    }

    /// The age in seconds of the oldest checkpoint that should have been written anew long ago.
    #[must_use]
    pub fn overdue_s(&self) -> Option<u64> {
        let unsaved = self.replicas.values().filter_map(ReplicaVitals::unsaved_s).max();
        unsaved.filter(|&age_s| age_s > OVERDUE * self.checkpoint_every_s)
    }
}

impl ReplicaVitals {
    fn of(group: &Group) -> Self {
        let written = group.checkpoint();
        let members = if group.leads() { group.members() } else { Vec::new() };
        Self {
            replica: group.replica(),
            applied: group.applied(),
            epoch: group.view().epoch().0,
            checkpoint: written.map(|written| (written.index, written.at.elapsed().as_secs())),
            lags: members.iter().map(|member| (member.replica, member.lag)).collect(),
        }
    }

    /// For how long what was applied last is in no checkpoint, in seconds: the log alone has it.
    #[must_use]
    pub fn unsaved_s(&self) -> Option<u64> {
        self.checkpoint.filter(|(index, _)| self.applied > *index).map(|(_, age_s)| age_s)
    }
}

/// What the nodes said last. Clones see the same.
#[derive(Clone)]
pub struct Ward {
    host: Arc<Host>,
    heard: Arc<Mutex<BTreeMap<NodeId, (Vitals, Instant)>>>,
}

impl std::fmt::Debug for Ward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ward of {}", self.host.node())
    }
}

impl Ward {
    pub(crate) fn new(host: &Arc<Host>) -> Self {
        Self { host: Arc::clone(host), heard: Arc::default() }
    }

    /// The vitals of this node now, and of others as they were told lately.
    #[must_use]
    pub fn all(&self) -> BTreeMap<NodeId, Vitals> {
        let mut heard = self.heard.lock().unwrap_or_else(|_| std::process::abort());
        heard.retain(|_, (_, at)| at.elapsed() < AGE_MAX);
        let mut all: BTreeMap<_, _> =
            heard.iter().map(|(&node, (vitals, _))| (node, vitals.clone())).collect();
        drop(heard);
        all.insert(self.host.node(), Vitals::of(&self.host));
        all
    }

    pub(crate) fn note(&self, node: NodeId, vitals: Vitals) {
        let mut heard = self.heard.lock().unwrap_or_else(|_| std::process::abort());
        heard.insert(node, (vitals, Instant::now()));
    }

    /// Tells every peer, for as long as the process runs.
    pub(crate) async fn tell(self, transport: Arc<dyn PeerTransport>) {
        let mut ticks = raft::ticks::ticks(INTERVAL);
        loop {
            ticks.tick().await;
            let vitals = match codec::encode(&Vitals::of(&self.host)) {
                Ok(vitals) => Bytes::from(vitals),
                Err(error) => {
                    debug!(%error, "vitals do not encode");
                    continue;
                }
            };
            let envelope = Envelope::new(KIND_VITALS, self.host.node().0, vitals);
            for peer in peers_up(&transport) {
                if let Err(error) = transport.say(peer, envelope.clone()) {
                    // The next ones replace these.
                    debug!(peer, %error, "vitals not told");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_applied_since_the_checkpoint_is_unsaved() {
        let replica = |applied, checkpoint| ReplicaVitals {
            replica: ReplicaId(1),
            applied,
            epoch: 1,
            checkpoint,
            lags: BTreeMap::new(),
        };
        assert_eq!(replica(9, None).unsaved_s(), None);
        assert_eq!(replica(9, Some((9, 500))).unsaved_s(), None);
        assert_eq!(replica(9, Some((8, 500))).unsaved_s(), Some(500));
    }
}
