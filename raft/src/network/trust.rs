//! Whom this node believes, and what it shows of itself: the cluster's authority, its own key and
//! certificate, and the nodes that the cluster map knows. Invariant: the authority's signature alone
//! is never enough; a node is who the map says, by its key, its presence and its life.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use protocol::nodes::{Directory, LifeId, Standing, Start};
use protocol::versions::Wire;
use protocol::{ClusterId, Digest, NodeId, Time};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use tokio::sync::{Notify, watch};
use tracing::{error, info};

use super::Class;
use super::refusal::{Reason, Refusals};

mod keys;
mod verify;

pub use keys::{Authority, CLOCKS_APART, KeyError, NodeKey};

/// What Raft's and the blobs' connections speak.
const ALPN_RAFT: &[u8] = b"skep-raft/1";
/// What the actors' sessions speak.
const ALPN_ACTOR: &[u8] = b"skep-actor/1";
/// What a node speaks that is no member yet.
const ALPN_JOIN: &[u8] = b"skep-join/1";
/// A certificate is looked at this often, or twenty times in its life if that is more often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Who this node is to its peers.
#[derive(Clone, Debug)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// This start of it.
    pub start: Start,
    /// What its build speaks.
    pub wire: Wire,
}

/// What a node proves itself with.
#[derive(Debug)]
pub struct Keys {
    pub authority: Authority,
    pub key: NodeKey,
    /// How long a certificate is valid. It is renewed when two thirds are over.
    pub term: Duration,
}

/// The trust of one node. One per process; everything that opens or accepts connections shares it.
#[derive(Debug)]
pub struct Trust {
    identity: Identity,
    keys: Keys,
    clock: fn() -> Time,
    shown: Arc<Shown>,
    members: Arc<ServerConfig>,
    strangers: Arc<ServerConfig>,
    raft: Arc<ClientConfig>,
    actors: Arc<ClientConfig>,
    directory: watch::Sender<Arc<Directory>>,
    doubts: Notify,
    refusals: Refusals,
    over: watch::Sender<Option<Reason>>,
}

/// The certificate that is shown at the moment.
#[derive(Debug)]
struct Shown(RwLock<(Arc<CertifiedKey>, Time)>);

impl Shown {
    fn get(&self) -> (Arc<CertifiedKey>, Time) {
        self.0.read().unwrap_or_else(|_| std::process::abort()).clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get().0)
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get().0)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Trust {
    /// Issues the first certificate. `clock` tells wall time.
    pub fn new(identity: Identity, keys: Keys, clock: fn() -> Time) -> Result<Arc<Self>, KeyError> {
        let provider = Arc::new(ring::default_provider());
        let first = certified(&identity, &keys, &provider, clock())?;
        let shown = Arc::new(Shown(RwLock::new(first)));
        let algorithms = provider.signature_verification_algorithms;
        let verifier = Arc::new(verify::Members::new(&keys.authority.certificate, algorithms)?);
        let client = |alpn: &[u8]| {
            let config = client_config(&provider)?.dangerous();
            let config = config.with_custom_certificate_verifier(Arc::clone(&verifier) as _);
            Ok(dialing(config.with_client_cert_resolver(Arc::clone(&shown) as _), alpn))
        };
        let members = server_config(&provider)?.with_client_cert_verifier(verifier.clone());
        let members = members.with_cert_resolver(Arc::clone(&shown) as _);
        let strangers = server_config(&provider)?.with_no_client_auth();
        let strangers = strangers.with_cert_resolver(Arc::clone(&shown) as _);
        Ok(Arc::new(Self {
            raft: client(ALPN_RAFT)?,
            actors: client(ALPN_ACTOR)?,
            members: accepting(members, &[ALPN_RAFT, ALPN_ACTOR]),
            strangers: accepting(strangers, &[ALPN_JOIN]),
            identity,
            keys,
            clock,
            shown,
            directory: watch::Sender::default(),
            doubts: Notify::new(),
            refusals: Refusals::default(),
            over: watch::Sender::new(None),
        }))
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The cluster's authority.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.keys.authority
    }

    /// SHA-256 of this node's public key.
    #[must_use]
    pub fn pin(&self) -> Digest {
        self.keys.key.pin()
    }

    /// When the certificate that is shown ends.
    #[must_use]
    pub fn expires_at(&self) -> Time {
        self.shown.get().1
    }

    /// How long a certificate is valid.
    #[must_use]
    pub fn term(&self) -> Duration {
        self.keys.term
    }

    /// What was refused so far.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The nodes as they are known here.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.borrow().clone()
    }

    /// Takes in a newer directory. Connections of nodes and lives that are not in it end.
    pub fn learn(&self, directory: Directory) {
        self.directory.send_if_modified(|known| {
            let newer = directory.revision > known.revision;
            if newer {
                *known = Arc::new(directory);
            }
            newer
        });
    }

    /// Returns when a peer was met that may be known elsewhere.
    pub async fn doubted(&self) {
        self.doubts.notified().await;
    }

    /// Returns when the cluster has said that this process is not, or no longer, the node.
    pub async fn over(&self) -> Reason {
        let mut over = self.over.subscribe();
        let found = over.wait_for(Option::is_some).await.map(|reason| *reason);
        match found.ok().flatten() {
            Some(reason) => reason,
            // The sender lives in self, and the wait is for a reason.
            None => std::future::pending().await,
        }
    }

    /// Says that this process is not, or no longer, the node.
    pub fn end(&self, reason: Reason) {
        self.over.send_if_modified(|over| over.is_none() && over.replace(reason).is_none());
    }

    /// Renews the certificate for ever. Connections that are open stay so.
    pub async fn keep_renewed(self: Arc<Self>) {
        let Keys { term, .. } = self.keys;
        let third = term.as_millis() as u64 / 3;
        loop {
            tokio::time::sleep(LOOK_EVERY.min(term / 20)).await;
            let now = (self.clock)();
            let left = self.expires_at().0.saturating_sub(now.0);
            // A clock that was set back has made the certificate one of the future.
            if left > third && left <= 3 * third + CLOCKS_APART.as_millis() as u64 {
                continue;
            }
            match self.renew(now) {
                Ok(expires_at) => info!(%expires_at, "certificate renewed"),
                Err(failure) => error!(%failure, "certificate not renewed"),
            }
        }
    }

    fn renew(&self, now: Time) -> Result<Time, KeyError> {
        let new = certified(&self.identity, &self.keys, &ring::default_provider(), now)?;
        let expires_at = new.1;
        *self.shown.0.write().unwrap_or_else(|_| std::process::abort()) = new;
        Ok(expires_at)
    }

    /// The side of the acceptor, by what the dialer says that it speaks.
    pub(super) fn accepting(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let mut spoken = hello.alpn().into_iter().flatten();
        let stranger = spoken.any(|alpn| alpn == ALPN_JOIN);
        Arc::clone(if stranger { &self.strangers } else { &self.members })
    }

    /// The side of the dialer.
    pub(super) fn dialing(&self, class: Class) -> Arc<ClientConfig> {
        Arc::clone(if class == Class::Actor { &self.actors } else { &self.raft })
    }

    /// The name that a node must prove.
    pub(super) fn name(&self, node: NodeId) -> Result<ServerName<'static>, Reason> {
        let name = keys::name_of(self.identity.cluster, node);
        ServerName::try_from(name).map_err(|_| Reason::Name)
    }

    /// The node that a verified certificate names, by its key.
    pub(super) fn node_of(
        &self,
        certificates: Option<&[CertificateDer<'_>]>,
    ) -> Result<(NodeId, Digest), Reason> {
        let shown = certificates.and_then(<[_]>::first).ok_or(Reason::NoCertificate)?;
        let [name] = &verify::names(shown)[..] else { return Err(Reason::Name) };
        let node = keys::node_of(self.identity.cluster, name).ok_or(Reason::Name)?;
        Ok((node, verify::pin(shown).ok_or(Reason::Pin)?))
    }

    /// Whether the cluster map lets a node in with that key.
    pub(super) fn admit(&self, node: NodeId, pin: Digest) -> Result<(), Reason> {
        let admitted = admit(&self.directory.borrow(), node, pin);
        if admitted == Err(Reason::Unknown) {
            self.doubts.notify_one();
        }
        admitted
    }

    /// Whether a start of a node is one that may speak for it. One that the map cannot place is let
    /// be: the meta group decides when it registers.
    pub(super) fn place(&self, node: NodeId, start: &Start) -> Result<(), Reason> {
        place(&self.directory.borrow(), node, start)
    }

    /// Whether a build can take part in what is spoken here.
    pub(super) fn hear(&self, wire: Wire) -> Result<(), Reason> {
        let active = self.directory.borrow().wire;
        if active == 0 || wire.speaks(active) { Ok(()) } else { Err(Reason::Wire) }
    }

    /// Returns when a connection of that start of a node must end.
    pub(super) async fn refused(&self, node: NodeId, start: Start) -> Reason {
        let mut directory = self.directory.subscribe();
        let refused = |directory: &Arc<Directory>| match directory.nodes.get(&node) {
            None if directory.revision > 0 => Some(absent(directory, node)),
            None | Some(_) => place(directory, node, &start).err(),
        };
        let found = directory.wait_for(|now| refused(now).is_some()).await;
        match found.ok().and_then(|now| refused(&now)) {
            Some(reason) => reason,
            // The sender lives in self.
            None => std::future::pending().await,
        }
    }
}

fn admit(directory: &Directory, node: NodeId, pin: Digest) -> Result<(), Reason> {
    if directory.revision == 0 {
        // The first start after a join, or a lost file: the authority is all there is to go by.
        return Ok(());
    }
    match directory.nodes.get(&node) {
        Some(known) if known.registration.pin == pin => Ok(()),
        Some(_) => Err(Reason::Pin),
        None => Err(absent(directory, node)),
    }
}

fn absent(directory: &Directory, node: NodeId) -> Reason {
    if node.0 < directory.next_node { Reason::Removed } else { Reason::Unknown }
}

fn place(directory: &Directory, node: NodeId, start: &Start) -> Result<(), Reason> {
    let Some(known) = directory.nodes.get(&node) else { return Ok(()) };
    match known.registration.standing(start) {
        Standing::Current | Standing::Next | Standing::Ahead => Ok(()),
        Standing::Over => Err(Reason::Over),
    }
}

/// The start behind the answer of an acceptor, which tells no earlier lives.
pub(super) fn start_of(incarnation: u64, life: LifeId) -> Start {
    Start { incarnation, life, before: Vec::new() }
}

/// What a stranger dials with: it believes whoever shows the authority that its token names.
pub(super) fn joining(authority: Digest) -> Result<Arc<ClientConfig>, KeyError> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = verify::Hosts { authority, algorithms };
    let config = client_config(&provider)?.dangerous();
    let config = config.with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    Ok(dialing(config, ALPN_JOIN))
}

/// Whether that was agreed on for a connection of the class.
pub(super) fn speaks(alpn: Option<&[u8]>, class: Class) -> bool {
    let wanted = match class {
        Class::Control | Class::Log | Class::Bulk | Class::Snapshot | Class::Claim => ALPN_RAFT,
        Class::Actor => ALPN_ACTOR,
        Class::Join => ALPN_JOIN,
    };
    alpn == Some(wanted)
}

/// Whether that is a stranger's.
pub(super) fn is_strange(alpn: Option<&[u8]>) -> bool {
    alpn == Some(ALPN_JOIN)
}

fn certified(
    identity: &Identity,
    keys: &Keys,
    provider: &CryptoProvider,
    now: Time,
) -> Result<(Arc<CertifiedKey>, Time), KeyError> {
    let Identity { cluster, node, .. } = *identity;
    let certificate = keys.authority.issue(cluster, node, &keys.key, now, keys.term)?;
    let key = provider.key_provider.load_private_key(keys.key.private());
    let chain = vec![certificate, CertificateDer::from(keys.authority.certificate.clone())];
    let certified = CertifiedKey::new(chain, key.map_err(KeyError::of)?);
    Ok((Arc::new(certified), now.plus_ms(keys.term.as_millis() as u64)))
}

fn client_config(
    provider: &Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, KeyError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider));
    builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(KeyError::of)
}

fn server_config(
    provider: &Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, KeyError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider));
    builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(KeyError::of)
}

fn dialing(mut config: ClientConfig, alpn: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    // The name tells node and cluster to whoever listens, and nobody needs it.
    config.enable_sni = false;
    // A resumed session would skip the certificates.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn accepting(mut config: ServerConfig, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}
