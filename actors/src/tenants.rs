//! Answers for the tenants and keys of a shard, and stamps the time of what is asked of them.

use std::sync::Arc;

use protocol::peer::{Answer, Ask, Caller};
use protocol::tenants::Tenant;
use protocol::{Digest, Refusal, TenantId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use raft::machine::Machine;

use crate::ask::{Answered, Request, send};
use crate::bounded::Counted;
use crate::shard::Owned;

/// Rows of one answer, whatever was asked for: an envelope is bounded.
const ROWS_MAX: usize = 1000;

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
    if let Ask::Propose { command, once, .. } = ask {
        return owned.propose(*command, once).await;
    }
    let view = owned.group.read().await?;
    Ok(look_up(owned, &view, &ask))
}

fn look_up(owned: &Owned, view: &Machine, ask: &Ask) -> Answer {
    let now = owned.clock.now();
    let missing = Answer::Refused(Refusal::NotFound);
    match ask {
        Ask::Authenticate { tenant, digest } => authenticate(owned, view, *tenant, *digest),
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
            Answer::Usage(view.usage.report(tenant, *period, owned.clock.stamp()))
        }),
        Ask::Propose { .. }
        | Ask::Limits { .. }
        | Ask::Job(..)
        | Ask::Jobs { .. }
        | Ask::Finished { .. }
        | Ask::Running { .. } => missing,
    }
}

fn authenticate(owned: &Owned, view: &Machine, tenant: TenantId, digest: Digest) -> Answer {
    let now = owned.clock.now();
    let (Some(row), Some(key)) = (view.tenants.get(tenant), view.keys.find(tenant, digest, now))
    else {
        return Answer::Unknown;
    };
    Answer::Caller(Box::new(Caller {
        tenant: row.clone(),
        status: row.status(now),
        key: key.id,
        key_name: key.name.to_string(),
        key_prefix: key.prefix.clone(),
        scopes: key.scopes,
    }))
}

pub(crate) fn bounded(limit: u32) -> usize {
    (limit as usize).min(ROWS_MAX + 1)
}
