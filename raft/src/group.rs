//! One group on this node: the handle that actors propose and read through.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::ReadPolicy;
use openraft::{Instant as _, ServerState};
use protocol::codec::CodecError;
use protocol::command::Encoded;
use protocol::owner::{Epoch, Owner};
use protocol::{Applied, Effect, GroupId, NodeId, ReplicaId, codec};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tracing::{debug, error};

use crate::apply::{Shared, View};
use crate::checkpoint::Reader;
use crate::checkpoint::keeper::{Figures, Keeper};
use crate::heard::Heard;
use crate::proposer::{self, Proposer};
use crate::types::Raft;

mod leadership;

/// How long an exact read may take to hear from a quorum.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// For how long a majority that has not answered is asked again, about an election's time; and the pause
/// before.
const READ_AGAIN: Duration = Duration::from_millis(600);
const READ_PAUSE: Duration = Duration::from_millis(25);
/// How long proposals that are under way may hold up a hand-over.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a hand-over may take before proposals are taken again.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was changed.
    #[error("this node does not lead group {group}")]
    NotLeader { group: GroupId, leader: Option<NodeId> },
    /// Nothing was changed.
    #[error("too many proposals wait for group {group}")]
    Overloaded { group: GroupId },
    /// Nothing was changed.
    #[error("the proposal of {bytes} bytes is too large")]
    TooLarge { bytes: usize },
    /// It may have been carried out, or may yet be. Do not repeat it without its idempotency key.
    #[error("the outcome in group {group} is unknown")]
    Unknown { group: GroupId },
}

/// Why there is no exact view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this node does not lead group {group}")]
    NotLeader { group: GroupId, leader: Option<NodeId> },
    #[error("no quorum of group {group} answered")]
    NoQuorum { group: GroupId },
}

impl From<CodecError> for ProposeError {
    fn from(_: CodecError) -> Self {
        // What is proposed is data, which fails to encode by its size alone.
        Self::TooLarge { bytes: codec::FRAME_BYTES_MAX }
    }
}

/// What this node knows of a group's leadership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub leader: Option<NodeId>,
    /// Set while this node leads and its ownership is open.
    pub owned: Option<Owner>,
}

/// A replica as its group's membership has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberView {
    pub replica: ReplicaId,
    pub node: NodeId,
    pub voter: bool,
    /// Entries behind the leader; known on the leader only.
    pub lag: Option<u64>,
}

/// A group that has a replica here. Clones are the same replica.
#[derive(Clone, Debug)]
pub struct Group {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) raft: Raft,
    pub(crate) shared: Shared,
    proposer: Proposer,
    leadership: watch::Receiver<Leadership>,
    keeper: Arc<Keeper>,
    heard: Arc<Heard>,
    /// Whether openraft's own clock goes.
    ticks: AtomicBool,
    /// The replica is stopped on purpose.
    stopped: Arc<AtomicBool>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "group {} replica {}", self.id, self.replica)
    }
}

/// This process, as ownership entries name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
}

impl Group {
    /// Must be called on the runtime that the group is to live on.
    pub(crate) fn start(
        id: GroupId,
        replica: ReplicaId,
        life: Life,
        keeper: Arc<Keeper>,
        heard: Arc<Heard>,
        dead: watch::Sender<Option<GroupId>>,
    ) -> Self {
        let (raft, shared) = (keeper.raft.clone(), keeper.shared.clone());
        let (published, leadership) = watch::channel(Leadership::default());
        let proposer = proposer::start(id, raft.clone());
        let watched = leadership::watch(id, life, raft.clone(), shared.clone(), published);
        let stopped = Arc::new(AtomicBool::new(false));
        let on_purpose = Arc::clone(&stopped);
        tokio::spawn(async move {
            watched.await;
            if !on_purpose.load(Ordering::Acquire) {
                error!(group = %id, "the Raft core of a group has ended");
                dead.send_replace(Some(id));
            }
        });
        let inner = Inner {
            id,
            replica,
            raft,
            shared,
            proposer,
            leadership,
            keeper,
            heard,
            ticks: AtomicBool::new(true),
            stopped,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Ends the replica's Raft core and waits for it.
    pub(crate) async fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Release);
        if let Err(error) = self.inner.raft.shutdown().await {
            debug!(group = %self.inner.id, %error, "the Raft core ended badly");
        }
    }

    pub(crate) fn heard(&self) -> &Heard {
        &self.inner.heard
    }

    /// For how long this replica has taken no word of a leader; the largest duration when it has not
    /// since it was started.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.inner.heard.silence()
    }

    /// For how long, when this replica was elected in `term`, nobody else can have had a quorum. Zero
    /// when that is not known. It grows with time.
    #[must_use]
    pub fn alone_for(&self, term: u64) -> Duration {
        self.inner.heard.before(term)
    }

    /// Lets openraft's clock for this group go or stand still.
    pub(crate) fn tick(&self, on: bool) {
        if self.inner.ticks.swap(on, Ordering::Relaxed) != on {
            self.inner.raft.runtime_config().tick(on);
        }
    }

    /// The group's number.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// The replica on this node.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.inner.replica
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    /// Leader and ownership, as they change.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The checkpoint that this process wrote last.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Figures> {
        *self.inner.keeper.figures.borrow()
    }

    /// States that this replica sent to peers and took from them, since this process started.
    #[must_use]
    pub fn states_moved(&self) -> (u64, u64) {
        let counts = self.inner.shared.counts();
        (counts.sent.load(Ordering::Relaxed), counts.installed.load(Ordering::Relaxed))
    }

    /// Entries that are in the log here.
    #[must_use]
    pub fn log_entries(&self) -> u64 {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        last.saturating_sub(metrics.purged.map_or(0, |id| id.index))
    }

    /// Index of the last entry in the log here.
    pub(crate) fn last_index(&self) -> u64 {
        self.inner.raft.metrics().borrow_watched().last_log_index.unwrap_or(0)
    }

    /// The newest state, made durable and fixed. Every entry that was applied before the call is in it.
    pub(crate) async fn fix(&self) -> Result<Reader, String> {
        if self.inner.stopped.load(Ordering::Acquire) {
            return Err(format!("the replica of group {} is stopped", self.inner.id));
        }
        self.inner.keeper.turn().await?;
        let checkpoint = self.inner.keeper.checkpoint.clone();
        let read = tokio::task::spawn_blocking(move || checkpoint.reader()).await;
        let read = read.map_err(|panicked| panicked.to_string())?;
        let nothing = || format!("group {} has applied nothing yet", self.inner.id);
        read.map_err(|error| error.to_string())?.ok_or_else(nothing)
    }

    /// Effects of applied entries, on every replica; only the owner performs them. A receiver that
    /// lags has to look at the state.
    #[must_use]
    pub fn effects(&self) -> broadcast::Receiver<Effect> {
        self.inner.shared.effects()
    }

    /// Replicates a command under an ownership and waits until it is applied. Callers encode it, so that
    /// many do that side by side and a batch only joins them.
    pub async fn propose(&self, epoch: Epoch, proposal: Encoded) -> Result<Applied, ProposeError> {
        self.inner.proposer.propose(epoch, proposal).await
    }

    /// The state with every write that was acknowledged before this call began (`ReadIndex`).
    pub async fn read(&self) -> Result<View<'_>, ReadError> {
        self.confirm().await?;
        Ok(self.view())
    }

    /// Waits until this replica, which must lead, has applied every acknowledged write.
    pub async fn confirm(&self) -> Result<(), ReadError> {
        let group = self.inner.id;
        let began = Instant::now();
        loop {
            let read = self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex);
            match tokio::time::timeout_at(began + READ_TIMEOUT, read).await {
                Ok(Ok(_)) => {
                    self.inner.heard.note();
                    return Ok(());
                }
                Ok(Err(error)) if error.forward_to_leader().is_some() => {
                    return Err(ReadError::NotLeader { group, leader: self.leader() });
                }
                // The others have a heartbeat's time to answer, which a busy machine may not give them.
                Ok(Err(_)) if began.elapsed() < READ_AGAIN => tokio::time::sleep(READ_PAUSE).await,
                Ok(Err(_)) | Err(_) => return Err(ReadError::NoQuorum { group }),
            }
        }
    }

    /// The state as this replica has it, which may be old.
    pub fn view(&self) -> View<'_> {
        self.inner.shared.view()
    }

    /// Whether this node leads and its ownership is open.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.inner.leadership.borrow().owned.is_some()
    }

    /// The node that leads, as far as this one knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.leadership.borrow().leader
    }

    /// Whether this node leads and a quorum has answered it within the last election time.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let fresh = 2 * crate::node::ELECTION_MAX;
        let alone = metrics.membership_config.voter_ids().count() == 1;
        let acked = metrics.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() < fresh);
        metrics.state == ServerState::Leader && (alone || acked)
    }

    /// Index of the last applied entry.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.inner.raft.metrics().borrow_watched().last_applied.map_or(0, |id| id.index)
    }

    /// Index up to which this replica knows the log to be committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.inner.raft.metrics().borrow_watched().local_committed.map_or(0, |id| id.index)
    }

    /// Waits until entry `index` is applied here.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> bool {
        let mut metrics = self.inner.raft.metrics();
        let applied = async {
            while metrics.borrow_and_update().last_applied.is_none_or(|id| id.index < index) {
                if metrics.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(timeout, applied).await.unwrap_or(false)
    }

    /// The replicas of the effective membership.
    #[must_use]
    pub fn members(&self) -> Vec<MemberView> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let lag = |replica: u64| {
            let matched = metrics.replication.as_ref()?.get(&replica)?;
            Some(last.saturating_sub(matched.map_or(0, |id| id.index)))
        };
        let view = |(&replica, member): (&u64, &crate::types::Member)| MemberView {
            replica: ReplicaId(replica),
            node: member.node,
            voter: voters.contains(&replica),
            lag: lag(replica),
        };
        membership.nodes().map(view).collect()
    }

    /// Whether the last membership change is committed and not joint.
    #[must_use]
    pub(crate) fn is_settled(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let effective = &metrics.membership_config;
        metrics.committed_membership_config.log_id() == effective.log_id()
            && effective.membership().get_joint_config().len() == 1
    }

    /// The committed membership, when nothing of it is under way.
    #[must_use]
    pub(crate) fn settled(&self) -> Option<Settled> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = &metrics.committed_membership_config;
        let membership = committed.membership();
        let whole = committed.log_id() == metrics.membership_config.log_id()
            && membership.get_joint_config().len() == 1;
        whole.then(|| Settled {
            index: committed.log_id().map_or(0, |id| id.index),
            voting: membership.voter_ids().map(ReplicaId).collect(),
            members: membership.nodes().map(|(&id, _)| ReplicaId(id)).collect(),
        })
    }

    /// Whether a membership change stopped half-way: what it began is committed, its end is not
    /// even proposed.
    #[must_use]
    pub(crate) fn is_half_changed(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let effective = &metrics.membership_config;
        metrics.committed_membership_config.log_id() == effective.log_id()
            && effective.membership().get_joint_config().len() > 1
    }

    /// Hands leadership to a replica that has caught up. What was proposed before ends first, and
    /// what is proposed meanwhile is told that nothing was changed: nobody is left with an unknown
    /// outcome. Returns whether this replica leads no more.
    pub async fn hand_over(&self, to: ReplicaId) -> bool {
        let _closed = self.inner.proposer.close(CLOSE_TIMEOUT).await;
        if let Err(error) = self.inner.raft.trigger().transfer_leader(to.0).await {
            debug!(group = %self.inner.id, %error, "leadership not handed over");
            return false;
        }
        let mut leadership = self.leadership();
        // Until somebody else leads, so that those who hand over many do so in turn.
        let lost = leadership.wait_for(|now| now.owned.is_none() && now.leader.is_some());
        let handed = tokio::time::timeout(HANDOVER_TIMEOUT, lost).await;
        handed.is_ok_and(|seen| seen.is_ok())
    }
}

/// A membership that is committed.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) index: u64,
    pub(crate) voting: BTreeSet<ReplicaId>,
    pub(crate) members: BTreeSet<ReplicaId>,
}
