//! The owner's side of grants: which nodes hold views of which tenants, and the calling back.
//!
//! A change is acknowledged only after every node that holds a view of the tenant has dropped it, or
//! its lease is over. An owner that has just begun does not know who holds what of its predecessor, so
//! it waits until every lease of that one must be over: those were confirmed by a quorum before they were
//! given, and who elected this owner has told when it last heard another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use protocol::jobs::Worker;
use protocol::owner::Epoch;
use protocol::peer::{LeaseId, Recall};
use protocol::{GroupId, TenantId};

use crate::clock;
use crate::figures::figures;
use crate::grants::{Grants, OWNER_LEASE};

/// Leases of one ownership.
#[derive(Debug)]
pub(crate) struct Leases {
    group: GroupId,
    epoch: Epoch,
    /// When every lease of an earlier owner is over.
    alone_from_us: u64,
    grants: Grants,
    state: Mutex<State>,
    /// One lease is opened at a time, with what is to be freed before.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// The newest wish of each node for a new lease.
    wishes: BTreeMap<Worker, u64>,
    /// Whose views changes may yet make untrue of which nobody knows whether they are committed.
    unsure: BTreeSet<Option<TenantId>>,
    leases: BTreeMap<Worker, Lease>,
}

#[derive(Debug)]
struct Lease {
    number: u64,
    until_us: u64,
    tenants: BTreeSet<TenantId>,
    /// Recalls that wait for this node; meanwhile the lease is not prolonged.
    recalls: u32,
    /// It did not confirm one: what it holds stands until the time is over, and then all ends.
    spoilt: bool,
}

/// What came of a wish for more time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    Renewed,
    /// Not now: something is being called back.
    Later,
    /// There is no such lease.
    Gone,
}

impl Leases {
    /// `alone_for` is how long no earlier owner can have had a quorum.
    pub(crate) fn new(group: GroupId, epoch: Epoch, alone_for: Duration, grants: Grants) -> Self {
        let left = OWNER_LEASE.saturating_sub(alone_for);
        let alone_from_us = clock::boot_us() + left.as_micros() as u64;
        let (state, opening) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { group, epoch, alone_from_us, grants, state, opening }
    }

    /// Whether this wish of a node for a new lease is its newest. One that comes late, or twice, would
    /// void what the node was given since.
    pub(crate) fn is_newest(&self, worker: Worker, wish: u64) -> bool {
        let mut state = self.state();
        let newest = state.wishes.entry(worker).or_default();
        let newer = wish > *newest;
        *newest = wish.max(*newest);
        newer
    }

    /// A new lease; whatever the node had before is over.
    pub(crate) fn open(&self, worker: Worker) -> LeaseId {
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        let lease =
            Lease { number, until_us: ends(), tenants: BTreeSet::new(), recalls: 0, spoilt: false };
        state.leases.insert(worker, lease);
        LeaseId { epoch: self.epoch, number }
    }

    /// Prolongs a lease that is in force. The caller has confirmed the ownership with a quorum.
    pub(crate) fn renew(&self, worker: Worker, id: LeaseId) -> Renewal {
        let mut state = self.state();
        let Some(lease) = self.lease(&mut state, worker, id) else { return Renewal::Gone };
        if lease.recalls > 0 {
            return Renewal::Later;
        }
        lease.until_us = lease.until_us.max(ends());
        Renewal::Renewed
    }

    pub(crate) fn close(&self, worker: Worker, id: LeaseId) {
        let mut state = self.state();
        if self.lease(&mut state, worker, id).is_some() {
            state.leases.remove(&worker);
        }
    }

    /// Notes that the node is about to hear of the tenant. False without a lease in force.
    pub(crate) fn note(&self, worker: Worker, id: LeaseId, tenant: TenantId) -> bool {
        let mut state = self.state();
        let Some(lease) = self.lease(&mut state, worker, id) else { return false };
        lease.tenants.insert(tenant);
        true
    }

    /// Whether the lease is in force.
    pub(crate) fn holds(&self, worker: Worker, id: LeaseId) -> bool {
        self.lease(&mut self.state(), worker, id).is_some()
    }

    /// Of these nodes, those that hold nothing any more although the state says so.
    pub(crate) fn lapsed(&self, holders: &BTreeSet<Worker>) -> Vec<Worker> {
        let now_us = clock::boot_us();
        if now_us < self.alone_from_us {
            return Vec::new();
        }
        let mut state = self.state();
        state.leases.retain(|_, lease| now_us < lease.until_us);
        holders.iter().copied().filter(|holder| !state.leases.contains_key(holder)).collect()
    }

    /// Notes that a change may be committed later than its proposer waited.
    pub(crate) fn unsure(&self, tenant: Option<TenantId>) {
        self.state().unsure.insert(tenant);
    }

    /// Whose changes [`Self::unsure`] was told of, to be recalled when they are decided.
    pub(crate) fn take_unsure(&self) -> BTreeSet<Option<TenantId>> {
        std::mem::take(&mut self.state().unsure)
    }

    /// Returns when no node holds a view of the tenant (of any tenant without one) that is older than
    /// this call.
    pub(crate) async fn recall(&self, tenant: Option<TenantId>) {
        let timer = figures().recall_seconds.start_timer();
        let begun_us = clock::boot_us();
        let holders: Vec<(Worker, u64, u64)> = {
            let mut state = self.state();
            let holds = |lease: &Lease| tenant.is_none_or(|tenant| lease.tenants.contains(&tenant));
            let live = state.leases.iter_mut();
            let live = live.filter(|(_, lease)| begun_us < lease.until_us && holds(lease));
            let frozen = live.map(|(&worker, lease)| {
                lease.recalls += 1;
                (worker, lease.number, lease.until_us)
            });
            frozen.collect()
        };
        join_all(holders.into_iter().map(|holder| self.recall_from(holder, tenant))).await;
        wait_until(self.alone_from_us).await;
        timer.observe_duration();
    }

    async fn recall_from(
        &self,
        (worker, number, until_us): (Worker, u64, u64),
        tenant: Option<TenantId>,
    ) {
        let left = Duration::from_micros(until_us.saturating_sub(clock::boot_us()));
        let dropped = self.grants.recall_from(worker, self.group, Recall { tenant });
        let confirmed = tokio::time::timeout(left, dropped).await.unwrap_or(false);
        self.recalled(worker, number, confirmed);
        if !confirmed {
            wait_until(until_us).await;
        }
    }

    fn recalled(&self, worker: Worker, number: u64, confirmed: bool) {
        let mut state = self.state();
        let lease = state.leases.get_mut(&worker).filter(|lease| lease.number == number);
        let Some(lease) = lease else { return };
        lease.recalls -= 1;
        lease.spoilt |= !confirmed;
    }

    fn lease<'a>(
        &self,
        state: &'a mut State,
        worker: Worker,
        id: LeaseId,
    ) -> Option<&'a mut Lease> {
        let now_us = clock::boot_us();
        let lease = state.leases.get_mut(&worker)?;
        let known = id.epoch == self.epoch && id.number == lease.number;
        (known && !lease.spoilt && now_us < lease.until_us).then_some(lease)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|_| std::process::abort())
    }
}

fn ends() -> u64 {
    clock::boot_us() + OWNER_LEASE.as_micros() as u64
}

/// Waits on the clock that counts suspension, as leases are measured on it.
async fn wait_until(until_us: u64) {
    loop {
        let left = until_us.saturating_sub(clock::boot_us());
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_micros(left)).await;
    }
}

#[cfg(test)]
mod tests {
    use protocol::NodeId;

    use super::*;

    #[tokio::test]
    async fn a_node_that_did_not_confirm_holds_what_it_holds_until_its_time_is_over() {
        let me = Worker { node: NodeId(1), incarnation: 1 };
        let other = Worker { node: NodeId(2), incarnation: 1 };
        let leases = Leases::new(GroupId(3), Epoch(7), Duration::ZERO, Grants::new(me));
        leases.recall(None).await;
        let id = leases.open(other);
        leases.state().leases.get_mut(&other).unwrap().recalls = 1;
        leases.recalled(other, id.number, false);
        assert!(!leases.holds(other, id) && leases.renew(other, id) == Renewal::Gone);
        assert!(leases.lapsed(&[other].into()).is_empty(), "it may still spend");
        wait_until(clock::boot_us() + OWNER_LEASE.as_micros() as u64).await;
        assert_eq!(leases.lapsed(&[other].into()), [other]);
    }

    #[test]
    fn a_wish_that_comes_late_or_twice_is_not_granted() {
        let me = Worker { node: NodeId(1), incarnation: 1 };
        let leases = Leases::new(GroupId(3), Epoch(7), Duration::ZERO, Grants::new(me));
        let newest = [5, 4, 5, 6].map(|wish| leases.is_newest(me, wish));
        assert_eq!(newest, [true, false, false, true]);
    }
}
