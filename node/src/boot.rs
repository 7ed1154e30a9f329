//! Starts a node, step by step, and stops it.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actors::audit::Signer;
use actors::backup::{self, Backups, Place};
use actors::blobs::{Blobs, OpenError};
use actors::cache::{self, Cache};
use actors::inference::process::Launch;
use actors::inference::{Options, Scanner};
use actors::jobs::Workers;
use actors::models::{self, Models};
use actors::remote::{ClusterTransport, Inbound, PeerId, PeerTransport, Settings};
use actors::router::Router;
use actors::slots::{self, Slots};
use actors::system::{Gate, System};
use protocol::jobs::Worker;
use protocol::nodes::{LABEL_CHARS_MAX, LABELS_MAX, LifeId, Map, Registration, WEIGHT_MAX};
use protocol::{ClusterId, Digest, GroupId, Name, NodeId};
use raft::Host;
use raft::network::{Class, Listener, Peers, Services};
use raft::node::{Damage, HostError, Storage};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tracing::{error, info};

use crate::config::{self, Config};
use crate::identity::{self, NodeFile};

mod doors;
mod entry;
mod log;

use doors::Doors;
pub(crate) use entry::was_member;
use entry::{Asked, Member};
use log::{Log, Lost};

/// Threads for Raft, the peer port and nothing else: one for two cores, and at most so many.
const RAFT_THREADS_MAX: usize = 2;

/// What is to be started.
#[derive(Debug)]
pub struct Plan {
    pub config: Config,
    pub data: PathBuf,
    pub join: Option<Join>,
    /// The cluster that the directory must belong to; nothing else is started.
    pub cluster: Option<ClusterId>,
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
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let built = tokio::runtime::Builder::new_multi_thread()
            .worker_threads((cores / 2).clamp(1, RAFT_THREADS_MAX))
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
    let Plan { config, data, join, cluster, dial } = plan;
    make_dir(&data)?;
    let log = Log::open(&data).await?;
    let asked = Asked { data: &data, used: log.is_used(), join, cluster };
    let term = Duration::from_secs(u64::from(config.node.certificate_s));
    // Before anything listens: a process that may not be this node must not be taken for it.
    let known = entry::resume(&asked, term, &dial).await?;
    let http = bind(&config.node.http).await?;
    let peer = bind(&config.node.peer).await?;
    let secret = identity::signing_secret(&data);
    let secret = secret.map_err(|error| BootError::Refused(error.to_string()))?;
    let mut registration = registration(&config, &http, &peer, &secret)?;
    let (lost, member) = match known {
        Some(member) => (log.lost(&data, &member.file), member),
        None => (Lost::Nothing, entry::enter(&asked, term, &registration).await?),
    };
    member.stands_in(&mut registration);
    let Member { mut file, trust } = member;
    file.write(&data).map_err(|error| BootError::Refused(error.to_string()))?;
    let identity = trust.identity().clone();
    let raft = RaftThreads::start()?;
    raft.handle().spawn(Arc::clone(&trust).keep_renewed());
    let peers = Peers::new(Arc::clone(&trust), dial);

    let doors = Doors::default();
    let services = Services {
        raft: Arc::new(doors.raft.clone()),
        bulk: Arc::new(doors.bulk.clone()),
        actors: doors.actors(),
        alive: doors.alive(),
    };
    raft.handle().spawn(Listener::new(peer, trust, services).run());

    let host = open_host(&config, &data, log, lost, &mut file, peers, raft.handle()).await?;
    doors.raft.set(Arc::clone(&host));
    let cookie = file.cookie().ok_or_else(|| failed("node.json has no cookie"))?;
    entry::settle(&host, file, &data, &registration).await?;

    let blobs = Blobs::open(&data.join("blobs"), Arc::clone(&host));
    let blobs = blobs.map_err(no_blobs)?;
    doors.bulk.set(blobs.service());
    let slots = start_slots(&config).await?;
    let settings = models_of(&config, &data, &slots);
    let models = Models::open(Arc::clone(&host), blobs.clone(), settings);
    let models = models.map_err(|cause| BootError::Io { what: "models".to_owned(), cause })?;
    let me = Worker { node: identity.node, incarnation: identity.start.incarnation };
    let router = Router::new(Arc::clone(&host));
    let signer = Signer::new(identity.node, identity.cluster, &secret);
    let backups = Backups::new(Arc::clone(&host), blobs.clone(), backup_settings(&config));
    tokio::spawn(backups.clone().schedule(identity::backup_id));
    let workers = Workers::new(me);
    let cache = Cache::start(identity.node, cache_settings(&config, &data), workers.clone());
    let cache = cache.map_err(|cause| BootError::Io { what: "cache".to_owned(), cause })?;
    let (engines, stores) = ((slots, models), (blobs, cache));
    let host_of = Arc::clone(&host);
    let system = System::start(host_of, router, workers, engines, stores, signer, backups);
    let system = system.await.map_err(|error| failed(&error.to_string()))?;
    let transport = connect(&host, &system, &doors, me, cookie).await?;
    let replace_after = Some(config.cluster.replace_after_s).filter(|&seconds| seconds > 0);
    let replace_after = replace_after.map(|seconds| Duration::from_secs(u64::from(seconds)));
    raft.handle().spawn(raft::members::run(Arc::clone(&host), system.outlook(), replace_after));
    info!(node = %identity.node, incarnation = me.incarnation, "node started");
    Ok(Node { config, host, system, transport, http, registration, _raft: raft })
}

/// Opens the log and what it knows; for what is lost of it the cluster gives new replicas.
async fn open_host(
    config: &Config,
    data: &Path,
    log: Log,
    lost: Lost,
    file: &mut NodeFile,
    peers: Arc<Peers>,
    runtime: Handle,
) -> Result<Arc<Host>, BootError> {
    let save =
        |file: &NodeFile| file.write(data).map_err(|error| BootError::Refused(error.to_string()));
    let (wal, found) = match &lost {
        Lost::Nothing | Lost::Meta => log.sound()?,
        Lost::All(why) => {
            let replica = log::readmit(&peers, file, why).await?;
            let incarnation = peers.identity().start.incarnation;
            let log = log.anew(data, incarnation, replica).await?;
            save(file)?;
            raft::failpoint::hit("readmit-saved");
            log
        }
    };
    let storage = storage(config, data);
    let clock = actors::clock::wall;
    let host = Host::open(wal, found.groups, Arc::clone(&peers), runtime, storage, clock);
    let host = host.await.map_err(not_hosted)?;
    let meta = host.damage().into_iter().find(|damage| damage.group == Some(GroupId::META));
    let without_map = match lost {
        Lost::All(why) => {
            host.note_damage(Damage { group: None, why });
            None
        }
        Lost::Meta => {
            let why = "the cluster map here was found damaged by an earlier start".to_owned();
            host.note_damage(Damage { group: Some(GroupId::META), why: why.clone() });
            Some(why)
        }
        Lost::Nothing => meta.map(|damage| damage.why),
    };
    if let Some(why) = without_map {
        log::readmit(&peers, file, &why).await?;
        save(file)?;
    }
    Ok(host)
}

fn storage(config: &Config, data: &Path) -> Storage {
    let storage = &config.storage;
    Storage {
        data: data.to_owned(),
        log_bytes: u64::from(storage.checkpoint_log_mib.max(1)) << 20,
        every: Duration::from_secs(u64::from(storage.checkpoint_s.max(1))),
        keep_entries: u64::from(storage.keep_entries),
    }
}

fn cache_settings(config: &Config, data: &Path) -> cache::Settings {
    let config::Cache { memory_mb, disk_mb, ttl_s } = config.cache;
    cache::Settings {
        memory_bytes: u64::from(memory_mb) << 20,
        disk_bytes: u64::from(disk_mb) << 20,
        ttl: Duration::from_secs(u64::from(ttl_s)),
        dir: data.join("cache"),
    }
}

fn no_blobs(error: OpenError) -> BootError {
    match error {
        OpenError::Io(cause) => BootError::Io { what: "blobs".to_owned(), cause },
        OpenError::Version { .. } => BootError::Refused(error.to_string()),
    }
}

fn not_hosted(error: HostError) -> BootError {
    if error.is_of_another_release() {
        return BootError::Refused(error.to_string());
    }
    failed(&error.to_string())
}

fn backup_settings(config: &Config) -> backup::Settings {
    let config::Backup { place, every_s, keep, .. } = &config.backup;
    if let Some(Err(why)) = place.as_ref().map(Place::check) {
        // The file of credentials may yet come, and clients should not wait for it.
        error!(%why, "backups cannot be made");
    }
    backup::Settings {
        to: place.clone(),
        every: Some(Duration::from_secs(u64::from(*every_s))).filter(|every| !every.is_zero()),
        keep: *keep as usize,
    }
}

fn failed(what: &str) -> BootError {
    BootError::Failed(what.to_owned())
}

fn make_dir(data: &Path) -> Result<(), BootError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(|cause| BootError::Io { what: data.display().to_string(), cause })
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
        incarnation: 0,
        life: LifeId::default(),
        pin: Digest([0; 32]),
        http: format!("http://{}", told(&config.node.advertise_http, http)?),
        peer: told(&config.node.advertise_peer, peer)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        wire: protocol::versions::Wire::OURS,
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

fn models_of(config: &Config, data: &Path, slots: &Slots) -> models::Settings {
    let inference = &config.inference;
    let library = Some(PathBuf::from(&inference.library));
    let launch = Launch {
        // The very program that runs, though its file may have been replaced.
        command: vec!["/proc/self/exe".into(), "model-worker".into()],
        engine: inference.engine,
        library: library.filter(|path| !path.as_os_str().is_empty()),
        batch_limit: Duration::from_secs(u64::from(inference.batch_limit_s.max(1))),
        batch_bytes: u64::from(inference.batch_mib.max(1)) << 20,
    };
    models::Settings {
        dir: data.join("models"),
        launch,
        slots: slots.settings().slots,
        memory_bytes: u64::from(inference.models_mib) << 20,
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
    me: Worker,
    cookie: [u8; 32],
) -> Result<ClusterTransport, BootError> {
    let peers = Arc::clone(host.peers());
    let dial: actors::remote::Dial = Arc::new(move |node| {
        let peers = Arc::clone(&peers);
        Box::pin(async move { doors::wire(peers.dial(NodeId(node), Class::Actor).await?) })
    });
    let me = PeerId { node: me.node.0, incarnation: me.incarnation };
    // The second factor: certificates have been checked before a stream comes here.
    let cookie = actors::blobs::sha256(&cookie).to_string();
    let gate: Arc<dyn Inbound> = Arc::new(Gate::of(system));
    let started = ClusterTransport::start(Settings { me, cookie, dial }, gate).await;
    let transport = started.map_err(|error| failed(&error.to_string()))?;
    let mut map = host.map();
    want_peers(&transport, host.node(), map.borrow_and_update().as_deref());
    // Whoever is wanted may come in now, and some wait at the door.
    doors.open_to_actors(transport.clone());
    let shared: Arc<dyn PeerTransport> = Arc::new(transport.clone());
    system.connect(&shared);
    let (follower, me) = (transport.clone(), host.node());
    tokio::spawn(async move {
        while map.changed().await.is_ok() {
            want_peers(&follower, me, map.borrow_and_update().as_deref());
        }
    });
    Ok(transport)
}

fn want_peers(transport: &ClusterTransport, me: NodeId, map: Option<&Map>) {
    let Some(map) = map else { return };
    let others = map.nodes.values().filter(|node| node.id != me);
    let boots = others.map(|node| (node.id.0, node.registration.incarnation));
    transport.set_peers(boots.collect());
}
