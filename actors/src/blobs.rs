//! Content by its SHA-256, on the nodes that hold the replicas of its tenant's shard.
//!
//! Written to all of them; done when a majority has synced it. Read from this node if it has it,
//! else from any other. Every name starts with the tenant. On disk many blobs share a file and a sync.
//! What is read there is told from what has rotted by a checksum, what comes from a peer by its name.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use protocol::jobs::Blob;
use protocol::{Digest, GroupId, NodeId, TenantId};
use raft::Host;
use raft::network::{Class, Kind, Peer, Service};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

mod disk;
mod index;
mod keeper;
mod pack;
#[cfg(test)]
mod tests;
mod writer;

use disk::Disk;
pub use disk::OpenError;
pub(crate) use keeper::Kept;

/// The largest blob: what one frame between nodes can carry, less its name.
pub const BLOB_BYTES_MAX: usize = raft::network::FRAME_BYTES_MAX - 1024;
/// How long a peer may take to sync or send one blob.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);
const NAME_BYTES: usize = 16 + 32;

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("blob of {bytes} bytes is larger than {BLOB_BYTES_MAX}")]
    TooLarge { bytes: usize },
    #[error("{synced} of {wanted} replicas have synced the blob")]
    NoQuorum { synced: usize, wanted: usize },
    #[error("no replica that answers has blob {0:?}")]
    Missing(Digest),
    #[error("the cluster map is not known yet")]
    NoMap,
    #[error("disk: {0}")]
    Disk(#[from] io::Error),
}

/// The blobs of this node, and the way to those of others.
#[derive(Clone, Debug)]
pub struct Blobs {
    host: Arc<Host>,
    disk: Disk,
}

impl Blobs {
    /// Blobs under `dir`, which is made when it is missing.
    pub fn open(dir: &Path, host: Arc<Host>) -> Result<Self, OpenError> {
        Ok(Self { host, disk: Disk::open(dir)? })
    }

    /// Stores content for a tenant; on return a majority of its shard's replicas has synced it.
    pub async fn put(
        &self,
        group: GroupId,
        tenant: TenantId,
        content: Bytes,
    ) -> Result<Blob, BlobError> {
        if content.len() > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge { bytes: content.len() });
        }
        let blob = Blob { sha256: sha256(&content), bytes: content.len() as u64 };
        let nodes = self.nodes(group)?;
        let wanted = nodes.len() / 2 + 1;
        let (synced, mut outcomes) = mpsc::channel(nodes.len().max(1));
        let alone = nodes == [self.host.node()];
        let message = if alone { Bytes::new() } else { message(tenant, blob.sha256, &content) };
        for node in nodes {
            let (blobs, synced) = (self.clone(), synced.clone());
            let (content, message) = (content.clone(), message.clone());
            tokio::spawn(async move {
                let stored = blobs.put_on(node, group, tenant, blob.sha256, content, message).await;
                // The writer may have its majority already; the copy is of use all the same.
                let _ = synced.send(stored).await;
            });
        }
        drop(synced);
        let mut count = 0;
        while let Some(stored) = outcomes.recv().await {
            count += usize::from(stored);
            if count == wanted {
                return Ok(blob);
            }
        }
        Err(BlobError::NoQuorum { synced: count, wanted })
    }

    async fn put_on(
        &self,
        node: NodeId,
        group: GroupId,
        tenant: TenantId,
        digest: Digest,
        content: Bytes,
        message: Bytes,
    ) -> bool {
        let stored = if node == self.host.node() {
            self.disk.write(tenant, digest, content).await.map_err(|error| error.to_string())
        } else {
            let peers = self.host.peers();
            let call = peers.call(node, Class::Bulk, Kind::BlobPut, group, message, PEER_TIMEOUT);
            call.await.map(drop).map_err(|error| error.to_string())
        };
        if let Err(error) = &stored {
            debug!(%node, error, "blob not stored");
        }
        stored.is_ok()
    }

    /// The content of a blob, checked against its name.
    pub async fn get(
        &self,
        group: GroupId,
        tenant: TenantId,
        blob: Blob,
    ) -> Result<Bytes, BlobError> {
        let mut damaged = false;
        match self.disk.read(tenant, blob.sha256).await {
            Ok(Some(content)) => return Ok(content),
            Ok(None) => {}
            Err(error) => {
                warn!(%error, "blob on this node is damaged or cannot be read");
                // One that could only not be read just now is still known.
                damaged = !self.disk.has(tenant, blob.sha256);
            }
        }
        let message = message(tenant, blob.sha256, &Bytes::new());
        for node in self.nodes(group)? {
            if node == self.host.node() {
                continue;
            }
            let peers = self.host.peers();
            let message = message.clone();
            let call = peers.call(node, Class::Bulk, Kind::BlobGet, group, message, PEER_TIMEOUT);
            match call.await {
                Ok(content) if sha256(&content) == blob.sha256 => {
                    if damaged {
                        self.mend(tenant, blob.sha256, content.clone()).await;
                    }
                    return Ok(content);
                }
                Ok(_) => warn!(%node, "a peer sent another blob than was asked for"),
                Err(error) => debug!(%node, %error, "blob not fetched"),
            }
        }
        Err(BlobError::Missing(blob.sha256))
    }

    async fn mend(&self, tenant: TenantId, digest: Digest, content: Bytes) {
        match self.disk.write(tenant, digest, content).await {
            Ok(()) => info!(blob = %digest, "blob mended"),
            Err(error) => warn!(%error, blob = %digest, "blob not mended"),
        }
    }

    /// Makes sure that this node has a blob; says whether it had to be brought.
    pub(crate) async fn keep(
        &self,
        group: GroupId,
        tenant: TenantId,
        blob: Blob,
    ) -> Result<bool, BlobError> {
        if self.disk.has(tenant, blob.sha256) {
            return Ok(false);
        }
        let content = self.get(group, tenant, blob).await?;
        self.disk.write(tenant, blob.sha256, content).await?;
        Ok(true)
    }

    /// Removes the blobs of a tenant on this node that are not named and older than `age`; how many.
    pub(crate) async fn sweep(
        &self,
        tenant: TenantId,
        named: BTreeSet<Digest>,
        age: Duration,
    ) -> io::Result<usize> {
        self.disk.sweep(tenant, named, age).await
    }

    /// What other nodes may ask of this one's blobs.
    #[must_use]
    pub fn service(&self) -> Arc<dyn Service> {
        Arc::new(BlobService { disk: self.disk.clone() })
    }

    fn nodes(&self, group: GroupId) -> Result<Vec<NodeId>, BlobError> {
        let map = self.host.map().borrow().clone().ok_or(BlobError::NoMap)?;
        let placement = map.groups.get(&group).ok_or(BlobError::NoMap)?;
        Ok(placement.replicas.values().copied().collect())
    }
}

/// The blobs of a directory whose node does not run.
#[derive(Debug)]
pub struct Shelf(Disk);

impl Shelf {
    /// Those under `dir`, which is made when it is missing.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        Disk::open(dir).map(Self)
    }

    /// Stores content that has this name; durable on return.
    pub async fn put(&self, tenant: TenantId, name: Digest, content: Bytes) -> io::Result<()> {
        self.0.write(tenant, name, content).await
    }
}

struct BlobService {
    disk: Disk,
}

impl Service for BlobService {
    fn call(
        &self,
        _from: Peer,
        kind: Kind,
        _group: GroupId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let disk = self.disk.clone();
        Box::pin(async move { serve(&disk, kind, body).await })
    }
}

async fn serve(disk: &Disk, kind: Kind, body: Bytes) -> Result<Bytes, String> {
    let (tenant, digest, content) = open_message(body).ok_or("not a blob message")?;
    match kind {
        Kind::BlobPut if sha256(&content) != digest => {
            Err("content does not match its name".into())
        }
        Kind::BlobPut => {
            let written = disk.write(tenant, digest, content).await;
            written.map(|()| Bytes::new()).map_err(|error| error.to_string())
        }
        Kind::BlobGet => {
            let content = disk.read(tenant, digest).await.map_err(|error| error.to_string())?;
            content.ok_or_else(|| "not here".to_owned())
        }
        Kind::Append
        | Kind::Vote
        | Kind::PreVote
        | Kind::TransferLeader
        | Kind::MetaPropose
        | Kind::Index
        | Kind::SnapshotBegin
        | Kind::SnapshotPart
        | Kind::SnapshotInstall
        | Kind::Readmit
        | Kind::Cut
        | Kind::CutRows
        | Kind::Join
        | Kind::Directory => Err("not on this connection".to_owned()),
    }
}

/// Plain SHA-256 of content.
#[must_use]
pub fn sha256(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

fn message(tenant: TenantId, digest: Digest, content: &Bytes) -> Bytes {
    let mut message = BytesMut::with_capacity(NAME_BYTES + content.len());
    message.extend_from_slice(&tenant.0.to_be_bytes());
    message.extend_from_slice(&digest.0);
    message.extend_from_slice(content);
    message.freeze()
}

fn open_message(body: Bytes) -> Option<(TenantId, Digest, Bytes)> {
    let name = body.get(..NAME_BYTES)?;
    let tenant = TenantId(u128::from_be_bytes(name[..16].try_into().ok()?));
    let digest = Digest(name[16..].try_into().ok()?);
    Some((tenant, digest, body.slice(NAME_BYTES..)))
}
