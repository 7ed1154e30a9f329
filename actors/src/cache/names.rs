//! The names of results: keyed, so that nobody who lacks the cluster's secret can tell of which text a
//! name is, and different for each tenant, so that no tenant finds what another's document left behind.

use std::hash::{Hash, Hasher};

use protocol::{Digest, NodeId, TenantId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::blobs::sha256;
use crate::inference::ModelIdentity;
use crate::pepper::Pepper;

/// The code that scores and the libraries that it is built with.
const SCORING: &str = env!("SCORING");

/// The name of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key(pub(super) [u8; 32]);

impl Key {
    /// The node that is asked for it, of some. When one of them goes, only its share moves.
    pub(super) fn owner(self, nodes: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
        let bits = self.bits();
        nodes.into_iter().max_by_key(|node| mixed(bits ^ mixed(node.0)))
    }

    fn bits(self) -> u64 {
        let [first, ..] = self.0.as_chunks::<8>().0 else { return 0 };
        u64::from_be_bytes(*first)
    }
}

/// Eight bytes of a keyed digest are enough.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.bits());
    }
}

/// The finish of splitmix64.
fn mixed(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Whose results are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of one tenant alone.
    Own(TenantId),
    /// Those of all tenants that share: each may learn that another has the same document.
    Shared,
}

impl Whose {
    /// The results that a tenant may be given.
    #[must_use]
    pub fn of(tenant: TenantId, shares: bool) -> Self {
        if shares { Self::Shared } else { Self::Own(tenant) }
    }
}

/// Names results of one model for one tenant, or for those that share.
#[derive(Clone, Debug)]
pub struct Names {
    salted: Pepper,
    model: [u8; 32],
}

impl Names {
    /// The same on every node of a cluster, for the same model and the same code around it.
    #[must_use]
    pub fn new(pepper: &Pepper, whose: Whose, identity: &ModelIdentity) -> Self {
        let salt = match whose {
            Whose::Own(tenant) => pepper.digest("cache", &[b"own", &tenant.0.to_be_bytes()]),
            Whose::Shared => pepper.digest("cache", &[b"shared"]),
        };
        let mut model = Sha256::new();
        model.update(SCORING);
        let ModelIdentity { name, version, sha256: file, engine, engine_version, precision } =
            identity;
        for part in [name, version, file, engine, engine_version, precision] {
            // With its length, so that no two identities read alike.
            model.update((part.len() as u64).to_be_bytes());
            model.update(part);
        }
        Self { salted: Pepper::new(&salt.0), model: model.finalize().into() }
    }

    /// The SHA-256 of a text, and the name of its result.
    pub(super) fn name(&self, text: &str) -> (Digest, Key) {
        let digest = sha256(text.as_bytes());
        (digest, Key(self.salted.digest("result", &[&digest.0, &self.model]).0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn identity(version: &str) -> ModelIdentity {
        ModelIdentity {
            name: "m".to_owned(),
            version: version.to_owned(),
            sha256: "00".to_owned(),
            engine: "rten".to_owned(),
            engine_version: "1".to_owned(),
            precision: "fp32".to_owned(),
        }
    }

    #[test]
    fn a_name_is_of_one_text_one_tenant_and_one_model() {
        let pepper = Pepper::new(&[7; 32]);
        let key =
            |whose, version, text| Names::new(&pepper, whose, &identity(version)).name(text).1;
        let (one, other) = (Whose::Own(TenantId(1)), Whose::Own(TenantId(2)));
        let first = key(one, "1", "text");
        assert_eq!(first, key(one, "1", "text"));
        for different in [
            key(other, "1", "text"),
            key(Whose::Shared, "1", "text"),
            key(one, "2", "text"),
            key(one, "1", "text "),
        ] {
            assert_ne!(first, different);
        }
        assert_eq!(Whose::of(TenantId(1), true), Whose::of(TenantId(2), true));
        let foreign = Names::new(&Pepper::new(&[8; 32]), one, &identity("1"));
        assert_ne!(first, foreign.name("text").1);
    }

    #[test]
    fn owners_share_evenly_and_only_the_share_of_one_that_goes_moves() {
        let pepper = Pepper::new(&[7; 32]);
        let names = Names::new(&pepper, Whose::Shared, &identity("1"));
        let (all, left) = ([1, 2, 3].map(NodeId), [1, 3].map(NodeId));
        let mut shares = [0; 4];
        for number in 0..3_000 {
            let (_, key) = names.name(&number.to_string());
            let owner = key.owner(all).unwrap();
            shares[owner.0 as usize] += 1;
            if owner != NodeId(2) {
                assert_eq!(key.owner(left), Some(owner));
            }
        }
        assert!(shares[1..].iter().all(|share| (900..1_100).contains(share)), "{shares:?}");
        assert_eq!(names.name("x").1.owner([]), None);
    }
}
