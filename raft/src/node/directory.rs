//! The directory of nodes: kept in a file for the next start, learnt from the map, asked of peers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::codec::CodecError;
use protocol::nodes::{Directory, Map};
use protocol::{GroupId, NodeId, codec};
use tokio::sync::Mutex;
use tracing::warn;

use super::Host;
use crate::network::{Class, Kind};

/// How long a peer may take to tell its directory, and how often the peers are asked at most.
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(1);
const DOUBT_PAUSE: Duration = Duration::from_millis(250);
/// How often one of the peers is asked without any doubt.
const LOOK_AROUND: Duration = Duration::from_secs(3);

/// Why the saved directory of peers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("{}: {cause}", file.display())]
    Io { file: PathBuf, cause: io::Error },
    /// Written by another release.
    #[error("{}: {cause}", file.display())]
    Version { file: PathBuf, cause: CodecError },
}

/// The directory of the last run, kept beside the log: a cluster that starts as a whole must find
/// and check itself before it has elected anybody. What is damaged is left out, with a warning: the
/// map in the log has it too, once somebody leads. What a newer release wrote is an error.
pub async fn saved_directory(data: &Path) -> Result<Directory, DirectoryError> {
    let file = file(data);
    match tokio::fs::read(&file).await {
        Ok(bytes) => read(file, &bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Directory::default()),
        Err(cause) => Err(DirectoryError::Io { file, cause }),
    }
}

/// The version of the wire that the cluster spoke when the node was last in it, if that is known. Like
/// [`saved_directory`], for those who only look.
pub fn saved_wire(data: &Path) -> Result<Option<u16>, DirectoryError> {
    let file = file(data);
    let directory = match std::fs::read(&file) {
        Ok(bytes) => read(file, &bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(DirectoryError::Io { file, cause }),
    };
    Ok(Some(directory.wire).filter(|&wire| wire > 0))
}

fn read(file: PathBuf, bytes: &[u8]) -> Result<Directory, DirectoryError> {
    match codec::decode(bytes) {
        Ok(directory) => Ok(directory),
        Err(cause @ CodecError::Version { .. }) => Err(DirectoryError::Version { file, cause }),
        Err(error) => {
            warn!(%error, "the saved directory of peers is damaged and left out");
            Ok(Directory::default())
        }
    }
}

pub(super) fn file(data: &Path) -> PathBuf {
    data.join("peers")
}

impl Host {
    pub(super) async fn learn_directory(&self, map: &Map) {
        let directory = map.directory();
        let trust = self.peers.trust();
        let known = trust.directory();
        if (&directory.nodes, directory.wire) != (&known.nodes, known.wire)
            && let Err(error) = self.save_directory(&directory).await
        {
            // Only a start without any elected leader needs the file; the map itself is in the log.
            warn!(%error, "directory of peers not saved");
        }
        trust.learn(directory);
    }

    /// Saves what a new node was told when it joined.
    pub async fn save_directory(&self, directory: &Directory) -> io::Result<()> {
        let bytes = codec::encode(directory).map_err(io::Error::other)?;
        replace_file(&self.directory, &bytes).await
    }

    /// Asks peers for their directory whenever somebody came who is not in ours: a map that lags
    /// must not keep out the nodes that would bring it up to date. And one of them now and then: a
    /// node that was removed is not dialled any more, and is told when it asks.
    pub(super) async fn follow_doubts(self: Arc<Self>) {
        let trust = self.peers.trust();
        for round in 0.. {
            let doubted = tokio::time::timeout(LOOK_AROUND, trust.doubted()).await.is_ok();
            let known = trust.directory();
            let others = known.nodes.keys().copied().filter(|&node| node != self.life.node);
            let mut others: Vec<NodeId> = others.collect();
            if !doubted && !others.is_empty() {
                others = vec![others[round % others.len()]];
            }
            let asked = others.into_iter().map(|node| self.directory_of(node));
            for directory in futures::future::join_all(asked).await.into_iter().flatten() {
                trust.learn(directory);
            }
            tokio::time::sleep(DOUBT_PAUSE).await;
        }
    }

    async fn directory_of(&self, node: NodeId) -> Option<Directory> {
        let (class, kind) = (Class::Control, Kind::Directory);
        let call =
            self.peers.call(node, class, kind, GroupId::META, Bytes::new(), DIRECTORY_TIMEOUT);
        codec::decode(&call.await.ok()?).ok()
    }
}

/// Writes a file whole: a crash leaves the old one or the new one. Two at once would take the unfinished
/// file from each other.
async fn replace_file(path: &Mutex<PathBuf>, bytes: &[u8]) -> io::Result<()> {
    let path = path.lock().await;
    let new = path.with_extension("new");
    let bytes = bytes.to_vec();
    let target = path.clone();
    let written = tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        std::fs::rename(&new, &target)
    });
    written.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_saves_at_the_same_time_saves_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = Mutex::new(dir.path().join("peers"));
        let saved = (0..32_u8).map(|number| {
            let path = &path;
            async move { replace_file(path, &[number; 4096]).await }
        });
        for saved in futures::future::join_all(saved).await {
            saved.unwrap();
        }
        let bytes = std::fs::read(dir.path().join("peers")).unwrap();
        assert!(bytes.len() == 4096 && bytes.iter().all(|byte| *byte == bytes[0]));
    }
}
