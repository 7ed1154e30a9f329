//! The peer port listens before there is anything to serve: what comes early is told so, or waits.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actors::remote::{ClusterTransport, PeerId, PeerState, PeerTransport as _, Wire};
use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::{GroupId, NodeId};
use raft::network::{Kind, Peer, Service, Stream};
use raft::node::RaftService;
use tokio::sync::SetOnce;

/// How long a session of actors waits for them. A peer whose session ends at once comes again later than
/// this node is ready.
const OPENS_WITHIN: Duration = Duration::from_secs(2);

/// Services of the peer port.
#[derive(Clone, Default)]
pub(super) struct Doors {
    pub(super) raft: RaftService,
    pub(super) bulk: Later,
    transport: Arc<SetOnce<ClusterTransport>>,
}

impl Doors {
    /// From now on sessions are taken in, first those that wait.
    pub(super) fn open_to_actors(&self, transport: ClusterTransport) {
        // Set once, at boot.
        let _ = self.transport.set(transport);
    }

    pub(super) fn actors(&self) -> Arc<dyn Fn(Stream, Peer) + Send + Sync> {
        let transport = Arc::clone(&self.transport);
        Arc::new(move |stream, peer| {
            let transport = Arc::clone(&transport);
            tokio::spawn(async move {
                // In vain when the node does not get that far.
                if let Ok(transport) = tokio::time::timeout(OPENS_WITHIN, transport.wait()).await {
                    take_in(transport, stream, peer);
                }
            });
        })
    }

    pub(super) fn alive(&self) -> Arc<dyn Fn(NodeId) -> Option<u64> + Send + Sync> {
        let transport = Arc::clone(&self.transport);
        Arc::new(move |node| {
            let states = transport.get()?.states();
            let state = states.borrow().get(&node.0).copied();
            match state? {
                PeerState::Up { incarnation } => Some(incarnation),
                PeerState::Down { .. } => None,
            }
        })
    }
}

fn take_in(transport: &ClusterTransport, stream: Stream, peer: Peer) {
    let peer = PeerId { node: peer.node.0, incarnation: peer.incarnation };
    let taken = wire(stream).map_err(Into::into);
    if let Err(error) = taken.and_then(|wire| transport.accept(wire, peer)) {
        tracing::debug!(node = peer.node, %error, "actors' session not taken");
    }
}

pub(super) fn wire(stream: Stream) -> io::Result<Wire> {
    Wire::new(stream, |stream| stream.get_ref().0)
}

/// A service that is set later.
#[derive(Clone, Default)]
pub(super) struct Later(Arc<OnceLock<Arc<dyn Service>>>);

impl Later {
    pub(super) fn set(&self, service: Arc<dyn Service>) {
        // Set once, at boot.
        let _ = self.0.set(service);
    }
}

impl Service for Later {
    fn call(
        &self,
        from: Peer,
        kind: Kind,
        group: GroupId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        match self.0.get() {
            Some(service) => service.call(from, kind, group, body),
            None => Box::pin(async { Err("starting".to_owned()) }),
        }
    }
}
