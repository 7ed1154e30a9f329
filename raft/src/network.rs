//! Connections between nodes that are not actors' sessions: Raft's own, and bulk transfer.
//!
//! One TCP port per node. A connection begins with a mutual handshake ([`hello`]) that names its
//! [`Class`]; then requests and answers are frames ([`frame`]), many in flight at a time. Classes
//! have connections of their own, so that a large append never delays a heartbeat.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use protocol::{ClusterId, GroupId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::Instant;

mod frame;
mod hello;
mod link;
mod listener;
mod rpc;

#[cfg(test)]
mod tests;

pub use frame::FRAME_BYTES_MAX;
pub use hello::Peer;
pub use listener::{Listener, Service, Services};
pub(crate) use rpc::Network;

use link::Link;

/// How long connecting and shaking hands may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
/// After a failed attempt the next ones fail at once for this long.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Votes, heartbeats, reads, small requests to the meta group.
    Control,
    /// Log entries.
    Log,
    /// Blobs.
    Bulk,
    /// Handed over to the actors' transport after the handshake.
    Actor,
    /// A node that is not a member yet; it may only ask to become one.
    Join,
}

/// What a request asks for. The numbers travel: they are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    TransferLeader = 4,
    /// A command for the meta group, to its leader.
    MetaPropose = 5,
    /// An index of the meta group that holds every acknowledged change.
    MetaIndex = 6,
    Join = 7,
    BlobPut = 20,
    BlobGet = 21,
}

impl Kind {
    fn of(number: u8) -> Option<Self> {
        [
            Self::Append,
            Self::Vote,
            Self::PreVote,
            Self::TransferLeader,
            Self::MetaPropose,
            Self::MetaIndex,
            Self::Join,
            Self::BlobPut,
            Self::BlobGet,
        ]
        .into_iter()
        .find(|&kind| kind as u8 == number)
    }
}

/// Why a request to a peer has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not sent.
    #[error("{node} cannot be reached: {why}")]
    Unreachable { node: NodeId, why: String },
    /// Too many requests wait for this peer; not sent.
    #[error("too many requests wait for {node}")]
    Overloaded { node: NodeId },
    /// Sent; whether it was carried out is unknown.
    #[error("{node} did not answer in time")]
    Timeout { node: NodeId },
    /// Sent; the connection broke.
    #[error("the connection to {node} broke")]
    Broken { node: NodeId },
    /// The peer says no.
    #[error("{node} refused: {why}")]
    Refused { node: NodeId, why: String },
}

/// Who this node is to its peers.
#[derive(Clone)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub incarnation: u64,
    /// Proves membership; see [`protocol::nodes::Secrets`].
    pub secret: [u8; 32],
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}, incarnation {}", self.node, self.cluster, self.incarnation)
    }
}

type Slot = Arc<tokio::sync::Mutex<SlotState>>;

#[derive(Debug, Default)]
struct SlotState {
    link: Option<Arc<Link>>,
    failed: Option<(Instant, String)>,
}

/// The connections of this node to its peers, made when first used.
#[derive(Debug)]
pub struct Peers {
    identity: Identity,
    addresses: RwLock<BTreeMap<NodeId, String>>,
    /// Dial addresses that an operator set, so that a proxy fits between two nodes.
    overrides: BTreeMap<NodeId, String>,
    slots: Mutex<BTreeMap<(NodeId, Class), Slot>>,
}

impl Peers {
    /// No connections yet.
    #[must_use]
    pub fn new(identity: Identity, overrides: BTreeMap<NodeId, String>) -> Arc<Self> {
        Arc::new(Self {
            identity,
            addresses: RwLock::default(),
            overrides,
            slots: Mutex::default(),
        })
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Learns where the nodes of the cluster are; `true` if that was not known.
    pub fn set_addresses(&self, addresses: BTreeMap<NodeId, String>) -> bool {
        let mut known = self.addresses.write().unwrap_or_else(|_| std::process::abort());
        let new = *known != addresses;
        *known = addresses;
        new
    }

    /// The nodes whose addresses are known.
    #[must_use]
    pub fn known(&self) -> Vec<NodeId> {
        let addresses = self.addresses.read().unwrap_or_else(|_| std::process::abort());
        addresses.keys().copied().collect()
    }

    fn address(&self, node: NodeId) -> Option<String> {
        if let Some(address) = self.overrides.get(&node) {
            return Some(address.clone());
        }
        self.addresses.read().unwrap_or_else(|_| std::process::abort()).get(&node).cloned()
    }

    /// Asks a peer and waits at most `timeout` for the answer.
    pub async fn call(
        &self,
        node: NodeId,
        class: Class,
        kind: Kind,
        group: GroupId,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let deadline = Instant::now() + timeout;
        let link = tokio::time::timeout_at(deadline, self.link(node, class))
            .await
            .map_err(|_| unreachable_because(node, "connecting took too long"))??;
        link.call(kind, group, body, deadline).await
    }

    async fn link(&self, node: NodeId, class: Class) -> Result<Arc<Link>, CallError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(|_| std::process::abort());
            Arc::clone(slots.entry((node, class)).or_default())
        };
        let mut state = slot.lock().await;
        if let Some(link) = state.link.as_ref().filter(|link| link.is_open()) {
            return Ok(Arc::clone(link));
        }
        if let Some((at, why)) = &state.failed
            && at.elapsed() < CONNECT_PAUSE
        {
            return Err(CallError::Unreachable { node, why: why.clone() });
        }
        match self.dial(node, class).await {
            Ok(stream) => {
                let link = Link::start(node, stream);
                *state = SlotState { link: Some(Arc::clone(&link)), failed: None };
                Ok(link)
            }
            Err(error) => {
                let why = error.to_string();
                *state = SlotState { link: None, failed: Some((Instant::now(), why.clone())) };
                Err(CallError::Unreachable { node, why })
            }
        }
    }

    /// Opens a connection of a class, with the handshake done.
    pub async fn dial(&self, node: NodeId, class: Class) -> io::Result<TcpStream> {
        let address = self
            .address(node)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its address is not known"))?;
        let connect = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            hello::dial(&mut stream, &self.identity, node, class).await?;
            Ok(stream)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connect).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no handshake in time"))
        })
    }
}

/// One request to a node of a cluster that this process does not belong to yet.
pub async fn ask_to_join(address: &str, body: Bytes, timeout: Duration) -> io::Result<Bytes> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        hello::dial_as_stranger(&mut stream).await?;
        let link = Link::start(NodeId(0), stream);
        let deadline = Instant::now() + timeout;
        link.call(Kind::Join, GroupId::META, body, deadline).await.map_err(io::Error::other)
    };
    tokio::time::timeout(timeout, ask)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
}

fn unreachable_because(node: NodeId, why: &str) -> CallError {
    CallError::Unreachable { node, why: why.to_owned() }
}
