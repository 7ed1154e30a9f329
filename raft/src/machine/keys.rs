//! API keys of every tenant. Invariant: an id is given once; a digest leads to one key.

use std::collections::BTreeMap;

use protocol::command::What;
use protocol::keys::{Command, KEYS_MAX, Key, NewKey};
use protocol::{Digest, KeyId, Outcome, Refusal, Reply, TenantId, Time};
use serde::Serialize;

use super::Machine;
use super::rows::Hasher;

/// The keys, by tenant.
#[derive(Debug, Clone, Default)]
pub struct Book {
    rings: BTreeMap<TenantId, Ring>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Ring {
    last: u32,
    keys: BTreeMap<KeyId, Key>,
    by_digest: BTreeMap<Digest, KeyId>,
}

impl Book {
    /// A tenant's key by id.
    #[must_use]
    pub fn get(&self, tenant: TenantId, key: KeyId) -> Option<&Key> {
        self.rings.get(&tenant)?.keys.get(&key)
    }

    /// The key whose text has this digest, unless it has expired.
    #[must_use]
    pub fn find(&self, tenant: TenantId, digest: Digest, now: Time) -> Option<&Key> {
        let ring = self.rings.get(&tenant)?;
        let key = ring.keys.get(ring.by_digest.get(&digest)?)?;
        key.expires_at.is_none_or(|end| now < end).then_some(key)
    }

    /// A tenant's keys in order of id, after `after`.
    pub fn after(&self, tenant: TenantId, after: Option<KeyId>) -> impl Iterator<Item = &Key> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let ring = self.rings.get(&tenant).into_iter();
        ring.flat_map(move |ring| ring.keys.range((from, std::ops::Bound::Unbounded)))
            .map(|(_, key)| key)
    }

    pub(super) fn create(
        &mut self,
        tenant: TenantId,
        now: Time,
        new: NewKey,
    ) -> Result<Key, Refusal> {
        let ring = self.rings.entry(tenant).or_default();
        if ring.keys.len() >= KEYS_MAX {
            let got = ring.keys.len() as u64 + 1;
            return Err(Refusal::TooMany { what: What::Keys, got, limit: KEYS_MAX as u64 });
        }
        if ring.by_digest.contains_key(&new.digest) {
            return Err(Refusal::Exists);
        }
        ring.last += 1;
        let key = Key {
            id: KeyId(ring.last),
            name: new.name,
            digest: new.digest,
            prefix: new.prefix,
            scopes: new.scopes,
            overrides: new.overrides,
            created_at: now,
            expires_at: new.expires_at,
        };
        ring.by_digest.insert(key.digest, key.id);
        ring.keys.insert(key.id, key.clone());
        Ok(key)
    }

    fn revoke(&mut self, tenant: TenantId, id: KeyId) -> Result<(), Refusal> {
        let ring = self.rings.get_mut(&tenant).ok_or(Refusal::NotFound)?;
        let key = ring.keys.remove(&id).ok_or(Refusal::NotFound)?;
        ring.by_digest.remove(&key.digest);
        Ok(())
    }

    /// The key ends at `end`, if it does not end sooner.
    fn end(&mut self, tenant: TenantId, id: KeyId, end: Time) {
        let ring = self.rings.get_mut(&tenant);
        if let Some(key) = ring.and_then(|ring| ring.keys.get_mut(&id)) {
            key.expires_at = Some(key.expires_at.map_or(end, |sooner| sooner.min(end)));
        }
    }

    pub(super) fn remove_tenant(&mut self, tenant: TenantId) {
        self.rings.remove(&tenant);
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        hasher.table(&self.rings);
    }
}

pub(super) fn apply(
    machine: &mut Machine,
    now: Time,
    tenant: TenantId,
    command: Command,
) -> Outcome {
    if machine.tenants.get(tenant).is_none() {
        return Err(Refusal::NoTenant);
    }
    match command {
        Command::Create(new) => {
            let key = machine.keys.create(tenant, now, new)?;
            Ok(Reply::Key(Box::new(key)))
        }
        Command::Revoke(id) => {
            machine.keys.revoke(tenant, id)?;
            Ok(Reply::KeyRevoked(id))
        }
        Command::Rotate { key, digest, prefix, overlap_ms, within } => {
            let old = machine.keys.get(tenant, key).ok_or(Refusal::NotFound)?.clone();
            if old.expires_at.is_some_and(|end| now >= end) {
                return Err(Refusal::NotFound);
            }
            let Key { name, scopes, overrides, expires_at, .. } = old;
            if !within.covers(scopes) {
                return Err(Refusal::ScopesExceeded);
            }
            let new = NewKey { name, digest, prefix, scopes, overrides, expires_at };
            let new = machine.keys.create(tenant, now, new)?;
            if overlap_ms == 0 {
                machine.keys.revoke(tenant, key)?;
            } else {
                machine.keys.end(tenant, key, now.plus_ms(overlap_ms));
            }
            Ok(Reply::Key(Box::new(new)))
        }
    }
}
