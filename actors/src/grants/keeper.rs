//! Keeps leases up while they are used, gives back what is idle, and lets go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::peer::{Admission, Answer, Ask, LeaseId};

use super::lease::{GroupLease, NODE_LEASE};
use super::{Grants, Pass, clock};
use crate::ask::AskError;

/// How often leases and passes are looked at.
const INTERVAL: Duration = Duration::from_millis(200);
/// How often all passes are walked over.
const WALK_EVERY_US: u64 = 500_000;
/// A lease is prolonged when less than this is left of it.
const RENEW_BELOW_US: u64 = 900_000;
/// A slab that was not used for this long is given back. Who has to wait for it is told 3 s.
const SLAB_IDLE: Duration = Duration::from_secs(2);
/// A pass that was not used for this long is forgotten.
const PASS_IDLE: Duration = Duration::from_secs(30);
/// How long the end of a lease waits for what is given back.
const RETURN_WITHIN: Duration = Duration::from_secs(1);
/// A lease that was not used for this long is closed.
const LEASE_IDLE_US: u64 = 10_000_000;

pub(super) async fn run(grants: Grants) {
    let mut ticks = raft::ticks::ticks(INTERVAL);
    let mut walked = clock::boot_us();
    loop {
        ticks.tick().await;
        let leases: Vec<_> = grants.leases().values().cloned().collect();
        if leases.iter().all(|lease| lease.id().is_none()) {
            continue;
        }
        for lease in leases {
            grants.keep(lease);
        }
        if clock::boot_us() - walked > WALK_EVERY_US {
            grants.let_go();
            walked = clock::boot_us();
        }
    }
}

impl Grants {
    /// Looks after one lease, in the background when somebody has to be asked.
    fn keep(&self, lease: Arc<GroupLease>) {
        let Some(id) = lease.id() else { return };
        let now_us = clock::boot_us();
        let grants = self.clone();
        if self.inner.running.any() {
            // The slots of requests that run stand with the lease.
            lease.used(now_us);
        }
        if lease.renewing.try_lock().is_err() {
            return;
        }
        if now_us.saturating_sub(lease.used_us()) > LEASE_IDLE_US {
            tokio::spawn(async move { grants.close(&lease, id).await });
        } else if now_us + RENEW_BELOW_US > lease.valid_until_us() {
            tokio::spawn(async move {
                if let Err(error) = grants.renew(&lease).await {
                    tracing::debug!(group = %lease.group, %error, "lease not prolonged");
                }
            });
        }
    }

    /// A lease in force, got from the owner when there is none.
    pub(super) async fn hold(&self, lease: &Arc<GroupLease>) -> Result<LeaseId, AskError> {
        lease.used(clock::boot_us());
        if let Some(id) = valid(lease) {
            return Ok(id);
        }
        self.renew(lease).await
    }

    /// Opens or prolongs a lease. Several at once are one.
    async fn renew(&self, lease: &Arc<GroupLease>) -> Result<LeaseId, AskError> {
        let (begun_us, before) = (clock::boot_us(), lease.valid_until_us());
        let _one = lease.renewing.lock().await;
        if let Some(id) = valid(lease).filter(|_| lease.valid_until_us() > before) {
            return Ok(id);
        }
        if let Some(error) = lease.failed_since(begun_us) {
            return Err(error);
        }
        let renewed = self.renew_alone(lease).await;
        if let Err(error) = &renewed {
            lease.fail(clock::boot_us(), error.clone());
        }
        renewed
    }

    async fn renew_alone(&self, lease: &Arc<GroupLease>) -> Result<LeaseId, AskError> {
        let group = lease.group;
        let router = self.inner.router.get().ok_or(AskError::NoLeader { group })?;
        for _ in 0..2 {
            if valid(lease).is_none() && lease.id().is_some() {
                // Its time is over: what was held is void before anything else is asked for.
                self.drop_group(lease);
            }
            let held = lease.id();
            let running = if held.is_none() { self.inner.running.numbers() } else { Vec::new() };
            let asked_us = clock::boot_us();
            let wish = self.inner.asks.fetch_add(1, Ordering::Relaxed);
            let ask = Ask::Lease { worker: self.inner.me, wish, held, running };
            let routed = router.ask(group, ask).await;
            let answer = routed.answered?;
            if let Answer::Lease { id, fresh } = answer
                && fresh == held.is_none()
            {
                lease.extend(id, routed.owner, asked_us);
                return Ok(id);
            }
            if !matches!(answer, Answer::Lease { .. } | Answer::NoLease) {
                return Err(AskError::Unknown { group });
            }
            // The owner does not know what we hold: hold nothing, and ask again.
            self.drop_group(lease);
        }
        Err(AskError::NoLeader { group })
    }

    async fn close(&self, lease: &Arc<GroupLease>, id: LeaseId) {
        let _one = lease.renewing.lock().await;
        if lease.id() != Some(id) {
            return;
        }
        let passes = self.inner.table.remove(|pass| pass.lease.group == lease.group);
        let ended = self.ended(passes);
        let brought = self.bring_back(lease.group, &ended);
        // Whoever wants this lease meanwhile waits for us.
        if tokio::time::timeout(RETURN_WITHIN, brought).await.is_err() {
            tracing::debug!(group = %lease.group, "limits not given back; they end with the lease");
        }
        // What came in meanwhile goes too.
        self.drop_group(lease);
        let Some(router) = self.inner.router.get() else { return };
        let ask = Ask::Close { worker: self.inner.me, lease: id };
        if let Err(error) = router.ask(lease.group, ask).await.answered {
            tracing::debug!(group = %lease.group, %error, "lease not closed");
        }
    }

    /// Gives idle slabs back and forgets idle passes.
    fn let_go(&self) {
        let now_us = clock::boot_us();
        self.retire(self.inner.table.forget(|pass| pass.idle_for(now_us) > PASS_IDLE));
        self.retire(self.inner.table.take_evicted());
        let hoards = |pass: &Pass| {
            pass.admission() == Admission::Slabs
                && pass.hoards()
                && pass.idle_for(now_us) > SLAB_IDLE
        };
        let hoarded = self.inner.table.find(hoards).into_iter();
        self.give_back(hoarded.filter(|pass| pass.take_turn()).collect());
    }
}

fn valid(lease: &GroupLease) -> Option<LeaseId> {
    debug_assert!(NODE_LEASE.as_micros() < super::OWNER_LEASE.as_micros());
    lease.id().filter(|_| clock::boot_us() < lease.valid_until_us())
}
