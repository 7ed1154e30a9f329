//! Getting, using and giving back slabs; and the numbers of requests that run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::limits::{Command, Policy, RETURNED_MAX, Returned, Slot};
use protocol::peer::{Admission, Answer, Ask, LimitsView};
use protocol::{GroupId, Refusal, Reply, TenantId};
use tokio::time::Instant;

use super::pass::{Admitted, Pass};
use super::{Grants, clock};
use crate::ask::AskError;
use crate::figures::figures;

/// How long a request waits for a slab.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// A slab is to last about this long.
const SLAB_US: u64 = 250_000;
/// A small one may last longer: each costs an entry, and the owner gives a third of what there is.
const SMALL_US: u64 = 16_000_000;
const SMALL_MAX: u64 = 128;
/// What somebody gets who asks for the first time.
const FIRST: u64 = 16;
/// How often a return is sent while the owner does not take it, and the pause between.
const RETURNS_MAX: u32 = 4;
const RETURN_AGAIN: Duration = Duration::from_millis(250);
/// The largest slab.
const SLAB_MAX: u64 = 1_000_000;

/// What became of a request for units.
#[derive(Debug)]
pub enum Spent {
    /// By this node.
    Here(Admitted),
    /// By the owner, in an entry of the log.
    Owner(Box<LimitsView>),
    Refused(Box<Refusal>),
    /// Nobody could say; whether it was spent is as the error says.
    Unanswered(AskError),
    /// The pass is over; the caller has to authenticate again.
    Over,
}

/// Requests of this node that hold a slot.
#[derive(Debug, Default)]
pub(super) struct Running {
    state: Mutex<(u64, BTreeSet<u64>)>,
}

impl Running {
    fn begin(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(|_| std::process::abort());
        state.0 += 1;
        let number = state.0;
        state.1.insert(number);
        number
    }

    fn end(&self, number: u64) {
        self.state.lock().unwrap_or_else(|_| std::process::abort()).1.remove(&number);
    }

    /// Whether any request holds a slot.
    pub(super) fn any(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(|_| std::process::abort());
        !state.1.is_empty()
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        let state = self.state.lock().unwrap_or_else(|_| std::process::abort());
        state.1.iter().copied().collect()
    }
}

/// A slot that is released when this is dropped: with the answer, or when the client hangs up.
#[derive(Debug)]
pub struct Held {
    grants: Grants,
    tenant: TenantId,
    slot: Slot,
}

impl Held {
    /// The slot, to be named in the entry of the work.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.grants.inner.running.end(self.slot.number);
        let (grants, tenant, slot) = (self.grants.clone(), self.tenant, self.slot);
        let Some(group) = grants.inner.router.get().and_then(|router| router.group_of(tenant))
        else {
            return;
        };
        tokio::spawn(async move {
            // Should this be lost, the slot ends with the node's lease or its own time.
            let command = protocol::Command::Limits(tenant, Command::Release { slot });
            if let Err(error) = grants.tell(group, command).await {
                tracing::debug!(%group, %error, "slot not released");
            }
        });
    }
}

impl Grants {
    /// A number for a request of a tenant whose limits count those that run; `None` without such a
    /// limit.
    #[must_use]
    pub fn hold_slot(&self, pass: &Pass) -> Option<Held> {
        pass.tenant.limits().concurrency?;
        let slot = Slot { worker: self.inner.me, number: self.inner.running.begin() };
        Some(Held { grants: self.clone(), tenant: pass.tenant.id, slot })
    }

    /// Why a request of this key would certainly be refused now, as its owner has said before.
    #[must_use]
    pub fn dry(&self, pass: &Pass) -> Option<Refusal> {
        pass.dry()
    }

    /// Spends requests of a key: here when it can be, else by its owner.
    pub async fn spend(&self, pass: &Arc<Pass>, units: u64) -> Spent {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            if let Some(admitted) = pass.spend(units) {
                figures().grants.admitted(admitted.tight.is_some());
                self.prefetch(pass);
                return Spent::Here(admitted);
            }
            if let Some(refusal) = pass.dry() {
                return Spent::Refused(Box::new(refusal));
            }
            if !pass.holds(clock::boot_us()) {
                return Spent::Over;
            }
            if pass.admission() == Admission::Owner || units > pass.granted().max(1) {
                return self.spend_at_owner(pass, units, None).await;
            }
            if Instant::now() >= deadline {
                let group = pass.lease.group;
                return Spent::Unanswered(AskError::Overloaded { group });
            }
            if let Err(error) = self.more(pass, units, deadline).await {
                return Spent::Unanswered(error);
            }
        }
    }

    /// Spends units of one policy, or of all that count requests, in an entry of the log.
    pub async fn spend_at_owner(&self, pass: &Pass, units: u64, policy: Option<Policy>) -> Spent {
        let command = Command::Check { key: pass.key, units, policy };
        let command = Box::new(protocol::Command::Limits(pass.tenant.id, command));
        let Some(router) = self.inner.router.get() else { return Spent::Over };
        let answered = router.ask(pass.lease.group, Ask::propose(command)).await.answered;
        match answered {
            Ok(Answer::Applied(applied)) => match applied.outcome {
                Ok(Reply::Limits(view)) => {
                    figures().grants.admitted_by_owner();
                    Spent::Owner(view)
                }
                Ok(_) => Spent::Unanswered(AskError::Unknown { group: pass.lease.group }),
                Err(refusal) => {
                    if units == 1 && policy.is_none() {
                        pass.set_dry(&refusal);
                    }
                    Spent::Refused(Box::new(refusal))
                }
            },
            Ok(_) => Spent::Unanswered(AskError::Unknown { group: pass.lease.group }),
            Err(error) => Spent::Unanswered(error),
        }
    }

    /// Asks for a slab, or waits for the ask that is under way.
    async fn more(&self, pass: &Arc<Pass>, units: u64, deadline: Instant) -> Result<(), AskError> {
        let asked = pass.asked.notified();
        tokio::pin!(asked);
        // Registered before the flag is looked at, so that no end of an ask is missed.
        asked.as_mut().enable();
        if pass.take_turn() {
            return self.ask(pass, units).await;
        }
        // Over in time or not: the caller looks again.
        let _ = tokio::time::timeout_at(deadline, asked).await;
        Ok(())
    }

    /// Asks ahead when what is left is little, or its time.
    pub(super) fn prefetch(&self, pass: &Arc<Pass>) {
        if pass.admission() != Admission::Slabs
            || !(pass.is_low() || pass.is_ending())
            || pass.asking.load(Ordering::Relaxed)
            || pass.dry().is_some()
        {
            return;
        }
        // Beyond that, whoever needs more waits for it.
        let Ok(place) = Arc::clone(&self.inner.ahead).try_acquire_owned() else { return };
        if !pass.take_turn() {
            return;
        }
        let (grants, pass) = (self.clone(), Arc::clone(pass));
        tokio::spawn(async move {
            // Whoever needs it asks again and hears the error.
            let _ = grants.ask(&pass, 0).await;
            drop(place);
        });
    }

    /// One ask; the caller has taken the turn.
    async fn ask(&self, pass: &Arc<Pass>, units: u64) -> Result<(), AskError> {
        let asked = self.ask_owner(pass, units).await;
        pass.end_turn();
        if pass.is_dead() {
            self.retire(vec![Arc::clone(pass)]);
        }
        asked
    }

    async fn ask_owner(&self, pass: &Arc<Pass>, units: u64) -> Result<(), AskError> {
        let group = pass.lease.group;
        let router = self.inner.router.get().ok_or(AskError::NoLeader { group })?;
        if let Some(wait) = pass.window_over_in(clock::boot_us()) {
            // Whatever is asked for now is over before it is here.
            tokio::time::sleep(wait).await;
        }
        let Some(lease) = pass.lease.id() else { return Ok(()) };
        let asked_us = clock::boot_us();
        let want = self.wanted(pass, asked_us).max(units);
        let number = self.inner.asks.fetch_add(1, Ordering::Relaxed);
        // The rest of a minute is void, and still good for the day.
        let ended = pass.is_stale(asked_us);
        let (worker, left) = (self.inner.me, if ended { pass.take_left() } else { pass.left() });
        let command = Command::Slab { key: pass.key, worker, number, left, ended, want };
        let ask = Ask::Slab { lease, tenant: pass.tenant.id, command };
        let answered = router.ask(group, ask).await.answered;
        let unheard = match &answered {
            Ok(answer) => matches!(answer, Answer::NoLease | Answer::Refused(_)),
            Err(error) => error.is_not_applied(),
        };
        if ended && unheard {
            pass.put_left(left);
        }
        let answer = answered?;
        if let Answer::Slab(slab) = answer {
            pass.receive(&slab, number, asked_us, clock::boot_us());
        } else if let Answer::NoLease = answer {
            self.drop_group(&pass.lease);
        } else if let Answer::Refused(refusal) = answer {
            // The tenant or the key is in another state than the view says: it is over.
            tracing::debug!(%refusal, "no slab");
            pass.kill();
        } else {
            return Err(AskError::Unknown { group });
        }
        Ok(())
    }

    /// As much as will be used in [`SLAB_US`] at the pace since the last slab, or in [`SMALL_US`] if
    /// that is little.
    fn wanted(&self, pass: &Pass, now_us: u64) -> u64 {
        let spent = pass.take_spent();
        let took_us = now_us.saturating_sub(pass.granted_at_us()).max(1_000);
        let within = |us: u64| {
            let spent = u128::from(spent) * u128::from(us) / u128::from(took_us);
            u64::try_from(spent).unwrap_or(SLAB_MAX)
        };
        // Growing at most twofold, so that one burst does not hoard.
        let bound = (pass.granted() * 2).clamp(FIRST, SLAB_MAX);
        within(SLAB_US).max(within(SMALL_US).min(SMALL_MAX)).clamp(FIRST, bound)
    }

    /// Ends passes and gives back what they have left.
    pub(super) fn retire(&self, passes: Vec<Arc<Pass>>) {
        self.give_back(self.ended(passes));
    }

    /// Ends passes; those among them whose turn could be taken. The others are retired by whoever has it.
    pub(super) fn ended(&self, passes: Vec<Arc<Pass>>) -> Vec<Arc<Pass>> {
        for pass in &passes {
            pass.kill();
        }
        passes.into_iter().filter(|pass| pass.take_turn()).collect()
    }

    /// Gives back what passes hold whose turn the caller has taken.
    pub(super) fn give_back(&self, passes: Vec<Arc<Pass>>) {
        let mut of_groups: BTreeMap<GroupId, Vec<Arc<Pass>>> = BTreeMap::new();
        for pass in passes {
            of_groups.entry(pass.lease.group).or_default().push(pass);
        }
        for (group, passes) in of_groups {
            let grants = self.clone();
            tokio::spawn(async move { grants.bring_back(group, &passes).await });
        }
    }

    /// The same for passes of one group; returns when the owner has it all.
    pub(super) async fn bring_back(&self, group: GroupId, passes: &[Arc<Pass>]) {
        for passes in passes.chunks(RETURNED_MAX) {
            self.hand_in(group, passes).await;
            passes.iter().for_each(|pass| pass.end_turn());
        }
    }

    /// One command gives back what these hold. It can be sent twice: it names the asks.
    async fn hand_in(&self, group: GroupId, passes: &[Arc<Pass>]) {
        let mut taken = Vec::new();
        let slabs = passes.iter().filter_map(|pass| {
            let (number, left) = pass.take_slab()?;
            taken.push((Arc::clone(pass), number, left));
            Some(Returned { tenant: pass.tenant.id, key: pass.key, number, left })
        });
        let (worker, slabs): (_, Vec<_>) = (self.inner.me, slabs.collect());
        if slabs.is_empty() {
            return;
        }
        let mut unheard = true;
        for _ in 0..RETURNS_MAX {
            let command = protocol::Command::Return { worker, slabs: slabs.clone() };
            match self.tell(group, command).await {
                Ok(()) => return,
                Err(error) => {
                    unheard &= error.is_not_applied();
                    tracing::debug!(%group, %error, "limits not given back yet");
                }
            }
            tokio::time::sleep(RETURN_AGAIN).await;
        }
        // What may have been heard must not be spent here any more.
        for (pass, number, left) in taken.into_iter().filter(|_| unheard) {
            pass.put_slab(number, left);
        }
    }

    async fn tell(&self, group: GroupId, command: protocol::Command) -> Result<(), AskError> {
        let router = self.inner.router.get().ok_or(AskError::NoLeader { group })?;
        router.ask(group, Ask::propose(Box::new(command))).await.answered.map(drop)
    }
}
