//! Keys and certificates: the cluster's authority, and what it signs for a node.

use std::time::Duration;

use protocol::{ClusterId, Digest, NodeId, Time};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How far the clocks of two nodes may be apart: a certificate is valid this long before it is made.
pub const CLOCKS_APART: Duration = Duration::from_secs(600);
/// An authority lives as long as its cluster.
const AUTHORITY_TERM: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A key that cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
#[error("keys: {0}")]
pub struct KeyError(String);

impl KeyError {
    pub(super) fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// The authority of a cluster. Every node has its key: what it signs proves membership only together
/// with the pin in the cluster map.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Self-signed, DER.
    pub certificate: Vec<u8>,
    /// PKCS #8, DER.
    pub key: Vec<u8>,
}

impl Authority {
    /// A new one, for a new cluster.
    pub fn found(cluster: ClusterId, now: Time) -> Result<Self, KeyError> {
        let key = KeyPair::generate().map_err(KeyError::of)?;
        let mut params = authority_params(cluster)?;
        set_times(&mut params, now, AUTHORITY_TERM);
        let certificate = params.self_signed(&key).map_err(KeyError::of)?;
        Ok(Self { certificate: certificate.der().to_vec(), key: key.serialize_der() })
    }

    /// SHA-256 of the certificate: what join tokens carry.
    #[must_use]
    pub fn digest(&self) -> Digest {
        sha256(&self.certificate)
    }

    /// A certificate for the key of a node, valid for `term` from now.
    pub fn issue(
        &self,
        cluster: ClusterId,
        node: NodeId,
        key: &NodeKey,
        now: Time,
        term: Duration,
    ) -> Result<CertificateDer<'static>, KeyError> {
        let issuer = Issuer::new(authority_params(cluster)?, pair(&self.key)?);
        let names = vec![name_of(cluster, node)];
        let mut params = CertificateParams::new(names).map_err(KeyError::of)?;
        params.distinguished_name = named(&node.to_string());
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        set_times(&mut params, now, term);
        let signed = params.signed_by(&key.0, &issuer).map_err(KeyError::of)?;
        Ok(signed.der().clone())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "authority {:?}", self.digest())
    }
}

/// The key of a node. It is made on the node and leaves it never.
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// A new one.
    pub fn generate() -> Result<Self, KeyError> {
        KeyPair::generate().map(Self).map_err(KeyError::of)
    }

    /// The one that [`Self::to_bytes`] gave.
    pub fn from_bytes(pkcs8: &[u8]) -> Result<Self, KeyError> {
        pair(pkcs8).map(Self)
    }

    /// PKCS #8, DER.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.serialize_der()
    }

    /// SHA-256 of the public key (SPKI, DER), by which the cluster map knows the node.
    #[must_use]
    pub fn pin(&self) -> Digest {
        sha256(&self.0.subject_public_key_info())
    }

    pub(super) fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.to_bytes()).into()
    }
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {:?}", self.pin())
    }
}

/// The name in a node's certificate.
pub(super) fn name_of(cluster: ClusterId, node: NodeId) -> String {
    // Base62 has capital letters, and the names of hosts have not.
    format!("{node}.{:032x}.skep", cluster.0)
}

/// The node that a certificate of this cluster names.
pub(super) fn node_of(cluster: ClusterId, name: &str) -> Option<NodeId> {
    let node = NodeId::parse(name.split_once('.')?.0).ok()?;
    (name_of(cluster, node) == name).then_some(node)
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn pair(pkcs8: &[u8]) -> Result<KeyPair, KeyError> {
    KeyPair::try_from(pkcs8).map_err(KeyError::of)
}

/// All but the times: an issuer is made again from its cluster and its key.
fn authority_params(cluster: ClusterId) -> Result<CertificateParams, KeyError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(KeyError::of)?;
    params.distinguished_name = named(&cluster.to_string());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, format!("skep {name}"));
    names
}

fn set_times(params: &mut CertificateParams, now: Time, term: Duration) {
    let (epoch, now) = (date_time_ymd(1970, 1, 1), Duration::from_millis(now.0));
    params.not_before = epoch + now.saturating_sub(CLOCKS_APART);
    params.not_after = epoch + now + term;
}
