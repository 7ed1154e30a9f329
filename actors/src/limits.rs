//! Rates of the tenants of a shard and of their keys: token buckets of the owner.
//!
//! They live with the ownership. A new owner starts with empty buckets, which refuses a little
//! more than it must and never admits more than it may.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::command::Policy;
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
        let limits = self.limits_of(tenant);
        let now = self.owned.clock.now();
        if let Some(limits) = limits
            && let Err(refusal) = self.buckets.spend(now, tenant, key, &limits)
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
        let Some(limits) = self.limits_of(tenant) else { return (None, None) };
        let now = self.owned.clock.now();
        let tokens = |level: Option<u64>| level.map(|level| level / TOKEN);
        let of_tenant = self.buckets.level(now, (tenant, None), limits.rate, limits.burst);
        let of_key =
            self.buckets.level(now, (tenant, Some(key)), limits.key_rate, limits.key_burst);
        (tokens(of_tenant), tokens(of_key))
    }

    fn limits_of(&self, tenant: TenantId) -> Option<Limits> {
        self.owned.group.view().tenants.get(tenant).map(|tenant| tenant.limits())
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
    let report = view.usage.report(tenant, Period::CurrentMonth, owned.clock.now());
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

impl Buckets {
    fn spend(
        &mut self,
        now: Time,
        tenant: TenantId,
        key: KeyId,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let wanted = [
            (Policy::Rate, (tenant, None), limits.rate, limits.burst),
            (Policy::KeyRate, (tenant, Some(key)), limits.key_rate, limits.key_burst),
        ];
        for (policy, name, rate, burst) in wanted {
            let Some(level) = self.level(now, name, rate, burst).filter(|&level| level < TOKEN)
            else {
                continue;
            };
            let rate = rate.unwrap_or(0);
            // A rate of nothing never refills; an hour is as good an answer as any.
            let retry_after_ms = if rate == 0 { 3_600_000 } else { (TOKEN - level).div_ceil(rate) };
            let remaining = level / TOKEN;
            return Err(Refusal::Rate { policy, limit: rate, remaining, retry_after_ms });
        }
        for (_, name, rate, burst) in wanted {
            if let Some(level) = self.level(now, name, rate, burst) {
                let level = level - TOKEN;
                let rate = rate.unwrap_or(0);
                let missing = full(rate, burst) - level;
                let full_at = now.plus_ms(missing.checked_div(rate).map_or(u64::MAX, |ms| ms + 1));
                self.levels.insert(name, Bucket { level, at: now, full_at });
            }
        }
        self.forget_full(now);
        Ok(())
    }

    /// What is in a bucket now; `None` without a limit. A bucket that was never used has what an
    /// empty one has gained since the ownership began.
    fn level(&self, now: Time, name: Name, rate: Option<u64>, burst: Option<u64>) -> Option<u64> {
        let rate = rate?;
        let (level, at) =
            self.levels.get(&name).map_or((0, self.since), |bucket| (bucket.level, bucket.at));
        // Tokens per second are thousandths of a token per millisecond.
        let gained = now.ms_since(at).saturating_mul(rate);
        Some(level.saturating_add(gained).min(full(rate, burst)))
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

    const TENANT: TenantId = TenantId(1);
    const KEY: KeyId = KeyId(1);

    fn limits(rate: u64, burst: u64) -> Limits {
        let unlimited = protocol::plans::Plan::Enterprise.limits();
        Limits {
            rate: Some(rate),
            burst: Some(burst),
            key_rate: None,
            key_burst: None,
            ..unlimited
        }
    }

    #[test]
    fn admitted_is_at_most_burst_and_rate_times_time() {
        let mut buckets = Buckets { since: Time(0), levels: BTreeMap::new() };
        let limits = limits(100, 20);
        let mut admitted = 0;
        for ms in 1_000..3_000 {
            for _ in 0..3 {
                admitted += u64::from(buckets.spend(Time(ms), TENANT, KEY, &limits).is_ok());
            }
        }
        assert_eq!(admitted, 20 + 199);
    }

    #[test]
    fn a_caller_who_waits_as_told_is_admitted() {
        let mut buckets = Buckets { since: Time(0), levels: BTreeMap::new() };
        let limits = limits(3, 1);
        let mut now = Time(10_000);
        assert!(buckets.spend(now, TENANT, KEY, &limits).is_ok());
        for _ in 0..10 {
            let Err(Refusal::Rate { retry_after_ms, .. }) =
                buckets.spend(now, TENANT, KEY, &limits)
            else {
                panic!("admitted too early");
            };
            now = now.plus_ms(retry_after_ms);
            assert!(buckets.spend(now, TENANT, KEY, &limits).is_ok());
        }
    }

    #[test]
    fn a_key_without_tokens_spends_none_of_the_tenant() {
        let mut buckets = Buckets { since: Time(0), levels: BTreeMap::new() };
        let limits = Limits { key_rate: Some(1), key_burst: Some(1), ..limits(10, 10) };
        let now = Time(100_000);
        assert!(buckets.spend(now, TENANT, KEY, &limits).is_ok());
        assert!(buckets.spend(now, TENANT, KEY, &limits).is_err());
        assert_eq!(buckets.level(now, (TENANT, None), Some(10), Some(10)), Some(9 * TOKEN));
    }
}
