//! `DIR/node.json`: who this node is. Written whole or not at all, before anything depends on it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use protocol::nodes::{LifeId, Start};
use protocol::versions::{NODE_FILE as FORMAT, Wire};
use protocol::{BackupId, ClusterId, Digest, NodeId, ReplicaId};
use raft::network::Identity;
use serde::{Deserialize, Serialize};

mod keys;

pub use keys::{authority, node_key, save_authority, signing_secret};

/// Starts in a row that the cluster need not have heard of. Beyond it one is forgotten, but never the
/// first, which is the one that the cluster knows for sure.
const LIVES_MAX: usize = 64;

/// What a node knows of itself across restarts.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    format: u32,
    cluster: String,
    node: String,
    /// Counts the starts of this node.
    incarnation: u64,
    /// The start that has this number.
    life: String,
    /// The starts before it, from the last one that the cluster is known to have heard of.
    before: Vec<String>,
    /// Second factor of the actors' sessions; hex.
    cookie: String,
    /// The replica of the meta group here.
    meta_replica: u64,
    /// Whether the cluster map that this node began is committed; true for a node that joined.
    pub bootstrapped: bool,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    Io(PathBuf, io::Error),
    #[error("{path} is damaged: {cause}", path = .0.display(), cause = .1)]
    Damaged(PathBuf, String),
    #[error("{path} has format {got}, this build reads {FORMAT}", path = .0.display(), got = .1)]
    Format(PathBuf, u32),
}

impl NodeFile {
    /// A node in its first life.
    #[must_use]
    pub fn new(
        cluster: ClusterId,
        (node, life): (NodeId, LifeId),
        meta_replica: ReplicaId,
        cookie: [u8; 32],
        bootstrapped: bool,
    ) -> Self {
        Self {
            format: FORMAT,
            cluster: cluster.to_string(),
            node: node.to_string(),
            incarnation: 1,
            life: life.to_string(),
            before: Vec::new(),
            cookie: Digest(cookie).to_string(),
            meta_replica: meta_replica.0,
            bootstrapped,
        }
    }

    /// The node in its next life, which is not yet on disk.
    #[must_use]
    pub fn reborn(mut self, life: LifeId) -> Self {
        self.incarnation += 1;
        let before = std::mem::replace(&mut self.life, life.to_string());
        self.before.push(before);
        if self.before.len() > LIVES_MAX {
            self.before.remove(1);
        }
        self
    }

    /// The cluster has heard of this life: the earlier ones are nobody's any more.
    pub fn heard(&mut self) {
        self.before.clear();
    }

    /// The file of a data directory, if there is one.
    pub fn read(data: &Path) -> Result<Option<Self>, IdentityError> {
        let path = path(data);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(IdentityError::Io(path, error)),
        };
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let damaged = |cause: String| IdentityError::Damaged(path.clone(), cause);
        let versioned: Versioned =
            serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if versioned.format != FORMAT {
            return Err(IdentityError::Format(path, versioned.format));
        }
        let file: Self = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if file.identity().is_none() || file.cookie().is_none() {
            return Err(damaged("an id is not one".to_owned()));
        }
        Ok(Some(file))
    }

    /// Writes the file so that it survives a power cut.
    pub fn write(&self, data: &Path) -> Result<(), IdentityError> {
        let path = path(data);
        let write = || {
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            written_whole(data, &path, &text)
        };
        write().map_err(|error: io::Error| IdentityError::Io(path.clone(), error))
    }

    /// This node to its peers.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        let cluster = ClusterId::parse(&self.cluster).ok()?;
        let node = NodeId::parse(&self.node).ok()?;
        let life = LifeId::parse(&self.life).ok()?;
        let before: Result<_, _> = self.before.iter().map(|life| LifeId::parse(life)).collect();
        let start = Start { incarnation: self.incarnation, life, before: before.ok()? };
        Some(Identity { cluster, node, start, wire: Wire::OURS })
    }

    /// Second factor of the actors' sessions.
    #[must_use]
    pub fn cookie(&self) -> Option<[u8; 32]> {
        Some(Digest::parse(&self.cookie).ok()?.0)
    }

    /// The cluster gave another replica of the meta group in place of one that was lost.
    pub fn set_meta_replica(&mut self, replica: ReplicaId) {
        self.meta_replica = replica.0;
    }

    /// The replica of the meta group here.
    #[must_use]
    pub fn meta_replica(&self) -> ReplicaId {
        ReplicaId(self.meta_replica)
    }
}

impl std::fmt::Debug for NodeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}, incarnation {}", self.node, self.cluster, self.incarnation)
    }
}

/// The name of a backup that begins now.
#[must_use]
pub fn backup_id() -> BackupId {
    BackupId(uuid::Uuid::now_v7().as_u128())
}

/// Writes a private file so that it is there whole or not at all.
fn written_whole(data: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&new, path)?;
    File::open(data)?.sync_all()
}

fn path(data: &Path) -> PathBuf {
    data.join("node.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_that_the_cluster_knows_is_never_forgotten() {
        let new = (NodeId(1), LifeId(0));
        let mut file = NodeFile::new(ClusterId(1), new, ReplicaId(1), [0; 32], true);
        for life in 1..=200 {
            file = file.reborn(LifeId(life));
        }
        let Start { incarnation, life, before } = file.identity().unwrap().start;
        assert_eq!((incarnation, life), (201, LifeId(200)));
        assert_eq!(before.len(), LIVES_MAX);
        assert_eq!((before[0], before[LIVES_MAX - 1]), (LifeId(0), LifeId(199)));
        file.heard();
        assert_eq!(file.reborn(LifeId(201)).identity().unwrap().start.before, [LifeId(200)]);
    }
}
