//! A backup that is read: found, checked against its manifest, handed out state by state.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use protocol::jobs::{Blob, TaskState};
use protocol::{BackupId, ClusterId, Digest, GroupId, TenantId};
use raft::backup::{FileError, Label, Reading, State};
use raft::machine::Machine;
use tokio::sync::mpsc;

use super::manifest::{self, Manifest, ManifestError};
use super::names;
use super::place::Place;
use super::store::{Store, StoreError};
use crate::blobs::{BLOB_BYTES_MAX, sha256};

/// Blobs that are read at a time.
const BLOBS_MAX: usize = 4;
/// Pieces of a file that wait to be taken.
const PIECES_MAX: usize = 4;
/// The longest list of blobs: sixteen million names.
const LIST_BYTES_MAX: u64 = 2 << 30;

/// Why something is not a backup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{name}: {cause}")]
    Manifest { name: String, cause: ManifestError },
    #[error("{name}: {cause}")]
    File { name: String, cause: FileError },
    /// Whole by itself, and not what the manifest says.
    #[error("{name} is not what the manifest says: {what}")]
    Other { name: String, what: String },
    #[error("{0}")]
    None(String),
    #[error("reading broke off: {0}")]
    Broken(String),
}

impl SourceError {
    /// Whether what was asked for is not a backup that can be used; else it could not be read.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Manifest { .. } | Self::File { .. } | Self::Other { .. } | Self::None(_) => true,
            Self::Store(error) => {
                matches!(error, StoreError::Gone(_) | StoreError::TooLong { .. })
            }
            Self::Broken(_) => false,
        }
    }
}

/// A blob of a tenant.
pub type Named = BTreeSet<(TenantId, Digest, u64)>;

/// A complete backup.
#[derive(Debug, Clone)]
pub struct Source {
    store: Store,
    manifest: Manifest,
}

impl Source {
    /// The backup of this name at a place, or the newest; with a cluster only among its own.
    pub async fn find(
        place: &Place,
        backup: Option<BackupId>,
        cluster: Option<ClusterId>,
    ) -> Result<Self, SourceError> {
        let store = Store::open(place).await?;
        let mut found = Vec::new();
        for folder in store.folders("").await? {
            let Ok(id) = ClusterId::parse(&folder) else { continue };
            if cluster.is_some_and(|cluster| cluster != id) {
                continue;
            }
            for made in backups(&store, id).await? {
                if backup.is_none_or(|backup| backup == made) && is_whole(&store, id, made).await? {
                    found.push((made, id));
                }
            }
        }
        let clusters: BTreeSet<ClusterId> = found.iter().map(|&(_, cluster)| cluster).collect();
        if clusters.len() > 1 {
            let what = format!("{place} has backups of {} clusters: name one", clusters.len());
            return Err(SourceError::None(what));
        }
        let Some(&(made, id)) = found.iter().max() else {
            let what = backup.map_or_else(|| "a backup".to_owned(), |backup| backup.to_string());
            return Err(SourceError::None(format!("{place} has no complete {what}")));
        };
        let manifest = manifest(&store, id, made).await?;
        Ok(Self { store, manifest })
    }

    pub(super) fn new(store: Store, manifest: Manifest) -> Self {
        Self { store, manifest }
    }

    /// What the backup consists of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads everything, and compares it with the manifest and with itself.
    pub async fn verify(&self) -> Result<(), SourceError> {
        let mut placed = BTreeSet::new();
        for group in &self.manifest.groups {
            let state = self.state(group).await?;
            let named = named(state.machine());
            if let Some(map) = state.map() {
                placed = map.groups.keys().map(|group| group.0).collect();
                if map.cluster != self.manifest.cluster {
                    let what = format!("its cluster map is of {}", map.cluster);
                    let name = self.name_of(group);
                    return Err(SourceError::Other { name, what });
                }
            }
            drop(state);
            let listed = self.blobs(group).await?;
            if listed != named {
                let what = "other blobs are named than the state has".to_owned();
                return Err(SourceError::Other { name: self.list_of(group), what });
            }
            let read = stream::iter(listed).map(|(tenant, digest, bytes)| async move {
                self.blob(tenant, Blob { sha256: digest, bytes }).await.map(drop)
            });
            read.buffer_unordered(BLOBS_MAX).try_collect::<()>().await?;
        }
        let groups: BTreeSet<u32> = self.manifest.groups.iter().map(|group| group.group).collect();
        if groups != placed {
            let name = names::manifest(self.manifest.cluster, self.manifest.backup);
            let what = format!("it has groups {groups:?}, the cluster map {placed:?}");
            return Err(SourceError::Other { name, what });
        }
        Ok(())
    }

    /// The state of a group, read back and compared with the manifest.
    pub async fn state(&self, group: &manifest::Group) -> Result<State, SourceError> {
        let label = self.label(group);
        let state = read_state(&self.store, label).await?;
        let (found, wanted) = (state.summary(), group.summary());
        if found != wanted {
            let what = format!("{found:?} instead of {wanted:?}");
            return Err(SourceError::Other { name: self.name_of(group), what });
        }
        Ok(state)
    }

    /// The blobs that the state of a group names.
    pub async fn blobs(&self, group: &manifest::Group) -> Result<Named, SourceError> {
        let name = self.list_of(group);
        let text = self.store.get(&name, LIST_BYTES_MAX).await?;
        let other = |what: &str| SourceError::Other { name: name.clone(), what: what.to_owned() };
        if sha256(&text) != group.blobs.sha256 {
            return Err(other("its SHA-256 is another"));
        }
        let listed = read_list(&text).ok_or_else(|| other("it is no list of blobs"))?;
        let bytes: u64 = listed.iter().map(|(_, _, bytes)| bytes).sum();
        if (listed.len() as u64, bytes) != (group.blobs.count, group.blobs.bytes) {
            return Err(other("it is of other length"));
        }
        Ok(listed)
    }

    /// The content of a blob, checked against its name.
    pub async fn blob(&self, tenant: TenantId, blob: Blob) -> Result<Bytes, SourceError> {
        read_blob(&self.store, self.manifest.cluster, tenant, blob).await
    }

    fn label(&self, group: &manifest::Group) -> Label {
        let Manifest { cluster, backup, .. } = self.manifest;
        Label { cluster, backup, group: GroupId(group.group) }
    }

    fn name_of(&self, group: &manifest::Group) -> String {
        names::group(self.label(group))
    }

    fn list_of(&self, group: &manifest::Group) -> String {
        names::list(self.label(group))
    }
}

/// Backups of a cluster, complete or not, oldest first.
pub(super) async fn backups(
    store: &Store,
    cluster: ClusterId,
) -> Result<Vec<BackupId>, StoreError> {
    let folders = store.folders(&cluster.to_string()).await?;
    Ok(folders.iter().filter_map(|folder| BackupId::parse(folder).ok()).collect())
}

async fn is_whole(store: &Store, cluster: ClusterId, backup: BackupId) -> Result<bool, StoreError> {
    Ok(store.size(&names::manifest(cluster, backup)).await?.is_some())
}

/// The manifest of a backup, which must be where it belongs.
pub(super) async fn manifest(
    store: &Store,
    cluster: ClusterId,
    backup: BackupId,
) -> Result<Manifest, SourceError> {
    let name = names::manifest(cluster, backup);
    let bytes = store.get(&name, manifest::BYTES_MAX).await?;
    let manifest = match Manifest::open(&bytes) {
        Ok(manifest) => manifest,
        Err(cause) => return Err(SourceError::Manifest { name, cause }),
    };
    if (manifest.cluster, manifest.backup) != (cluster, backup) {
        let what = format!("it is of {} of {}", manifest.backup, manifest.cluster);
        return Err(SourceError::Other { name, what });
    }
    Ok(manifest)
}

/// The state in the file of a label. As much memory as the group itself takes is needed for it.
pub(super) async fn read_state(store: &Store, label: Label) -> Result<State, SourceError> {
    let name = names::group(label);
    let mut pieces = store.read(&name).await?;
    let (send, mut taken) = mpsc::channel::<Bytes>(PIECES_MAX);
    let reading = tokio::task::spawn_blocking(move || {
        let mut reading = Reading::new(label);
        while let Some(piece) = taken.blocking_recv() {
            reading.take(&piece)?;
        }
        reading.finish()
    });
    while let Some(piece) = pieces.next().await {
        // Whoever reads has seen enough, and says why.
        if send.send(piece?).await.is_err() {
            break;
        }
    }
    drop(send);
    let read = reading.await.map_err(|error| SourceError::Broken(error.to_string()))?;
    read.map_err(|cause| SourceError::File { name, cause })
}

pub(super) async fn read_blob(
    store: &Store,
    cluster: ClusterId,
    tenant: TenantId,
    blob: Blob,
) -> Result<Bytes, SourceError> {
    let name = names::blob(cluster, tenant, blob.sha256);
    let content = store.get(&name, BLOB_BYTES_MAX as u64).await?;
    let sound = content.len() as u64 == blob.bytes && sha256(&content) == blob.sha256;
    if !sound {
        let cause = FileError::Damaged("its SHA-256 is another".to_owned());
        return Err(SourceError::File { name, cause });
    }
    Ok(content)
}

/// The blobs that a state names.
pub(super) fn named(machine: &Machine) -> Named {
    let mut named = Named::new();
    let models = machine.nodes.map().into_iter().flat_map(|map| map.models.parts());
    named.extend(models.map(|part| (TenantId::CLUSTER, part.sha256, part.bytes)));
    for (tenant, job) in machine.jobs.beyond(None) {
        for task in &job.tasks {
            named.insert((tenant, task.input.sha256, task.input.bytes));
            if let TaskState::Done(result) = &task.state {
                named.insert((tenant, result.output.sha256, result.output.bytes));
            }
        }
    }
    named
}

/// One line for each: tenant, SHA-256, bytes.
pub(super) fn write_list(named: &Named) -> Vec<u8> {
    let lines = named.iter().map(|(tenant, digest, bytes)| format!("{tenant} {digest} {bytes}\n"));
    lines.collect::<String>().into_bytes()
}

pub(super) fn read_list(text: &[u8]) -> Option<Named> {
    let mut named = Named::new();
    for line in std::str::from_utf8(text).ok()?.lines() {
        let mut words = line.split(' ');
        let tenant = TenantId::parse(words.next()?).ok()?;
        let digest = Digest::parse(words.next()?).ok()?;
        named.insert((tenant, digest, words.next()?.parse().ok()?));
    }
    Some(named)
}
