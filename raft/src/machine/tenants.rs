//! Tenants of a shard. Invariant: keys, jobs and usage have rows only for tenants that are here.

use protocol::plans::Plan;
use protocol::tenants::{Command, NewTenant, Status, Tenant};
use protocol::{Effect, Name, Outcome, Refusal, Reply, TenantId, Time};

use super::Machine;
use super::rows::Hasher;
use super::table::Table;

/// The tenants, by id.
#[derive(Debug, Clone, Default)]
pub struct Book {
    /// Boxed: a tree's nodes are half empty, and a tenant is large.
    pub(super) tenants: Table<TenantId, Box<Tenant>>,
    /// Plans in the newest version that was adopted here, but for those that never changed.
    pub(super) plans: Table<Name, Plan>,
}

impl Book {
    /// The tenant of an id.
    #[must_use]
    pub fn get(&self, tenant: TenantId) -> Option<&Tenant> {
        self.tenants.get(&tenant).map(AsRef::as_ref)
    }

    /// Tenants in order of id, after `after`.
    pub fn after(&self, after: Option<TenantId>) -> impl Iterator<Item = &Tenant> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.tenants.range((from, std::ops::Bound::Unbounded)).map(|(_, tenant)| tenant.as_ref())
    }

    /// Tenants in falling order of id, before `before`.
    pub fn before(&self, before: Option<TenantId>) -> impl Iterator<Item = &Tenant> {
        let to = before.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.tenants
            .range((std::ops::Bound::Unbounded, to))
            .rev()
            .map(|(_, tenant)| tenant.as_ref())
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
        let tenant = self.get(tenant).ok_or(Refusal::NoTenant)?;
        match tenant.status(now) {
            Status::Trial | Status::Active => Ok(tenant),
            Status::Suspended => Err(Refusal::TenantSuspended),
            Status::Expired => Err(Refusal::TrialExpired),
        }
    }

    /// The version of a plan that tenants here are on; 1 is as it was first made.
    #[must_use]
    pub fn adopted(&self, plan: &Name) -> u64 {
        self.plans.get(plan).map_or(1, |plan| plan.version)
    }

    /// A plan as a command brings it, or as it was adopted since.
    fn newest(&self, plan: Plan) -> Plan {
        match self.plans.get(&plan.name).filter(|adopted| adopted.version > plan.version) {
            Some(adopted) => adopted.clone(),
            None => plan,
        }
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        hasher.table(&self.tenants);
        hasher.table(&self.plans);
    }
}

fn create(machine: &mut Machine, now: Time, id: TenantId, new: NewTenant) -> Outcome {
    let NewTenant { name, plan, overrides, domain, time_zone, region, key } = new;
    if machine.tenants.get(id).is_some() {
        return Err(Refusal::Exists);
    }
    let plan = machine.tenants.newest(plan);
    let tenant = Tenant {
        id,
        name,
        trial_ends_at: plan.trial_ends(now),
        plan,
        overrides,
        domain,
        time_zone,
        model: None,
        region,
        suspended: false,
        created_at: now,
        updated_at: now,
        version: 1,
    };
    machine.tenants.tenants.insert(id, Box::new(tenant.clone()));
    let key = machine.keys.create(id, now, key)?;
    Ok(Reply::TenantCreated(Box::new(tenant), Box::new(key)))
}

pub(super) fn apply(
    machine: &mut Machine,
    now: Time,
    id: TenantId,
    command: Command,
    effects: &mut Vec<Effect>,
) -> Outcome {
    let change = match command {
        Command::Create(new) => return create(machine, now, id, *new),
        Command::SetPlan { plan, overrides } => {
            let plan = Box::new(machine.tenants.newest(*plan));
            Command::SetPlan { plan, overrides }
        }
        Command::Update { .. } | Command::Suspend | Command::Resume | Command::Delete => command,
    };
    let tenant = machine.tenants.tenants.get_mut(&id).ok_or(Refusal::NoTenant)?;
    match change {
        Command::Create(_) => unreachable!("handled above"),
        Command::Update { name, domain, time_zone, region, model, if_version } => {
            if let Some(wanted) = if_version.filter(|&wanted| wanted != tenant.version) {
                return Err(Refusal::VersionMismatch { wanted, now: tenant.version });
            }
            name.apply(&mut tenant.name);
            domain.apply(&mut tenant.domain);
            time_zone.apply(&mut tenant.time_zone);
            model.apply(&mut tenant.model);
            region.apply(&mut tenant.region);
        }
        Command::SetPlan { plan, overrides } => {
            // Back on the trial is no second trial: it ends when the first one did.
            tenant.trial_ends_at = plan.trial_ends(tenant.created_at);
            tenant.plan = *plan;
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
    Ok(Reply::Tenant(tenant.clone()))
}

/// Puts the tenants of a plan on its new version. An older one changes nothing.
pub(super) fn adopt(machine: &mut Machine, now: Time, plan: &Plan) -> Outcome {
    let book = &mut machine.tenants;
    if plan.version <= book.adopted(&plan.name) {
        return Ok(Reply::Done);
    }
    book.plans.insert(plan.name.clone(), plan.clone());
    let move_on = |tenant: &mut Tenant| {
        tenant.plan = plan.clone();
        tenant.updated_at = now;
        tenant.version += 1;
    };
    book.tenants.change(|tenant| tenant.plan.name == plan.name, |tenant| move_on(tenant));
    Ok(Reply::Done)
}
