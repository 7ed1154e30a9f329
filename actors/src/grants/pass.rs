//! What a node holds of one key: a view, and requests to admit by itself.
//!
//! Invariant: a request is admitted only at a moment at which the lease, the view and the slab are all
//! in force. So tokens are taken first and the clock is read after: a thread that was paused in
//! between finds its time over.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::peer::{Admission, Caller, LimitState, View};
use protocol::tenants::Status;
use protocol::{Digest, NodeId, Refusal};
use tokio::sync::Notify;

use super::lease::GroupLease;
use super::terms::{Terms, Tight, TightWord};
use crate::clock;

/// No end.
const NEVER: u64 = u64::MAX;

/// A key that may be used here, while it holds.
///
/// What each request looks at comes first, on two lines of memory: with many keys in use, every line is
/// fetched from afar.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Pass {
    pub(super) digest: Digest,
    admission: Admission,
    may_work: bool,
    dead: AtomicBool,
    /// An ask for more is under way.
    pub(super) asking: AtomicBool,
    /// So long before the slab is over it is time to ask how long the window really is; 0 for never.
    ahead_us: AtomicU32,
    ends_us: u64,
    /// Requests that may be admitted.
    left: AtomicU64,
    slab_ends_us: AtomicU64,

    last_used_us: AtomicU64,
    /// What the owner said is left beside all slabs.
    room: AtomicU64,
    /// How large the last slab was.
    granted: AtomicU64,
    /// What was tight when the last slab came: a [`TightWord`].
    tight: AtomicU64,
    pub(super) lease: Arc<GroupLease>,
    terms: Arc<Terms>,
    dry_until_us: AtomicU64,
    /// What was left when the owner was last asked, with what has come since.
    had: AtomicU64,

    /// When the last slab was asked for.
    granted_at_us: AtomicU64,
    /// Of the ask that brought what is here; 0 when the owner knows of nothing here.
    slab_number: AtomicU64,
    /// When the window is over at the latest that the slab was cut from.
    window_ends_us: AtomicU64,
    /// An ask has ended.
    pub(super) asked: Notify,
    dry: Mutex<Option<Dry>>,
    /// Apart, so that more passes fit into a page.
    view: Box<View>,
}

const _: () =
    assert!(std::mem::offset_of!(Pass, granted_at_us) == 2 * 64, "two lines are looked at");

/// This long before a slab is over, its owner is asked whether the window really is.
const LOOK_AHEAD_US: u64 = 100_000;
/// What is left of a window when the next one is waited for.
const SHORT_US: u64 = 50_000;
/// A slab of this share of what the owner has left is no hoard.
const CRUMB: u64 = 512;

#[derive(Debug, Clone)]
struct Dry {
    refusal: Refusal,
    until_us: u64,
}

/// A request that was admitted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The policy with the least left; `None` when nothing limits.
    pub tight: Option<Tight>,
    /// The node that decides.
    pub owner: Option<NodeId>,
}

impl std::ops::Deref for Pass {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.view.caller
    }
}

impl Pass {
    /// `asked_us` is when the view was asked for: it holds from then, not from when it came.
    /// `terms` are those of its limits.
    pub(super) fn new(
        view: View,
        terms: Arc<Terms>,
        digest: Digest,
        lease: Arc<GroupLease>,
        asked_us: u64,
    ) -> Self {
        let ends_us = view.ends_ms.map_or(NEVER, |ms| asked_us.saturating_add(ms * 1000));
        Self {
            digest,
            admission: view.admission,
            may_work: matches!(view.caller.status, Status::Trial | Status::Active),
            dead: AtomicBool::new(false),
            asking: AtomicBool::new(false),
            ahead_us: AtomicU32::new(0),
            ends_us,
            left: AtomicU64::new(0),
            slab_ends_us: AtomicU64::new(0),
            last_used_us: AtomicU64::new(asked_us),
            room: AtomicU64::new(0),
            granted: AtomicU64::new(0),
            tight: AtomicU64::new(TightWord::NONE.0),
            lease,
            terms,
            dry_until_us: AtomicU64::new(0),
            had: AtomicU64::new(0),
            granted_at_us: AtomicU64::new(0),
            slab_number: AtomicU64::new(0),
            window_ends_us: AtomicU64::new(0),
            asked: Notify::new(),
            dry: Mutex::default(),
            view: Box::new(view),
        }
    }

    /// Whether it holds now.
    pub(super) fn holds(&self, now_us: u64) -> bool {
        !self.dead.load(Ordering::Acquire)
            && now_us < self.ends_us
            && now_us < self.lease.valid_until_us()
    }

    /// How requests of this key are admitted.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.admission
    }

    /// The limits of the tenant and the key. What was left of them when the view was taken is stale.
    #[must_use]
    pub fn limits(&self) -> &[LimitState] {
        &self.view.limits
    }

    /// The value of `RateLimit-Policy` in answers to what slabs admit.
    #[must_use]
    pub fn policies(&self) -> &str {
        &self.terms.text
    }

    /// Whether the tenant's state lets the key do work.
    #[must_use]
    pub fn may_work(&self) -> bool {
        self.may_work
    }

    /// Spends requests without asking anybody. `None` when that cannot be done.
    pub(super) fn spend(&self, units: u64) -> Option<Admitted> {
        if !self.may_work() {
            return None;
        }
        match self.admission {
            Admission::Owner => return None,
            Admission::Unlimited => {}
            Admission::Slabs => self.take(units)?,
        }
        // The clock is read after the tokens were taken: see above.
        let now_us = clock::boot_us();
        let slab_holds = self.admission == Admission::Unlimited
            || now_us < self.slab_ends_us.load(Ordering::Acquire);
        if !slab_holds || !self.holds(now_us) {
            return None;
        }
        self.last_used_us.store(now_us, Ordering::Relaxed);
        self.lease.used(now_us);
        Some(self.admitted(now_us))
    }

    fn take(&self, units: u64) -> Option<()> {
        let less = |left: u64| left.checked_sub(units);
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).ok().map(drop)
    }

    fn admitted(&self, now_us: u64) -> Admitted {
        let word = TightWord(self.tight.load(Ordering::Relaxed));
        let tight = word.read().filter(|_| self.admission != Admission::Unlimited);
        let tight = tight.and_then(|(place, resets_us)| {
            let &(policy, limit) = self.terms.limits.get(place)?;
            let left = self.left.load(Ordering::Relaxed);
            let remaining = left.saturating_add(self.room.load(Ordering::Relaxed));
            // This request is used at least.
            let reset_ms = (resets_us.saturating_sub(now_us) / 1000).max(1);
            Some(Tight { policy, limit, remaining, reset_ms })
        });
        Admitted { tight, owner: self.lease.owner() }
    }

    /// Whether it is time to ask for more: half of the last slab is gone.
    pub(super) fn is_low(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        left <= self.granted() / 2
    }

    /// Requests in the slab that came last.
    pub(super) fn granted(&self) -> u64 {
        self.granted.load(Ordering::Relaxed)
    }

    /// Since when the slab that came last holds.
    pub(super) fn granted_at_us(&self) -> u64 {
        self.granted_at_us.load(Ordering::Relaxed)
    }

    /// Requests admitted since this was last asked.
    pub(super) fn take_spent(&self) -> u64 {
        let left = self.left();
        self.had.swap(left, Ordering::Relaxed).saturating_sub(left)
    }

    fn add(&self, requests: u64) {
        self.had.fetch_add(requests, Ordering::Relaxed);
        self.left.fetch_add(requests, Ordering::AcqRel);
    }

    fn take_all(&self) -> u64 {
        self.had.store(0, Ordering::Relaxed);
        self.left.swap(0, Ordering::AcqRel)
    }

    /// Requests that are left here.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Acquire)
    }

    /// Takes in the slab of an ask, which was made at `asked_us` and answered at `now_us`.
    pub(super) fn receive(
        &self,
        slab: &protocol::peer::Slab,
        number: u64,
        asked_us: u64,
        now_us: u64,
    ) {
        if slab.voided {
            self.take_all();
        }
        self.set_window(slab.window_ms, asked_us, now_us);
        self.add(slab.granted);
        self.room.store(slab.room, Ordering::Relaxed);
        self.slab_number.store(number, Ordering::Release);
        if slab.granted > 0 {
            self.granted.store(slab.granted, Ordering::Relaxed);
            self.granted_at_us.store(asked_us, Ordering::Relaxed);
            let tight = slab.tight.as_ref().and_then(|state| {
                let resets_us = asked_us.saturating_add(state.reset_ms.saturating_mul(1000));
                Some(TightWord::new(self.terms.place(state)?, resets_us))
            });
            self.tight.store(tight.unwrap_or(TightWord::NONE).0, Ordering::Relaxed);
        }
        if let Some(refusal) = &slab.denied {
            self.set_dry(refusal);
        }
    }

    /// Shard time may run a twentieth faster than ours, so the window may end that much sooner. Shortly
    /// before it is worth asking again, until what could be won is not worth the way.
    fn set_window(&self, window_ms: Option<u64>, asked_us: u64, now_us: u64) {
        let Some(window_us) = window_ms.map(|ms| ms * 1000) else {
            self.ahead_us.store(0, Ordering::Relaxed);
            self.window_ends_us.store(0, Ordering::Relaxed);
            self.slab_ends_us.store(NEVER, Ordering::Release);
            return;
        };
        let ends_us = asked_us + window_us / 20 * 19;
        let ahead_us = (window_us / 4).min(LOOK_AHEAD_US);
        let ahead_us = if window_us < SHORT_US { 0 } else { ahead_us as u32 };
        self.ahead_us.store(ahead_us, Ordering::Relaxed);
        self.window_ends_us.store(now_us + window_us, Ordering::Relaxed);
        self.slab_ends_us.store(ends_us, Ordering::Release);
    }

    /// Whether the time of the slab is nearly over, as of the last request.
    pub(super) fn is_ending(&self) -> bool {
        let ahead_us = u64::from(self.ahead_us.load(Ordering::Relaxed));
        let now_us = self.last_used_us.load(Ordering::Relaxed);
        ahead_us > 0 && now_us + ahead_us >= self.slab_ends_us.load(Ordering::Relaxed)
    }

    /// How long to wait for the next window, when that is not long and the slab is over.
    pub(super) fn window_over_in(&self, now_us: u64) -> Option<Duration> {
        let wait_us = self.window_ends_us.load(Ordering::Relaxed).checked_sub(now_us)?;
        let waits = wait_us > 0 && wait_us < SHORT_US && self.is_stale(now_us);
        waits.then(|| Duration::from_micros(wait_us))
    }

    /// Remembers that there is nothing for single requests until a moment.
    pub(super) fn set_dry(&self, refusal: &Refusal) {
        let (Refusal::Rate { retry_after_ms, .. } | Refusal::Quota { retry_after_ms, .. }) =
            refusal
        else {
            return;
        };
        let until_us = clock::boot_us().saturating_add(retry_after_ms.saturating_mul(1000));
        let mut dry = self.dry.lock().unwrap_or_else(|_| std::process::abort());
        *dry = Some(Dry { refusal: refusal.clone(), until_us });
        self.dry_until_us.store(until_us, Ordering::Release);
    }

    /// Why nothing will be admitted now, with the wait that is left.
    pub(super) fn dry(&self) -> Option<Refusal> {
        let now_us = clock::boot_us();
        if now_us >= self.dry_until_us.load(Ordering::Acquire) {
            return None;
        }
        let dry = self.dry.lock().unwrap_or_else(|_| std::process::abort()).clone()?;
        let wait_ms = dry.until_us.saturating_sub(now_us).div_ceil(1000).max(1);
        let mut refusal = dry.refusal;
        if let Refusal::Rate { retry_after_ms, .. } | Refusal::Quota { retry_after_ms, .. } =
            &mut refusal
        {
            *retry_after_ms = wait_ms;
        }
        Some(refusal)
    }

    /// Ends it. What is left can only be given back.
    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.asked.notify_waiters();
    }

    /// Whether somebody might miss what is left here.
    pub(super) fn hoards(&self) -> bool {
        self.left() > self.room.load(Ordering::Relaxed) / CRUMB
    }

    /// Takes the turn to talk with the owner about the slab; nobody else may until it is over.
    pub(super) fn take_turn(&self) -> bool {
        !self.asking.swap(true, Ordering::AcqRel)
    }

    /// Whoever had the turn is done.
    pub(super) fn end_turn(&self) {
        self.asking.store(false, Ordering::Release);
        self.asked.notify_waiters();
    }

    /// Takes out all that is left, to be given back with the next ask.
    pub(super) fn take_left(&self) -> u64 {
        self.take_all()
    }

    /// The ask was not heard, and it is as it was.
    pub(super) fn put_left(&self, left: u64) {
        self.add(left);
    }

    /// Takes out all that is left, to be given back: the number of its ask, and how much. None when the
    /// owner knows of nothing here.
    pub(super) fn take_slab(&self) -> Option<(u64, u64)> {
        let number = self.slab_number.swap(0, Ordering::AcqRel);
        let left = self.take_all();
        (number != 0).then_some((number, left))
    }

    /// It could not be given back, and is as it was.
    pub(super) fn put_slab(&self, number: u64, left: u64) {
        self.add(left);
        self.slab_number.store(number, Ordering::Release);
    }

    /// Whether the window is over that the slab was cut from.
    pub(super) fn is_stale(&self, now_us: u64) -> bool {
        now_us >= self.slab_ends_us.load(Ordering::Acquire)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(super) fn idle_for(&self, now_us: u64) -> Duration {
        let used = self.last_used_us.load(Ordering::Relaxed);
        Duration::from_micros(now_us.saturating_sub(used))
    }

    pub(super) fn touch(&self, now_us: u64) {
        self.last_used_us.store(now_us, Ordering::Relaxed);
    }
}
