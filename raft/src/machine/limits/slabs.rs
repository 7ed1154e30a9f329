//! Slabs: requests that a node may admit by itself.
//!
//! A slab is taken out of every policy of tenant and key before the node hears of it. The node says
//! what it has left with its next ask, whose number is above that of the last: an ask that comes late
//! or twice is refused, and what was granted to it and never heard of is simply not `left`.

use protocol::jobs::Worker;
use protocol::limits::Policy;
use protocol::peer::Slab as Granted;
use protocol::{Effect, KeyId, Outcome, Refusal, Reply, Stamp, TenantId, Time};
use serde::{Deserialize, Serialize};

use super::super::Machine;
use super::ledger::{Ledger, Terms};
use super::{Book, Parties, Row, parties, terms};

/// A slab takes at most this share of what there is.
const SHARE: u64 = 3;
/// And at least this one, whatever its node wants: an entry for less would be dear, and who has so much
/// does not miss it.
const CRUMB: u64 = 1024;

/// What a node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::machine) struct Slab {
    /// Of the newest ask.
    number: u64,
    /// What it may have at most.
    pub(super) left: u64,
    minute: u64,
    /// Of the tenant and of the key: a zone that was changed may show in one and not yet in the other.
    days: [u64; 2],
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) tenant: TenantId,
    pub(super) key: KeyId,
    pub(super) worker: Worker,
    pub(super) number: u64,
    pub(super) left: u64,
    /// The node spends nothing of `left` any more.
    pub(super) ended: bool,
}

pub(super) fn grant(
    machine: &mut Machine,
    now: Stamp,
    ask: Ask,
    want: u64,
    effects: &mut Vec<Effect>,
) -> Outcome {
    let tenant = machine.tenants.admitted(ask.tenant, now.time)?;
    let parties = parties(machine, tenant, Some(ask.key))?;
    let shadow = parties.limits.shadow;
    let book = &mut machine.limits;
    for (row, terms) in &parties.of {
        book.ledgers.row(*row).advance(terms, now);
    }
    let name = (ask.worker, ask.tenant, ask.key);
    let held = book.slabs.get(&name).copied();
    if held.is_some_and(|held| ask.number <= held.number) {
        return Err(Refusal::StaleAsk);
    }
    let cut = Cut::of(book, &parties);
    let keeps = held.is_some_and(|held| cut.keeps(&held, ask.left));
    let kept = if keeps && !ask.ended { ask.left } else { 0 };
    if let Some(held) = held {
        let back = if ask.ended { ask.left.min(held.left) } else { 0 };
        for ((row, terms), day) in parties.of.iter().zip(held.days) {
            let ledger = book.ledgers.row(*row);
            settle(ledger, &held, day, held.left - kept - back, back);
            ledger.put(terms, back);
        }
    }
    let rooms = rooms(book, &parties);
    let tight = rooms.iter().filter(|(_, policy, _)| !shadow.has(*policy)).min().copied();
    let room = tight.map_or(u64::MAX, |(room, ..)| room);
    let crumb = tight.map_or(0, |(room, ..)| room / CRUMB);
    let granted = want.max(crumb).min((room / SHARE).max(1)).min(room);
    let denied = tight.filter(|_| granted == 0 && want > 0).and_then(|(_, policy, party)| {
        let (row, terms) = &parties.of[party];
        book.ledgers.get(row)?.check(terms, policy, 1, now).err()
    });
    let shadowed = rooms.iter().filter(|(room, policy, _)| shadow.has(*policy) && *room < granted);
    effects.extend(shadowed.map(|&(_, policy, _)| Effect::Shadowed(policy)));
    lend(book, &parties, granted);
    let tight = tight.and_then(|(_, policy, party)| {
        let (row, terms) = &parties.of[party];
        let states = book.ledgers.get(row)?.states(terms, now);
        states.into_iter().find(|state| state.policy == policy)
    });
    let Cut { minute, days, .. } = cut;
    book.slabs.insert(name, Slab { number: ask.number, left: kept + granted, minute, days });
    Ok(Reply::Slab(Granted {
        granted,
        voided: kept < ask.left,
        room: room - granted.min(room),
        tight,
        denied: denied.map(Box::new),
        window_ms: cut.ends(now).map(|end| end.ms_since(now.time)),
    }))
}

/// The windows that a slab is cut from.
#[derive(Debug, Clone, Copy)]
struct Cut {
    minute: u64,
    days: [u64; 2],
    by_minute: bool,
    by_day: bool,
}

impl Cut {
    fn of(book: &Book, parties: &Parties) -> Self {
        let ledger = |party: &(Row, Terms)| book.ledgers.get(&party.0).copied().unwrap_or_default();
        let [tenant, key] =
            [&parties.of[0], parties.of.last().unwrap_or(&parties.of[0])].map(ledger);
        Self {
            minute: tenant.minute.number,
            days: [tenant.day.number, key.day.number],
            by_minute: parties.of.iter().any(|(_, terms)| terms.per_minute.is_some()),
            by_day: parties.of.iter().any(|(_, terms)| terms.per_day.is_some()),
        }
    }

    /// Whether `left` of a slab stays good. What was given for a window that is over is void; the node
    /// knows its end and agrees. So is what no row covers.
    fn keeps(&self, held: &Slab, left: u64) -> bool {
        (!self.by_minute || held.minute == self.minute)
            && (!self.by_day || held.days == self.days)
            && left <= held.left
    }

    /// When the first of them ends.
    fn ends(&self, now: Stamp) -> Option<Time> {
        match (self.by_minute, self.by_day) {
            (true, _) => Some(now.minute_ends()),
            (false, true) => Some(now.day_ends()),
            (false, false) => None,
        }
    }
}

/// Room in each policy of each party.
fn rooms(book: &mut Book, parties: &Parties) -> Vec<(u64, Policy, usize)> {
    let mut rooms = Vec::new();
    for (party, (row, terms)) in parties.of.iter().enumerate() {
        let ledger = book.ledgers.row(*row);
        rooms.extend(ledger.rooms(terms).map(|(room, policy)| (room, policy, party)));
    }
    rooms
}

/// Takes a slab out of every policy.
fn lend(book: &mut Book, parties: &Parties, granted: u64) {
    for (row, _) in &parties.of {
        let ledger = book.ledgers.row(*row);
        ledger.take(granted);
        ledger.out += granted;
        ledger.minute.reserved += granted;
        ledger.day.reserved += granted;
    }
}

/// Of a slab, `spent` is gone and `back` is not out any more. Called at the present of the ledger.
fn settle(ledger: &mut Ledger, held: &Slab, day: u64, spent: u64, back: u64) {
    ledger.out = ledger.out.saturating_sub(spent + back);
    ledger.minute.settle(held.minute, spent, back);
    ledger.day.settle(day, spent, back);
}

/// Changes nothing when the node has no slab of that ask, because it was given back before or because it
/// has asked for another since.
pub(super) fn give_back(machine: &mut Machine, now: Stamp, ask: Ask) {
    let name = (ask.worker, ask.tenant, ask.key);
    let held = machine.limits.slabs.get(&name).copied();
    let Some(held) = held.filter(|held| ask.number == held.number) else { return };
    let back = ask.left.min(held.left);
    for (row, day) in [(ask.tenant, None), (ask.tenant, Some(ask.key))].into_iter().zip(held.days) {
        let terms = terms(machine, row).unwrap_or_default();
        // As with a lapse, windows move on with the next request.
        let ledger = machine.limits.ledgers.row(row);
        ledger.refill(&terms, now);
        settle(ledger, &held, day, held.left - back, back);
        ledger.put(&terms, back);
    }
    machine.limits.slabs.remove(&name);
}

/// All slabs of a node are lost. Their room is free again; of a window they stay reserved.
pub(super) fn lapse(machine: &mut Machine, now: Stamp, worker: Worker) {
    let from = (worker, TenantId(0), KeyId(0));
    let of_worker = |((of, ..), _): &(&(Worker, TenantId, KeyId), &Slab)| *of == worker;
    let rows: Vec<_> = machine
        .limits
        .slabs
        .range(from..)
        .take_while(of_worker)
        .map(|(name, slab)| (*name, *slab))
        .collect();
    for (name, held) in rows {
        let (_, tenant, key) = name;
        for row in [(tenant, None), (tenant, Some(key))] {
            let terms: Terms = terms(machine, row).unwrap_or_default();
            // The offset of another tenant is not known here: windows move on with the next request.
            let Some(ledger) = machine.limits.ledgers.get_mut(&row) else { continue };
            ledger.refill(&terms, now);
            ledger.out = ledger.out.saturating_sub(held.left);
        }
        machine.limits.slabs.remove(&name);
    }
}
