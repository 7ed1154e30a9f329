//! One connection to one boot of a peer. Invariant: a closed link never opens again, and closing
//! it ends everything that waits on it, whatever state ractor's session actor is in.

use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ractor::ActorRef;
use ractor_cluster::NodeSessionMessage;
use socket2::Socket;
use tokio::sync::{oneshot, watch};

use super::age::clock_us;
use super::envelope::{Envelope, KIND_PROBE, Mode, ReplyFrame};
use super::gateway::GatewayMessage;
use super::window::{Place, Window};
use super::{CallFailure, PeerId};

/// How long an unanswered message keeps its place in the window once nobody waits for it, if the
/// peer neither answers nor loses its session. The gateway answers by the deadline, so only a
/// broken peer comes this far.
const LINGER_MAX: Duration = Duration::from_mins(1);
/// A probe that takes longer than this has missed.
pub(super) const PROBE_DEADLINE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Opening,
    Ready,
    Closed,
}

/// Who we are and our clock: what every outgoing envelope is marked with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) me: PeerId,
    pub(super) started: Instant,
}

/// Where the messages of a ready link go.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) gateway: ActorRef<GatewayMessage>,
    pub(super) incarnation: u64,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) token: u64,
    pub(super) node: u64,
    /// The boot that introduced itself before the session, if it did.
    pub(super) introduced: Option<u64>,
    pub(super) actor: OnceLock<ActorRef<NodeSessionMessage>>,
    pub(super) route: OnceLock<Route>,
    pub(super) window: Window,
    stamp: Stamp,
    phase: watch::Sender<Phase>,
    socket: Mutex<Option<Socket>>,
    heard_us: AtomicU64,
}

impl Link {
    pub(super) fn new(
        token: u64,
        (node, introduced): (u64, Option<u64>),
        socket: Socket,
        stamp: Stamp,
    ) -> Self {
        Self {
            token,
            node,
            introduced,
            actor: OnceLock::new(),
            route: OnceLock::new(),
            window: Window::new(),
            stamp,
            phase: watch::Sender::new(Phase::Opening),
            socket: Mutex::new(Some(socket)),
            heard_us: AtomicU64::new(0),
        }
    }

    /// Moves on, never back, and says whether that was a change.
    pub(super) fn enter(&self, phase: Phase) -> bool {
        self.phase.send_if_modified(|current| {
            let forward = *current != Phase::Closed && *current != phase;
            if forward {
                *current = phase;
            }
            forward
        })
    }

    pub(super) async fn reached(&self, phase: Phase) {
        let reached = |now: &Phase| *now == phase || *now == Phase::Closed;
        // The sender lives in self, so waiting cannot fail.
        let _ = self.phase.subscribe().wait_for(reached).await;
    }

    pub(super) fn is(&self, phase: Phase) -> bool {
        *self.phase.borrow() == phase
    }

    /// Cuts the connection at once. Unsent bytes are discarded rather than delivered late, and a
    /// writer stuck on a full socket is freed.
    pub(super) fn sever(&self) {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(socket) = socket {
            // Both fail only on a socket that is closed already, which is what we want.
            let _ = socket.set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Both);
        }
        if let Some(actor) = self.actor.get() {
            actor.kill();
        }
    }

    /// Whether the peer answered anything in the last `span`.
    pub(super) fn heard_within(&self, span: Duration) -> bool {
        let heard_us = self.heard_us.load(Ordering::Acquire);
        let silent_us = clock_us(self.stamp.started).saturating_sub(heard_us);
        Duration::from_micros(silent_us) < span
    }

    /// Sends an envelope and returns the wait for its answer.
    pub(super) fn send(
        self: &Arc<Self>,
        envelope: Envelope,
        mode: Mode,
        place: Option<Place>,
    ) -> Result<InFlight, CallFailure> {
        let (port, reply) = ractor::concurrency::oneshot();
        // Without ractor's timeout on the port: with one, a late answer would be dropped over
        // there and the place in the window could never be given back in time.
        self.hand_over(envelope, |envelope| {
            GatewayMessage::Route(envelope.encode(mode), port.into())
        })?;
        Ok(InFlight { link: Arc::clone(self), reply: Some(reply), place })
    }

    /// Sends an envelope that nobody answers.
    pub(super) fn say(&self, envelope: Envelope) -> Result<(), CallFailure> {
        self.hand_over(envelope, |envelope| GatewayMessage::Post(envelope.encode(Mode::Post)))
    }

    fn hand_over(
        &self,
        mut envelope: Envelope,
        message: impl FnOnce(Envelope) -> GatewayMessage,
    ) -> Result<(), CallFailure> {
        let route = self.route.get().ok_or(CallFailure::NotConnected)?;
        envelope.from_node = self.stamp.me.node;
        envelope.from_incarnation = self.stamp.me.incarnation;
        envelope.to_incarnation = route.incarnation;
        envelope.sent_us = clock_us(self.stamp.started);
        let sent = route.gateway.send_message(message(envelope));
        sent.map_err(|_| CallFailure::NotConnected)
    }

    /// Asks the peer for a sign of life and says whether it came in time.
    pub(super) async fn probe(self: Arc<Self>) -> bool {
        let mut envelope = Envelope::new(KIND_PROBE, 0, bytes::Bytes::new());
        envelope.deadline_remaining_ms = 1000;
        let Ok(mut probe) = self.send(envelope, Mode::Call, None) else { return false };
        matches!(probe.answer(PROBE_DEADLINE).await, Ok(ReplyFrame::Ok(_)))
    }
}

/// A message that was sent and not yet answered. Dropping it stops the wait, but its place in the
/// window stays taken until the peer has answered or is gone.
#[derive(Debug)]
pub(super) struct InFlight {
    link: Arc<Link>,
    reply: Option<oneshot::Receiver<Vec<u8>>>,
    place: Option<Place>,
}

impl InFlight {
    /// The answer, if it comes within `deadline`.
    pub(super) async fn answer(&mut self, deadline: Duration) -> Result<ReplyFrame, CallFailure> {
        let reply = self.reply.as_mut().ok_or(CallFailure::Unknown)?;
        let bytes = tokio::select! {
            biased;
            bytes = reply => bytes.ok(),
            () = self.link.reached(Phase::Closed) => None,
            () = tokio::time::sleep(deadline) => return Err(CallFailure::Unknown),
        };
        self.reply = None;
        self.place = None;
        let (_, frame) = ReplyFrame::decode(bytes.ok_or(CallFailure::Unknown)?)
            .map_err(|_| CallFailure::Unknown)?;
        self.link.heard_us.store(clock_us(self.link.stamp.started), Ordering::Release);
        Ok(frame)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let (Some(reply), Some(place)) = (self.reply.take(), self.place.take()) else { return };
        let link = Arc::clone(&self.link);
        let linger = async move {
            let _place = place;
            tokio::select! {
                // Nobody reads it; only that it came matters.
                _ = reply => {}
                () = link.reached(Phase::Closed) => {}
                () = tokio::time::sleep(LINGER_MAX) => {}
            }
        };
        // Outside a runtime the process is ending and there is no window to protect.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(linger);
        }
    }
}
