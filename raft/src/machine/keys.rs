//! API keys of every tenant. Invariant: an id is given once; a digest leads to one key.

use std::ops::Bound;

use protocol::command::What;
use protocol::keys::{Command, KEYS_MAX, Key, NewKey};
use protocol::{Digest, KeyId, Outcome, Refusal, Reply, TenantId, Time};

use super::Machine;
use super::rows::Hasher;
use super::table::Table;

/// The keys, by tenant.
#[derive(Debug, Clone, Default)]
pub struct Book {
    /// Boxed: a tree's nodes are half empty, and a key is large.
    pub(super) keys: Table<(TenantId, KeyId), Box<Key>>,
    /// The last id that a tenant's keys were given.
    pub(super) last: Table<TenantId, u32>,
}

impl Book {
    /// A tenant's key by id.
    #[must_use]
    pub fn get(&self, tenant: TenantId, key: KeyId) -> Option<&Key> {
        self.keys.get(&(tenant, key)).map(AsRef::as_ref)
    }

    /// The key whose text has this digest, unless it has expired.
    #[must_use]
    pub fn find(&self, tenant: TenantId, digest: Digest, now: Time) -> Option<&Key> {
        // A tenant has few, and who comes here twice comes with a grant.
        let key = self.after(tenant, None).find(|key| key.digest == digest)?;
        key.expires_at.is_none_or(|end| now < end).then_some(key)
    }

    /// A tenant's keys in order of id, after `after`.
    pub fn after(&self, tenant: TenantId, after: Option<KeyId>) -> impl Iterator<Item = &Key> {
        let from = after.map_or(Bound::Included(KeyId(0)), Bound::Excluded).map(|id| (tenant, id));
        let last = Bound::Included((tenant, KeyId(u32::MAX)));
        // A range from beyond its end would panic.
        let some = after.is_none_or(|after| after < KeyId(u32::MAX));
        some.then(|| self.keys.range((from, last)))
            .into_iter()
            .flatten()
            .map(|(_, key)| key.as_ref())
    }

    pub(super) fn create(
        &mut self,
        tenant: TenantId,
        now: Time,
        new: NewKey,
    ) -> Result<Key, Refusal> {
        let (mut held, mut known) = (0, false);
        for key in self.after(tenant, None) {
            held += 1;
            known |= key.digest == new.digest;
        }
        if held >= KEYS_MAX {
            let got = held as u64 + 1;
            return Err(Refusal::TooMany { what: What::Keys, got, limit: KEYS_MAX as u64 });
        }
        if known {
            return Err(Refusal::Exists);
        }
        let last = self.last.row(tenant);
        *last += 1;
        let key = Key {
            id: KeyId(*last),
            name: new.name,
            digest: new.digest,
            prefix: new.prefix,
            scopes: new.scopes,
            overrides: new.overrides,
            created_at: now,
            expires_at: new.expires_at,
        };
        self.keys.insert((tenant, key.id), Box::new(key.clone()));
        Ok(key)
    }

    fn revoke(&mut self, tenant: TenantId, id: KeyId) -> Result<(), Refusal> {
        self.keys.remove(&(tenant, id)).map(drop).ok_or(Refusal::NotFound)
    }

    /// The key ends at `end`, if it does not end sooner.
    fn end(&mut self, tenant: TenantId, id: KeyId, end: Time) {
        if let Some(key) = self.keys.get_mut(&(tenant, id)) {
            key.expires_at = Some(key.expires_at.map_or(end, |sooner| sooner.min(end)));
        }
    }

    pub(super) fn remove_tenant(&mut self, tenant: TenantId) {
        self.keys.remove_range((tenant, KeyId(0))..=(tenant, KeyId(u32::MAX)));
        self.last.remove(&tenant);
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        hasher.table(&self.keys);
        hasher.table(&self.last);
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
