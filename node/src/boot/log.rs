//! The node's log, or what is to be done without it: a node that has lost its log, or its part of the
//! cluster map, gets new replicas from the others under its old name.
//!
//! Invariant: the id of a new replica of the meta group is in `node.json` before anything runs under
//! it, so one that the log does not know was never used.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use protocol::nodes::SHARDS;
use protocol::{GroupId, ReplicaId, codec};
use raft::failpoint;
use raft::network::{Class, Kind, Peers};
use raft::node::{Readmission, Readmitted, place_for_damaged};
use raft::wal::{Directory, OpenError, Recovered, Wal};
use tokio::time::Instant;
use tracing::{debug, error, info};

use super::{BootError, failed};
use crate::identity::NodeFile;

/// How long the cluster may take to let the lost replica go.
const TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);
/// How long a peer may take to answer: it may have to find the meta leader.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// The locked directory of the log, and the log, if it can be used.
pub(super) struct Log {
    directory: Directory,
    state: State,
}

enum State {
    Sound(Wal, Recovered),
    Damaged(String),
}

/// What a node has lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Nothing,
    /// The replica of the meta group; its id is retired.
    Meta,
    /// Everything that it had voted or stored.
    All(String),
}

impl Log {
    pub(super) async fn open(data: &Path) -> Result<Self, BootError> {
        let data = data.to_owned();
        let opened = blocking(move || {
            let directory = Directory::lock(&data)?;
            let opened = directory.open();
            Ok::<_, OpenError>((directory, opened))
        });
        let (directory, opened) = opened.await?.map_err(unusable)?;
        let state = match opened {
            Ok((wal, found)) => State::Sound(wal, found),
            Err(damage @ (OpenError::Damaged { .. } | OpenError::Gap { .. })) => {
                State::Damaged(damage.to_string())
            }
            Err(error) => return Err(unusable(error)),
        };
        Ok(Self { directory, state })
    }

    /// Whether anything was ever written to it.
    pub(super) fn is_used(&self) -> bool {
        match &self.state {
            State::Sound(_, found) => !found.groups.is_empty(),
            State::Damaged(_) => true,
        }
    }

    /// What a node that was here before has lost of it.
    pub(super) fn lost(&self, data: &Path, file: &NodeFile) -> Lost {
        let wal = match &self.state {
            State::Sound(wal, _) => wal,
            State::Damaged(why) => return Lost::All(why.clone()),
        };
        let (meta, own) = (wal.group(GroupId::META.0), file.meta_replica().0);
        if !file.bootstrapped || meta.replica() == Some(own) {
            return Lost::Nothing;
        }
        if meta.retired() == Some(own) {
            return Lost::Meta;
        }
        Lost::All(format!("the log in {} is gone, or is not this node's", data.display()))
    }

    /// A log that can be used as it is.
    pub(super) fn sound(self) -> Result<(Wal, Recovered), BootError> {
        match self.state {
            State::Sound(wal, found) => Ok((wal, found)),
            State::Damaged(why) => Err(BootError::Damaged(why)),
        }
    }

    /// A new log in which no replica that this node was ever given can live: none before `first`.
    /// What was there is set aside with the states that belong to it.
    pub(super) async fn anew(
        self,
        data: &Path,
        incarnation: u64,
        first: ReplicaId,
    ) -> Result<(Wal, Recovered), BootError> {
        let data = data.to_owned();
        let opened = blocking(move || {
            let Self { directory, state } = self;
            // Its thread writes until it is closed.
            drop(state);
            let place = place_for_damaged(&data, incarnation)?;
            directory.set_aside(&place.join("wal"))?;
            match std::fs::rename(data.join("checkpoint"), place.join("checkpoint")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(OpenError::Io(error));
                }
                Ok(()) | Err(_) => {}
            }
            failpoint::hit("readmit-aside");
            directory.open()
        });
        let (wal, found) = opened.await?.map_err(unusable)?;
        for group in 0..=SHARDS {
            let retired = wal.group(group).retire(first.0 - 1).await;
            retired.map_err(|error| failed(&error.to_string()))?;
        }
        failpoint::hit("readmit-retired");
        Ok((wal, found))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BootError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error.to_string()))
}

fn unusable(error: OpenError) -> BootError {
    match error {
        OpenError::Locked(_) | OpenError::Version { .. } => BootError::Refused(error.to_string()),
        OpenError::Damaged { .. } | OpenError::Gap { .. } => BootError::Damaged(error.to_string()),
        OpenError::Io(cause) => BootError::Io { what: "log directory".to_owned(), cause },
    }
}

/// Asks the cluster for another replica of the meta group, which `file` names on return. A node
/// without peers has nobody to ask.
pub(super) async fn readmit(
    peers: &Peers,
    file: &mut NodeFile,
    why: &str,
) -> Result<ReplicaId, BootError> {
    let me = peers.identity().node;
    let others: Vec<_> = peers.known().into_iter().filter(|&node| node != me).collect();
    if others.is_empty() {
        return Err(BootError::Damaged(why.to_owned()));
    }
    error!(damage = why, "data is lost here, asking the cluster for new replicas");
    let asked = Readmission { lost: file.meta_replica() };
    let asked = codec::encode(&asked).map_err(|error| failed(&error.to_string()))?;
    let asked = Bytes::from(asked);
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        for &node in &others {
            let (class, kind, body) = (Class::Control, Kind::Readmit, asked.clone());
            let call = peers.call(node, class, kind, GroupId::META, body, ANSWER_TIMEOUT);
            let answer = match call.await {
                Ok(answer) => codec::decode::<Readmitted>(&answer),
                Err(error) => {
                    debug!(%node, %error, "not readmitted yet");
                    continue;
                }
            };
            match answer.map_err(|error| failed(&error.to_string()))? {
                Readmitted::As(replica) => {
                    info!(%replica, "readmitted");
                    failpoint::hit("readmit-given");
                    file.set_meta_replica(replica);
                    return Ok(replica);
                }
                Readmitted::Refused(refusal) => {
                    return Err(BootError::Damaged(format!("{why}; not readmitted: {refusal}")));
                }
                Readmitted::NotYet => debug!(%node, "the lost replica is not gone yet"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(BootError::Damaged(format!("{why}; the cluster did not readmit this node")))
}
