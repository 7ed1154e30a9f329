//! Typed identifiers and their one text form. Parsing is the only door: a value of these types is valid.

use std::fmt;

use serde::{Deserialize, Serialize};

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 62^22 is the first power above 2^128.
const BASE62_U128: usize = 22;

/// Text that is not an identifier of the wanted kind. Never repeats the text: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid identifier")]
pub struct BadId;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl $name {
            /// Reads the text form: the prefix and 22 base62 digits.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                let digits = text.strip_prefix($prefix).ok_or(BadId)?;
                base62_to_u128(digits).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(&base62_of_u128(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

uuid_id!(
    /// A tenant: a version 7 UUID as `tnt_` and 22 base62 digits.
    TenantId,
    "tnt_"
);
impl TenantId {
    /// Stands for the cluster itself where there is something of its own: no tenant has this id.
    pub const CLUSTER: Self = Self(0);
}

uuid_id!(
    /// A job: a version 7 UUID as `job_` and 22 base62 digits.
    JobId,
    "job_"
);
uuid_id!(
    /// A backup of the whole cluster: a version 7 UUID as `bkp_` and 22 base62 digits, so that names
    /// sort by the time at which backups began.
    BackupId,
    "bkp_"
);
uuid_id!(
    /// A cluster, drawn once at bootstrap: `clu_` and 22 base62 digits.
    ClusterId,
    "clu_"
);

impl TenantId {
    /// The bucket of this tenant among [`BUCKETS`]: the low, random half of its UUID, so that
    /// tenants made in one millisecond spread.
    #[must_use]
    pub fn bucket(self) -> u16 {
        // The low 62 bits of a version 7 UUID are random; fold them, as a plain mask would keep 12.
        let low = (self.0 as u64) & 0x3fff_ffff_ffff_ffff;
        let folded = low ^ (low >> 12) ^ (low >> 24) ^ (low >> 36) ^ (low >> 48);
        (folded % u64::from(BUCKETS)) as u16
    }
}

/// Tenants hash to this many buckets; buckets belong to shards, so that they can move later.
pub const BUCKETS: u16 = 4096;

/// A Raft group: 0 is the meta group, 1.. are the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u32);

impl GroupId {
    /// The group that holds the cluster map.
    pub const META: Self = Self(0);

    /// Whether this is the meta group.
    #[must_use]
    pub fn is_meta(self) -> bool {
        self == Self::META
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A node of the cluster, numbered from 1 by the meta group and never reused. Text form `n1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct NodeId(pub u64);

impl NodeId {
    /// Reads the text form `n<number>`.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let digits = text.strip_prefix('n').ok_or(BadId)?;
        let canonical = digits.len() <= 9 && !digits.starts_with('0');
        if !canonical {
            return Err(BadId);
        }
        digits.parse().map(Self).map_err(|_| BadId)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One replica of one group. Allocated by the meta group and never reused: a reused id inside a
/// group is a split brain.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct ReplicaId(pub u64);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An API key of one tenant: a small integer, counted from 1, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub u32);

impl KeyId {
    /// Reads a decimal without sign or leading zero.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let canonical = text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
        if !canonical || text.starts_with('0') {
            return Err(BadId);
        }
        text.parse().map(Self).map_err(|_| BadId)
    }
}

/// A SHA-256, keyed or plain, as the place that uses it says. Text form: lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Reads 64 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadId);
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| BadId)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Written at once: each document of a scan shows one.
        let mut text = [0; 64];
        for (pair, byte) in text.as_chunks_mut().0.iter_mut().zip(self.0) {
            *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell two apart in a log, too little to look one up.
        write!(f, "{:02x}{:02x}{:02x}…", self.0[0], self.0[1], self.0[2])
    }
}

/// The 22 digits of a number, most significant first: of numbers of one time, in their order.
#[must_use]
pub fn base62_digits(value: u128) -> [u8; BASE62_U128] {
    /// As many digits as surely fit into 64 bits, which are divided much faster.
    const PART: usize = 10;
    const PART_VALUES: u128 = 62u128.pow(PART as u32);
    let mut digits = [b'0'; BASE62_U128];
    let mut rest = value;
    for part in digits.rchunks_mut(PART) {
        let mut value = (rest % PART_VALUES) as u64;
        rest /= PART_VALUES;
        for digit in part.iter_mut().rev() {
            *digit = ALPHABET[(value % 62) as usize];
            value /= 62;
        }
    }
    digits
}

/// The same as text.
#[must_use]
pub fn base62_of_u128(value: u128) -> String {
    base62_digits(value).iter().map(|&digit| char::from(digit)).collect()
}

fn base62_to_u128(text: &str) -> Result<u128, BadId> {
    if text.len() != BASE62_U128 {
        return Err(BadId);
    }
    text.bytes().try_fold(0u128, |value, byte| {
        value.checked_mul(62).and_then(|v| v.checked_add(u128::from(digit(byte)?))).ok_or(BadId)
    })
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'Z' => Some(byte - b'A' + 10),
        b'a'..=b'z' => Some(byte - b'a' + 36),
        _ => None,
    }
}

/// Base62 of a byte string, big-endian, padded to `width` digits. The caller chooses a width that
/// holds the bytes; higher digits would be lost.
#[must_use]
pub fn base62_of_bytes(bytes: &[u8], width: usize) -> String {
    let mut number = bytes.to_vec();
    let mut digits = vec![b'0'; width];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0u32;
        for byte in &mut number {
            let value = (rest << 8) | u32::from(*byte);
            *byte = (value / 62) as u8;
            rest = value % 62;
        }
        *digit = ALPHABET[rest as usize];
    }
    digits.iter().map(|&b| char::from(b)).collect()
}

/// The bytes of a base62 text; refused when it holds another character or more than `N` bytes.
pub fn bytes_of_base62<const N: usize>(text: &str) -> Result<[u8; N], BadId> {
    let mut number = [0u8; N];
    for byte in text.bytes() {
        let mut carry = u32::from(digit(byte).ok_or(BadId)?);
        for place in number.iter_mut().rev() {
            let value = u32::from(*place) * 62 + carry;
            *place = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return Err(BadId);
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_shown_as_hex_in_lower_case() {
        let mut bytes = [0; 32];
        (bytes[0], bytes[1], bytes[31]) = (0x0f, 0xa9, 0xf0);
        assert_eq!(Digest(bytes).to_string(), format!("0fa9{}f0", "00".repeat(29)));
    }

    #[test]
    fn ids_read_what_they_write() {
        for value in [0, 1, u128::MAX, 0x0190_0000_0000_7000_8000_0000_0000_0001] {
            assert_eq!(TenantId::parse(&TenantId(value).to_string()), Ok(TenantId(value)));
        }
        let bytes: [u8; 40] = std::array::from_fn(|i| (i * 37) as u8);
        assert_eq!(bytes_of_base62::<40>(&base62_of_bytes(&bytes, 54)), Ok(bytes));
    }

    #[test]
    fn foreign_text_is_no_id() {
        let overflow = format!("tnt_{}", "z".repeat(22));
        for text in
            ["", "tnt_", "job_0000000000000000000001", "tnt_00000000000000000000-1", &overflow]
        {
            assert_eq!(TenantId::parse(text), Err(BadId), "{text}");
        }
        for text in ["", "0", "01", "-1", "+1", "1e3", "9999999999"] {
            assert_eq!(KeyId::parse(text), Err(BadId), "{text}");
        }
        for text in ["1", "n", "n0", "n01", "n-1"] {
            assert_eq!(NodeId::parse(text), Err(BadId), "{text}");
        }
    }

    #[test]
    fn tenants_of_one_millisecond_spread_over_the_buckets() {
        let seen: std::collections::BTreeSet<u16> = (0..4096u128)
            .map(|i| TenantId((0x0190 << 112) | (7 << 76) | i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .map(TenantId::bucket)
            .collect();
        assert!(seen.len() > 2000, "{} buckets", seen.len());
    }
}
