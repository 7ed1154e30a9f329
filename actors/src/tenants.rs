//! Answers for the tenants and keys of a shard, and stamps the time of what is asked of them.

use std::sync::Arc;

use protocol::audit::Wanted;
use protocol::jobs::Worker;
use protocol::keys::Key;
use protocol::peer::{Admission, Answer, Ask, Caller, LeaseId, View};
use protocol::plans::Limits;
use protocol::tenants::{Status, Tenant};
use protocol::{Digest, Refusal, TenantId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use raft::machine::Machine;

use crate::ask::{Answered, Request, send};
use crate::bounded::Counted;
use crate::shard::Owned;

/// Rows of one answer, whatever was asked for: an envelope is bounded.
const ROWS_MAX: usize = 1000;

/// Buckets that hold less are not divided into slabs.
const SLABS_BURST_MIN: u64 = 32;
/// Nor windows that hold less.
const SLABS_WINDOW_MIN: u64 = 256;

/// One per owned shard.
pub(crate) struct TenantActor;

impl Actor for TenantActor {
    type Msg = Counted<Request>;
    type State = Arc<Owned>;
    type Arguments = Arc<Owned>;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        owned: Arc<Owned>,
    ) -> Result<Arc<Owned>, ActorProcessingErr> {
        Ok(owned)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        owned: &mut Arc<Owned>,
    ) -> Result<(), ActorProcessingErr> {
        let (Request { ask, reply }, place) = message.open();
        let owned = Arc::clone(owned);
        // The actor does not wait for the quorum; the place bounds how much does.
        tokio::spawn(async move {
            send(reply, answer(&owned, ask).await);
            drop(place);
        });
        Ok(())
    }
}

async fn answer(owned: &Owned, ask: Ask) -> Answered {
    if let Ask::Propose { command, once, note } = ask {
        return owned.propose_once(&command, once.as_ref(), note.as_deref()).await;
    }
    if let Ask::View { worker, lease, tenant, digest } = ask {
        return view_of_key(owned, worker, lease, tenant, digest).await;
    }
    let view = owned.group.read().await?;
    Ok(look_up(owned, &view, &ask))
}

/// A view for a node with a lease. The lease stands for the quorum: while it is in force, no other
/// owner has acknowledged anything that takes a right away. That there is no such key is another
/// matter: it may have been made elsewhere.
async fn view_of_key(
    owned: &Owned,
    worker: Worker,
    lease: LeaseId,
    tenant: TenantId,
    digest: Digest,
) -> Answered {
    // Noted before the state is read, so that what changes it later is called back.
    if !owned.leases.note(worker, lease, tenant) {
        return Ok(Answer::NoLease);
    }
    let known = authenticate(owned, &owned.group.view(), tenant, digest);
    if known != Answer::Unknown {
        return Ok(known);
    }
    let view = owned.group.read().await?;
    Ok(authenticate(owned, &view, tenant, digest))
}

fn look_up(owned: &Owned, view: &Machine, ask: &Ask) -> Answer {
    let now = owned.clock.now();
    let missing = Answer::Refused(Refusal::NotFound);
    match ask {
        Ask::Tenant(tenant) => view
            .tenants
            .get(*tenant)
            .map_or(missing, |tenant| Answer::Tenant(Box::new(tenant.clone()), tenant.status(now))),
        Ask::Tenants { after, limit, ascending } => {
            let row = |tenant: &Tenant| (tenant.clone(), tenant.status(now));
            let limit = bounded(*limit);
            Answer::Tenants(match ascending {
                true => view.tenants.after(*after).take(limit).map(row).collect(),
                false => view.tenants.before(*after).take(limit).map(row).collect(),
            })
        }
        Ask::Key(tenant, key) => {
            view.keys.get(*tenant, *key).map_or(missing, |key| Answer::Key(Box::new(key.clone())))
        }
        Ask::Keys { tenant, after, limit } => {
            let rows = view.keys.after(*tenant, *after).take(bounded(*limit));
            Answer::Keys(rows.cloned().collect())
        }
        Ask::Usage { tenant, period } => view.tenants.get(*tenant).map_or(missing, |tenant| {
            let now = owned.stamp(view, tenant.id);
            Answer::Usage(view.usage.report(tenant, *period, now))
        }),
        Ask::Audit(wanted) if view.tenants.get(wanted.tenant).is_none() => missing,
        Ask::Audit(wanted) => {
            let wanted = Wanted { limit: bounded(wanted.limit) as u32, ..*wanted };
            Answer::Audit(view.audit.page(&wanted, owned.group.applied()))
        }
        Ask::Propose { .. }
        | Ask::View { .. }
        | Ask::Lease { .. }
        | Ask::Close { .. }
        | Ask::Slab { .. }
        | Ask::Limits { .. }
        | Ask::Job(..)
        | Ask::Jobs { .. }
        | Ask::FindJobs { .. }
        | Ask::Queue(_)
        | Ask::Follow(..)
        | Ask::Failed { .. }
        | Ask::Finished { .. }
        | Ask::Running { .. }
        | Ask::Take { .. } => missing,
    }
}

fn authenticate(owned: &Owned, view: &Machine, tenant: TenantId, digest: Digest) -> Answer {
    let now = owned.clock.now();
    let (Some(row), Some(key)) = (view.tenants.get(tenant), view.keys.find(tenant, digest, now))
    else {
        return Answer::Unknown;
    };
    let status = row.status(now);
    let trial_ends = row.trial_ends_at.filter(|_| status == Status::Trial);
    let ends = [trial_ends, key.expires_at].into_iter().flatten().min();
    let limits = view.limits_view(tenant, Some(key.id), owned.stamp(view, tenant));
    Answer::View(Box::new(View {
        admission: admission(&row.limits(), key),
        limits: limits.map(|limits| limits.states).unwrap_or_default(),
        // Shard time may run a twentieth faster than the node's clock.
        ends_ms: ends.map(|end| end.ms_since(now) / 20 * 19),
        caller: Caller {
            tenant: row.clone(),
            status,
            key: key.id,
            key_name: key.name.to_string(),
            key_prefix: key.prefix.clone(),
            scopes: key.scopes,
        },
    }))
}

/// Small limits are not divided: what one node holds would be missing on the others.
fn admission(limits: &Limits, key: &Key) -> Admission {
    let of_key = key.limits(limits);
    let burst = |rate: Option<u64>, burst: Option<u64>| rate.map(|rate| burst.unwrap_or(rate));
    let buckets = [burst(limits.rate, limits.burst), burst(of_key.rate, of_key.burst)];
    let windows = [limits.per_minute, limits.per_day, of_key.per_minute, of_key.per_day];
    let buckets = buckets.into_iter().flatten().min();
    let windows = windows.into_iter().flatten().min();
    match (buckets, windows) {
        (None, None) => Admission::Unlimited,
        (Some(bucket), _) if bucket < SLABS_BURST_MIN => Admission::Owner,
        (_, Some(window)) if window < SLABS_WINDOW_MIN => Admission::Owner,
        _ => Admission::Slabs,
    }
}

pub(crate) fn bounded(limit: u32) -> usize {
    (limit as usize).min(ROWS_MAX + 1)
}
