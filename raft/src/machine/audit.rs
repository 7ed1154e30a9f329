//! The audit chains of tenants. Invariant: a record is written in the entry of what it tells, and its
//! hash covers the one before it.

use protocol::audit::{Call, Command, Linked, Note, Page, Record, Wanted, told};
use protocol::{Applied, Digest, Outcome, Refusal, Reply, Stamp, TenantId, codec};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Machine;
use super::rows::Hasher;
use super::table::Table;

/// Nothing precedes the first record.
const NOTHING: Digest = Digest([0; 32]);

/// The chains, by tenant.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub(super) heads: Table<TenantId, Ending>,
    pub(super) records: Table<(TenantId, u64), Kept>,
}

/// Where a chain ends: the number and the hash of its last record.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Ending {
    seq: u64,
    hash: Digest,
}

impl Default for Ending {
    fn default() -> Self {
        Self { seq: 0, hash: NOTHING }
    }
}

/// A record in its stored form, and its hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    hash: Digest,
    bytes: Box<[u8]>,
}

impl Book {
    /// Records after `after`, in order, at most `limit`.
    #[must_use]
    pub fn after(&self, tenant: TenantId, after: u64, limit: usize) -> Vec<Linked> {
        let numbers = after.saturating_add(1)..=u64::MAX;
        let all = self.records.range((tenant, *numbers.start())..=(tenant, *numbers.end()));
        all.take(limit).filter_map(|(&(_, seq), kept)| self.linked(tenant, seq, kept)).collect()
    }

    /// Records before `before`, newest first, at most `limit`.
    #[must_use]
    pub fn before(&self, tenant: TenantId, before: u64, limit: usize) -> Vec<Linked> {
        let all = self.records.range((tenant, 0)..(tenant, before)).rev();
        all.take(limit).filter_map(|(&(_, seq), kept)| self.linked(tenant, seq, kept)).collect()
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
        let Ending { seq, hash } = self.heads.get(&tenant).copied().unwrap_or_default();
        (seq, hash)
    }

    /// The hash of a record by number; of none, zeros.
    #[must_use]
    pub fn hash_at(&self, tenant: TenantId, seq: u64) -> Option<Digest> {
        if seq == 0 {
            return Some(NOTHING);
        }
        self.records.get(&(tenant, seq)).map(|kept| kept.hash)
    }

    /// How many records all chains have.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn remove_tenant(&mut self, tenant: TenantId) {
        self.heads.remove(&tenant);
        self.records.remove_range((tenant, 0)..=(tenant, u64::MAX));
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        // The last hash covers all before it.
        hasher.table(&self.heads);
    }

    fn append(&mut self, tenant: TenantId, record: impl FnOnce(u64) -> Record) {
        let ending = self.heads.row(tenant);
        let seq = ending.seq + 1;
        let linked = Linked { record: record(seq), prev: ending.hash, hash: NOTHING };
        let hash = linked.computed();
        *ending = Ending { seq, hash };
        match codec::encode(&linked.record) {
            Ok(bytes) => self.records.insert((tenant, seq), Kept { hash, bytes: bytes.into() }),
            // A record is a part of an entry of less than the bound.
            Err(error) => unreachable!("a record that does not encode: {error}"),
        };
    }

    fn linked(&self, tenant: TenantId, seq: u64, kept: &Kept) -> Option<Linked> {
        let prev = self.hash_at(tenant, seq - 1)?;
        let record = codec::decode(&kept.bytes).ok()?;
        Some(Linked { record, prev, hash: kept.hash })
    }
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
