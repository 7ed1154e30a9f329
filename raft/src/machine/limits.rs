//! What requests have spent, and the slabs of requests that nodes hold.
//!
//! Invariants: `level + out <= burst` in every bucket, where `out` is what nodes hold and may yet
//! spend; `used + reserved <= limit` in every window, but for limits that were lowered meanwhile. A
//! bucket gains by service time, which no wall clock moves, and while it gains the room of what is
//! out stays empty: so what is admitted in any interval is at most `burst + rate * time`.

use std::collections::BTreeSet;

use protocol::jobs::Worker;
use protocol::limits::{Command, Policy, Returned, Slot};
use protocol::plans::Limits;
use protocol::tenants::Tenant;
use protocol::{Effect, KeyId, Outcome, Refusal, Reply, Stamp, Steady, TenantId};

use super::Machine;
use super::rows::Hasher;
use super::table::Table;

mod ledger;
mod slabs;
mod view;

use ledger::{Ledger, Terms};
pub(super) use view::CENT_MICROS;

/// A request that was never released is taken for over after this.
pub const SLOT_MS_MAX: u64 = 120_000;
/// Ledgers that are looked at for removal with each command.
const SWEPT: usize = 2;

pub(super) type Row = (TenantId, Option<KeyId>);

/// The ledgers of tenants and keys. What has no row has spent nothing that matters any more.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub(super) ledgers: Table<Row, Ledger>,
    pub(super) slabs: Table<(Worker, TenantId, KeyId), slabs::Slab>,
    pub(super) slots: Table<(TenantId, Slot), Steady>,
    /// The last ledger that was looked at for removal.
    pub(super) swept: Option<Row>,
}

/// What one request takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Charge {
    pub(super) key: Option<KeyId>,
    pub(super) requests: u64,
    pub(super) units: u64,
    /// Millionths of a dollar.
    pub(super) micros: u64,
    pub(super) slot: Option<Slot>,
    /// Nothing else is looked at.
    pub(super) only: Option<Policy>,
}

impl Book {
    pub(super) fn remove_tenant(&mut self, tenant: TenantId) {
        self.ledgers.remove_range((tenant, None)..=(tenant, Some(KeyId(u32::MAX))));
        self.slabs.remove_where(|&(_, of, _)| of == tenant);
        let slots: Vec<_> = self.of_tenant(tenant).map(|(slot, _)| (tenant, slot)).collect();
        for slot in slots {
            self.slots.remove(&slot);
        }
    }

    /// Nodes that hold something.
    #[must_use]
    pub fn holders(&self) -> BTreeSet<Worker> {
        let mut holders: BTreeSet<_> = self.slots.keys().map(|&(_, slot)| slot.worker).collect();
        let mut next = self.slabs.keys().next();
        while let Some(&(worker, ..)) = next {
            holders.insert(worker);
            let last = (worker, TenantId(u128::MAX), KeyId(u32::MAX));
            let beyond = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
            next = self.slabs.range(beyond).map(|(name, _)| name).next();
        }
        holders
    }

    /// Requests that all nodes hold, spent or not.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.slabs.values().map(|slab| slab.left).sum()
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        hasher.table(&self.ledgers);
        hasher.table(&self.slabs);
        hasher.table(&self.slots);
        hasher.row(&self.swept);
    }

    /// Money of a tenant that is reserved.
    pub(super) fn reserved(&self, tenant: TenantId) -> u64 {
        self.ledgers.get(&(tenant, None)).map_or(0, |ledger| ledger.money)
    }

    /// Money that is reserved for work that is not done.
    pub(super) fn reserve(&mut self, tenant: TenantId, micros: u64) {
        if micros > 0 {
            self.ledgers.row((tenant, None)).money += micros;
        }
    }

    /// The work was done or will never be.
    pub(super) fn settle(&mut self, tenant: TenantId, micros: u64) {
        if let Some(ledger) = self.ledgers.get_mut(&(tenant, None)) {
            ledger.money = ledger.money.saturating_sub(micros);
        }
    }

    /// Removes ledgers that say no more than no ledger would.
    fn sweep(&mut self, terms: impl Fn(Row) -> Option<Terms>, now: Stamp) {
        for _ in 0..SWEPT {
            let from = self.swept.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let next = self.ledgers.range((from, std::ops::Bound::Unbounded)).next();
            let Some((&row, ledger)) = next else {
                self.swept = None;
                return;
            };
            let blank = terms(row).map_or(ledger.out == 0, |terms| ledger.is_blank(&terms, now));
            if blank {
                self.ledgers.remove(&row);
            }
            self.swept = Some(row);
        }
    }
}

/// What a tenant and one of its keys may.
struct Parties {
    limits: Limits,
    /// The tenant, then the key.
    of: Vec<(Row, Terms)>,
}

fn parties(machine: &Machine, tenant: &Tenant, key: Option<KeyId>) -> Result<Parties, Refusal> {
    let limits = tenant.limits();
    let mut of = vec![((tenant.id, None), Terms::of_tenant(&limits))];
    if let Some(id) = key {
        let key = machine.keys.get(tenant.id, id).ok_or(Refusal::NotFound)?;
        of.push(((tenant.id, Some(id)), Terms::of_key(&limits, key)));
    }
    Ok(Parties { limits, of })
}

fn terms(machine: &Machine, (tenant, key): Row) -> Option<Terms> {
    let limits = machine.tenants.get(tenant)?.limits();
    match key {
        None => Some(Terms::of_tenant(&limits)),
        Some(key) => Some(Terms::of_key(&limits, machine.keys.get(tenant, key)?)),
    }
}

/// Spends all of a charge, or nothing and says which policy has no room.
pub(super) fn charge(
    machine: &mut Machine,
    tenant: TenantId,
    now: Stamp,
    charge: &Charge,
    effects: &mut Vec<Effect>,
) -> Result<(), Refusal> {
    let tenant = machine.tenants.admitted(tenant, now.time)?;
    let parties = parties(machine, tenant, charge.key)?;
    let id = tenant.id;
    let units = wanted(charge, Policy::PerMonth, charge.units);
    let micros = wanted(charge, Policy::Budget, charge.micros);
    let reserved = machine.limits.reserved(id);
    let units = machine.usage.check(tenant, units, now).err();
    let money = machine.usage.check_budget(tenant, reserved, micros, now).err();
    let book = &mut machine.limits;
    for (row, terms) in &parties.of {
        book.ledgers.row(*row).advance(terms, now);
    }
    let mut refused = book.check(&parties, charge, now);
    refused.extend(units.map(|refusal| (Policy::PerMonth, refusal)));
    refused.extend(money.map(|refusal| (Policy::Budget, refusal)));
    refused.extend(book.check_slots(id, &parties.limits, charge, now));
    let shadow = parties.limits.shadow;
    if let Some((_, refusal)) = refused.iter().find(|(policy, _)| !shadow.has(*policy)) {
        return Err(refusal.clone());
    }
    effects.extend(refused.iter().map(|&(policy, _)| Effect::Shadowed(policy)));
    book.spend(&parties, charge);
    if let Some(slot) = charge.slot.filter(|_| parties.limits.concurrency.is_some()) {
        let until = Steady(now.steady.0.saturating_add(SLOT_MS_MAX));
        book.slots.insert((id, slot), until);
    }
    Ok(())
}

fn wanted(charge: &Charge, policy: Policy, amount: u64) -> u64 {
    if charge.only.is_none_or(|only| only == policy) { amount } else { 0 }
}

impl Book {
    /// The policies of requests that have no room.
    fn check(&self, parties: &Parties, charge: &Charge, now: Stamp) -> Vec<(Policy, Refusal)> {
        let mut refused = Vec::new();
        for (row, terms) in &parties.of {
            let Some(ledger) = self.ledgers.get(row) else { continue };
            for (policy, _) in terms.policies() {
                let amount = wanted(charge, policy, charge.requests);
                if amount > 0
                    && let Err(refusal) = ledger.check(terms, policy, amount, now)
                {
                    refused.push((policy, refusal));
                }
            }
        }
        refused
    }

    fn spend(&mut self, parties: &Parties, charge: &Charge) {
        for (row, terms) in &parties.of {
            let Some(ledger) = self.ledgers.get_mut(row) else { continue };
            for (policy, _) in terms.policies() {
                ledger.spend(policy, wanted(charge, policy, charge.requests));
            }
        }
    }

    fn check_slots(
        &mut self,
        tenant: TenantId,
        limits: &Limits,
        charge: &Charge,
        now: Stamp,
    ) -> Option<(Policy, Refusal)> {
        let limit = limits.concurrency.filter(|_| charge.slot.is_some())?;
        let over: Vec<_> = self.of_tenant(tenant).filter(|(_, end)| now.steady >= *end).collect();
        for (slot, _) in over {
            self.slots.remove(&(tenant, slot));
        }
        let running = self.of_tenant(tenant).count() as u64;
        let full = running >= limit;
        full.then_some((Policy::Concurrency, Refusal::Concurrency { limit, running }))
    }

    fn of_tenant(&self, tenant: TenantId) -> impl Iterator<Item = (Slot, Steady)> {
        let from = (tenant, Slot { worker: Worker::LEAST, number: 0 });
        let rows = self.slots.range(from..).take_while(move |((of, _), _)| *of == tenant);
        rows.map(|(&(_, slot), &until)| (slot, until))
    }
}

pub(super) fn apply(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    command: Command,
    effects: &mut Vec<Effect>,
) -> Outcome {
    let outcome = match command {
        Command::Check { key, units, policy } => {
            check(machine, now, tenant, key, units, policy, effects)
        }
        Command::Slab { key, worker, number, left, ended, want } => {
            let ask = slabs::Ask { tenant, key, worker, number, left, ended };
            slabs::grant(machine, now, ask, want, effects)
        }
        Command::Release { slot } => {
            machine.limits.slots.remove(&(tenant, slot));
            Ok(Reply::Done)
        }
    };
    let mut book = std::mem::take(&mut machine.limits);
    book.sweep(|row| terms(machine, row), now);
    machine.limits = book;
    outcome
}

fn check(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    key: KeyId,
    units: u64,
    policy: Option<Policy>,
    effects: &mut Vec<Effect>,
) -> Outcome {
    let spends = Charge {
        key: Some(key),
        requests: units,
        units: if policy == Some(Policy::PerMonth) { units } else { 0 },
        only: policy,
        ..Charge::default()
    };
    charge(machine, tenant, now, &spends, effects)?;
    if spends.units > 0 {
        machine.usage.spend(tenant, now, spends.units);
    }
    Ok(Reply::Limits(Box::new(
        machine.limits_view(tenant, Some(key), now).ok_or(Refusal::NotFound)?,
    )))
}

/// A node gives back what it does not use.
pub(super) fn give_back(
    machine: &mut Machine,
    now: Stamp,
    worker: Worker,
    returned: &[Returned],
) -> Outcome {
    for &Returned { tenant, key, number, left } in returned {
        slabs::give_back(
            machine,
            now,
            slabs::Ask { tenant, key, worker, number, left, ended: true },
        );
    }
    Ok(Reply::Done)
}

/// What a node held is lost: its lease is over.
pub(super) fn lapse(machine: &mut Machine, now: Stamp, worker: Worker, running: &[u64]) -> Outcome {
    slabs::lapse(machine, now, worker);
    let stays = |slot: &Slot| slot.worker != worker || running.binary_search(&slot.number).is_ok();
    machine.limits.slots.remove_where(|(_, slot)| !stays(slot));
    Ok(Reply::Done)
}

#[cfg(test)]
mod tests;
