//! Makes the data directory of a new cluster's first node out of a backup.
//!
//! Invariant: nothing is made before the whole backup was read and found sound; and what was made is
//! a node's directory when it is complete, and not before: `node.json` is written last.

use std::io;
use std::path::{Path, PathBuf};

use actors::audit::Signer;
use actors::backup::{Place, Source, SourceError};
use actors::blobs;
use protocol::jobs::Blob;
use protocol::nodes::{LifeId, Map, Registration};
use protocol::{BackupId, ClusterId, GroupId};
use raft::backup::{Rebirth, RebirthError, Seats};
use raft::network::trust::{Authority, KeyError};
use serde::Serialize;
use tracing::warn;

use crate::identity::{self, IdentityError, NodeFile};

/// Which backup.
#[derive(Debug)]
pub struct Wanted {
    pub from: Place,
    /// `None`: the newest.
    pub backup: Option<BackupId>,
    pub cluster: Option<ClusterId>,
}

/// Why nothing was restored; nothing was left behind either.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the backup has no cluster map")]
    NoMap,
    #[error(transparent)]
    Rebirth(#[from] RebirthError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{}: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    /// What was written is not what was read.
    #[error("group {0} was written with another digest than the backup has")]
    Different(u32),
}

impl RestoreError {
    /// Whether the caller asked for something that is not to be done, and not a machine failed.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NotEmpty(_) | Self::NoMap => true,
            Self::Source(error) => error.is_refusal(),
            Self::Rebirth(_)
            | Self::Identity(_)
            | Self::Key(_)
            | Self::Io { .. }
            | Self::Different(_) => false,
        }
    }
}

/// What was made.
#[derive(Debug, Serialize)]
pub struct Restored {
    pub backup: String,
    /// The cluster that was backed up.
    pub from: String,
    pub cluster: String,
    pub node: String,
    pub groups: Vec<Seated>,
    pub blobs: u64,
    pub bytes: u64,
}

/// A group as it was read back from the new directory.
#[derive(Debug, Serialize)]
pub struct Seated {
    /// 0 is the meta group.
    pub shard: u32,
    pub index: u64,
    pub rows: u64,
    /// That of the backup; of the meta group another one, as its map names another cluster.
    pub digest: String,
}

/// Restores a backup into a directory that is empty or not there.
pub async fn restore(wanted: &Wanted, data: &Path) -> Result<Restored, RestoreError> {
    must_be_empty(data)?;
    let source = Source::find(&wanted.from, wanted.backup, wanted.cluster).await?;
    source.verify().await?;
    let claim = Claim::take(data)?;
    let restored = make(&source, data).await?;
    claim.keep();
    Ok(restored)
}

async fn make(source: &Source, data: &Path) -> Result<Restored, RestoreError> {
    let manifest = source.manifest();
    // First of all: a directory with a log and without node.json is nobody's.
    let seats = Seats::make(data)?;
    let (rebirth, file) = be_born(source, data).await?;
    let mut groups = Vec::new();
    for group in &manifest.groups {
        let digest = seats.seat(source.state(group).await?, &rebirth).await?;
        if digest != group.digest && !GroupId(group.group).is_meta() {
            return Err(RestoreError::Different(group.group));
        }
        bring_blobs(source, group, data).await?;
        let (shard, index, rows) = (group.group, group.index, group.rows);
        groups.push(Seated { shard, index, rows, digest: digest.to_string() });
    }
    // Waits until the log is on disk.
    drop(seats);
    file.write(data)?;
    Ok(Restored {
        backup: manifest.backup.to_string(),
        from: manifest.cluster.to_string(),
        cluster: rebirth.cluster.to_string(),
        node: rebirth.node.to_string(),
        groups,
        blobs: manifest.blobs(),
        bytes: manifest.bytes(),
    })
}

/// The new node and its cluster: keys of its own, and an id that no node of the old cluster had.
async fn be_born(source: &Source, data: &Path) -> Result<(Rebirth, NodeFile), RestoreError> {
    let map = map_of(source).await?;
    let cluster = ClusterId(uuid::Uuid::now_v7().as_u128());
    let (now, life, cookie) = (actors::clock::wall(), LifeId(rand::random()), rand::random());
    identity::save_authority(data, &Authority::found(cluster, now)?)?;
    let registration = Registration {
        incarnation: 1,
        life,
        pin: identity::node_key(data)?.pin(),
        // It says where it is when it starts.
        http: String::new(),
        peer: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: std::collections::BTreeMap::new(),
        weight: 1,
        key: Signer::public(&identity::signing_secret(data)?),
        wire: protocol::versions::Wire::OURS,
    };
    let rebirth = Rebirth::after(&map, cluster, cookie, registration, now);
    let meta = rebirth.replica(GroupId::META)?;
    let file = NodeFile::new(cluster, (rebirth.node, life), meta, cookie, true);
    Ok((rebirth, file))
}

async fn map_of(source: &Source) -> Result<Map, RestoreError> {
    let groups = &source.manifest().groups;
    let meta = groups.iter().find(|group| GroupId(group.group).is_meta());
    let state = source.state(meta.ok_or(RestoreError::NoMap)?).await?;
    state.map().cloned().ok_or(RestoreError::NoMap)
}

async fn bring_blobs(
    source: &Source,
    group: &actors::backup::Group,
    data: &Path,
) -> Result<(), RestoreError> {
    let dir = data.join("blobs");
    let failed = |cause| RestoreError::Io { path: dir.clone(), cause };
    let shelf = blobs::Shelf::open(&dir).map_err(|error| failed(io::Error::other(error)))?;
    for (tenant, sha256, bytes) in source.blobs(group).await? {
        let content = source.blob(tenant, Blob { sha256, bytes }).await?;
        shelf.put(tenant, sha256, content).await.map_err(failed)?;
    }
    Ok(())
}

fn must_be_empty(data: &Path) -> Result<(), RestoreError> {
    let path = data.to_owned();
    match std::fs::read_dir(data).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(RestoreError::NotEmpty(path)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(RestoreError::Io { path, cause }),
    }
}

/// An empty directory that becomes a node's, or is as it was before.
struct Claim {
    data: PathBuf,
    made: bool,
    kept: bool,
}

impl Claim {
    fn take(data: &Path) -> Result<Self, RestoreError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = !data.exists();
        let taken = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
        taken.map_err(|cause| RestoreError::Io { path: data.to_owned(), cause })?;
        Ok(Self { data: data.to_owned(), made, kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }

    fn clear(&self) -> io::Result<()> {
        if self.made {
            return std::fs::remove_dir_all(&self.data);
        }
        for entry in std::fs::read_dir(&self.data)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = self.clear() {
            warn!(data = %self.data.display(), %error, "what was begun is left behind");
        }
    }
}
