//! Usage of every tenant. Invariant: each committed result is counted once, in its own entry.

use std::collections::BTreeMap;

use protocol::limits::Policy;
use protocol::tenants::Tenant;
use protocol::time::Month;
use protocol::usage::{Command, Period, Report, Usage};
use protocol::{Outcome, Refusal, Reply, Stamp, TenantId};

use super::Machine;
use super::rows::Hasher;

/// Usage by tenant and month.
#[derive(Debug, Clone, Default)]
pub struct Book {
    months: BTreeMap<(TenantId, Month), Usage>,
}

impl Book {
    /// What a tenant used in a period, and what is left of the current month's units.
    #[must_use]
    pub fn report(&self, tenant: &Tenant, period: Period, now: Stamp) -> Report {
        let (first, last) = period.months(now.month());
        let mut usage = Usage::default();
        for (_, month) in self.months.range((tenant.id, first)..=(tenant.id, last)) {
            usage.add(month);
        }
        let limit = tenant.limits().per_month;
        let spent = self.spent(tenant.id, now.month());
        Report {
            usage,
            limit,
            remaining: limit.map(|limit| limit.saturating_sub(spent)),
            resets_at: now.month_ends(),
        }
    }

    fn spent(&self, tenant: TenantId, month: Month) -> u64 {
        self.months.get(&(tenant, month)).map_or(0, |usage| usage.units)
    }

    /// Refuses units that do not fit into the month.
    pub(super) fn check(&self, tenant: &Tenant, units: u64, now: Stamp) -> Result<(), Refusal> {
        let Some(limit) = tenant.limits().per_month else { return Ok(()) };
        let used = self.spent(tenant.id, now.month());
        if used.saturating_add(units) > limit {
            let resets_at = now.month_ends();
            let policy = Policy::PerMonth;
            return Err(Refusal::Quota { policy, limit, used, wanted: units, resets_at });
        }
        Ok(())
    }

    pub(super) fn add(&mut self, tenant: TenantId, now: Stamp, usage: &Usage) {
        self.months.entry((tenant, now.month())).or_default().add(usage);
    }

    pub(super) fn remove_tenant(&mut self, tenant: TenantId) {
        self.months.retain(|&(of, _), _| of != tenant);
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        hasher.table(&self.months);
    }
}

pub(super) fn apply(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    command: Command,
) -> Outcome {
    match command {
        Command::Scan { documents, tokens } => {
            let tenant = machine.tenants.admitted(tenant, now.time)?;
            let units = u64::from(documents);
            machine.usage.check(tenant, units, now)?;
            let used = Usage {
                calls: 1,
                documents: units,
                cached: 0,
                tokens,
                cost_micros: units * tenant.plan.unit_price_micros(),
                units,
            };
            machine.usage.add(tenant.id, now, &used);
            Ok(Reply::Scanned)
        }
    }
}
