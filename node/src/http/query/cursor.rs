//! Opaque positions in lists. A cursor says where the next page begins and proves that we made it for
//! this tenant, this route and this query; it hides nothing and needs no state.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const VERSION: u8 = protocol::versions::CURSOR;
/// Half of SHA-256 is as much as a forger has to guess.
const TAG_BYTES: usize = 16;

/// The secret of all nodes of a cluster, so that a cursor works on each of them.
#[derive(Clone)]
pub struct CursorKey([u8; 32]);

impl CursorKey {
    /// A key from 32 secret bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }
}

impl std::fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CursorKey(…)")
    }
}

/// What a cursor is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'c> {
    /// Whose list.
    pub tenant: &'c str,
    /// Which list.
    pub route: &'c str,
    /// With which filters.
    pub query: &'c str,
}

impl Cursor<'_> {
    /// Text for `next_cursor`.
    pub fn encode(&self, key: &CursorKey, position: &[u8]) -> String {
        let tag = self.mac(key, position).finalize().into_bytes();
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&tag[..TAG_BYTES]);
        bytes.extend_from_slice(position);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position, or nothing if we did not make this text for exactly this list.
    pub fn decode(&self, key: &CursorKey, text: &str) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (version, rest) = bytes.split_first()?;
        let (tag, position) = rest.split_at_checked(TAG_BYTES)?;
        let genuine = self.mac(key, position).verify_truncated_left(tag).is_ok();
        (*version == VERSION && genuine).then(|| position.to_vec())
    }

    fn mac(&self, key: &CursorKey, position: &[u8]) -> Hmac<Sha256> {
        // HMAC pads a short key with zeros to the block of its hash; doing so here cannot fail.
        let mut block = [0; 64];
        block[..key.0.len()].copy_from_slice(&key.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(&[VERSION]);
        for part in [self.tenant.as_bytes(), self.route.as_bytes(), self.query.as_bytes(), position]
        {
            // Lengths keep neighbours apart: ("ab", "c") is not ("a", "bc").
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}
