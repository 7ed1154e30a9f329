//! Rates of the tenants of a shard and of their keys: token buckets of the owner.
//!
//! They live with the ownership. A new owner takes the buckets for empty, which refuses a little more
//! than it must and never admits more than it may.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::limits::Policy;
use protocol::peer::{Answer, Ask, LimitsView};
use protocol::plans::Limits;
use protocol::usage::Period;
use protocol::{KeyId, Refusal, TenantId, Time};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::ask::{Answered, AskError, Request, send};
use crate::bounded::{BoundedRef, Counted, NotSent};
use crate::figures::figures;
use crate::jobs;
use crate::shard::Owned;

/// Buckets that are kept; full ones are forgotten first, which changes nothing.
const BUCKETS_MAX: usize = 200_000;
/// One token in the unit that buckets count in.
const TOKEN: u64 = 1_000;

type Next = (BoundedRef<Request>, BoundedRef<jobs::Message>);

/// One per owned shard.
pub(crate) struct RateLimitActor;

pub(crate) struct State {
    owned: Arc<Owned>,
    next: Next,
    buckets: Buckets,
}

impl Actor for RateLimitActor {
    type Msg = Counted<Request>;
    type State = State;
    type Arguments = (Arc<Owned>, Next);

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (owned, next): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let since = owned.clock.now();
        Ok(State { owned, next, buckets: Buckets { since, levels: BTreeMap::new() } })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (request, place) = message.open();
        if let Ask::Propose { spend: Some((tenant, key)), .. } = request.ask {
            state.admit(request, tenant, key);
        } else if let Ask::Limits { tenant, key } = request.ask {
            let left = state.left(tenant, key);
            let owned = Arc::clone(&state.owned);
            tokio::spawn(async move {
                send(request.reply, limits(&owned, tenant, left).await);
                drop(place);
            });
        } else {
            // Nothing else is put into this mailbox.
            request.answer(Ok(Answer::Refused(Refusal::NotFound)));
        }
        Ok(())
    }
}

impl State {
    /// Spends one request of the tenant and of the key, or none, and passes the request on.
    fn admit(&mut self, request: Request, tenant: TenantId, key: KeyId) {
        let group = self.owned.group.id();
        if self.is_full(&request) {
            return request.answer(Err(AskError::Overloaded { group }));
        }
        let now = self.owned.clock.now();
        if let Some(account) = self.account(tenant, key)
            && let Err(refusal) = self.buckets.spend(now, &account)
        {
            if let Refusal::Rate { policy, .. } = refusal {
                figures().rate_limit_hits.with_label_values(&[policy.name()]).inc();
            }
            return request.answer(Ok(Answer::Refused(refusal)));
        }
        let sent = if request.is_of_jobs() {
            self.next.1.try_send(jobs::Message::Request(request))
        } else {
            self.next.0.try_send(request)
        };
        // It filled up just now. The request went with the message: its asker sees the reply dropped.
        if let Err(NotSent::Overloaded { .. } | NotSent::Stopped) = sent {
            tracing::debug!(%group, "an admitted request found a full mailbox");
        }
    }

    /// Whether the next mailbox has no room: then nothing is spent.
    fn is_full(&self, request: &Request) -> bool {
        let (tenants, jobs) = &self.next;
        if request.is_of_jobs() {
            jobs.depth() >= jobs.bound()
        } else {
            tenants.depth() >= tenants.bound()
        }
    }

    fn left(&mut self, tenant: TenantId, key: KeyId) -> (Option<u64>, Option<u64>) {
        let Some(account) = self.account(tenant, key) else { return (None, None) };
        let now = self.owned.clock.now();
        let [of_tenant, of_key] = account
            .allowances()
            .map(|allowance| self.buckets.level(now, &allowance).map(|level| level / TOKEN));
        (of_tenant, of_key)
    }

    fn account(&self, tenant: TenantId, key: KeyId) -> Option<Account> {
        let view = self.owned.group.view();
        let row = view.tenants.get(tenant)?;
        let key_born = view.keys.get(tenant, key)?.created_at;
        Some(Account { tenant, key, limits: row.limits(), born: row.created_at, key_born })
    }
}

async fn limits(
    owned: &Owned,
    tenant: TenantId,
    (rate_left, key_rate_left): (Option<u64>, Option<u64>),
) -> Answered {
    let view = owned.group.read().await.map_err(AskError::from)?;
    let Some(tenant) = view.tenants.get(tenant) else {
        return Ok(Answer::Refused(Refusal::NotFound));
    };
    let report = view.usage.report(tenant, Period::CurrentMonth, owned.clock.stamp());
    let limits = tenant.limits();
    Ok(Answer::Limits(Box::new(LimitsView { limits, rate_left, key_rate_left, report })))
}

type Name = (TenantId, Option<KeyId>);

/// Levels in thousandths of a token.
struct Buckets {
    since: Time,
    levels: BTreeMap<Name, Bucket>,
}

#[derive(Clone, Copy)]
struct Bucket {
    level: u64,
    at: Time,
    /// From then on it is full, and a forgotten bucket is no fuller.
    full_at: Time,
}

/// Who spends, and what they may.
struct Account {
    tenant: TenantId,
    key: KeyId,
    limits: Limits,
    born: Time,
    key_born: Time,
}

/// One bucket's terms.
struct Allowance {
    policy: Policy,
    name: Name,
    rate: Option<u64>,
    burst: Option<u64>,
    born: Time,
}

impl Account {
    fn allowances(&self) -> [Allowance; 2] {
        let Limits { rate, burst, key_rate, key_burst, .. } = self.limits;
        let name = (self.tenant, None);
        let tenant = Allowance { policy: Policy::Rate, name, rate, burst, born: self.born };
        let name = (self.tenant, Some(self.key));
        let (rate, burst, born) = (key_rate, key_burst, self.key_born);
        [tenant, Allowance { policy: Policy::KeyRate, name, rate, burst, born }]
    }
}

impl Buckets {
    fn spend(&mut self, now: Time, account: &Account) -> Result<(), Refusal> {
        let allowances = account.allowances();
        for allowance in &allowances {
            let Some(level) = self.level(now, allowance).filter(|&level| level < TOKEN) else {
                continue;
            };
            let (policy, rate) = (allowance.policy, allowance.rate.unwrap_or(0));
            // A rate of nothing never refills; an hour is as good an answer as any.
            let retry_after_ms = if rate == 0 { 3_600_000 } else { (TOKEN - level).div_ceil(rate) };
            let remaining = level / TOKEN;
            return Err(Refusal::Rate { policy, limit: rate, remaining, retry_after_ms });
        }
        for allowance in &allowances {
            if let Some(level) = self.level(now, allowance) {
                let level = level - TOKEN;
                let rate = allowance.rate.unwrap_or(0);
                let missing = full(rate, allowance.burst).saturating_sub(level);
                let full_at = now.plus_ms(missing.checked_div(rate).map_or(u64::MAX, |ms| ms + 1));
                self.levels.insert(allowance.name, Bucket { level, at: now, full_at });
            }
        }
        self.forget_full(now);
        Ok(())
    }

    /// What is in a bucket now; `None` without a limit. One that was never used is full when its
    /// tenant or key was made under this ownership; else an earlier owner may have emptied it, and it
    /// has what an empty one has gained since this ownership began.
    fn level(&self, now: Time, allowance: &Allowance) -> Option<u64> {
        let rate = allowance.rate?;
        let full = full(rate, allowance.burst);
        let Some(bucket) = self.levels.get(&allowance.name) else {
            let gained = now.ms_since(self.since).saturating_mul(rate);
            return Some(if allowance.born > self.since { full } else { gained.min(full) });
        };
        // Tokens per second are thousandths of a token per millisecond.
        let gained = now.ms_since(bucket.at).saturating_mul(rate);
        Some(bucket.level.saturating_add(gained).min(full))
    }

    fn forget_full(&mut self, now: Time) {
        if self.levels.len() <= BUCKETS_MAX {
            return;
        }
        self.levels.retain(|_, bucket| now < bucket.full_at);
    }
}

/// What a bucket holds at most.
fn full(rate: u64, burst: Option<u64>) -> u64 {
    burst.unwrap_or(rate).max(1).saturating_mul(TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(rate: u64, burst: u64) -> Account {
        let unlimited = protocol::plans::Plan::Enterprise.limits();
        let limits = Limits {
            rate: Some(rate),
            burst: Some(burst),
            key_rate: None,
            key_burst: None,
            ..unlimited
        };
        let born = Time(0);
        Account { tenant: TenantId(1), key: KeyId(1), limits, born, key_born: born }
    }

    fn buckets(since: u64) -> Buckets {
        Buckets { since: Time(since), levels: BTreeMap::new() }
    }

    #[test]
    fn admitted_is_at_most_burst_and_rate_times_time() {
        let mut buckets = buckets(1_000);
        let account = account(100, 20);
        let mut admitted = 0;
        for ms in 2_000..4_000 {
            for _ in 0..3 {
                admitted += u64::from(buckets.spend(Time(ms), &account).is_ok());
            }
        }
        assert_eq!(admitted, 20 + 199);
    }

    #[test]
    fn a_new_owner_gives_no_credit_but_to_tenants_of_its_own_time() {
        let mut buckets = buckets(1_000);
        let old = account(1, 3);
        assert!(buckets.spend(Time(1_500), &old).is_err());
        assert!(buckets.spend(Time(2_000), &old).is_ok());
        let new = Account { tenant: TenantId(2), born: Time(1_001), ..account(1, 3) };
        let now = Time(1_100);
        let admitted = (0..5).filter(|_| buckets.spend(now, &new).is_ok()).count();
        assert_eq!(admitted, 3);
    }

    #[test]
    fn a_caller_who_waits_as_told_is_admitted() {
        let mut buckets = buckets(0);
        let account = account(3, 1);
        let mut now = Time(10_000);
        assert!(buckets.spend(now, &account).is_ok());
        for _ in 0..10 {
            let Err(Refusal::Rate { retry_after_ms, .. }) = buckets.spend(now, &account) else {
                panic!("admitted too early");
            };
            now = now.plus_ms(retry_after_ms);
            assert!(buckets.spend(now, &account).is_ok());
        }
    }

    #[test]
    fn a_key_without_tokens_spends_none_of_the_tenant() {
        let mut buckets = buckets(0);
        let mut account = account(10, 10);
        account.limits = Limits { key_rate: Some(1), key_burst: Some(1), ..account.limits };
        let now = Time(100_000);
        assert!(buckets.spend(now, &account).is_ok());
        assert!(buckets.spend(now, &account).is_err());
        let [of_tenant, _] = account.allowances();
        assert_eq!(buckets.level(now, &of_tenant), Some(9 * TOKEN));
    }
}
