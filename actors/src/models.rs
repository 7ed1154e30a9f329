//! Models of the registry on this node: fetched by hash, warm before they serve, chosen by document, and
//! let go when memory is short.
//!
//! Invariant: which version a document gets depends on the document and the cluster map alone, and the
//! result says which it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use protocol::Digest;
use protocol::models::{ModelId, Version};
use protocol::nodes::Map;
use raft::Host;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::blobs::Blobs;
use crate::figures::figures;
use crate::inference::process::{Launch, Process};
use crate::pepper::Pepper;
use crate::remote::PeerTransport;

mod fetch;
mod keep;
mod loaded;
mod warm;

pub use fetch::FetchError;
pub use loaded::{Loaded, Scored};
pub(crate) use warm::KIND_WARM;
pub use warm::NotWarm;

/// A version of a model.
pub type Key = (ModelId, u32);

/// How this node runs models.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where their files are; all of it can be made again.
    pub dir: PathBuf,
    pub launch: Launch,
    /// Processes of each version.
    pub slots: usize,
    /// Memory of all of them when they do nothing.
    pub memory_bytes: u64,
}

/// Why a version does not serve on this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    #[error("there is no such model or version")]
    Gone,
    #[error("no version of the model was chosen yet")]
    NoTarget,
    #[error("the version needs {needs} MiB of the {most} MiB for models, and all others serve")]
    NoRoom { needs: u64, most: u64 },
    #[error("not loaded: {0}")]
    Failed(String),
}

/// The models of this node. Clones share them.
#[derive(Clone)]
pub struct Models {
    inner: Arc<Inner>,
}

struct Inner {
    host: Arc<Host>,
    blobs: Blobs,
    settings: Settings,
    loaded: Mutex<BTreeMap<Key, Held>>,
    /// One is loaded at a time, so that memory is known.
    turn: tokio::sync::Mutex<()>,
    /// Why the last attempt at a version failed.
    failed: Mutex<BTreeMap<Key, String>>,
    transport: OnceLock<Arc<dyn PeerTransport>>,
}

struct Held {
    loaded: Arc<Loaded>,
    used: Instant,
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "models of {}", self.inner.host.node())
    }
}

impl Models {
    /// Those of a node that has just started: nothing is loaded.
    pub fn open(host: Arc<Host>, blobs: Blobs, settings: Settings) -> std::io::Result<Self> {
        fetch::clear(&settings.dir)?;
        let inner = Inner {
            host,
            blobs,
            settings,
            loaded: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            failed: Mutex::default(),
            transport: OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Looks after them from now on.
    pub(crate) fn start(&self, transport: &Arc<dyn PeerTransport>) {
        // Set once, at boot.
        let _ = self.inner.transport.set(Arc::clone(transport));
        tokio::spawn(keep::run(self.clone()));
    }

    /// The version that each text is for.
    pub fn choose(&self, model: ModelId, texts: &[String]) -> Result<Vec<Key>, NotReady> {
        let map = self.map().ok_or(NotReady::Gone)?;
        let (_, found) = map.models.find(model).ok_or(NotReady::Gone)?;
        let target = found.target.ok_or(NotReady::NoTarget)?;
        if target.canary.is_none() {
            return Ok(vec![(model, target.version); texts.len()]);
        }
        let pepper = Pepper::new(&map.secrets.pepper);
        let choose = |text: &String| (model, target.choose(draw(&pepper, model, text)));
        Ok(texts.iter().map(choose).collect())
    }

    /// A version, loaded and warm; loads it first where it is not.
    pub async fn ready(&self, key: Key) -> Result<Arc<Loaded>, NotReady> {
        if let Some(loaded) = self.held(key) {
            return Ok(loaded);
        }
        let _turn = self.inner.turn.lock().await;
        if let Some(loaded) = self.held(key) {
            return Ok(loaded);
        }
        let outcome = self.load(key).await;
        let mut failed = locked(&self.inner.failed);
        match &outcome {
            Ok(_) => drop(failed.remove(&key)),
            Err(why) => {
                warn!(model = %key.0, version = key.1, %why, "model not loaded");
                failed.insert(key, why.to_string());
            }
        }
        outcome
    }

    async fn load(&self, key: Key) -> Result<Arc<Loaded>, NotReady> {
        let map = self.map().ok_or(NotReady::Gone)?;
        let (name, model) = map.models.find(key.0).ok_or(NotReady::Gone)?;
        let version = model.versions.get(&key.1).ok_or(NotReady::Gone)?.clone();
        let began = Instant::now();
        let dir = self.fetched(&version).await.map_err(failed)?;
        let Settings { launch, slots, .. } = self.inner.settings.clone();
        // Before the first process: what was measured of others is known, of this one its weights are.
        self.make_room(key, version.artefact.bytes * slots as u64)?;
        let start = move || -> Result<Vec<Process>, String> {
            (0..slots.max(1)).map(|_| Process::start(&launch, &dir)).collect()
        };
        let started = tokio::task::spawn_blocking(start).await.map_err(failed)?;
        let processes = started.map_err(NotReady::Failed)?;
        self.make_room(key, processes.iter().map(Process::bytes).sum())?;
        let (launch, dir) = (self.inner.settings.launch.clone(), self.dir_of(&version));
        let loaded = Loaded::new(key, name, &version, launch, dir, processes);
        let loaded = Arc::new(loaded.ok_or_else(|| NotReady::Failed("no process".to_owned()))?);
        let held = Held { loaded: Arc::clone(&loaded), used: Instant::now() };
        let mut all = locked(&self.inner.loaded);
        all.insert(key, held);
        tell(&all);
        drop(all);
        figures().models.load_seconds.observe(began.elapsed().as_secs_f64());
        info!(model = %name, version = key.1, mib = loaded.bytes() >> 20, took = ?began.elapsed(), "model ready");
        Ok(loaded)
    }

    /// Lets go of those that were used longest ago and do not serve, until so much fits in.
    fn make_room(&self, key: Key, bytes: u64) -> Result<(), NotReady> {
        let most = self.inner.settings.memory_bytes;
        let serving = self.serving();
        loop {
            let mut loaded = locked(&self.inner.loaded);
            let taken: u64 = loaded.values().map(|held| held.loaded.bytes()).sum();
            if taken + bytes <= most {
                return Ok(());
            }
            let idle = loaded.iter().filter(|(held, _)| **held != key && !serving.contains(held));
            let oldest = idle.min_by_key(|(_, held)| held.used).map(|(&key, _)| key);
            let Some(oldest) = oldest else {
                return Err(NotReady::NoRoom { needs: bytes >> 20, most: most >> 20 });
            };
            // Its processes end when what runs on them is done.
            loaded.remove(&oldest);
            tell(&loaded);
            info!(model = %oldest.0, version = oldest.1, "model unloaded: others need the memory");
        }
    }

    /// The versions that aliases name.
    fn serving(&self) -> Vec<Key> {
        let Some(map) = self.map() else { return Vec::new() };
        let named = map.models.models.values().filter_map(|model| Some((model.id, model.target?)));
        named.flat_map(|(id, target)| target.versions().map(move |number| (id, number))).collect()
    }

    fn held(&self, key: Key) -> Option<Arc<Loaded>> {
        let mut loaded = locked(&self.inner.loaded);
        let held = loaded.get_mut(&key)?;
        held.used = Instant::now();
        Some(Arc::clone(&held.loaded))
    }

    fn map(&self) -> Option<Arc<Map>> {
        self.inner.host.map().borrow().clone()
    }

    fn dir_of(&self, version: &Version) -> PathBuf {
        dir_of(&self.inner.settings.dir, version.artefact.sha256)
    }

    /// Whether every version that serves is warm here, or why not.
    pub fn warm(&self) -> Result<(), String> {
        let missing = |key: &Key| !locked(&self.inner.loaded).contains_key(key);
        let Some((id, version)) = self.serving().into_iter().find(missing) else { return Ok(()) };
        let why = locked(&self.inner.failed).get(&(id, version)).cloned();
        let why = why.unwrap_or_else(|| "is being loaded".to_owned());
        Err(format!("version {version} of {id}: {why}"))
    }

    /// How long a document of a version takes here.
    pub(crate) fn pace(&self, key: Key) -> Option<Duration> {
        self.held(key).map(|loaded| loaded.pace())
    }
}

/// A number that is made of a document and the cluster's secret, so that nobody can choose the version
/// that a document gets.
fn draw(pepper: &Pepper, model: ModelId, text: &str) -> u64 {
    let Digest(digest) = pepper.digest("canary", &[&model.0.to_be_bytes(), text.as_bytes()]);
    digest[..8].iter().fold(0, |draw, &byte| draw << 8 | u64::from(byte))
}

fn dir_of(dir: &Path, sha256: Digest) -> PathBuf {
    dir.join(sha256.to_string())
}

/// Shows what is loaded.
fn tell(loaded: &BTreeMap<Key, Held>) {
    let bytes: u64 = loaded.values().map(|held| held.loaded.bytes()).sum();
    figures().models.loaded.set(loaded.len() as i64);
    figures().models.memory_bytes.set(bytes as i64);
}

fn failed(error: impl std::fmt::Display) -> NotReady {
    NotReady::Failed(error.to_string())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| std::process::abort())
}
