//! Tenants of a shard. Invariant: keys, jobs and usage have rows only for tenants that are here.

use std::collections::BTreeMap;

use protocol::plans::{Plan, TRIAL_MS};
use protocol::tenants::{Command, Status, Tenant};
use protocol::{Effect, Outcome, Refusal, Reply, TenantId, Time};

use super::Machine;
use super::rows::Hasher;

/// The tenants, by id.
#[derive(Debug, Clone, Default)]
pub struct Book {
    tenants: BTreeMap<TenantId, Tenant>,
}

impl Book {
    /// The tenant of an id.
    #[must_use]
    pub fn get(&self, tenant: TenantId) -> Option<&Tenant> {
        self.tenants.get(&tenant)
    }

    /// Tenants in order of id, after `after`.
    pub fn after(&self, after: Option<TenantId>) -> impl Iterator<Item = &Tenant> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.tenants.range((from, std::ops::Bound::Unbounded)).map(|(_, tenant)| tenant)
    }

    /// Tenants in falling order of id, before `before`.
    pub fn before(&self, before: Option<TenantId>) -> impl Iterator<Item = &Tenant> {
        let to = before.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.tenants.range((std::ops::Bound::Unbounded, to)).rev().map(|(_, tenant)| tenant)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tenants.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// The tenant, if its keys may work at `now`.
    pub(super) fn admitted(&self, tenant: TenantId, now: Time) -> Result<&Tenant, Refusal> {
        let tenant = self.get(tenant).ok_or(Refusal::NotFound)?;
        match tenant.status(now) {
            Status::Trial | Status::Active => Ok(tenant),
            Status::Suspended => Err(Refusal::TenantSuspended),
            Status::Expired => Err(Refusal::TrialExpired),
        }
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        hasher.table(&self.tenants);
    }
}

pub(super) fn apply(
    machine: &mut Machine,
    now: Time,
    id: TenantId,
    command: Command,
    effects: &mut Vec<Effect>,
) -> Outcome {
    if let Command::Create { name, plan, overrides, domain, region, key } = command {
        if machine.tenants.get(id).is_some() {
            return Err(Refusal::Exists);
        }
        let tenant = Tenant {
            id,
            name,
            plan,
            overrides,
            domain,
            region,
            suspended: false,
            created_at: now,
            updated_at: now,
            trial_ends_at: (plan == Plan::Trial).then(|| now.plus_ms(TRIAL_MS)),
            version: 1,
        };
        machine.tenants.tenants.insert(id, tenant.clone());
        let key = machine.keys.create(id, now, key)?;
        return Ok(Reply::TenantCreated(Box::new(tenant), Box::new(key)));
    }
    let tenant = machine.tenants.tenants.get_mut(&id).ok_or(Refusal::NotFound)?;
    match command {
        Command::Create { .. } => unreachable!("handled above"),
        Command::Update { name, domain, region, if_version } => {
            if let Some(wanted) = if_version.filter(|&wanted| wanted != tenant.version) {
                return Err(Refusal::VersionMismatch { wanted, now: tenant.version });
            }
            name.apply(&mut tenant.name);
            domain.apply(&mut tenant.domain);
            region.apply(&mut tenant.region);
        }
        Command::SetPlan { plan, overrides } => {
            tenant.trial_ends_at = match plan {
                // Back on the trial is no second trial: it ends when the first one did.
                Plan::Trial => Some(tenant.created_at.plus_ms(TRIAL_MS)),
                Plan::Starter | Plan::Professional | Plan::Enterprise => None,
            };
            tenant.plan = plan;
            tenant.overrides = overrides.unwrap_or(tenant.overrides);
        }
        Command::Suspend => tenant.suspended = true,
        Command::Resume => {
            tenant.suspended = false;
            effects.push(Effect::Dispatch);
        }
        Command::Delete => {
            machine.tenants.tenants.remove(&id);
            machine.keys.remove_tenant(id);
            machine.jobs.remove_tenant(id);
            machine.usage.remove_tenant(id);
            machine.limits.remove_tenant(id);
            machine.audit.remove_tenant(id);
            return Ok(Reply::TenantDeleted);
        }
    }
    tenant.updated_at = now;
    tenant.version += 1;
    Ok(Reply::Tenant(Box::new(tenant.clone())))
}
