//! `DIR/node.json`: who this node is. Written whole or not at all, before anything depends on it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use protocol::{ClusterId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};

/// The format that is written.
const FORMAT: u32 = 1;

/// What a node knows of itself across restarts.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    format: u32,
    cluster: String,
    node: String,
    /// Counts the starts of this node.
    pub incarnation: u64,
    /// Proves membership to peers; hex.
    secret: String,
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
        node: NodeId,
        meta_replica: ReplicaId,
        secret: [u8; 32],
        bootstrapped: bool,
    ) -> Self {
        Self {
            format: FORMAT,
            cluster: cluster.to_string(),
            node: node.to_string(),
            incarnation: 1,
            secret: protocol::Digest(secret).to_string(),
            meta_replica: meta_replica.0,
            bootstrapped,
        }
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
        file.identity().ok_or_else(|| damaged("an id is not one".to_owned()))?;
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
    pub fn identity(&self) -> Option<raft::network::Identity> {
        let cluster = ClusterId::parse(&self.cluster).ok()?;
        let node = NodeId::parse(&self.node).ok()?;
        let secret = protocol::Digest::parse(&self.secret).ok()?.0;
        Some(raft::network::Identity { cluster, node, incarnation: self.incarnation, secret })
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

/// `DIR/sign.key`: what this node signs with, made at its first start. Text: the format's number, then
/// 64 hex digits.
pub fn signing_secret(data: &Path) -> Result<[u8; 32], IdentityError> {
    let path = data.join("sign.key");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let secret = text.trim_end().strip_prefix("1 ");
            let secret = secret.and_then(|hex| protocol::Digest::parse(hex).ok());
            let damaged = || IdentityError::Damaged(path.clone(), "no key in it".to_owned());
            Ok(secret.ok_or_else(damaged)?.0)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret: [u8; 32] = rand::random();
            let text = format!("1 {}\n", protocol::Digest(secret));
            written_whole(data, &path, text.as_bytes())
                .map_err(|error| IdentityError::Io(path.clone(), error))?;
            Ok(secret)
        }
        Err(error) => Err(IdentityError::Io(path, error)),
    }
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
