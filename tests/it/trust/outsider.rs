//! A peer that is none: what one can do on the peer port with keys of one's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine as _;
use protocol::nodes::{LifeId, Start};
use protocol::{ClusterId, NodeId, Time};
use raft::network::trust::{Authority, Keys, NodeKey};
use raft::network::{Identity, Peers, Trust};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(super) const RAFT: &[u8] = b"skep-raft/1";

pub(super) fn wall() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(since.as_millis() as u64)
}

/// The authority in a stolen directory.
pub(super) fn stolen_authority(data: &Path) -> Result<Authority> {
    let text = std::fs::read_to_string(data.join("tls/authority.key"))?;
    let part = |n: usize| {
        let word = text.split_whitespace().nth(n).context("the file is short")?;
        Ok::<_, anyhow::Error>(base64::engine::general_purpose::STANDARD.decode(word)?)
    };
    Ok(Authority { certificate: part(1)?, key: part(2)? })
}

/// A node that a thief of the authority's key makes up, with a key of its own.
pub(super) fn forged(
    cluster: ClusterId,
    node: NodeId,
    authority: Authority,
    dial: BTreeMap<NodeId, String>,
) -> Result<Arc<Peers>> {
    let start = Start { incarnation: 1000, life: LifeId(7), before: Vec::new() };
    let key = NodeKey::generate()?;
    let keys = Keys { authority, key, term: Duration::from_secs(600) };
    let trust = Trust::new(
        Identity { cluster, node, start, wire: protocol::versions::Wire::OURS },
        keys,
        wall,
    )?;
    Ok(Peers::new(trust, dial))
}

/// Shows a certificate of one's own authority, or none, to a server of any kind, and says a lot. Gives
/// what was read after the handshake.
pub(super) async fn knock(
    address: &str,
    alpn: &[u8],
    shown: Option<(ClusterId, NodeId)>,
) -> Result<Vec<u8>> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some((cluster, node)) => {
            let authority = Authority::found(cluster, wall())?;
            let key = NodeKey::generate()?;
            let minute = Duration::from_secs(60);
            let certificate = authority.issue(cluster, node, &key, wall(), minute)?;
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_bytes()));
            config.with_client_auth_cert(vec![certificate], key)?
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("anybody")?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    let mut told = Vec::new();
    if let Ok(mut stream) = connected {
        // Either may fail, which is what is hoped for; what was read before counts.
        let _ = stream.write_all(&[1; 300]).await;
        let _ = stream.read_to_end(&mut told).await;
    }
    Ok(told)
}

/// Takes every server for the right one.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
