//! Starts a node, step by step, and stops it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actors::audit::Signer;
use actors::blobs::Blobs;
use actors::inference::{Options, Scanner};
use actors::jobs::Workers;
use actors::remote::{ClusterTransport, Inbound, PeerId, PeerTransport, Settings};
use actors::router::Router;
use actors::slots::{self, Slots};
use actors::system::{Gate, System};
use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::jobs::Worker;
use protocol::nodes::{Command, LABEL_CHARS_MAX, LABELS_MAX, Registration, Secrets, WEIGHT_MAX};
use protocol::{ClusterId, Digest, Name, NodeId, Refusal, ReplicaId};
use raft::Host;
use raft::network::{Class, Kind, Listener, Peer, Peers, Service, Services};
use raft::node::{JoinAnswer, JoinRequest, RaftService};
use raft::wal::{self, Wal};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, Runtime};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::Config;
use crate::identity::{self, IdentityError, NodeFile};

/// How long a new node waits for the cluster that it joins.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
const JOIN_PAUSE: Duration = Duration::from_millis(250);
/// A node that hears of no leader for this long asks whether it is still known.
const SILENCE: Duration = Duration::from_secs(10);
/// Threads for Raft, the peer port and nothing else.
const RAFT_THREADS: usize = 2;

/// What is to be started.
#[derive(Debug)]
pub struct Plan {
    pub config: Config,
    pub data: PathBuf,
    pub join: Option<Join>,
    /// Dial addresses of peers, instead of those that they advertise.
    pub dial: BTreeMap<NodeId, String>,
}

/// The cluster that an empty node joins.
pub struct Join {
    pub address: String,
    pub token: String,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "join {}", self.address)
    }
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The directory belongs to somebody else, or to another release.
    #[error("{0}")]
    Refused(String),
    /// Acknowledged data is damaged.
    #[error("{0}")]
    Damaged(String),
    #[error("join token is not valid: false, used or expired")]
    BadToken,
    #[error("no cluster answers at {0}")]
    NoCluster(String),
    #[error("{what}: {cause}")]
    Io { what: String, cause: io::Error },
    #[error("{0}")]
    Failed(String),
}

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    pub config: Config,
    pub host: Arc<Host>,
    pub system: System,
    pub transport: ClusterTransport,
    pub http: TcpListener,
    /// What this node said of itself.
    pub registration: Registration,
    /// Dropped last: everything of Raft lives on it.
    _raft: RaftThreads,
}

/// The runtime of Raft and the peer port. Dropped inside another runtime it does not wait: what was
/// acknowledged is on disk.
#[derive(Debug)]
struct RaftThreads(Option<Runtime>);

impl RaftThreads {
    fn start() -> Result<Self, BootError> {
        let built = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RAFT_THREADS)
            .thread_name("skep-raft")
            .enable_all()
            .build();
        let built = built.map_err(|cause| BootError::Io { what: "threads".to_owned(), cause })?;
        Ok(Self(Some(built)))
    }

    fn handle(&self) -> Handle {
        // Taken only when it is dropped.
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for RaftThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts everything but the HTTP server.
pub async fn start(plan: Plan) -> Result<Node, BootError> {
    let Plan { config, data, join, dial } = plan;
    make_dir(&data)?;
    let (wal, found) = open_log(&data).await?;
    let http = bind(&config.node.http).await?;
    let peer = bind(&config.node.peer).await?;
    let secret = identity::signing_secret(&data);
    let secret = secret.map_err(|error| BootError::Refused(error.to_string()))?;
    let mut registration = registration(&config, &http, &peer, &secret)?;
    let used = !found.groups.is_empty();
    let (file, addresses) = identify(&data, used, join, &mut registration).await?;
    let identity = file.identity().ok_or_else(|| failed("node.json has no identity"))?;
    let raft = RaftThreads::start()?;
    let peers = Peers::new(identity.clone(), dial);

    let doors = Doors::default();
    let services = Services {
        raft: Arc::new(doors.raft.clone()),
        bulk: Arc::new(doors.bulk.clone()),
        actors: doors.actors(),
    };
    raft.handle().spawn(Listener::new(peer, identity.clone(), services).run());

    let handle = raft.handle();
    let host = Host::open(wal, found.groups, peers, handle, data.clone(), actors::clock::wall);
    let host = host.await.map_err(|error| failed(&error.to_string()))?;
    doors.raft.set(Arc::clone(&host));
    settle(&host, file, &data, addresses, &registration).await?;

    let blobs = Blobs::open(&data.join("blobs"), Arc::clone(&host));
    let blobs = blobs.map_err(|cause| BootError::Io { what: "blobs".to_owned(), cause })?;
    doors.bulk.set(blobs.service());
    let slots = start_slots(&config).await?;
    let me = Worker { node: identity.node, incarnation: identity.incarnation };
    let router = Router::new(Arc::clone(&host));
    let signer = Signer::new(identity.node, identity.cluster, &secret);
    let system = System::start(Arc::clone(&host), router, Workers::new(me), slots, blobs, signer);
    let system = system.await.map_err(|error| failed(&error.to_string()))?;
    let transport = connect(&host, &system, &doors, &identity).await?;
    let replace_after = Some(config.cluster.replace_after_s).filter(|&seconds| seconds > 0);
    let replace_after = replace_after.map(|seconds| Duration::from_secs(u64::from(seconds)));
    raft.handle().spawn(raft::members::run(Arc::clone(&host), system.outlook(), replace_after));
    info!(node = %identity.node, incarnation = identity.incarnation, "node started");
    Ok(Node { config, host, system, transport, http, registration, _raft: raft })
}

fn failed(what: &str) -> BootError {
    BootError::Failed(what.to_owned())
}

fn make_dir(data: &Path) -> Result<(), BootError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(|cause| BootError::Io { what: data.display().to_string(), cause })
}

/// Opens the log, which also locks the directory.
async fn open_log(data: &Path) -> Result<(Wal, wal::Recovered), BootError> {
    let data = data.to_owned();
    let opened = tokio::task::spawn_blocking(move || Wal::open(&data)).await;
    let opened = opened.map_err(|error| failed(&error.to_string()))?;
    opened.map_err(|error| match error {
        wal::OpenError::Locked(_) | wal::OpenError::Version { .. } => {
            BootError::Refused(error.to_string())
        }
        wal::OpenError::Damaged { .. } | wal::OpenError::Gap { .. } => {
            BootError::Damaged(error.to_string())
        }
        wal::OpenError::Io(cause) => BootError::Io { what: "log directory".to_owned(), cause },
    })
}

async fn bind(address: &str) -> Result<TcpListener, BootError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|cause| BootError::Io { what: format!("cannot listen on {address}"), cause })
}

fn registration(
    config: &Config,
    http: &TcpListener,
    peer: &TcpListener,
    secret: &[u8; 32],
) -> Result<Registration, BootError> {
    let told = |set: &str, listener: &TcpListener| {
        if !set.is_empty() {
            return Ok(set.to_owned());
        }
        let bound = listener.local_addr().map(|address| address.to_string());
        bound.map_err(|cause| BootError::Io { what: "address".to_owned(), cause })
    };
    Ok(Registration {
        incarnation: 1,
        http: format!("http://{}", told(&config.node.advertise_http, http)?),
        peer: told(&config.node.advertise_peer, peer)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: labels(&config.node.labels)?,
        weight: match config.node.weight {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            weight => weight,
        }
        .min(WEIGHT_MAX),
        key: Signer::public(secret),
    })
}

/// `zone=a,rack=7`
fn labels(text: &str) -> Result<BTreeMap<Name, String>, BootError> {
    let wrong = |what: &str| BootError::Refused(format!("node.labels: {what}"));
    let mut labels = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| wrong("must be name=value"))?;
        let name = Name::parse(name.trim()).map_err(|error| wrong(&error.to_string()))?;
        let value = value.trim().to_owned();
        if value.is_empty() || value.chars().count() > LABEL_CHARS_MAX {
            return Err(wrong(&format!("a value has 1 to {LABEL_CHARS_MAX} characters")));
        }
        labels.insert(name, value);
    }
    if labels.len() > LABELS_MAX {
        return Err(wrong(&format!("{} are more than {LABELS_MAX}", labels.len())));
    }
    Ok(labels)
}

/// Who this node is: as it was, as a cluster that it joins says, or the first of a new cluster.
async fn identify(
    data: &Path,
    used: bool,
    join: Option<Join>,
    registration: &mut Registration,
) -> Result<(NodeFile, BTreeMap<NodeId, String>), BootError> {
    let refused = |error: IdentityError| BootError::Refused(error.to_string());
    let mut addresses = BTreeMap::new();
    let file = match NodeFile::read(data).map_err(refused)? {
        Some(mut file) => {
            file.incarnation += 1;
            file
        }
        None if used => {
            let what = format!("{} has a log but no node.json", data.display());
            return Err(BootError::Refused(what));
        }
        None => match join {
            Some(join) => {
                let (file, known) = ask_to_join(&join, registration).await?;
                addresses = known;
                file
            }
            None => {
                let cluster = ClusterId(uuid::Uuid::now_v7().as_u128());
                NodeFile::new(cluster, NodeId(1), ReplicaId(1), rand::random(), false)
            }
        },
    };
    file.write(data).map_err(refused)?;
    registration.incarnation = file.incarnation;
    Ok((file, addresses))
}

async fn ask_to_join(
    join: &Join,
    registration: &Registration,
) -> Result<(NodeFile, BTreeMap<NodeId, String>), BootError> {
    let token = token_digest(&join.token);
    let request = JoinRequest { token, registration: registration.clone() };
    let request = protocol::codec::encode(&request).map_err(|error| failed(&error.to_string()))?;
    let request = Bytes::from(request);
    let deadline = Instant::now() + JOIN_TIMEOUT;
    while Instant::now() < deadline {
        let asked = raft::network::ask_to_join(&join.address, request.clone(), JOIN_TIMEOUT / 3);
        let answer = match asked.await {
            Ok(answer) => protocol::codec::decode(&answer).ok(),
            Err(error) => {
                warn!(address = join.address, %error, "cluster not reached yet");
                None
            }
        };
        match answer {
            Some(JoinAnswer::Welcome { cluster, node, replica, secret, addresses }) => {
                let file = NodeFile::new(cluster, node, replica, secret, true);
                return Ok((file, addresses));
            }
            Some(JoinAnswer::Refused(Refusal::BadToken)) => return Err(BootError::BadToken),
            Some(JoinAnswer::Refused(refusal)) => {
                return Err(BootError::Refused(refusal.to_string()));
            }
            Some(JoinAnswer::Unavailable) | None => tokio::time::sleep(JOIN_PAUSE).await,
        }
    }
    Err(BootError::NoCluster(join.address.clone()))
}

/// What of a join token is replicated and sent.
#[must_use]
pub fn token_digest(token: &str) -> Digest {
    actors::blobs::sha256(token.as_bytes())
}

/// Services of the peer port, which listens before there is anything to serve.
#[derive(Clone, Default)]
struct Doors {
    raft: RaftService,
    bulk: Later,
    transport: Arc<OnceLock<ClusterTransport>>,
}

impl Doors {
    fn actors(&self) -> Arc<dyn Fn(TcpStream, Peer) + Send + Sync> {
        let transport = Arc::clone(&self.transport);
        Arc::new(move |stream, peer| {
            let Some(transport) = transport.get() else { return };
            let peer = PeerId { node: peer.node.0, incarnation: peer.incarnation };
            if let Err(error) = transport.accept(stream, peer) {
                tracing::debug!(node = peer.node, %error, "actors' session not taken");
            }
        })
    }
}

/// A service that is set later.
#[derive(Clone, Default)]
struct Later(Arc<OnceLock<Arc<dyn Service>>>);

impl Later {
    fn set(&self, service: Arc<dyn Service>) {
        // Set once, at boot.
        let _ = self.0.set(service);
    }
}

impl Service for Later {
    fn call(
        &self,
        from: Peer,
        kind: Kind,
        group: protocol::GroupId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        match self.0.get() {
            Some(service) => service.call(from, kind, group, body),
            None => Box::pin(async { Err("starting".to_owned()) }),
        }
    }
}

/// Makes the node part of its cluster: bootstraps, or hosts the meta group, or says that it is back.
async fn settle(
    host: &Arc<Host>,
    mut file: NodeFile,
    data: &Path,
    addresses: BTreeMap<NodeId, String>,
    registration: &Registration,
) -> Result<(), BootError> {
    if !file.bootstrapped {
        let peer = host.peers().identity().secret;
        let secrets = Secrets { pepper: rand::random(), peer };
        let bootstrapped = host.bootstrap(secrets, registration.clone()).await;
        bootstrapped.map_err(|error| failed(&error.to_string()))?;
        file.bootstrapped = true;
        return file.write(data).map_err(|error| BootError::Refused(error.to_string()));
    }
    if !addresses.is_empty() {
        let saved = host.save_addresses(addresses).await;
        saved.map_err(|cause| BootError::Io { what: "peers".to_owned(), cause })?;
    }
    let hosted = host.host(protocol::GroupId::META, file.meta_replica()).await;
    hosted.map_err(|error| failed(&error.to_string()))?;
    let (host, registration) = (Arc::clone(host), registration.clone());
    tokio::spawn(async move { register(&host, registration).await });
    Ok(())
}

/// Tells the cluster where this node is now, for as long as it takes to have a leader; and again when
/// nobody was heard of for long: it may have been removed while it was cut off.
async fn register(host: &Host, registration: Registration) {
    loop {
        let node = host.node();
        let command = Command::Register { node, registration: registration.clone() };
        match host.propose_meta(command).await {
            Ok(applied) => match applied.outcome {
                Ok(_) => silence(host).await,
                Err(Refusal::NotFound) => return host.mark_removed(),
                Err(refusal) => return warn!(%refusal, "this node is not registered"),
            },
            Err(error) => tracing::debug!(%error, "not registered yet"),
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}

/// Returns when this node has not known a leader of the meta group for [`SILENCE`].
async fn silence(host: &Host) {
    let mut since = Instant::now();
    while since.elapsed() < SILENCE {
        let meta = host.group(protocol::GroupId::META);
        if meta.is_some_and(|meta| meta.leader().is_some()) {
            since = Instant::now();
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}

async fn start_slots(config: &Config) -> Result<Slots, BootError> {
    let inference = &config.inference;
    let choice = inference.engine;
    let library =
        Some(PathBuf::from(&inference.library)).filter(|path| !path.as_os_str().is_empty());
    let options = Options { library, ..Options::default() };
    let loaded = tokio::task::spawn_blocking(move || Scanner::load(choice, options)).await;
    let loaded = loaded.map_err(|error| failed(&error.to_string()))?;
    let scanner = loaded.map_err(|error| failed(&error.to_string()))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let slots = if inference.slots == 0 { cores } else { usize::from(inference.slots) };
    let delay = Duration::from_millis(u64::from(inference.delay_ms));
    let started = Slots::start(scanner, slots::Settings { slots, delay }).await;
    started.map_err(|error| failed(&error.to_string()))
}

/// Connects the actors with those of other nodes, as the cluster map names them.
async fn connect(
    host: &Arc<Host>,
    system: &System,
    doors: &Doors,
    identity: &raft::network::Identity,
) -> Result<ClusterTransport, BootError> {
    let peers = Arc::clone(host.peers());
    let dial: actors::remote::Dial = Arc::new(move |node| {
        let peers = Arc::clone(&peers);
        Box::pin(async move { peers.dial(NodeId(node), Class::Actor).await })
    });
    let me = PeerId { node: identity.node.0, incarnation: identity.incarnation };
    // The second factor: the handshake of the peer port has proven membership already.
    let cookie = actors::blobs::sha256(&identity.secret).to_string();
    let gate: Arc<dyn Inbound> = Arc::new(Gate::of(system));
    let started = ClusterTransport::start(Settings { me, cookie, dial }, gate).await;
    let transport = started.map_err(|error| failed(&error.to_string()))?;
    // Set once, here.
    let _ = doors.transport.set(transport.clone());
    let shared: Arc<dyn PeerTransport> = Arc::new(transport.clone());
    system.connect(&shared);
    tokio::spawn(follow_peers(Arc::clone(host), transport.clone()));
    Ok(transport)
}

async fn follow_peers(host: Arc<Host>, transport: ClusterTransport) {
    let mut map = host.map();
    loop {
        let now = map.borrow_and_update().clone();
        if let Some(now) = now {
            let others = now.nodes.values().filter(|node| node.id != host.node());
            let boots = others.map(|node| (node.id.0, node.registration.incarnation));
            transport.set_peers(boots.collect());
        }
        if map.changed().await.is_err() {
            return;
        }
    }
}
