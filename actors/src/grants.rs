//! The front door's side of grants: who may do what, known here for as long as the owner allows it.
//!
//! A warm request asks nobody: its key is looked up by its digest, and its units are taken out of a
//! slab that the owner has committed before. What an owner calls back is dropped before it is
//! confirmed, and everything ends with the lease, which is measured here on the clock that counts
//! suspension.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use protocol::jobs::Worker;
use protocol::keys::ApiKey;
use protocol::peer::{Answer, Ask, Recall};
use protocol::{Digest, GroupId, TenantId, codec};
use tokio::sync::Semaphore;

use crate::ask::AskError;
use crate::clock;
use crate::figures::figures;
use crate::pepper::Pepper;
use crate::remote::{Envelope, PeerTransport, ReplyFrame};
use crate::router::Router;

mod keeper;
mod lease;
mod pass;
mod slabs;
mod table;
mod terms;
#[cfg(test)]
mod tests;

pub(crate) use lease::OWNER_LEASE;
pub use pass::{Admitted, Pass};
pub use slabs::{Held, Spent};
pub use terms::Tight;

use lease::GroupLease;
use table::Table;
use terms::Terms;

/// Envelope kind: a [`Recall`], answered when nothing of it is held any more.
pub(crate) const KIND_RECALL: u16 = 4;
/// Views that are fetched again because they were called back while they travelled.
const FETCHES_MAX: u32 = 8;
/// Slabs that are asked for ahead of need at a time, so that those who wait find room.
const AHEAD_MAX: usize = 256;
/// How long an owner waits for one confirmation before it waits for the lease.
const RECALL_TIMEOUT_MS: u32 = 400;

/// The grants of a node. Clones are the same.
#[derive(Clone)]
pub struct Grants {
    inner: Arc<Inner>,
}

struct Inner {
    me: Worker,
    table: Table,
    leases: Mutex<BTreeMap<GroupId, Arc<GroupLease>>>,
    pepper: OnceLock<Pepper>,
    router: OnceLock<Router>,
    transport: OnceLock<Arc<dyn PeerTransport>>,
    /// Numbers asks, for all keys: a later ask has a higher number.
    asks: AtomicU64,
    running: slabs::Running,
    /// Places for asks that nobody waits for.
    ahead: Arc<Semaphore>,
}

impl std::fmt::Debug for Grants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "grants of {}", self.inner.me.node)
    }
}

/// Why a key is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoPass {
    /// No such key; the same for every reason.
    Unknown,
    /// Nobody could say.
    Unanswered(AskError),
}

impl Grants {
    /// Grants of a node that is starting.
    #[must_use]
    pub fn new(me: Worker) -> Self {
        let inner = Inner {
            me,
            table: Table::default(),
            leases: Mutex::default(),
            pepper: OnceLock::new(),
            router: OnceLock::new(),
            transport: OnceLock::new(),
            asks: AtomicU64::new(1),
            running: slabs::Running::default(),
            ahead: Arc::new(Semaphore::new(AHEAD_MAX)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// From now on owners are asked, and what is held is kept up.
    pub(crate) fn start(&self, router: Router) {
        // Set once, at boot.
        let _ = self.inner.router.set(router);
        tokio::spawn(keeper::run(self.clone()));
    }

    /// From now on other nodes are reached.
    pub(crate) fn set_transport(&self, transport: Arc<dyn PeerTransport>) {
        // Set once, at boot.
        let _ = self.inner.transport.set(transport);
    }

    /// This node in this life.
    #[must_use]
    pub fn me(&self) -> Worker {
        self.inner.me
    }

    fn pepper(&self) -> Option<&Pepper> {
        if self.inner.pepper.get().is_none() {
            let pepper = self.inner.router.get()?.pepper()?;
            // Two may come here at once with the same secret.
            let _ = self.inner.pepper.set(pepper);
        }
        self.inner.pepper.get()
    }

    /// The pass of a key that is held here and in force.
    fn warm(&self, credential: &str) -> Option<Arc<Pass>> {
        let digest = self.pepper()?.key(credential);
        self.inner.table.get(&digest).filter(|pass| pass.holds(clock::boot_us()))
    }

    /// Admits a request of `units` without asking anybody, and answers it while the pass is at hand;
    /// `None` when that cannot be done here and now, which refuses nothing. `answer` must not wait.
    #[must_use]
    pub fn admit<R>(
        &self,
        credential: &str,
        units: u64,
        answer: impl FnOnce(&Pass, &Admitted) -> R,
    ) -> Option<R> {
        let digest = self.pepper()?.key(credential);
        let admit = |pass: &Arc<Pass>| {
            let admitted = pass.spend(units)?;
            figures().grants.hits.inc();
            figures().grants.admitted(admitted.tight.is_some());
            self.prefetch(pass);
            Some(answer(pass, &admitted))
        };
        self.inner.table.with(&digest, admit)?
    }

    /// Whose key it is. Asks the owner when it is not held here.
    pub async fn authenticate(&self, credential: &str) -> Result<Arc<Pass>, NoPass> {
        if let Some(pass) = self.warm(credential) {
            let now_us = clock::boot_us();
            pass.touch(now_us);
            pass.lease.used(now_us);
            figures().grants.hits.inc();
            return Ok(pass);
        }
        figures().grants.misses.inc();
        let key = ApiKey::parse(credential).map_err(|_| NoPass::Unknown)?;
        let meta = NoPass::Unanswered(AskError::NoLeader { group: GroupId::META });
        let pepper = self.pepper().ok_or_else(|| meta.clone())?;
        let digest = pepper.key(key.text());
        let router = self.inner.router.get().ok_or_else(|| meta.clone())?;
        let group = router.group_of(key.tenant()).ok_or(meta)?;
        for _ in 0..FETCHES_MAX {
            if let Some(pass) = self.fetch(router, group, key.tenant(), digest).await? {
                return Ok(pass);
            }
        }
        Err(NoPass::Unanswered(AskError::Overloaded { group }))
    }

    /// Fetches a view; `None` when it was called back, or its lease ended, on the way.
    async fn fetch(
        &self,
        router: &Router,
        group: GroupId,
        tenant: TenantId,
        digest: Digest,
    ) -> Result<Option<Arc<Pass>>, NoPass> {
        let lease = self.lease(group);
        let id = self.hold(&lease).await.map_err(NoPass::Unanswered)?;
        let fence = self.inner.table.fence();
        if lease.id() != Some(id) {
            return Ok(None);
        }
        let asked_us = clock::boot_us();
        let ask = Ask::View { worker: self.inner.me, lease: id, tenant, digest };
        let answer = router.ask(group, ask).await.answered.map_err(NoPass::Unanswered)?;
        if let Answer::View(view) = answer {
            let terms = self.inner.table.share(Terms::of(&view.limits));
            let pass = Arc::new(Pass::new(*view, terms, digest, lease, asked_us));
            return Ok(self.inner.table.insert(fence, pass));
        }
        if answer != Answer::NoLease {
            return Err(NoPass::Unknown);
        }
        self.drop_group(&lease);
        Ok(None)
    }

    fn lease(&self, group: GroupId) -> Arc<GroupLease> {
        let mut leases = self.leases();
        let made = leases.entry(group).or_insert_with(|| Arc::new(GroupLease::new(group)));
        Arc::clone(made)
    }

    fn leases(&self) -> MutexGuard<'_, BTreeMap<GroupId, Arc<GroupLease>>> {
        self.inner.leases.lock().unwrap_or_else(|_| std::process::abort())
    }

    /// Drops what an owner calls back. When it returns, no request that begins later uses it.
    pub(crate) fn recalled(&self, group: GroupId, recall: Recall) {
        self.retire(self.inner.table.remove(|pass| {
            pass.lease.group == group && recall.tenant.is_none_or(|tenant| pass.tenant.id == tenant)
        }));
    }

    /// Everything held of a group is void: the owner has forgotten it, or its time is over.
    fn drop_group(&self, lease: &GroupLease) {
        lease.end();
        for pass in self.inner.table.remove(|pass| pass.lease.group == lease.group) {
            pass.kill();
        }
    }

    /// Calls something back from a node. True when it holds nothing of it any more.
    pub(crate) async fn recall_from(&self, worker: Worker, group: GroupId, recall: Recall) -> bool {
        if worker == self.inner.me {
            self.recalled(group, recall);
            return true;
        }
        let Some(transport) = self.inner.transport.get() else { return false };
        let Ok(payload) = codec::encode(&recall) else { return false };
        let id = self.inner.asks.fetch_add(1, Ordering::Relaxed);
        let mut envelope = Envelope::new(KIND_RECALL, id, Bytes::from(payload));
        envelope.shard = group.0;
        envelope.to_incarnation = worker.incarnation;
        envelope.deadline_remaining_ms = RECALL_TIMEOUT_MS;
        let called = transport.call(worker.node.0, envelope);
        let deadline = Duration::from_millis(u64::from(RECALL_TIMEOUT_MS));
        let answer = tokio::time::timeout(deadline, called).await;
        matches!(answer, Ok(Ok(ReplyFrame::Ok(_))))
    }

    /// Keys that are held here.
    #[must_use]
    pub fn held(&self) -> usize {
        self.inner.table.len()
    }
}
