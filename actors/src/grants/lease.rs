//! A node's lease on one group, measured so that it ends here before it ends at the owner.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::peer::LeaseId;
use protocol::{GroupId, NodeId};

use crate::ask::AskError;

/// What the owner waits for, from when it has confirmed the lease.
pub(crate) const OWNER_LEASE: Duration = Duration::from_millis(1_700);
/// How long the node uses it, from when it asked: a good sixth less.
pub(super) const NODE_LEASE: Duration = Duration::from_millis(1_400);

/// One per group that this node uses.
#[derive(Debug)]
pub(super) struct GroupLease {
    pub(super) group: GroupId,
    valid_until_us: AtomicU64,
    used_us: AtomicU64,
    owner: AtomicU64,
    id: Mutex<Option<LeaseId>>,
    /// One renewal at a time.
    pub(super) renewing: tokio::sync::Mutex<()>,
    /// When the last renewal failed, and why.
    failed: Mutex<Option<(u64, AskError)>>,
}

impl GroupLease {
    pub(super) fn new(group: GroupId) -> Self {
        Self {
            group,
            valid_until_us: AtomicU64::new(0),
            used_us: AtomicU64::new(0),
            owner: AtomicU64::new(0),
            id: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Why a renewal failed that ended after `since_us`: whoever waited for it has that answer too.
    pub(super) fn failed_since(&self, since_us: u64) -> Option<AskError> {
        let failed = self.failed.lock().unwrap_or_else(|_| std::process::abort());
        failed.as_ref().filter(|(at_us, _)| *at_us > since_us).map(|(_, error)| error.clone())
    }

    pub(super) fn fail(&self, now_us: u64, error: AskError) {
        *self.failed.lock().unwrap_or_else(|_| std::process::abort()) = Some((now_us, error));
    }

    pub(super) fn valid_until_us(&self) -> u64 {
        self.valid_until_us.load(Ordering::Acquire)
    }

    pub(super) fn used(&self, now_us: u64) {
        self.used_us.store(now_us, Ordering::Relaxed);
    }

    pub(super) fn used_us(&self) -> u64 {
        self.used_us.load(Ordering::Relaxed)
    }

    /// The node that gave it.
    pub(super) fn owner(&self) -> Option<NodeId> {
        Some(NodeId(self.owner.load(Ordering::Relaxed))).filter(|owner| owner.0 != 0)
    }

    pub(super) fn id(&self) -> Option<LeaseId> {
        *self.id.lock().unwrap_or_else(|_| std::process::abort())
    }

    /// It holds from `asked_us`, when it was asked for.
    pub(super) fn extend(&self, id: LeaseId, owner: Option<NodeId>, asked_us: u64) {
        *self.id.lock().unwrap_or_else(|_| std::process::abort()) = Some(id);
        self.owner.store(owner.map_or(0, |owner| owner.0), Ordering::Relaxed);
        self.valid_until_us.store(asked_us + NODE_LEASE.as_micros() as u64, Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.valid_until_us.store(0, Ordering::Release);
        *self.id.lock().unwrap_or_else(|_| std::process::abort()) = None;
    }
}
