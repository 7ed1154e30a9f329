//! The one remotable actor of a node. Invariant: every `Route` is answered exactly once, by the
//! deadline, whatever the handler does; and no handler runs inside the actor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorProcessingErr, ActorRef, Message, RpcReplyPort};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use super::PeerId;
use super::age::Ages;
use super::envelope::{
    DecodeError, Envelope, KIND_PROBE, Mode, PAYLOAD_MAX, ReplyFrame, WIRE_VERSION,
};

/// Requests of all peers together that this node works on at once.
pub const INBOUND_MAX: usize = 1024;
/// What a caller is told to wait when [`INBOUND_MAX`] is reached.
const RETRY_AFTER_MS: u32 = 50;
/// The process group scope in which a peer finds the gateway.
pub(super) const SCOPE: &str = "skep";

/// The node's side of a message from a peer. Implemented by whoever routes to local actors.
pub trait Inbound: Send + Sync + 'static {
    /// Answers a request. The future is dropped at the deadline and the caller is told that the
    /// outcome is unknown; what must be finished belongs into an actor or a task of its own.
    fn call(&self, from: PeerId, envelope: Envelope) -> BoxFuture<'static, ReplyFrame>;

    /// Takes a message nobody waits for. Must not block.
    fn post(&self, from: PeerId, envelope: Envelope);
}

/// The wire: two variants for ever, evolution happens inside the bytes.
#[derive(Debug)]
pub(super) enum GatewayMessage {
    Route(Vec<u8>, RpcReplyPort<Vec<u8>>),
    Post(Vec<u8>),
}

const ROUTE: &str = "Route";
const POST: &str = "Post";

/// By hand rather than derived: both sides of the reply are bytes already, and the derive would
/// bridge them through two extra tasks per call.
impl Message for GatewayMessage {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        Ok(match self {
            Self::Route(args, reply) => {
                SerializedMessage::Call { variant: ROUTE.to_owned(), args, reply, metadata: None }
            }
            Self::Post(args) => {
                SerializedMessage::Cast { variant: POST.to_owned(), args, metadata: None }
            }
        })
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        match message {
            SerializedMessage::Call { variant, args, reply, .. } if variant == ROUTE => {
                Ok(Self::Route(args, reply))
            }
            SerializedMessage::Cast { variant, args, .. } if variant == POST => {
                Ok(Self::Post(args))
            }
            SerializedMessage::Call { reply, .. } => {
                // ractor drops what does not decode, and the caller would wait for nothing.
                Answer::new(reply, 0).give(&unsupported());
                Err(BoxedDowncastErr)
            }
            SerializedMessage::Cast { .. } | SerializedMessage::CallReply(..) => {
                Err(BoxedDowncastErr)
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct NodeGateway;

/// What the gateway needs to serve a request, shared with the tasks that do.
pub(super) struct Desk {
    me: PeerId,
    inbound: Arc<dyn Inbound>,
    ages: Ages,
    places: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(me: PeerId, inbound: Arc<dyn Inbound>, started: Instant) -> Self {
        let places = Arc::new(Semaphore::new(INBOUND_MAX));
        Self { me, inbound, ages: Ages::new(started), places }
    }

    /// Whether this boot of a peer sent anything in the last `span`.
    pub(super) fn heard_within(&self, from: PeerId, span: Duration) -> bool {
        self.ages.heard_within(from, span)
    }

    /// Requests being worked on.
    pub(super) fn depth(&self) -> usize {
        INBOUND_MAX - self.places.available_permits()
    }
}

impl Actor for NodeGateway {
    type Msg = GatewayMessage;
    type State = Arc<Desk>;
    type Arguments = Arc<Desk>;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        desk: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(desk)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        desk: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GatewayMessage::Route(bytes, port) => route(desk, bytes, port),
            GatewayMessage::Post(bytes) => post(desk, bytes),
        }
        Ok(())
    }
}

fn route(desk: &Arc<Desk>, bytes: Vec<u8>, port: RpcReplyPort<Vec<u8>>) {
    let (kind, request_id) = Envelope::peek(&bytes).unwrap_or((u16::MAX, 0));
    let answer = Answer::new(port, request_id);
    // A busy node is alive, so a probe neither needs a place nor waits for one.
    if kind == KIND_PROBE {
        return answer.give(&probe(desk, bytes));
    }
    let Ok(place) = Arc::clone(&desk.places).try_acquire_owned() else {
        return answer.give(&ReplyFrame::Overloaded { retry_after_ms: RETRY_AFTER_MS });
    };
    tokio::spawn(serve(Arc::clone(desk), bytes, answer, place));
}

fn post(desk: &Arc<Desk>, bytes: Vec<u8>) {
    let Ok(place) = Arc::clone(&desk.places).try_acquire_owned() else {
        debug!("post dropped: all places for inbound requests are taken");
        return;
    };
    let desk = Arc::clone(desk);
    tokio::spawn(async move {
        let _place = place;
        match desk.admit(bytes) {
            Ok((from, envelope, _)) => desk.inbound.post(from, envelope),
            Err(refusal) => debug!(?refusal, "post refused"),
        }
    });
}

fn probe(desk: &Desk, bytes: Vec<u8>) -> ReplyFrame {
    match desk.admit(bytes) {
        Ok(_) => ReplyFrame::Ok(bytes::Bytes::new()),
        Err(refusal) => refusal,
    }
}

async fn serve(desk: Arc<Desk>, bytes: Vec<u8>, answer: Answer, place: OwnedSemaphorePermit) {
    let _place = place;
    let (from, envelope, mode) = match desk.admit(bytes) {
        Ok(admitted) => admitted,
        Err(refusal) => return answer.give(&refusal),
    };
    if mode == Mode::Post {
        desk.inbound.post(from, envelope);
        return answer.give(&ReplyFrame::Ok(bytes::Bytes::new()));
    }
    let remaining = Duration::from_millis(u64::from(envelope.deadline_remaining_ms));
    let kind = envelope.kind;
    let reply = tokio::time::timeout(remaining, desk.inbound.call(from, envelope)).await;
    answer.give(&bounded(kind, reply.unwrap_or(ReplyFrame::DeadlineExceeded)));
}

/// An oversize frame would end the session for every caller, so an oversize answer fails alone.
fn bounded(kind: u16, reply: ReplyFrame) -> ReplyFrame {
    if let ReplyFrame::Ok(payload) = &reply
        && payload.len() > PAYLOAD_MAX
    {
        warn!(kind, bytes = payload.len(), limit = PAYLOAD_MAX, "answer is too large to send");
        return ReplyFrame::Internal;
    }
    reply
}

fn unsupported() -> ReplyFrame {
    ReplyFrame::Unsupported { max_version: WIRE_VERSION }
}

impl Desk {
    /// Decodes a message and refuses the one that came too late or means another boot.
    fn admit(&self, bytes: Vec<u8>) -> Result<(PeerId, Envelope, Mode), ReplyFrame> {
        let (mut envelope, mode) = Envelope::decode(bytes).map_err(|error| {
            debug!(%error, "envelope refused");
            match error {
                DecodeError::Version { .. } => unsupported(),
                DecodeError::Length { .. } | DecodeError::Tag { .. } => ReplyFrame::Internal,
            }
        })?;
        let from = PeerId { node: envelope.from_node, incarnation: envelope.from_incarnation };
        let age_ms = self.ages.age(from, envelope.sent_us).as_millis();
        if envelope.to_incarnation != self.me.incarnation {
            return Err(ReplyFrame::NotOwner { leader_hint: None, epoch: 0 });
        }
        let age_ms = u32::try_from(age_ms).unwrap_or(u32::MAX);
        envelope.deadline_remaining_ms = envelope.deadline_remaining_ms.saturating_sub(age_ms);
        if envelope.deadline_remaining_ms == 0 {
            return Err(ReplyFrame::DeadlineExceeded);
        }
        Ok((from, envelope, mode))
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("me", &self.me).field("depth", &self.depth()).finish()
    }
}

/// A duty to answer. Dropped without an answer, as by a panic of the handler, it says `Internal`.
#[derive(Debug)]
struct Answer {
    port: Option<RpcReplyPort<Vec<u8>>>,
    request_id: u64,
}

impl Answer {
    fn new(port: RpcReplyPort<Vec<u8>>, request_id: u64) -> Self {
        Self { port: Some(port), request_id }
    }

    fn give(mut self, reply: &ReplyFrame) {
        self.send(reply);
    }

    fn send(&mut self, reply: &ReplyFrame) {
        if let Some(port) = self.port.take() {
            // The session may be gone; there is nobody else to tell.
            let _ = port.send(reply.encode(self.request_id));
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.send(&ReplyFrame::Internal);
    }
}

#[cfg(test)]
mod tests;
