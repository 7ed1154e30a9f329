//! One backup: each group in turn, then the manifest.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use protocol::jobs::Blob;
use protocol::{BackupId, GroupId, TenantId};
use raft::backup::{Label, WriteError, Writing, Written};
use raft::node::cut::CutError;
use tokio::time::Instant;
use tracing::{debug, info};

use super::manifest::{self, Manifest};
use super::source::{self, Named, Source, SourceError};
use super::store::{Store, StoreError};
use super::{Inner, names};
use crate::blobs::{BlobError, sha256};
use crate::clock;

/// A group whose replica was lost while it was read is read again so often.
const ATTEMPTS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// Blobs that are written at a time.
const BLOBS_MAX: usize = 4;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("the cluster map is not known yet")]
    NoMap,
    #[error("another node leads the cluster map now")]
    NotLeader,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Cut(#[from] CutError),
    #[error(transparent)]
    Write(#[from] WriteError),
    /// What was written cannot be read back.
    #[error("read back: {0}")]
    Source(#[from] SourceError),
    #[error("a blob of {tenant} that group {group} names: {cause}")]
    Blob { tenant: TenantId, group: GroupId, cause: BlobError },
    #[error("{0} changed while the backup was made")]
    Changed(String),
    #[error("the manifest does not encode: {0}")]
    Manifest(#[from] serde_json::Error),
}

impl RunError {
    /// Whether another replica may do better.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Cut(_) | Self::Write(WriteError::Cut(_)) | Self::Blob { .. })
    }
}

/// Makes a backup and verifies it. Whoever calls this leads the meta group.
pub(super) async fn run(
    inner: &Inner,
    store: &Store,
    backup: BackupId,
) -> Result<Manifest, RunError> {
    let started_at = clock::wall();
    let map = inner.host.map().borrow().clone().ok_or(RunError::NoMap)?;
    let mut groups = Vec::new();
    // The meta group last: no state before it knows of a node whose id its map could give again.
    let shards = map.groups.keys().filter(|group| !group.is_meta());
    for &group in shards.chain([&GroupId::META]) {
        let label = Label { cluster: map.cluster, backup, group };
        groups.push(back_up_with_patience(inner, store, label).await?);
        raft::failpoint::hit("backup-group");
    }
    groups.sort_by_key(|group| group.group);
    let manifest = Manifest {
        format: manifest::FORMAT,
        backup,
        cluster: map.cluster,
        node: inner.host.node(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: started_at.to_string(),
        finished_at: clock::wall().to_string(),
        groups,
    };
    still_there(store, &manifest).await?;
    let meta = inner.host.group(GroupId::META).ok_or(RunError::NotLeader)?;
    meta.confirm().await.map_err(|_| RunError::NotLeader)?;
    raft::failpoint::hit("backup-manifest");
    let name = names::manifest(map.cluster, backup);
    store.put(&name, Bytes::from(manifest.seal()?)).await?;
    let read = source::manifest(store, map.cluster, backup).await?;
    if read != manifest {
        return Err(RunError::Changed(name));
    }
    Ok(manifest)
}

async fn back_up_with_patience(
    inner: &Inner,
    store: &Store,
    label: Label,
) -> Result<manifest::Group, RunError> {
    let mut attempt = 1;
    loop {
        match back_up(inner, store, label).await {
            Err(error) if error.may_pass() && attempt < ATTEMPTS_MAX => {
                debug!(group = %label.group, %error, attempt, "the group is read again");
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

async fn back_up(inner: &Inner, store: &Store, label: Label) -> Result<manifest::Group, RunError> {
    let began = Instant::now();
    let (index, written) = write_state(inner, store, label).await?;
    let state = source::read_state(store, label).await?;
    let summary = state.summary();
    let found = Written { bytes: summary.bytes, sha256: summary.sha256 };
    if found != written || summary.index != index {
        return Err(RunError::Changed(names::group(label)));
    }
    let named = source::named(state.machine());
    drop(state);
    let blobs = back_up_blobs(inner, store, label, &named).await?;
    let (group, rows, took) = (label.group, summary.rows, began.elapsed());
    info!(%group, index, rows, bytes = summary.bytes, blobs = blobs.count, ?took, "group backed up");
    Ok(manifest::Group::new(group, &summary, blobs))
}

/// Writes the file of a group; gives the entry that it is of.
async fn write_state(
    inner: &Inner,
    store: &Store,
    label: Label,
) -> Result<(u64, Written), RunError> {
    let cut = inner.host.cut(label.group).await?;
    let index = cut.index();
    let name = names::group(label);
    let mut writing = Writing::new(label, cut);
    let mut file = store.writer(&name);
    while let Some(bytes) = writing.next().await? {
        inner.host.pace(bytes.len()).await;
        file.put(bytes).await?;
    }
    file.end().await?;
    let written = writing.written().ok_or(RunError::Changed(name))?;
    Ok((index, written))
}

async fn back_up_blobs(
    inner: &Inner,
    store: &Store,
    label: Label,
    named: &Named,
) -> Result<manifest::Blobs, RunError> {
    let written = stream::iter(named.iter().copied()).map(|(tenant, digest, bytes)| async move {
        back_up_blob(inner, store, label, tenant, Blob { sha256: digest, bytes }).await
    });
    written.buffer_unordered(BLOBS_MAX).try_collect::<()>().await?;
    let list = Bytes::from(source::write_list(named));
    let blobs = manifest::Blobs {
        count: named.len() as u64,
        bytes: named.iter().map(|(_, _, bytes)| bytes).sum(),
        sha256: sha256(&list),
    };
    let name = names::list(label);
    store.put(&name, list.clone()).await?;
    if store.get(&name, list.len() as u64).await? != list {
        return Err(RunError::Changed(name));
    }
    Ok(blobs)
}

/// One that an earlier backup has written is not written again; that one has verified it.
async fn back_up_blob(
    inner: &Inner,
    store: &Store,
    label: Label,
    tenant: TenantId,
    blob: Blob,
) -> Result<(), RunError> {
    let Label { cluster, group, .. } = label;
    let name = names::blob(cluster, tenant, blob.sha256);
    if store.size(&name).await? == Some(blob.bytes) {
        return Ok(());
    }
    let content = inner.blobs.get(group, tenant, blob).await;
    let content = content.map_err(|cause| RunError::Blob { tenant, group, cause })?;
    inner.host.pace(content.len()).await;
    store.put(&name, content).await?;
    source::read_blob(store, cluster, tenant, blob).await?;
    Ok(())
}

/// A last look: nobody has removed anything meanwhile.
async fn still_there(store: &Store, manifest: &Manifest) -> Result<(), RunError> {
    let Manifest { cluster, backup, .. } = *manifest;
    let source = Source::new(store.clone(), manifest.clone());
    for group in &manifest.groups {
        let name = names::group(Label { cluster, backup, group: GroupId(group.group) });
        if store.size(&name).await? != Some(group.bytes) {
            return Err(RunError::Changed(name));
        }
        let mut held: BTreeSet<String> = BTreeSet::new();
        let mut of = None;
        for (tenant, digest, _) in source.blobs(group).await? {
            if of != Some(tenant) {
                let folder = format!("{}/{tenant}", names::blobs(cluster));
                held = store.names(&folder).await?.into_iter().collect();
                of = Some(tenant);
            }
            if !held.contains(&digest.to_string()) {
                return Err(RunError::Changed(names::blob(cluster, tenant, digest)));
            }
        }
    }
    Ok(())
}
