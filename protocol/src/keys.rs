//! API keys: their text, their scopes, what is kept of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{BadId, base62_of_bytes, bytes_of_base62};
use crate::plans::{Limits, Override};
use crate::{Digest, KeyId, Name, TenantId, Time};

/// A key of a tenant begins so.
pub const LIVE_PREFIX: &str = "sk_live_";
/// A key of the operator begins so.
pub const ADMIN_PREFIX: &str = "sk_admin_";
/// Random bytes of a key: 160 bits.
pub const RANDOM_BYTES: usize = 20;
const BODY_BYTES: usize = 16 + RANDOM_BYTES + 4;
/// 62^54 is the first power above 2^320.
const BODY_DIGITS: usize = 54;
/// Keys that one tenant can hold at a time.
pub const KEYS_MAX: usize = 1_000;

/// A right that a key carries. Routes name the one they need; without it they refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    Scan,
    JobsRead,
    JobsWrite,
    KeysRead,
    KeysWrite,
    UsageRead,
    AuditRead,
}

impl Scope {
    /// Every scope, in the order of the API.
    pub const ALL: [Self; 7] = [
        Self::Scan,
        Self::JobsRead,
        Self::JobsWrite,
        Self::KeysRead,
        Self::KeysWrite,
        Self::UsageRead,
        Self::AuditRead,
    ];

    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::JobsRead => "jobs:read",
            Self::JobsWrite => "jobs:write",
            Self::KeysRead => "keys:read",
            Self::KeysWrite => "keys:write",
            Self::UsageRead => "usage:read",
            Self::AuditRead => "audit:read",
        }
    }

    /// The scope of a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes(u32);

impl Scopes {
    /// All scopes that there are.
    #[must_use]
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Whether the scope is in the set.
    #[must_use]
    pub fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u32) != 0
    }

    /// Whether every scope of `other` is in the set.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// The scopes in the order of the API.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |&scope| self.has(scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | (1 << scope as u32)))
    }
}

/// The whole text of a tenant's key. It is shown once and never stored; `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    text: String,
    tenant: TenantId,
}

impl ApiKey {
    /// The key of a tenant from its random part.
    #[must_use]
    pub fn new(tenant: TenantId, random: [u8; RANDOM_BYTES]) -> Self {
        let mut body = Vec::with_capacity(BODY_BYTES);
        body.extend_from_slice(&tenant.0.to_be_bytes());
        body.extend_from_slice(&random);
        body.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
        Self { text: format!("{LIVE_PREFIX}{}", base62_of_bytes(&body, BODY_DIGITS)), tenant }
    }

    /// Reads a key; a wrong checksum is refused without a look-up.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let digits = text.strip_prefix(LIVE_PREFIX).ok_or(BadId)?;
        if digits.len() != BODY_DIGITS {
            return Err(BadId);
        }
        let body: [u8; BODY_BYTES] = bytes_of_base62(digits)?;
        let (content, sum) = body.split_at(BODY_BYTES - 4);
        if crc32c::crc32c(content).to_be_bytes() != sum {
            return Err(BadId);
        }
        let mut tenant = [0; 16];
        tenant.copy_from_slice(&content[..16]);
        Ok(Self { text: text.to_owned(), tenant: TenantId(u128::from_be_bytes(tenant)) })
    }

    /// Whose key it says it is; only the owner of the tenant can tell whether that holds.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The secret text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What may be shown of it afterwards.
    #[must_use]
    pub fn prefix(&self) -> String {
        // The body begins with the tenant; the end is what tells two keys of a tenant apart.
        format!("{LIVE_PREFIX}…{}", &self.text[self.text.len() - 4..])
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// The text of an operator's key from its random part.
#[must_use]
pub fn admin_key(random: [u8; 32]) -> String {
    let mut body = random.to_vec();
    body.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    format!("{ADMIN_PREFIX}{}", base62_of_bytes(&body, 49))
}

/// Whether a text has the form and checksum of an operator's key.
#[must_use]
pub fn is_admin_key(text: &str) -> bool {
    let Some(digits) = text.strip_prefix(ADMIN_PREFIX).filter(|digits| digits.len() == 49) else {
        return false;
    };
    let Ok(body) = bytes_of_base62::<36>(digits) else { return false };
    crc32c::crc32c(&body[..32]).to_be_bytes() == body[32..]
}

/// What is stored of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub id: KeyId,
    pub name: Name,
    /// Keyed SHA-256 of the whole text.
    pub digest: Digest,
    /// What may be shown.
    pub prefix: String,
    pub scopes: Scopes,
    pub overrides: KeyOverrides,
    pub created_at: Time,
    pub expires_at: Option<Time>,
}

/// What the limits of one key say beside those of its tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyOverrides {
    pub rate: Override,
    pub burst: Override,
    pub per_minute: Override,
    pub per_day: Override,
}

/// What one key may, beside what its tenant may. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests per second.
    pub rate: Option<u64>,
    pub burst: Option<u64>,
    /// Requests per minute.
    pub per_minute: Option<u64>,
    /// Requests per calendar day.
    pub per_day: Option<u64>,
}

impl Key {
    /// The limits in force for this key of a tenant with these limits.
    #[must_use]
    pub fn limits(&self, tenant: &Limits) -> KeyLimits {
        KeyLimits {
            rate: self.overrides.rate.over(tenant.key_rate),
            burst: self.overrides.burst.over(tenant.key_burst),
            per_minute: self.overrides.per_minute.over(None),
            per_day: self.overrides.per_day.over(None),
        }
    }
}

/// A key that is to be made; the text stays with the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    pub name: Name,
    pub digest: Digest,
    pub prefix: String,
    pub scopes: Scopes,
    pub overrides: KeyOverrides,
    pub expires_at: Option<Time>,
}

/// What a tenant asks of its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Create(NewKey),
    /// The key is gone; its id is not used again.
    Revoke(KeyId),
    /// A new key with the name, scopes and limits of an old one, which ends after `overlap_ms`.
    Rotate {
        key: KeyId,
        digest: Digest,
        prefix: String,
        overlap_ms: u64,
        /// Scopes of the caller, who cannot get more by it.
        within: Scopes,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_tenant_and_guards_its_text() {
        let key = ApiKey::new(TenantId(u128::MAX / 7), [0xa5; RANDOM_BYTES]);
        let read = ApiKey::parse(key.text()).unwrap();
        assert_eq!(read.tenant(), TenantId(u128::MAX / 7));
        assert_eq!(format!("{read:?}"), "ApiKey(…)");
        for i in LIVE_PREFIX.len()..key.text().len() {
            let mut text = key.text().as_bytes().to_vec();
            text[i] = if text[i] == b'x' { b'y' } else { b'x' };
            assert!(ApiKey::parse(std::str::from_utf8(&text).unwrap()).is_err(), "digit {i}");
        }
        assert!(ApiKey::parse(&key.text().to_lowercase()).is_err());
        assert!(ApiKey::parse(&format!("{} ", key.text())).is_err());
    }

    #[test]
    fn an_admin_key_is_known_by_its_checksum() {
        let key = admin_key([7; 32]);
        assert!(is_admin_key(&key));
        assert!(!is_admin_key(&key.replace("sk_admin_", "sk_live_")));
        assert!(!is_admin_key(&format!("{}0", &key[..key.len() - 1])) || key.ends_with('0'));
    }

    #[test]
    fn scopes_cover_their_parts() {
        let some: Scopes = [Scope::Scan, Scope::UsageRead].into_iter().collect();
        assert!(Scopes::all().covers(some) && !some.covers(Scopes::all()));
        assert_eq!(some.iter().map(Scope::name).collect::<Vec<_>>(), ["scan", "usage:read"]);
    }
}
