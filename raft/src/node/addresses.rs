//! Where the peers are, kept beside the log.

use std::collections::BTreeMap;
use std::io;

use protocol::nodes::Map;
use protocol::{NodeId, codec};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Host;

/// Addresses of the peers, kept beside the log: a cluster that starts as a whole must find itself
/// before it has elected anybody.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Addresses(BTreeMap<NodeId, String>);

impl Host {
    pub(super) async fn learn_addresses(&self, map: &Map) {
        let addresses: BTreeMap<_, _> =
            map.nodes.iter().map(|(&id, node)| (id, node.registration.peer.clone())).collect();
        // Maps change often while replicas move, and each file costs a sync.
        if !self.peers.set_addresses(addresses.clone()) {
            return;
        }
        let written = match codec::encode(&Addresses(addresses)) {
            Ok(bytes) => replace_file(&self.addresses, &bytes).await,
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = written {
            // Only a start without any elected leader needs the file; the map itself is in the log.
            warn!(%error, "peer addresses not saved");
        }
    }

    pub(super) async fn read_addresses(&self) -> io::Result<()> {
        match tokio::fs::read(&self.addresses).await {
            Ok(bytes) => {
                match codec::decode(&bytes) {
                    Ok(Addresses(addresses)) => {
                        self.peers.set_addresses(addresses);
                    }
                    // The map in the log has them too, once somebody leads.
                    Err(error) => warn!(%error, "saved peer addresses are damaged and left out"),
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Saves the addresses that a new node was told when it joined.
    pub async fn save_addresses(&self, addresses: BTreeMap<NodeId, String>) -> io::Result<()> {
        self.peers.set_addresses(addresses.clone());
        let bytes = codec::encode(&Addresses(addresses)).map_err(io::Error::other)?;
        replace_file(&self.addresses, &bytes).await
    }
}

/// Writes a file whole: a crash leaves the old one or the new one.
async fn replace_file(path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let bytes = bytes.to_vec();
    let path = path.to_owned();
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
        std::fs::rename(&new, &path)
    });
    written.await.map_err(io::Error::other)?
}
