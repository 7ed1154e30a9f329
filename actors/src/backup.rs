//! Backups of the whole cluster: made while it works, one at a time, by the node that leads the meta
//! group; listed by any node, from the place where they are.
//!
//! Invariant: a manifest is written when everything that it names was written and read back, by a node
//! that led the meta group at that moment.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use protocol::{BackupId, ClusterId, GroupId, NodeId, codec};
use raft::Host;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

mod credentials;
mod https;
mod manifest;
mod names;
mod place;
mod prune;
mod run;
mod source;
mod store;

pub use credentials::CredentialsError;
pub use https::{ClientFault, Fault};
pub use manifest::{Group, Manifest};
pub use place::{Bucket, Place, PlaceError, S3};
pub use source::{Named, Source, SourceError};
pub use store::StoreError;

use crate::blobs::Blobs;
use crate::clock;
use crate::figures::figures;
use crate::remote::{Envelope, PeerTransport, ReplyFrame};
use run::RunError;
use store::Store;

/// What one node asks another about backups.
pub(crate) const KIND_BACKUP: u16 = 7;
/// How long the leader of the meta group may take to say what it does.
const ASK_TIMEOUT_MS: u32 = 2_000;
/// Backups that are listed, the newest.
pub const LISTED_MAX: usize = 1_000;
/// The longest reason of a failure.
const REASON_BYTES_MAX: u64 = 4 << 10;
/// The schedule is looked at so many times in an interval, within these bounds.
const LOOKS: u32 = 10;
const LOOK_MIN: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(60);

/// Where, how often, and how many.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `None`: there are no backups.
    pub to: Option<Place>,
    /// `None`: only when somebody asks.
    pub every: Option<Duration>,
    /// Complete backups that are kept; 0: all.
    pub keep: usize,
}

/// Why nothing is known of backups, or none is begun.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("backup.to is not set")]
    NoPlace,
    #[error("{0} is being made")]
    Busy(BackupId),
    #[error("no node leads the cluster map, or it does not answer")]
    NoLeader,
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Source(error.into())
    }
}

/// How a backup stands.
#[derive(Debug, Clone)]
pub enum Standing {
    Running,
    Complete(Box<Manifest>),
    Failed(String),
    /// Begun and not ended, and nobody works on it: its node died.
    CutOff,
    /// Its manifest cannot be read.
    Damaged(String),
}

/// The backups of the cluster, as this node makes and finds them. Clones are the same.
#[derive(Debug, Clone)]
pub struct Backups {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    host: Arc<Host>,
    blobs: Blobs,
    settings: Settings,
    transport: OnceLock<Arc<dyn PeerTransport>>,
    running: Mutex<Option<BackupId>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "backups of {}", self.host.node())
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Ask {
    Start(BackupId),
    Running,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Answer {
    /// This one is being made, or none.
    Running(Option<BackupId>),
    NoPlace,
    NotLeader,
}

impl Backups {
    /// Nothing is made before [`Self::schedule`] or [`Self::start`].
    #[must_use]
    pub fn new(host: Arc<Host>, blobs: Blobs, settings: Settings) -> Self {
        let (transport, running) = (OnceLock::new(), Mutex::default());
        Self { inner: Arc::new(Inner { host, blobs, settings, transport, running }) }
    }

    pub(crate) fn set_transport(&self, transport: Arc<dyn PeerTransport>) {
        // Set once, at boot.
        let _ = self.inner.transport.set(transport);
    }

    /// Begins a backup on the node that leads the meta group.
    pub async fn start(&self, backup: BackupId) -> Result<(), BackupError> {
        match self.to_leader(Ask::Start(backup)).await? {
            Answer::Running(Some(running)) if running == backup => Ok(()),
            Answer::Running(Some(other)) => Err(BackupError::Busy(other)),
            Answer::NoPlace => Err(BackupError::NoPlace),
            Answer::Running(None) | Answer::NotLeader => Err(BackupError::NoLeader),
        }
    }

    /// The one that is being made, if one is.
    pub async fn running(&self) -> Result<Option<BackupId>, BackupError> {
        match self.to_leader(Ask::Running).await? {
            Answer::Running(running) => Ok(running),
            Answer::NoPlace => Err(BackupError::NoPlace),
            Answer::NotLeader => Err(BackupError::NoLeader),
        }
    }

    /// The newest backups, newest first.
    pub async fn all(&self) -> Result<Vec<(BackupId, Standing)>, BackupError> {
        let (store, cluster) = (self.store().await?, self.cluster()?);
        let running = self.running().await?;
        let mut found = source::backups(&store, cluster).await?;
        found.extend(running.filter(|running| !found.contains(running)));
        let mut all = Vec::new();
        for backup in found.into_iter().rev().take(LISTED_MAX) {
            if let Some(standing) = standing(&store, cluster, backup, running).await? {
                all.push((backup, standing));
            }
        }
        Ok(all)
    }

    /// How one stands; `None` if there is no such backup.
    pub async fn get(&self, backup: BackupId) -> Result<Option<Standing>, BackupError> {
        let (store, cluster) = (self.store().await?, self.cluster()?);
        // Before the place is looked at: one that ends in between has left its manifest by then.
        let running = self.running().await?;
        Ok(standing(&store, cluster, backup, running).await?)
    }

    async fn store(&self) -> Result<Store, BackupError> {
        let place = self.inner.settings.to.as_ref().ok_or(BackupError::NoPlace)?;
        Ok(Store::open(place).await?)
    }

    fn cluster(&self) -> Result<ClusterId, BackupError> {
        let map = self.inner.host.map().borrow().clone();
        map.map(|map| map.cluster).ok_or(BackupError::NoLeader)
    }

    async fn to_leader(&self, ask: Ask) -> Result<Answer, BackupError> {
        let meta = self.inner.host.group(GroupId::META).ok_or(BackupError::NoLeader)?;
        let leader = meta.leader().ok_or(BackupError::NoLeader)?;
        if leader == self.inner.host.node() {
            return Ok(self.answer(ask));
        }
        self.ask_node(leader, ask).await.ok_or(BackupError::NoLeader)
    }

    async fn ask_node(&self, node: NodeId, ask: Ask) -> Option<Answer> {
        let payload = Bytes::from(codec::encode(&ask).ok()?);
        let mut envelope = Envelope::new(KIND_BACKUP, 0, payload);
        envelope.deadline_remaining_ms = ASK_TIMEOUT_MS;
        match self.inner.transport.get()?.call(node.0, envelope).await {
            Ok(ReplyFrame::Ok(answer)) => codec::decode(&answer).ok(),
            Ok(_) | Err(_) => None,
        }
    }

    /// What a peer asked.
    pub(crate) fn serve(&self, payload: &[u8]) -> Option<Vec<u8>> {
        codec::encode(&self.answer(codec::decode(payload).ok()?)).ok()
    }

    fn answer(&self, ask: Ask) -> Answer {
        if !self.leads() {
            return Answer::NotLeader;
        }
        match ask {
            Ask::Start(backup) if self.inner.settings.to.is_some() => {
                Answer::Running(Some(self.begin(backup)))
            }
            Ask::Running if self.inner.settings.to.is_some() => {
                Answer::Running(*self.inner.running())
            }
            Ask::Start(_) | Ask::Running => Answer::NoPlace,
        }
    }

    fn leads(&self) -> bool {
        self.inner.host.group(GroupId::META).is_some_and(|meta| meta.leads())
    }

    /// Begins a backup unless one is being made; gives the one that is made now.
    fn begin(&self, backup: BackupId) -> BackupId {
        let mut running = self.inner.running();
        if let Some(running) = *running {
            return running;
        }
        *running = Some(backup);
        let backups = self.clone();
        tokio::spawn(async move {
            let made = tokio::spawn(backups.clone().make(backup)).await;
            if let Err(panicked) = made {
                error!(%backup, %panicked, "backup not made");
                figures().backup.failures.inc();
            }
            *backups.inner.running() = None;
        });
        backup
    }

    async fn make(self, backup: BackupId) {
        let (began, failed) = (Instant::now(), &figures().backup.failures);
        info!(%backup, "backup begun");
        let store = match self.store().await {
            Ok(store) => store,
            Err(why) => {
                failed.inc();
                return error!(%backup, %why, "backup not made");
            }
        };
        match self.run(&store, backup).await {
            Ok(manifest) => {
                let (bytes, blobs, took) = (manifest.bytes(), manifest.blobs(), began.elapsed());
                figures().backup.succeeded(backup, &manifest, took);
                info!(%backup, bytes, blobs, ?took, "backup complete");
                if let Err(why) = self.prune(&store).await {
                    warn!(%backup, %why, "old backups not removed");
                }
            }
            Err(why) => {
                failed.inc();
                error!(%backup, %why, "backup not made");
                self.tell_why(&store, backup, &why).await;
            }
        }
    }

    /// Only while this node leads the meta group, so that there is one at a time in the cluster.
    async fn run(&self, store: &Store, backup: BackupId) -> Result<Manifest, RunError> {
        let meta = self.inner.host.group(GroupId::META).ok_or(RunError::NotLeader)?;
        let mut leadership = meta.leadership();
        let owned = leadership.borrow().owned.ok_or(RunError::NotLeader)?;
        let lost = async {
            // An error means that the group is gone from here.
            let _ = leadership.wait_for(|now| now.owned != Some(owned)).await;
        };
        tokio::select! {
            made = run::run(&self.inner, store, backup) => made,
            () = lost => Err(RunError::NotLeader),
        }
    }

    async fn prune(&self, store: &Store) -> Result<(), BackupError> {
        let map = self.inner.host.map().borrow().clone().ok_or(BackupError::NoLeader)?;
        Ok(prune::prune(store, &map, self.inner.settings.keep).await?)
    }

    async fn tell_why(&self, store: &Store, backup: BackupId, why: &RunError) {
        let Ok(cluster) = self.cluster() else { return };
        let mut text = why.to_string();
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX as usize));
        if let Err(error) = store.put(&names::failure(cluster, backup), Bytes::from(text)).await {
            // It will be listed as cut off.
            warn!(%backup, %error, "the reason of a failure is not written");
        }
    }

    /// Makes backups when it is time, while this node leads the meta group.
    pub async fn schedule(self, new_id: fn() -> BackupId) {
        let Some(every) = self.inner.settings.every.filter(|_| self.inner.settings.to.is_some())
        else {
            return;
        };
        let mut looks = tokio::time::interval((every / LOOKS).clamp(LOOK_MIN, LOOK_MAX));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if !self.leads() || self.inner.running().is_some() {
                continue;
            }
            match self.newest().await {
                Ok(Some(began_ms)) if wall_ms() < began_ms + every.as_millis() as u64 => {}
                Ok(_) => drop(self.begin(new_id())),
                Err(error) => {
                    // Whether one is due is not known; that none can be made is.
                    figures().backup.failures.inc();
                    warn!(%error, "the place of backups cannot be read");
                }
            }
        }
    }

    /// When the newest complete backup was begun.
    async fn newest(&self) -> Result<Option<u64>, BackupError> {
        let (store, cluster) = (self.store().await?, self.cluster()?);
        for backup in source::backups(&store, cluster).await?.into_iter().rev() {
            if store.size(&names::manifest(cluster, backup)).await?.is_some() {
                let began_ms = began_ms(backup);
                figures().backup.seen(began_ms);
                return Ok(Some(began_ms));
            }
        }
        Ok(None)
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, Option<BackupId>> {
        self.running.lock().unwrap_or_else(|_| std::process::abort())
    }
}

/// A version 7 UUID begins with the milliseconds since 1970.
#[must_use]
pub fn began_ms(backup: BackupId) -> u64 {
    (backup.0 >> 80) as u64
}

fn wall_ms() -> u64 {
    clock::wall().0
}

async fn standing(
    store: &Store,
    cluster: ClusterId,
    backup: BackupId,
    running: Option<BackupId>,
) -> Result<Option<Standing>, StoreError> {
    match source::manifest(store, cluster, backup).await {
        Ok(manifest) => return Ok(Some(Standing::Complete(Box::new(manifest)))),
        Err(SourceError::Store(StoreError::Gone(_))) => {}
        Err(SourceError::Store(error)) => return Err(error),
        Err(error) => return Ok(Some(Standing::Damaged(error.to_string()))),
    }
    if running == Some(backup) {
        return Ok(Some(Standing::Running));
    }
    match store.get(&names::failure(cluster, backup), REASON_BYTES_MAX).await {
        Ok(why) => return Ok(Some(Standing::Failed(String::from_utf8_lossy(&why).into_owned()))),
        Err(StoreError::Gone(_)) => {}
        Err(error) => return Err(error),
    }
    let begun = source::backups(store, cluster).await?.contains(&backup);
    Ok(begun.then_some(Standing::CutOff))
}
