//! One account: a bucket, two windows, and what is out or reserved of them.

use protocol::keys::Key;
use protocol::limits::{Policy, Scope, Span};
use protocol::plans::Limits;
use protocol::time::Offset;
use protocol::{Refusal, Stamp, Steady, Time};
use serde::{Deserialize, Serialize};

/// One request in the unit that buckets count in. A rate per second is as many of these per
/// millisecond.
pub(super) const TOKEN: u64 = 1_000;
/// Where only others' tokens could help, a caller is told to come back after this: nodes give back by
/// then what they do not use.
const HELD_MS: u64 = 3_000;
/// A bucket that never gains is as well looked at after an hour.
const NEVER_MS: u64 = 3_600_000;

/// What an account may.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Terms {
    pub(super) scope: Option<Scope>,
    pub(super) rate: Option<u64>,
    burst: Option<u64>,
    pub(super) per_minute: Option<u64>,
    pub(super) per_day: Option<u64>,
}

impl Terms {
    pub(super) fn of_tenant(limits: &Limits) -> Self {
        let Limits { rate, burst, per_minute, per_day, .. } = *limits;
        Self { scope: Some(Scope::Tenant), rate, burst, per_minute, per_day }
    }

    pub(super) fn of_key(limits: &Limits, key: &Key) -> Self {
        let own = key.limits(limits);
        Self {
            scope: Some(Scope::Key),
            rate: own.rate,
            burst: own.burst,
            per_minute: own.per_minute,
            per_day: own.per_day,
        }
    }

    /// What a full bucket holds, in thousandths of a request.
    pub(super) fn full(&self) -> u64 {
        self.burst_requests().saturating_mul(TOKEN)
    }

    /// What a full bucket holds, in requests.
    pub(super) fn burst_requests(&self) -> u64 {
        self.burst.or(self.rate).unwrap_or(0).max(1)
    }

    /// The policies with a limit, and the limit.
    pub(super) fn policies(&self) -> impl Iterator<Item = (Policy, u64)> {
        let bucket = match self.scope {
            Some(Scope::Key) => Policy::KeyRate,
            Some(Scope::Tenant) | None => Policy::Rate,
        };
        let all = [
            (bucket, self.rate),
            (Policy::PerMinute, self.per_minute),
            (Policy::PerDay, self.per_day),
        ];
        all.into_iter().filter_map(|(policy, limit)| Some((policy, limit?)))
    }
}

/// Requests in a minute or a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    /// Minutes since 1970, or days of the tenant's zone. Never falls.
    pub(super) number: u64,
    pub(super) used: u64,
    /// Given to nodes, and not known to be spent or back.
    pub(super) reserved: u64,
}

impl Window {
    fn advance(&mut self, number: u64) {
        if number > self.number {
            *self = Self { number, used: 0, reserved: 0 };
        }
    }

    pub(super) fn room(&self, limit: u64) -> u64 {
        limit.saturating_sub(self.used + self.reserved)
    }

    /// Of what was reserved in this window, `spent` is spent and `back` is not.
    pub(super) fn settle(&mut self, number: u64, spent: u64, back: u64) {
        if number == self.number {
            self.reserved = self.reserved.saturating_sub(spent + back);
            self.used += spent;
        }
    }
}

/// When a window ends that is open at `now`.
pub(super) fn ends(span: Span, now: Stamp) -> Time {
    match span {
        Span::Minute => now.minute_ends(),
        Span::Day => now.day_ends(),
    }
}

/// What an account has spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::machine) struct Ledger {
    /// Thousandths of a request, as of `at`. `None` is full.
    level: Option<u64>,
    at: Steady,
    pub(super) minute: Window,
    pub(super) day: Window,
    /// Requests that nodes hold and may yet spend.
    pub(super) out: u64,
    /// Millionths of a dollar that are reserved for work.
    pub(super) money: u64,
}

impl Ledger {
    /// Brings the account to `now`.
    pub(super) fn advance(&mut self, terms: &Terms, now: Stamp) {
        self.refill(terms, now);
        self.minute.advance(now.minute());
        self.day.advance(now.day());
    }

    /// Brings the bucket to `now`. What is out keeps its room until it is back.
    pub(super) fn refill(&mut self, terms: &Terms, now: Stamp) {
        self.level = terms.rate.map(|rate| {
            let cap = terms.full().saturating_sub(self.out.saturating_mul(TOKEN));
            let gained = now.steady.ms_since(self.at).saturating_mul(rate);
            self.level.map_or(cap, |level| level.saturating_add(gained).min(cap))
        });
        self.at = self.at.max(now.steady);
    }

    pub(super) fn window(&self, span: Span) -> &Window {
        match span {
            Span::Minute => &self.minute,
            Span::Day => &self.day,
        }
    }

    /// Requests in the bucket.
    pub(super) fn tokens(&self, terms: &Terms) -> u64 {
        self.level.unwrap_or_else(|| terms.full()) / TOKEN
    }

    /// Requests that each policy has room for.
    pub(super) fn rooms(&self, terms: &Terms) -> impl Iterator<Item = (u64, Policy)> {
        terms.policies().map(|(policy, limit)| {
            let room = match policy.span() {
                Some(span) => self.window(span).room(limit),
                None => self.tokens(terms),
            };
            (room, policy)
        })
    }

    /// Whether a policy has room for `amount` requests. The account is at `now`.
    pub(super) fn check(
        &self,
        terms: &Terms,
        policy: Policy,
        amount: u64,
        now: Stamp,
    ) -> Result<(), Refusal> {
        let Some(span) = policy.span() else {
            return self.check_bucket(terms, policy, amount);
        };
        let limit = match span {
            Span::Minute => terms.per_minute,
            Span::Day => terms.per_day,
        };
        let window = self.window(span);
        let Some(limit) = limit.filter(|&limit| window.room(limit) < amount) else { return Ok(()) };
        let resets_at = ends(span, now);
        let used = window.used + window.reserved;
        let end_ms = resets_at.ms_since(now.time);
        // What is only lent comes back before the window ends.
        let lent = window.reserved.min(self.out);
        let enough = used - lent + amount <= limit;
        let retry_after_ms = if enough { end_ms.min(HELD_MS) } else { end_ms };
        Err(Refusal::Quota { policy, limit, used, wanted: amount, resets_at, retry_after_ms })
    }

    fn check_bucket(&self, terms: &Terms, policy: Policy, amount: u64) -> Result<(), Refusal> {
        let Some(rate) = terms.rate else { return Ok(()) };
        let level = self.level.unwrap_or_else(|| terms.full());
        let wanted = amount.saturating_mul(TOKEN);
        if level >= wanted {
            return Ok(());
        }
        let cap = terms.full().saturating_sub(self.out.saturating_mul(TOKEN));
        let retry_after_ms = match (wanted - level).checked_div(rate) {
            None => NEVER_MS,
            Some(_) if cap < wanted => HELD_MS,
            Some(_) => (wanted - level).div_ceil(rate),
        };
        Err(Refusal::Rate { policy, limit: rate, remaining: level / TOKEN, retry_after_ms })
    }

    /// Spends of one policy; in shadow mode there may be less than is spent.
    pub(super) fn spend(&mut self, policy: Policy, amount: u64) {
        match policy.span() {
            Some(Span::Minute) => self.minute.used += amount,
            Some(Span::Day) => self.day.used += amount,
            None => self.take(amount),
        }
    }

    /// Takes requests out of the bucket.
    pub(super) fn take(&mut self, amount: u64) {
        self.level = self.level.map(|level| level.saturating_sub(amount.saturating_mul(TOKEN)));
    }

    /// Puts requests back that were out; the caller has reduced `out`.
    pub(super) fn put(&mut self, terms: &Terms, amount: u64) {
        let cap = terms.full().saturating_sub(self.out.saturating_mul(TOKEN));
        let put = |level: u64| level.saturating_add(amount.saturating_mul(TOKEN)).min(cap);
        self.level = self.level.map(put);
    }

    /// Whether no ledger at all would say the same. Zones differ, so windows are kept a day longer.
    pub(super) fn is_blank(&self, terms: &Terms, now: Stamp) -> bool {
        let mut at_now = *self;
        let utc = Stamp { offset: Offset::default(), ..now };
        at_now.advance(terms, utc);
        let full = at_now.level.is_none_or(|level| level == terms.full());
        let minute =
            self.minute.used + self.minute.reserved == 0 || self.minute.number < utc.minute();
        let day = self.day.used + self.day.reserved == 0 || self.day.number + 2 < utc.day();
        full && minute && day && self.out == 0 && self.money == 0
    }
}
