//! All groups of one process: open what the log knows, host what the cluster map says.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Config, SnapshotPolicy};
use protocol::codec::CodecError;
use protocol::nodes::{self, Map, Registration, SHARDS, Secrets};
use protocol::{GroupId, NodeId, ReplicaId, Reply, Time};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tracing::error;

use crate::apply::{Applier, Shared};
use crate::checkpoint::keeper::{self, Keeper, LogHold};
use crate::checkpoint::staging::Arrivals;
use crate::checkpoint::stream::Streams;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::group::{Group, Life};
use crate::heard::Heard;
use crate::log::Log;
use crate::members::Tally;
use crate::network::{Network, Peers};
use crate::types::{Member, Raft};
use crate::wal::Wal;

pub mod cut;
mod directory;
mod losses;
mod meta;
mod pulse;
pub(crate) mod residence;
mod service;

use cut::Cuts;
pub use directory::{DirectoryError, saved_directory, saved_wire};
pub use losses::{Damage, Readmission, Readmitted, place_for_damaged};
pub use service::{JoinAnswer, JoinRequest, RaftService, Welcome, token_digest};

/// Interval of heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(200);
/// A follower that hears nothing campaigns after this at the earliest.
pub const ELECTION_MIN: Duration = Duration::from_millis(600);
/// The lease of a leader, and how long a started node refuses to vote.
pub const ELECTION_MAX: Duration = Duration::from_millis(900);
/// Entries in one append; each is at most 256 KiB, so a frame's bound holds.
const APPEND_ENTRIES_MAX: u64 = 24;
/// Groups that are started at a time.
const STARTS_MAX: usize = 4;
/// Entries that are purged at a time.
const PURGE_BATCH: u64 = 256;
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
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Written by another release.
    #[error("the log of group {group} cannot be read: {cause}")]
    Version { group: GroupId, cause: CodecError },
}

impl HostError {
    /// Whether another release wrote what is there: nothing is damaged.
    #[must_use]
    pub fn is_of_another_release(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::Checkpoint(CheckpointError::Version { .. }))
    }
}

/// Where and how often the states of groups are written to disk.
#[derive(Debug, Clone)]
pub struct Storage {
    /// The data directory.
    pub data: PathBuf,
    /// A group's state is written when entries of this many bytes were applied since the last time,
    pub log_bytes: u64,
    /// or when this is over and anything was.
    pub every: Duration,
    /// Entries that stay in the log behind a checkpoint, for peers that are a little behind.
    pub keep_entries: u64,
}

/// The groups that have a replica on this node.
pub struct Host {
    wal: Wal,
    peers: Arc<Peers>,
    life: Life,
    runtime: Handle,
    started: Instant,
    directory: tokio::sync::Mutex<PathBuf>,
    storage: Storage,
    /// One checkpoint at a time.
    gate: Arc<Semaphore>,
    streams: Arc<Streams>,
    arrivals: Arc<Arrivals>,
    cuts: Cuts,
    /// Wall time, for commands of the meta group that have no owner's clock.
    clock: fn() -> Time,
    groups: RwLock<BTreeMap<GroupId, Group>>,
    hosting: tokio::sync::Mutex<()>,
    map: watch::Sender<Option<Arc<Map>>>,
    dead: watch::Sender<Option<GroupId>>,
    damage: Mutex<Vec<Damage>>,
    /// This node is no more in the cluster.
    removed: watch::Sender<bool>,
    /// It is about to stop, so it takes no leadership.
    leaving: AtomicBool,
    moves: Tally,
    /// Leaders shall beat now.
    beat: Notify,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "host of {}", self.life.node)
    }
}

impl Storage {
    /// What a node does when nobody says otherwise.
    #[must_use]
    pub fn at(data: PathBuf) -> Self {
        Self { data, log_bytes: 16 << 20, every: Duration::from_secs(60), keep_entries: 1_000 }
    }

    fn checkpoints(&self) -> PathBuf {
        checkpoints(&self.data)
    }
}

/// Where the states of a data directory are.
pub(crate) fn checkpoints(data: &Path) -> PathBuf {
    data.join("checkpoint")
}

impl Host {
    /// Starts every replica that the log knows, on `runtime`, but for those whose state is damaged.
    pub async fn open(
        wal: Wal,
        hosted: BTreeMap<u32, u64>,
        peers: Arc<Peers>,
        runtime: Handle,
        storage: Storage,
        clock: fn() -> Time,
    ) -> Result<Arc<Self>, HostError> {
        let checkpoints = storage.checkpoints();
        Checkpoint::make_dir(&checkpoints)?;
        let identity = peers.identity();
        let life = Life { node: identity.node, incarnation: identity.start.incarnation };
        let host = Arc::new(Self {
            wal,
            life,
            runtime,
            started: Instant::now(),
            directory: tokio::sync::Mutex::new(directory::file(&storage.data)),
            gate: Arc::new(Semaphore::new(keeper::AT_ONCE)),
            streams: Streams::new(),
            arrivals: Arc::new(Arrivals::open(&checkpoints)?),
            cuts: Cuts::default(),
            storage,
            clock,
            groups: RwLock::default(),
            hosting: tokio::sync::Mutex::new(()),
            map: watch::Sender::new(None),
            dead: watch::Sender::new(None),
            damage: Mutex::default(),
            removed: watch::Sender::new(false),
            leaving: AtomicBool::new(false),
            moves: Tally::default(),
            beat: Notify::new(),
            peers,
        });
        host.host_known(hosted).await?;
        host.runtime.spawn(Arc::clone(&host).pulse());
        Ok(host)
    }

    /// Most of this is reading states and logs.
    async fn host_known(self: &Arc<Self>, hosted: BTreeMap<u32, u64>) -> Result<(), HostError> {
        let _nobody_else = self.hosting.lock().await;
        let starts = hosted.into_iter().map(|(group, replica)| {
            let host = Arc::clone(self);
            async move { host.run_or_give_up(GroupId(group), ReplicaId(replica)).await }
        });
        stream::iter(starts).buffer_unordered(STARTS_MAX).try_collect().await
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.life.node
    }

    /// How often states are written to disk, if anything was applied.
    #[must_use]
    pub fn checkpoint_every(&self) -> Duration {
        self.storage.every
    }

    /// What this node did to memberships as a leader.
    #[must_use]
    pub fn moves(&self) -> &Tally {
        &self.moves
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
            (None, _) => {
                self.discard_state(group).await?;
                log.host(replica.0).await?;
                crate::failpoint::hit("host-noted");
            }
        }
        self.run(group, replica).await
    }

    async fn run(self: &Arc<Self>, group: GroupId, replica: ReplicaId) -> Result<Group, HostError> {
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
        let dir = self.storage.checkpoints();
        let opened = tokio::task::spawn_blocking(move || Checkpoint::open(&dir, group, replica));
        let (checkpoint, loaded) = opened.await.map_err(|error| failed(error.to_string()))??;
        let purged = self.wal.group(group.0).purged().map_or(0, |purged| purged.index);
        checkpoint.reaches(purged)?;
        let shared = Shared::new(group, loaded, self.map.clone(), self.storage.log_bytes);
        let config = config(self.storage.keep_entries);
        let config = Arc::new(config.map_err(|error| failed(error.to_string()))?);
        let heard = Arc::new(Heard::new());
        let (peers, streams) = (Arc::clone(&self.peers), Arc::clone(&self.streams));
        let network = Network::new(peers, streams, group, Arc::clone(&heard));
        let log = Log::new(self.wal.group(group.0));
        readable(&log, group)?;
        let applier = Applier::new(shared.clone(), checkpoint.clone());
        let raft = Raft::new(replica.0, config, network, log, applier)
            .await
            .map_err(|error| failed(error.to_string()))?;
        elect_when_alone(&raft, replica).await;
        if group.is_meta() {
            tokio::spawn(Arc::clone(self).follow_map(self.map.subscribe()));
            tokio::spawn(Arc::clone(self).follow_doubts());
            tokio::spawn(Arc::clone(self).follow_losses());
        }
        let keeper = Arc::new(Keeper {
            checkpoint,
            shared,
            raft,
            gate: Arc::clone(&self.gate),
            every: self.storage.every,
            whole: AtomicBool::new(false),
            figures: watch::Sender::new(None),
            hold: LogHold::default(),
        });
        tokio::spawn(Arc::clone(&keeper).run());
        Ok(Group::start(group, replica, self.life, keeper, heard, self.dead.clone()))
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

    /// Learns who the nodes are, and hosts what the map puts here.
    async fn follow_map(self: Arc<Self>, mut map: watch::Receiver<Option<Arc<Map>>>) {
        // What the log already held was published before this task began.
        map.mark_changed();
        while map.changed().await.is_ok() {
            let Some(now) = map.borrow_and_update().clone() else { continue };
            self.learn_directory(&now).await;
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

/// Anything else that is wrong with the log is for Raft to find.
fn readable(log: &Log, group: GroupId) -> Result<(), HostError> {
    let Err(error) = log.is_readable() else { return Ok(()) };
    match error.get_ref().and_then(|inner| inner.downcast_ref::<CodecError>()) {
        Some(cause @ CodecError::Version { .. }) => {
            Err(HostError::Version { group, cause: cause.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

fn config(keep_entries: u64) -> Result<Config, openraft::ConfigError> {
    Config {
        cluster_name: "skep".to_owned(),
        heartbeat_interval: HEARTBEAT.as_millis() as u64,
        election_timeout_min: ELECTION_MIN.as_millis() as u64,
        election_timeout_max: ELECTION_MAX.as_millis() as u64,
        enable_pre_vote: Some(true),
        // A restarted leader has a lease of zero: it must be elected again.
        enable_leader_restore: Some(false),
        // Checkpoints are written when we say so.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: keep_entries,
        purge_batch_size: PURGE_BATCH,
        max_payload_entries: APPEND_ENTRIES_MAX,
        max_append_entries: Some(APPEND_ENTRIES_MAX),
        allow_log_reversion: Some(false),
        // A peer gets a state only when the log does not reach back to it.
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
