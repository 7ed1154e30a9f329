//! Finds the owner of a group, here or on another node, and brings it a question.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use bytes::Bytes;
use protocol::nodes::Map;
use protocol::peer::Ask;
use protocol::{GroupId, NodeId, TenantId, codec};
use raft::Host;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ask::{Answered, AskError, Request};
use crate::pepper::Pepper;
use crate::remote::{CallFailure, Envelope, PeerTransport, ReplyFrame};
use crate::shard::Mailboxes;

/// Envelope kind: an [`Ask`] to an owner, answered with an [`Answered`].
pub const KIND_ASK: u16 = 1;
/// Nodes that one question visits, at most.
const HOPS_MAX: usize = 3;
/// How long an owner is looked for.
const FIND_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long an owner may take to answer, on top of its own limits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(25);
/// A leader that hands over and speaks answers yet. Nodes that live say how they stand more often than
/// this;
const SPEAKS: Duration = Duration::from_millis(600);
/// and so often it is looked at whether they do.
const LATE_ANSWERS: Duration = Duration::from_millis(200);

/// Routes questions. Clones share what they know.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    host: Arc<Host>,
    transport: OnceLock<Arc<dyn PeerTransport>>,
    owned: RwLock<BTreeMap<GroupId, Mailboxes>>,
    /// The last node that answered for a group which has no replica here.
    cache: Mutex<BTreeMap<GroupId, NodeId>>,
    next: AtomicU64,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "router of {}", self.inner.host.node())
    }
}

/// An answer, and who gave it.
#[derive(Debug)]
pub struct Routed {
    pub answered: Answered,
    pub owner: Option<NodeId>,
}

impl Router {
    /// A router that reaches this node only, until it has a transport.
    #[must_use]
    pub fn new(host: Arc<Host>) -> Self {
        Self {
            inner: Arc::new(Inner {
                host,
                transport: OnceLock::new(),
                owned: RwLock::default(),
                cache: Mutex::default(),
                next: AtomicU64::new(1),
            }),
        }
    }

    /// From now on other nodes are reached.
    pub fn set_transport(&self, transport: Arc<dyn PeerTransport>) {
        // Set once, at boot.
        let _ = self.inner.transport.set(transport);
    }

    /// The cluster map, once it is known.
    pub(crate) fn map(&self) -> Option<Arc<Map>> {
        self.inner.host.map().borrow().clone()
    }

    /// The shard of a tenant, once the cluster map is known.
    #[must_use]
    pub fn group_of(&self, tenant: TenantId) -> Option<GroupId> {
        Some(self.map()?.shard_of(tenant))
    }

    /// What digests of secrets are keyed with, once the cluster map is known.
    pub(crate) fn pepper(&self) -> Option<Pepper> {
        let map = self.map()?;
        Some(Pepper::new(&map.secrets.pepper))
    }

    /// From now on questions of a group that arrive here go to these mailboxes.
    pub(crate) fn open(&self, group: GroupId, mailboxes: Mailboxes) {
        self.owned_mut().insert(group, mailboxes);
    }

    /// This node owns the group no more.
    pub(crate) fn close(&self, group: GroupId) {
        self.owned_mut().remove(&group);
    }

    fn owned_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<GroupId, Mailboxes>> {
        self.inner.owned.write().unwrap_or_else(|_| std::process::abort())
    }

    /// Mailbox depths of the groups that this node owns.
    #[must_use]
    pub fn depths(&self) -> BTreeMap<GroupId, usize> {
        let owned = self.inner.owned.read().unwrap_or_else(|_| std::process::abort());
        owned.iter().map(|(&group, mailboxes)| (group, mailboxes.depth())).collect()
    }

    /// Brings a question to the owner, wherever it is. Asks again elsewhere only while it is
    /// certain that nothing was changed.
    pub async fn ask(&self, group: GroupId, ask: Ask) -> Routed {
        let deadline = Instant::now() + FIND_TIMEOUT;
        // No owner talks to a node that was removed.
        let given_up = || Instant::now() >= deadline || self.inner.host.is_removed();
        let mut hint = None;
        let mut hops = 0;
        loop {
            let found = hint.take().or_else(|| self.believed_owner(group));
            let Some(owner) = found.filter(|_| hops < HOPS_MAX) else {
                hops = 0;
                if given_up() {
                    return Routed { answered: Err(AskError::NoLeader { group }), owner: None };
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            hops += 1;
            let answered = self.ask_node(owner, group, &ask).await;
            let retry = match &answered {
                Err(AskError::NotOwner { leader, .. }) => {
                    hint = leader.filter(|&leader| leader != owner);
                    true
                }
                Err(AskError::NoLeader { .. }) => true,
                Err(_) | Ok(_) => false,
            };
            if !retry {
                self.remember(group, owner);
                return Routed { answered, owner: Some(owner) };
            }
            self.forget(group);
            if given_up() {
                return Routed { answered: Err(AskError::NoLeader { group }), owner: None };
            }
            if hint.is_none() {
                hops = 0;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Brings a question to the owner on this node, or says who may own the group.
    pub async fn ask_here(&self, group: GroupId, ask: &Ask) -> Answered {
        let mailboxes = {
            let owned = self.inner.owned.read().unwrap_or_else(|_| std::process::abort());
            owned.get(&group).cloned()
        };
        let Some(mailboxes) = mailboxes else {
            return Err(AskError::NotOwner { group, leader: self.leader(group) });
        };
        if let Some(answered) = mailboxes.propose(ask).await {
            return answered;
        }
        let (reply, answered) = oneshot::channel();
        let changes = changes(ask);
        mailboxes.deliver(Request { ask: ask.clone(), reply })?;
        // The actor is killed when the node loses the group: what it had begun may still happen.
        answered.await.unwrap_or_else(|_| Err(lost(group, changes)))
    }

    async fn ask_node(&self, node: NodeId, group: GroupId, ask: &Ask) -> Answered {
        if node == self.inner.host.node() {
            return self.ask_here(group, ask).await;
        }
        let Some(transport) = self.inner.transport.get() else {
            return Err(AskError::NoLeader { group });
        };
        let payload = codec::encode(ask).map_err(|_| AskError::TooLarge)?;
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let mut envelope = Envelope::new(KIND_ASK, id, Bytes::from(payload));
        envelope.shard = group.0;
        envelope.deadline_remaining_ms = ANSWER_TIMEOUT.as_millis() as u32;
        let called = tokio::select! {
            called = transport.call(node.0, envelope) => called,
            () = self.replaced(node, group) => Err(CallFailure::Unknown),
        };
        match called {
            Ok(ReplyFrame::Ok(answer)) => {
                codec::decode(&answer).unwrap_or(Err(AskError::Unknown { group }))
            }
            Ok(ReplyFrame::NotOwner { leader_hint, .. }) => {
                Err(AskError::NotOwner { group, leader: leader_hint.map(NodeId) })
            }
            Ok(ReplyFrame::Overloaded { .. }) | Err(CallFailure::Overloaded) => {
                Err(AskError::Overloaded { group })
            }
            Ok(ReplyFrame::Unsupported { .. }) | Err(CallFailure::NotConnected) => {
                Err(AskError::NoLeader { group })
            }
            Err(CallFailure::TooLarge { .. }) => Err(AskError::TooLarge),
            Ok(ReplyFrame::DeadlineExceeded | ReplyFrame::Internal) | Err(CallFailure::Unknown) => {
                Err(lost(group, changes(ask)))
            }
        }
    }

    /// Returns when another node took the group over from one that was asked and says nothing. That one
    /// may be cut off from all others, which its connection tells only seconds later.
    async fn replaced(&self, node: NodeId, group: GroupId) {
        if let Some(here) = self.inner.host.group(group) {
            let mut leadership = here.leadership();
            leadership.mark_unchanged();
            while leadership.changed().await.is_ok() {
                if leadership.borrow_and_update().leader.is_some_and(|leader| leader != node) {
                    return self.silent(node).await;
                }
            }
        }
        // There is no replica here that would hear of it.
        std::future::pending().await
    }

    /// Returns when a node that leads no more says nothing, and so will not answer either.
    async fn silent(&self, node: NodeId) {
        let speaks = |transport: &Arc<dyn PeerTransport>| transport.heard_within(node.0, SPEAKS);
        while self.inner.transport.get().is_some_and(speaks) {
            tokio::time::sleep(LATE_ANSWERS).await;
        }
    }

    /// The leader as the local replica knows it, else as it was remembered, else as it should be.
    fn believed_owner(&self, group: GroupId) -> Option<NodeId> {
        // A replica that has just come here has heard of no leader yet.
        if let Some(leader) = self.leader(group) {
            return Some(leader);
        }
        let cached = self.cache().get(&group).copied();
        cached.or_else(|| {
            let map = self.inner.host.map().borrow().clone()?;
            Some(map.groups.get(&group)?.preferred)
        })
    }

    fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.inner.host.group(group).and_then(|group| group.leader())
    }

    fn remember(&self, group: GroupId, owner: NodeId) {
        self.cache().insert(group, owner);
    }

    fn forget(&self, group: GroupId) {
        self.cache().remove(&group);
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, BTreeMap<GroupId, NodeId>> {
        self.inner.cache.lock().unwrap_or_else(|_| std::process::abort())
    }
}

/// Whether it may have changed something that it went unanswered.
fn changes(ask: &Ask) -> bool {
    use Ask::{Finished, Propose, Slab, Take};
    matches!(ask, Propose { .. } | Finished { .. } | Slab { .. } | Take { .. })
}

/// What is known when the answer is lost. A question changes nothing, so it may be asked again.
fn lost(group: GroupId, changes: bool) -> AskError {
    if changes { AskError::Unknown { group } } else { AskError::NoLeader { group } }
}
