//! Connections between nodes that are not actors' sessions: Raft's own, and bulk transfer.
//!
//! One TCP port per node. A connection begins with TLS, in which both sides show certificates
//! ([`trust`]), and a first message ([`hello`]) that names its [`Class`]; then requests and answers
//! are frames ([`frame`]), many in flight at a time. Classes have connections of their own, so that a
//! large append never delays a heartbeat.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use protocol::nodes::Start;
use protocol::{Digest, GroupId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::Instant;

mod frame;
mod hello;
mod link;
mod listener;
mod refusal;
pub(crate) mod rpc;
pub mod trust;

#[cfg(test)]
mod tests;

pub use frame::FRAME_BYTES_MAX;
pub use hello::Peer;
pub use listener::{Listener, Service, Services};
pub use refusal::{Reason, Refusals};
pub(crate) use rpc::Network;
pub use tokio_rustls::TlsStream;
pub use trust::{Identity, Trust};

use link::Link;

/// A connection whose handshake is done.
pub type Stream = TlsStream<TcpStream>;

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
    /// States of replicas that are too far behind for the log.
    Snapshot,
    /// Handed over to the actors' transport after the handshake.
    Actor,
    /// A node that is not a member yet; it may only ask to become one.
    Join,
    /// A process that starts and asks whether it may be the node that its directory says it is.
    Claim,
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
    /// An index of the group that holds every acknowledged change, of its leader.
    Index = 6,
    Join = 7,
    /// The nodes, as the peer's cluster map has them.
    Directory = 8,
    /// How far the state is that a peer wants to send.
    SnapshotBegin = 9,
    /// Rows of it.
    SnapshotPart = 10,
    /// It is whole, and shall be put in place.
    SnapshotInstall = 11,
    /// Another replica of the meta group for a node that has lost its own.
    Readmit = 12,
    /// Fix the newest state of the group, for a backup.
    Cut = 13,
    /// Rows of what was fixed.
    CutRows = 14,
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
            Self::Index,
            Self::Join,
            Self::Directory,
            Self::SnapshotBegin,
            Self::SnapshotPart,
            Self::SnapshotInstall,
            Self::Readmit,
            Self::Cut,
            Self::CutRows,
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

type Slot = Arc<tokio::sync::Mutex<SlotState>>;

#[derive(Debug, Default)]
struct SlotState {
    link: Option<Arc<Link>>,
    failed: Option<(Instant, String)>,
}

/// The connections of this node to its peers, made when first used.
#[derive(Debug)]
pub struct Peers {
    trust: Arc<Trust>,
    /// Dial addresses that an operator set, so that a proxy fits between two nodes.
    overrides: BTreeMap<NodeId, String>,
    slots: Mutex<BTreeMap<(NodeId, Class), Slot>>,
}

impl Peers {
    /// No connections yet. Addresses are those of the directory that `trust` knows.
    #[must_use]
    pub fn new(trust: Arc<Trust>, overrides: BTreeMap<NodeId, String>) -> Arc<Self> {
        Arc::new(Self { trust, overrides, slots: Mutex::default() })
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.trust.identity()
    }

    /// Whom it believes.
    #[must_use]
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// The nodes whose addresses are known.
    #[must_use]
    pub fn known(&self) -> Vec<NodeId> {
        self.trust.directory().nodes.keys().copied().collect()
    }

    fn address(&self, node: NodeId) -> Option<String> {
        if let Some(address) = self.overrides.get(&node) {
            return Some(address.clone());
        }
        let directory = self.trust.directory();
        directory.nodes.get(&node).map(|node| node.registration.peer.clone())
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
        match self.open(node, class).await {
            Ok((stream, start)) => {
                let trust = Arc::clone(&self.trust);
                let refused = async move { trust.refused(node, start).await };
                let link = Link::start(node, stream, refused);
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
    pub async fn dial(&self, node: NodeId, class: Class) -> io::Result<Stream> {
        self.open(node, class).await.map(|(stream, _)| stream)
    }

    async fn open(&self, node: NodeId, class: Class) -> io::Result<(Stream, Start)> {
        let address = self
            .address(node)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its address is not known"))?;
        let connect = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            hello::dial(tcp, &self.trust, node, class).await
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connect).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no handshake in time"))
        })
    }

    /// Asks every known node, this one included, whether this process may be the node that it says
    /// it is. Nodes that do not answer say nothing against it.
    pub async fn claim(&self) -> Result<(), Reason> {
        let directory = self.trust.directory();
        let asked = directory.nodes.keys().map(|&node| self.open(node, Class::Claim));
        let answers = futures::future::join_all(asked).await;
        let refused = answers.iter().filter_map(|answer| Reason::of(answer.as_ref().err()?));
        let refused = refused.filter(|reason| reason.is_final() || *reason == Reason::Twin);
        // What is final comes before what may pass.
        refused.max_by_key(|reason| reason.is_final()).map_or(Ok(()), Err)
    }
}

/// One request to a node of a cluster that this process does not belong to yet. `authority` is the
/// hash that the join token names: whoever cannot show it is told nothing.
pub async fn ask_to_join(
    address: &str,
    authority: Digest,
    body: Bytes,
    timeout: Duration,
) -> io::Result<Bytes> {
    let ask = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let stream = hello::dial_as_stranger(tcp, authority).await?;
        let link = Link::start(NodeId(0), stream, std::future::pending());
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
