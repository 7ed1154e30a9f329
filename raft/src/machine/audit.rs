//! The audit chains of tenants. Invariant: a record is written in the entry of what it tells, and its
//! hash covers the one before it.

use std::collections::BTreeMap;

use protocol::audit::{Call, Command, Linked, Note, Page, Record, Wanted, told};
use protocol::wire::audit as wire;
use protocol::{Applied, Digest, Outcome, Refusal, Reply, Stamp, TenantId, codec};
use sha2::{Digest as _, Sha256};

use super::Machine;
use super::rows::Hasher;

/// Nothing precedes the first record.
const NOTHING: Digest = Digest([0; 32]);

/// The chains, by tenant.
#[derive(Debug, Clone, Default)]
pub struct Book {
    chains: BTreeMap<TenantId, Vec<Kept>>,
}

/// A record in its stored form, and its hash.
#[derive(Debug, Clone)]
struct Kept {
    hash: Digest,
    bytes: Box<[u8]>,
}

impl Book {
    /// Records after `after`, in order, at most `limit`.
    #[must_use]
    pub fn after(&self, tenant: TenantId, after: u64, limit: usize) -> Vec<Linked> {
        let Some(chain) = self.chains.get(&tenant) else { return Vec::new() };
        let from = usize::try_from(after).unwrap_or(usize::MAX).min(chain.len());
        let to = from.saturating_add(limit).min(chain.len());
        (from..to).filter_map(|at| linked(chain, at)).collect()
    }

    /// Records before `before`, newest first, at most `limit`.
    #[must_use]
    pub fn before(&self, tenant: TenantId, before: u64, limit: usize) -> Vec<Linked> {
        let Some(chain) = self.chains.get(&tenant) else { return Vec::new() };
        let to = usize::try_from(before.saturating_sub(1)).unwrap_or(usize::MAX).min(chain.len());
        let from = to.saturating_sub(limit);
        (from..to).rev().filter_map(|at| linked(chain, at)).collect()
    }

    /// What follows or precedes a number, and where the chain ends at log entry `applied`.
    #[must_use]
    pub fn page(&self, wanted: &Wanted, applied: u64) -> Page {
        let &Wanted { tenant, beyond, limit, ascending } = wanted;
        let limit = limit as usize;
        let records = match ascending {
            true => self.after(tenant, beyond, limit),
            false => self.before(tenant, beyond, limit),
        };
        let (seq, head) = self.head(tenant);
        Page { records, seq, head, applied }
    }

    /// The number and the hash of the last record.
    #[must_use]
    pub fn head(&self, tenant: TenantId) -> (u64, Digest) {
        let chain = self.chains.get(&tenant);
        let last = chain.and_then(|chain| chain.last()).map_or(NOTHING, |last| last.hash);
        (chain.map_or(0, |chain| chain.len() as u64), last)
    }

    /// The hash of a record by number; of none, zeros.
    #[must_use]
    pub fn hash_at(&self, tenant: TenantId, seq: u64) -> Option<Digest> {
        let Some(at) = seq.checked_sub(1) else { return Some(NOTHING) };
        let chain = self.chains.get(&tenant)?;
        Some(chain.get(usize::try_from(at).ok()?)?.hash)
    }

    /// How many records all chains have.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chains.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn remove_tenant(&mut self, tenant: TenantId) {
        self.chains.remove(&tenant);
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        hasher.row(&self.chains.len());
        for (tenant, chain) in &self.chains {
            // The last hash covers all before it.
            hasher.row(&(tenant, chain.len(), chain.last().map(|last| last.hash)));
        }
    }

    fn append(&mut self, tenant: TenantId, record: impl FnOnce(u64) -> Record) {
        let chain = self.chains.entry(tenant).or_default();
        let record = record(chain.len() as u64 + 1);
        let prev = chain.last().map_or(NOTHING, |last| last.hash);
        let linked = Linked { record, prev, hash: NOTHING };
        let hash = wire::Record::of(&linked).computed();
        match codec::encode(&linked.record) {
            Ok(bytes) => chain.push(Kept { hash, bytes: bytes.into() }),
            // A record is a part of an entry of less than the bound.
            Err(error) => unreachable!("a record that does not encode: {error}"),
        }
    }
}

fn linked(chain: &[Kept], at: usize) -> Option<Linked> {
    let kept = chain.get(at)?;
    let prev = at.checked_sub(1).and_then(|at| chain.get(at)).map_or(NOTHING, |kept| kept.hash);
    let record = codec::decode(&kept.bytes).ok()?;
    Some(Linked { record, prev, hash: kept.hash })
}

/// A tenant that is gone has no chain. The cluster's own is where the cluster map is.
fn has_chain(machine: &Machine, tenant: TenantId) -> bool {
    match tenant {
        TenantId::CLUSTER => machine.group.is_meta(),
        tenant => machine.tenants.get(tenant).is_some(),
    }
}

/// Tells of a command in the entry that carried it, if there is a chain to tell it in.
pub(super) fn note(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    note: Note,
    applied: &Applied,
) -> bool {
    // Who repeats the making of a tenant has proposed another id.
    let tenant = match &applied.outcome {
        Ok(Reply::TenantCreated(made, _)) => made.id,
        Ok(_) | Err(_) => tenant,
    };
    if !has_chain(machine, tenant) {
        return false;
    }
    let (status, code) = told(&applied.outcome, note.status);
    let response = match codec::encode(&applied.outcome) {
        Ok(bytes) => Digest(Sha256::digest(&bytes).into()),
        Err(error) => unreachable!("an outcome that does not encode: {error}"),
    };
    machine.audit.append(tenant, |seq| Record {
        seq,
        time: now.time,
        index: applied.index,
        note,
        status,
        code: code.to_owned(),
        response,
        replayed: applied.replayed.is_some(),
        count: 1,
    });
    true
}

pub(super) fn apply(
    machine: &mut Machine,
    now: Stamp,
    index: u64,
    tenant: TenantId,
    command: Command,
) -> Outcome {
    if !has_chain(machine, tenant) {
        return Err(Refusal::NoTenant);
    }
    let Command::Append(calls) = command;
    for Call { note, code, replayed, count } in calls {
        machine.audit.append(tenant, |seq| Record {
            seq,
            time: now.time,
            index,
            status: note.status,
            note,
            code,
            response: NOTHING,
            replayed,
            count,
        });
    }
    Ok(Reply::Done)
}
