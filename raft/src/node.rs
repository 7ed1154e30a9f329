//! All groups of one process: open what the log knows, host what the cluster map says.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Config, SnapshotPolicy};
use protocol::nodes::{self, Map, Registration, SHARDS, Secrets};
use protocol::{Applied, GroupId, NodeId, Proposal, ReplicaId, Reply, Stamp, Time, codec};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::error;

use crate::apply::{Applier, Shared};
use crate::group::{Group, Life, ProposeError, ReadError};
use crate::log::Log;
use crate::network::{CallError, Class, Kind, Network, Peers};
use crate::types::{Member, Raft};
use crate::wal::Wal;

mod addresses;
pub(crate) mod residence;
mod service;

pub use service::{JoinAnswer, JoinRequest, RaftService};

/// Interval of heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(200);
/// A follower that hears nothing campaigns after this at the earliest.
pub const ELECTION_MIN: Duration = Duration::from_millis(600);
/// The lease of a leader, and how long a started node refuses to vote.
pub const ELECTION_MAX: Duration = Duration::from_millis(900);
/// Entries in one append; each is at most 256 KiB, so a frame's bound holds.
const APPEND_ENTRIES_MAX: u64 = 24;
/// How long a command for the meta group may take to find its leader.
const META_TIMEOUT: Duration = Duration::from_secs(5);
const META_RETRY: Duration = Duration::from_millis(50);

/// Why a group cannot be hosted.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("group {group} does not start: {why}")]
    Start { group: GroupId, why: String },
    #[error(transparent)]
    Log(#[from] crate::wal::SubmitError),
    #[error("the cluster map cannot be made: {0}")]
    Bootstrap(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The groups that have a replica on this node.
pub struct Host {
    wal: Wal,
    peers: Arc<Peers>,
    life: Life,
    runtime: Handle,
    started: Instant,
    addresses: PathBuf,
    /// Wall time, for commands of the meta group that have no owner's clock.
    clock: fn() -> Time,
    groups: RwLock<BTreeMap<GroupId, Group>>,
    hosting: tokio::sync::Mutex<()>,
    map: watch::Sender<Option<Arc<Map>>>,
    dead: watch::Sender<Option<GroupId>>,
    /// This node is no more in the cluster.
    removed: watch::Sender<bool>,
    /// It is about to stop, so it takes no leadership.
    leaving: AtomicBool,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "host of {}", self.life.node)
    }
}

impl Host {
    /// Starts every replica that the log knows, on `runtime`.
    pub async fn open(
        wal: Wal,
        hosted: BTreeMap<u32, u64>,
        peers: Arc<Peers>,
        runtime: Handle,
        data: PathBuf,
        clock: fn() -> Time,
    ) -> Result<Arc<Self>, HostError> {
        let identity = peers.identity();
        let life = Life { node: identity.node, incarnation: identity.incarnation };
        let host = Arc::new(Self {
            wal,
            life,
            runtime,
            started: Instant::now(),
            addresses: data.join("peers"),
            clock,
            groups: RwLock::default(),
            hosting: tokio::sync::Mutex::new(()),
            map: watch::Sender::new(None),
            dead: watch::Sender::new(None),
            removed: watch::Sender::new(false),
            leaving: AtomicBool::new(false),
            peers,
        });
        host.read_addresses().await?;
        for (group, replica) in hosted {
            host.host(GroupId(group), ReplicaId(replica)).await?;
        }
        Ok(host)
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.life.node
    }

    /// The connections to other nodes.
    #[must_use]
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// The cluster map, as it changes; `None` until this node has applied its first entry.
    #[must_use]
    pub fn map(&self) -> watch::Receiver<Option<Arc<Map>>> {
        self.map.subscribe()
    }

    /// Returns the first group whose Raft core has ended by a fault; the node must end with it.
    pub async fn failed(&self) -> Option<GroupId> {
        let mut dead = self.dead.subscribe();
        // An error means that the host itself is gone.
        dead.wait_for(Option::is_some).await.ok().and_then(|dead| *dead)
    }

    /// The group, if it has a replica here.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<Group> {
        self.groups.read().unwrap_or_else(|_| std::process::abort()).get(&group).cloned()
    }

    /// Every group that has a replica here.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        let groups = self.groups.read().unwrap_or_else(|_| std::process::abort());
        groups.values().cloned().collect()
    }

    /// Makes sure that a replica lives here and runs. Its id is noted in the log first: an id that
    /// voted must never be given to another life of the replica.
    pub async fn host(
        self: &Arc<Self>,
        group: GroupId,
        replica: ReplicaId,
    ) -> Result<Group, HostError> {
        let _one_at_a_time = self.hosting.lock().await;
        if let Some(running) = self.group(group).filter(|running| running.replica() == replica) {
            return Ok(running);
        }
        let log = self.wal.group(group.0);
        let refused = |why: String| Err(HostError::Start { group, why });
        match (log.replica(), log.retired()) {
            (Some(known), _) if known != replica.0 => {
                return refused(format!("replica {known} lives here, not {replica}"));
            }
            (_, Some(retired)) if retired >= replica.0 => {
                return refused(format!("replica {retired} lived here, {replica} may not"));
            }
            (Some(_), _) => {}
            (None, _) => log.host(replica.0).await?,
        }
        let host = Arc::clone(self);
        let started = self.runtime.spawn(async move { host.start(group, replica).await });
        let started =
            started.await.map_err(|error| HostError::Start { group, why: error.to_string() })?;
        let started = started?;
        let mut groups = self.groups.write().unwrap_or_else(|_| std::process::abort());
        groups.insert(group, started.clone());
        Ok(started)
    }

    /// The same with a named type: hosting the meta group follows the map, which hosts others.
    fn host_boxed(
        self: &Arc<Self>,
        group: GroupId,
        replica: ReplicaId,
    ) -> BoxFuture<'_, Result<Group, HostError>> {
        Box::pin(self.host(group, replica))
    }

    async fn start(
        self: &Arc<Self>,
        group: GroupId,
        replica: ReplicaId,
    ) -> Result<Group, HostError> {
        let failed = |why: String| HostError::Start { group, why };
        let shared = Shared::new(group, self.map.clone());
        let config = Arc::new(config().map_err(|error| failed(error.to_string()))?);
        let network = Network::new(Arc::clone(&self.peers), group);
        let log = Log::new(self.wal.group(group.0));
        let applier = Applier::new(shared.clone());
        let raft = Raft::new(replica.0, config, network, log, applier)
            .await
            .map_err(|error| failed(error.to_string()))?;
        elect_when_alone(&raft, replica).await;
        if group.is_meta() {
            tokio::spawn(Arc::clone(self).follow_map(self.map.subscribe()));
        }
        Ok(Group::start(group, replica, self.life, raft, shared, self.dead.clone()))
    }

    /// Makes the cluster of which this node is the first: one replica of every group, then the
    /// map. Safe to repeat after a crash at any point.
    pub async fn bootstrap(
        self: &Arc<Self>,
        secrets: Secrets,
        registration: Registration,
    ) -> Result<(), HostError> {
        for number in 0..=SHARDS {
            let replica = ReplicaId(u64::from(number) + 1);
            let group = self.host(GroupId(number), replica).await?;
            let member = Member { node: self.life.node };
            let raft = group.raft();
            let initialized = raft.is_initialized().await;
            let failed = |why: String| HostError::Start { group: group.id(), why };
            if !initialized.map_err(|error| failed(error.to_string()))? {
                let members = BTreeMap::from([(replica.0, member)]);
                raft.initialize(members).await.map_err(|error| failed(error.to_string()))?;
            }
        }
        let cluster = self.peers.identity().cluster;
        let command = nodes::Command::Bootstrap { cluster, secrets, registration };
        let failed = |why: String| HostError::Bootstrap(why);
        let applied =
            self.propose_meta(command).await.map_err(|error| failed(error.to_string()))?;
        match applied.outcome {
            Ok(_) | Err(protocol::Refusal::Exists) => Ok(()),
            Err(refusal) => Err(failed(refusal.to_string())),
        }
    }

    /// Replicates a change of the cluster map, through whichever node leads the meta group.
    pub async fn propose_meta(
        &self,
        request: impl Into<nodes::Request>,
    ) -> Result<Applied, ProposeError> {
        let request = request.into();
        let deadline = Instant::now() + META_TIMEOUT;
        let mut others = self.peers.known().into_iter().cycle();
        loop {
            let attempt = self.propose_meta_once(&request).await;
            let group = GroupId::META;
            match attempt {
                Err(ProposeError::NotLeader { leader: None, .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(META_RETRY).await;
                    // One that was away for long may be no member of the group any more.
                    let other = others.next().filter(|_| !self.knows_meta_leader());
                    let Some(other) = other.filter(|&other| other != self.life.node) else {
                        continue;
                    };
                    match self.propose_meta_through(other, &request).await {
                        Err(ProposeError::NotLeader { .. }) => {}
                        outcome => return outcome,
                    }
                }
                Err(ProposeError::NotLeader { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(META_RETRY).await;
                }
                Err(ProposeError::NotLeader { .. }) => {
                    return Err(ProposeError::NotLeader { group, leader: None });
                }
                outcome => return outcome,
            }
        }
    }

    async fn propose_meta_once(&self, request: &nodes::Request) -> Result<Applied, ProposeError> {
        let group = GroupId::META;
        let not_leader = ProposeError::NotLeader { group, leader: None };
        let meta = self.group(group).ok_or_else(|| not_leader.clone())?;
        let leadership = *meta.leadership().borrow();
        if let Some(owner) = leadership.owned {
            let at = meta.view().time.max((self.clock)());
            let nodes::Request { command, once, note } = request.clone();
            let proposal = Proposal { at: Stamp::at(at), once, command, note };
            return meta.propose(owner.epoch, proposal).await;
        }
        let leader = leadership.leader.filter(|&leader| leader != self.life.node);
        self.propose_meta_through(leader.ok_or(not_leader)?, request).await
    }

    fn knows_meta_leader(&self) -> bool {
        self.group(GroupId::META).is_some_and(|meta| meta.leader().is_some())
    }

    /// `to` leads the meta group, or knows who does.
    async fn propose_meta_through(
        &self,
        to: NodeId,
        request: &nodes::Request,
    ) -> Result<Applied, ProposeError> {
        let group = GroupId::META;
        let body = codec::encode(request).map_err(|_| ProposeError::TooLarge { bytes: 0 })?;
        let body = Bytes::from(body);
        let call =
            self.peers.call(to, Class::Control, Kind::MetaPropose, group, body, META_TIMEOUT);
        match call.await {
            Ok(answer) => codec::decode::<Result<Applied, MetaError>>(&answer)
                .map_err(|_| ProposeError::Unknown { group })?
                .map_err(|error| error.into_propose_error()),
            Err(CallError::Unreachable { .. } | CallError::Overloaded { .. }) => {
                Err(ProposeError::NotLeader { group, leader: Some(to) })
            }
            Err(
                CallError::Timeout { .. } | CallError::Broken { .. } | CallError::Refused { .. },
            ) => Err(ProposeError::Unknown { group }),
        }
    }

    /// Waits until the map here has every change that was acknowledged before this call.
    pub async fn sync_map(&self) -> Result<(), ReadError> {
        let group = GroupId::META;
        let missing = ReadError::NotLeader { group, leader: None };
        let meta = self.group(group).ok_or_else(|| missing.clone())?;
        let deadline = Instant::now() + META_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(index) = self.meta_index(&meta).await {
                let waited = meta.wait_applied(index, META_TIMEOUT).await;
                return if waited { Ok(()) } else { Err(ReadError::NoQuorum { group }) };
            }
            tokio::time::sleep(META_RETRY).await;
        }
        Err(ReadError::NoQuorum { group })
    }

    async fn meta_index(&self, meta: &Group) -> Option<u64> {
        let leader = meta.leader()?;
        if leader == self.life.node {
            meta.confirm().await.ok()?;
            return Some(meta.applied());
        }
        let group = GroupId::META;
        let call = self.peers.call(
            leader,
            Class::Control,
            Kind::MetaIndex,
            group,
            Bytes::new(),
            META_TIMEOUT,
        );
        codec::decode(&call.await.ok()?).ok()
    }

    /// Learns addresses, and hosts what the map puts here.
    async fn follow_map(self: Arc<Self>, mut map: watch::Receiver<Option<Arc<Map>>>) {
        // What the log already held was published before this task began.
        map.mark_changed();
        while map.changed().await.is_ok() {
            let Some(now) = map.borrow_and_update().clone() else { continue };
            self.learn_addresses(&now).await;
            // Ids are given once: one that was given and is not there was taken away for good,
            // however old this map is.
            if self.life.node.0 < now.next_node && !now.nodes.contains_key(&self.life.node) {
                self.mark_removed();
                return;
            }
            for &group in now.groups.keys().filter(|group| !group.is_meta()) {
                self.follow_group(&now, group).await;
            }
        }
    }
}

/// What a leader of the meta group answers to a forwarded command.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum MetaError {
    NotLeader,
    Unknown,
}

impl MetaError {
    fn into_propose_error(self) -> ProposeError {
        let group = GroupId::META;
        match self {
            Self::NotLeader => ProposeError::NotLeader { group, leader: None },
            Self::Unknown => ProposeError::Unknown { group },
        }
    }
}

fn config() -> Result<Config, openraft::ConfigError> {
    Config {
        cluster_name: "skep".to_owned(),
        heartbeat_interval: HEARTBEAT.as_millis() as u64,
        election_timeout_min: ELECTION_MIN.as_millis() as u64,
        election_timeout_max: ELECTION_MAX.as_millis() as u64,
        enable_pre_vote: Some(true),
        // A restarted leader has a lease of zero: it must be elected again.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        max_payload_entries: APPEND_ENTRIES_MAX,
        max_append_entries: Some(APPEND_ENTRIES_MAX),
        allow_log_reversion: Some(false),
        // Nothing is purged before checkpoints are made, so no learner waits for a snapshot.
        replication_lag_threshold: u64::MAX,
        ..Config::default()
    }
    .validate()
}

/// The only voter of a group need not wait for anybody's silence.
async fn elect_when_alone(raft: &Raft, replica: ReplicaId) {
    let alone = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        voters == [replica.0]
    };
    if alone && let Err(error) = raft.trigger().elect(false).await {
        error!(%error, "election not started");
    }
}

/// The node that joined, if that is what the reply says.
pub(crate) fn joined(reply: Reply) -> Option<(nodes::Node, ReplicaId)> {
    let Reply::Joined { node, replica } = reply else { return None };
    Some((*node, replica))
}
