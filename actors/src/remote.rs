//! Messages to actors on other nodes, over `ractor_cluster`. Invariant: nothing waits without a
//! deadline, nothing is queued without a bound, and a failure says whether the message was sent.
//!
//! `ractor_cluster` neither reconnects, nor notices a peer that fell silent, nor bounds its
//! queues, nor answers what it cannot deliver. Each of that is done here, around it:
//! `dialer` reconnects, `detector` notices, `window` bounds, `gateway` answers, `link` cuts.
//! Ownership is never decided here; an envelope carries an epoch and `raft` checks it.

mod age;
mod detector;
mod dialer;
mod envelope;
mod failure;
mod gateway;
mod link;
mod session;
mod stream;
#[cfg(test)]
mod tests;
mod window;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr, pg};
use ractor_cluster::node::NodeConnectionMode;
use ractor_cluster::{NodeServer, NodeServerMessage};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{debug, error};

pub use dialer::Dial;
pub use envelope::{
    Envelope, KIND_PROBE, PAYLOAD_MAX, PAYLOAD_NORMAL_MAX, ReplyFrame, WIRE_VERSION,
};
pub use failure::{CallFailure, Refused};
pub use gateway::{INBOUND_MAX, Inbound};
pub use stream::Wire;
pub use window::{WINDOW_BYTES, WINDOW_CALLS};

use envelope::Mode;
use gateway::{Desk, GatewayMessage, NodeGateway, SCOPE};
use link::{InFlight, Link, Stamp};
use session::{Events, Sessions};
use stream::Labelled;

/// The deadline of an envelope that names none.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(2);
/// The longest deadline; a longer one is cut to this.
pub const DEADLINE_MAX: Duration = Duration::from_secs(30);
/// The largest frame a session takes in. Twice the largest payload, for what is wrapped around it.
const FRAME_MAX: u64 = 1024 * 1024;
/// How often the dial tasks are compared with the wanted peers.
const RECONCILE_EVERY: Duration = Duration::from_secs(1);

/// One boot of one node. Incarnations of a node must rise from boot to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    /// The node.
    pub node: u64,
    /// Its boot.
    pub incarnation: u64,
}

/// What this node knows of a peer. A hint for routing; membership is decided by `raft` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Connected and answering.
    Up {
        /// The boot that answers.
        incarnation: u64,
    },
    /// Not connected, or silent.
    Down {
        /// Since when.
        since: Instant,
    },
}

/// What the transport is started with.
#[derive(Clone)]
pub struct Settings {
    /// This boot of this node.
    pub me: PeerId,
    /// What both ends of a session must know, as a second factor: 32 random bytes as hex. A stream
    /// comes here only after its certificates were checked.
    pub cookie: String,
    /// Opens streams to peers with a higher node id.
    pub dial: Dial,
}

/// Calls gateways of other nodes. The seam at which another carrier can replace this one.
pub trait PeerTransport: Send + Sync + 'static {
    /// Sends a request and waits for the answer, no longer than the envelope's deadline.
    fn call(&self, peer: u64, envelope: Envelope)
    -> BoxFuture<'_, Result<ReplyFrame, CallFailure>>;

    /// Sends a message nobody waits for. `Ok` says that it left, not that it arrived.
    fn post(&self, peer: u64, envelope: Envelope) -> Result<(), CallFailure>;

    /// Sends a small message that the next of its kind replaces, and that nobody confirms: without a
    /// place in the window, so its sender bounds how many there are.
    fn say(&self, peer: u64, envelope: Envelope) -> Result<(), CallFailure>;

    /// The wanted peers and whether they can be called.
    fn states(&self) -> watch::Receiver<BTreeMap<u64, PeerState>>;

    /// Whether a peer sent anything in the last `span`. Nodes that live do so every 400 ms.
    fn heard_within(&self, peer: u64, span: Duration) -> bool;
}

/// [`PeerTransport`] over `ractor_cluster`. One per process: ractor's registries are global. It runs
/// until [`Self::stop`]; clones share it.
#[derive(Clone)]
pub struct ClusterTransport {
    core: Arc<Core>,
}

struct Core {
    me: PeerId,
    dial: Dial,
    sessions: Arc<Sessions>,
    desk: Arc<Desk>,
    server: ActorRef<NodeServerMessage>,
    gateway: ActorRef<GatewayMessage>,
    dialers: Mutex<BTreeMap<u64, Dialer>>,
    ended: watch::Receiver<bool>,
}

struct Dialer {
    task: JoinHandle<()>,
    wake: Arc<Notify>,
}

impl ClusterTransport {
    /// Starts the gateway and the node server on the current runtime.
    pub async fn start(settings: Settings, inbound: Arc<dyn Inbound>) -> Result<Self, SpawnErr> {
        let Settings { me, cookie, dial } = settings;
        let started = Instant::now();
        let sessions = Arc::new(Sessions::new(Stamp { me, started }));
        let desk = Arc::new(Desk::new(me, inbound, started));
        let (gateway, gateway_end) = Actor::spawn(None, NodeGateway, Arc::clone(&desk)).await?;
        pg::join_scoped(SCOPE.to_owned(), name_of(me), vec![gateway.get_cell()]);
        let (server, server_end) = Actor::spawn(None, node_server(me, cookie), ()).await?;
        // It was started a line ago; should it be gone already, `ended` tells.
        let _ = server.send_message(NodeServerMessage::SubscribeToEvents {
            id: "skep".to_owned(),
            subscription: Box::new(Events(Arc::clone(&sessions))),
        });
        let ended = watch_over(
            (gateway.get_cell(), gateway_end),
            (server.get_cell(), server_end),
            Arc::clone(&sessions),
        );
        let dialers = Mutex::new(BTreeMap::new());
        let core = Arc::new(Core { me, dial, sessions, desk, server, gateway, dialers, ended });
        tokio::spawn(reconcile_until_ended(Arc::clone(&core)));
        Ok(Self { core })
    }

    /// Takes over a stream on which `peer` has introduced itself.
    pub fn accept(&self, stream: Wire, peer: PeerId) -> Result<(), Refused> {
        if peer.node >= self.core.me.node {
            return Err(Refused::WrongDirection);
        }
        self.core.hand_over(stream, peer.node, Some(peer.incarnation)).map(drop)
    }

    /// Replaces the set of peers to be connected with: node to the latest boot known. Sessions
    /// with older boots are closed; newer boots than the one named are let in.
    pub fn set_peers(&self, peers: BTreeMap<u64, u64>) {
        let fresh = self.core.sessions.want(peers);
        self.core.reconcile();
        let dialers = self.core.dialers();
        for dialer in fresh.iter().filter_map(|node| dialers.get(node)) {
            dialer.wake.notify_one();
        }
    }

    /// Messages on their way to a peer.
    pub fn window_depth(&self, peer: u64) -> usize {
        self.core.sessions.up(peer).map_or(0, |link| link.window.depth())
    }

    /// Requests of all peers that this node works on.
    pub fn inbound_depth(&self) -> usize {
        self.core.desk.depth()
    }

    /// Returns when the gateway or the node server has ended, by [`Self::stop`] or by a fault.
    /// After a fault nothing works any more and the node should stop.
    pub async fn ended(&self) {
        // An error means that the task which tells is gone with the runtime: ended all the same.
        let _ = self.core.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Closes all sessions and ends the gateway. Calls under way fail as `Unknown`.
    pub async fn stop(&self) {
        self.core.sessions.stop();
        self.core.reconcile();
        self.core.gateway.stop(None);
        self.core.server.stop(None);
        self.ended().await;
    }

    fn send(&self, peer: u64, mut envelope: Envelope, mode: Mode) -> Result<Sent, CallFailure> {
        let bytes = envelope.payload.len();
        if bytes > PAYLOAD_MAX {
            return Err(CallFailure::TooLarge { bytes });
        }
        if bytes > PAYLOAD_NORMAL_MAX {
            debug!(peer, kind = envelope.kind, bytes, "payload is above the normal size");
        }
        let link = self.link(peer, &envelope)?;
        let deadline = deadline_of(&envelope);
        envelope.deadline_remaining_ms = millis(on_the_wire(deadline));
        let place = link.window.try_enter(envelope.encoded_len()).ok_or(CallFailure::Overloaded)?;
        let flight = link.send(envelope, mode, Some(place))?;
        Ok(Sent { flight, deadline })
    }

    /// The link to a peer that is up, and is the boot that the envelope is for.
    fn link(&self, peer: u64, envelope: &Envelope) -> Result<Arc<Link>, CallFailure> {
        let link = self.core.sessions.up(peer).ok_or(CallFailure::NotConnected)?;
        let boot = link.route.get().map(|route| route.incarnation);
        if envelope.to_incarnation != 0 && Some(envelope.to_incarnation) != boot {
            return Err(CallFailure::NotConnected);
        }
        Ok(link)
    }
}

struct Sent {
    flight: InFlight,
    deadline: Duration,
}

impl PeerTransport for ClusterTransport {
    fn call(
        &self,
        peer: u64,
        envelope: Envelope,
    ) -> BoxFuture<'_, Result<ReplyFrame, CallFailure>> {
        Box::pin(async move {
            let mut sent = self.send(peer, envelope, Mode::Call)?;
            sent.flight.answer(sent.deadline).await
        })
    }

    fn post(&self, peer: u64, envelope: Envelope) -> Result<(), CallFailure> {
        // Dropped, it goes on holding its place in the window until the peer confirms it.
        self.send(peer, envelope, Mode::Post).map(drop)
    }

    fn say(&self, peer: u64, mut envelope: Envelope) -> Result<(), CallFailure> {
        let bytes = envelope.payload.len();
        if bytes > PAYLOAD_NORMAL_MAX {
            return Err(CallFailure::TooLarge { bytes });
        }
        envelope.deadline_remaining_ms = millis(on_the_wire(deadline_of(&envelope)));
        self.link(peer, &envelope)?.say(envelope)
    }

    fn states(&self) -> watch::Receiver<BTreeMap<u64, PeerState>> {
        self.core.sessions.states()
    }

    fn heard_within(&self, peer: u64, span: Duration) -> bool {
        let state = self.core.sessions.states().borrow().get(&peer).copied();
        let Some(PeerState::Up { incarnation }) = state else { return false };
        self.core.desk.heard_within(PeerId { node: peer, incarnation }, span)
    }
}

impl Core {
    /// Gives a stream to the node server. Streams of peers with a lower id were accepted.
    fn hand_over(
        &self,
        stream: Wire,
        node: u64,
        introduced: Option<u64>,
    ) -> Result<Arc<Link>, Refused> {
        let Wire { read, write, socket } = stream;
        let link = self.sessions.open(node, introduced, socket)?;
        let label = session::label(&link);
        let stream = Box::new(Labelled { read, write, label });
        let is_server = node < self.me.node;
        let opened = NodeServerMessage::ConnectionOpenedExternal { stream, is_server };
        if self.server.send_message(opened).is_err() {
            self.sessions.close(&link, "the node server is gone");
            return Err(Refused::Stopped);
        }
        tokio::spawn(detector::attend(
            Arc::clone(&self.sessions),
            Arc::clone(&self.desk),
            Arc::clone(&link),
        ));
        Ok(link)
    }

    /// Makes the dial tasks match the wanted peers.
    fn reconcile(self: &Arc<Self>) {
        let mut wanted = self.sessions.wanted();
        wanted.retain(|node| *node > self.me.node);
        let mut dialers = self.dialers();
        dialers.retain(|node, dialer| {
            let keep = wanted.contains(node) && !dialer.task.is_finished();
            if !keep {
                dialer.task.abort();
            }
            keep
        });
        for node in wanted {
            dialers.entry(node).or_insert_with(|| {
                let wake = Arc::new(Notify::new());
                let task = dialer::keep(Arc::clone(self), node, Arc::clone(&wake));
                Dialer { task: tokio::spawn(task), wake }
            });
        }
    }

    fn dialers(&self) -> MutexGuard<'_, BTreeMap<u64, Dialer>> {
        self.dialers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn reconcile_until_ended(core: Arc<Core>) {
    let mut ticks = raft::ticks::ticks(RECONCILE_EVERY);
    let mut ended = core.ended.clone();
    loop {
        tokio::select! {
            _ = ticks.tick() => core.reconcile(),
            _ = ended.wait_for(|ended| *ended) => return,
        }
    }
}

/// Watches the two actors everything rests on; when one ends, so do the other and every session.
fn watch_over(
    gateway: (ActorCell, JoinHandle<()>),
    server: (ActorCell, JoinHandle<()>),
    sessions: Arc<Sessions>,
) -> watch::Receiver<bool> {
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        let ((gateway, mut gateway_end), (server, mut server_end)) = (gateway, server);
        let (part, other_end) = tokio::select! {
            _ = &mut gateway_end => ("gateway", server_end),
            _ = &mut server_end => ("node server", gateway_end),
        };
        if sessions.stop() {
            error!(part, "peer transport ended");
        }
        gateway.stop(None);
        server.stop(None);
        // However the other one ends, it has ended.
        let _ = other_end.await;
        tell.send_replace(true);
    });
    told
}

fn node_server(me: PeerId, cookie: String) -> NodeServer {
    // The host name makes the connection string unique; with an equal one a peer counts as self.
    let host = format!("skep-{}-{}", me.node, me.incarnation);
    let mode = Some(NodeConnectionMode::Isolated);
    NodeServer::new(0, cookie, name_of(me), host, None, mode)
        .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .with_max_inbound_frame_size(FRAME_MAX)
}

/// Unique per boot: two sessions under one name start an election in `ractor_cluster`, which may
/// prefer the dead one.
fn name_of(me: PeerId) -> String {
    format!("{}.{}", me.node, me.incarnation)
}

fn deadline_of(envelope: &Envelope) -> Duration {
    match envelope.deadline_remaining_ms {
        0 => DEADLINE_DEFAULT,
        named => Duration::from_millis(u64::from(named)).min(DEADLINE_MAX),
    }
}

/// A little less than the caller waits, so that the peer's own "too late" still arrives.
fn on_the_wire(deadline: Duration) -> Duration {
    deadline - (deadline / 10).min(Duration::from_millis(50))
}

fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX).max(1)
}

impl std::fmt::Debug for ClusterTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterTransport").field("me", &self.core.me).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("me", &self.me).finish_non_exhaustive()
    }
}
