//! Keyed digests: what is stored of secrets.

use hmac::{Hmac, KeyInit as _, Mac as _};
use protocol::Digest;
use sha2::Sha256;

/// The cluster's pepper, ready to be used.
#[derive(Clone)]
pub struct Pepper {
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for Pepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pepper(…)")
    }
}

impl Pepper {
    /// From the cluster's secret.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        // HMAC pads a short key with zeros to the block of its hash.
        let mut block = [0; 64];
        block[..secret.len()].copy_from_slice(secret);
        Self { keyed: Hmac::new(&block.into()) }
    }

    /// HMAC-SHA256 (RFC 2104) with a purpose, over parts that cannot run into each other.
    #[must_use]
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> Digest {
        let mut mac = self.keyed.clone();
        for part in [purpose.as_bytes()].iter().chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Digest(mac.finalize().into_bytes().into())
    }

    /// What is stored of an API key.
    #[must_use]
    pub fn key(&self, text: &str) -> Digest {
        self.digest("key", &[text.as_bytes()])
    }
}
