//! Usage of every tenant. Invariant: each committed result is counted once, in its own entry.

use protocol::limits::Policy;
use protocol::tenants::Tenant;
use protocol::time::Month;
use protocol::usage::{Command, Period, Report, Usage};
use protocol::{Effect, Outcome, Refusal, Reply, Stamp, TenantId};

use super::Machine;
use super::limits::{self, CENT_MICROS, Charge};
use super::rows::Hasher;
use super::table::Table;

/// Usage by tenant and month.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub(super) months: Table<(TenantId, Month), Usage>,
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
        if units > 0 && used.saturating_add(units) > limit {
            let resets_at = now.month_ends();
            let policy = Policy::PerMonth;
            let retry_after_ms = resets_at.ms_since(now.time);
            let wanted = units;
            return Err(Refusal::Quota { policy, limit, used, wanted, resets_at, retry_after_ms });
        }
        Ok(())
    }

    /// Refuses money that does not fit into the month beside what is `reserved`.
    pub(super) fn check_budget(
        &self,
        tenant: &Tenant,
        reserved: u64,
        micros: u64,
        now: Stamp,
    ) -> Result<(), Refusal> {
        let Some(limit) = tenant.limits().budget else { return Ok(()) };
        let limit = limit.saturating_mul(CENT_MICROS);
        let used = self.cost(tenant.id, now).saturating_add(reserved);
        if micros > 0 && used.saturating_add(micros) > limit {
            let retry_after_ms = now.month_ends().ms_since(now.time);
            return Err(Refusal::Budget { limit, used, wanted: micros, retry_after_ms });
        }
        Ok(())
    }

    /// Money spent in the month, in millionths of a dollar.
    pub(super) fn cost(&self, tenant: TenantId, now: Stamp) -> u64 {
        self.months.get(&(tenant, now.month())).map_or(0, |usage| usage.cost_micros)
    }

    /// Spends units of the month for nothing else.
    pub(super) fn spend(&mut self, tenant: TenantId, now: Stamp, units: u64) {
        self.add(tenant, now, &Usage { units, ..Usage::default() });
    }

    pub(super) fn add(&mut self, tenant: TenantId, now: Stamp, usage: &Usage) {
        self.months.row((tenant, now.month())).add(usage);
    }

    pub(super) fn remove_tenant(&mut self, tenant: TenantId) {
        let [first, last] =
            [(0, 0), (u32::MAX, u8::MAX)].map(|(year, month)| Month { year, month });
        self.months.remove_range((tenant, first)..=(tenant, last));
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
    effects: &mut Vec<Effect>,
) -> Outcome {
    match command {
        Command::Scan { documents, cached, tokens, payer } => {
            let row = machine.tenants.admitted(tenant, now.time)?;
            let Some(key) = payer.key else { return Ok(Reply::Scanned(cached)) };
            let units = u64::from(documents);
            let hits = u64::from(cached.count()).min(units);
            let plan = &row.plan;
            let micros =
                (units - hits) * plan.unit_price_micros() + hits * plan.cached_price_micros();
            let charge =
                Charge { key: Some(key), requests: 1, units, micros, slot: payer.slot, only: None };
            limits::charge(machine, tenant, now, &charge, effects)?;
            let used = Usage {
                calls: 1,
                documents: units,
                cached: hits,
                tokens,
                cost_micros: micros,
                units,
            };
            machine.usage.add(tenant, now, &used);
            Ok(Reply::Scanned(cached))
        }
    }
}
