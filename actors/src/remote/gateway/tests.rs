//! The gateway by itself, without a network: every request gets the listed answer.

use super::super::tests::script::{self, Script};
use super::*;
use bytes::Bytes;

const ME: PeerId = PeerId { node: 2, incarnation: 20 };

struct Bench {
    gateway: ActorRef<GatewayMessage>,
    desk: Arc<Desk>,
}

impl Bench {
    async fn new() -> Self {
        let desk = Arc::new(Desk::new(ME, Arc::new(Script::default()), Instant::now()));
        let (gateway, _) = Actor::spawn(None, NodeGateway, Arc::clone(&desk)).await.unwrap();
        Self { gateway, desk }
    }

    fn send(&self, bytes: Vec<u8>) -> tokio::sync::oneshot::Receiver<Vec<u8>> {
        let (port, reply) = ractor::concurrency::oneshot();
        self.gateway.send_message(GatewayMessage::Route(bytes, port.into())).unwrap();
        reply
    }

    async fn answer(&self, bytes: Vec<u8>) -> ReplyFrame {
        let reply = tokio::time::timeout(Duration::from_secs(5), self.send(bytes)).await;
        ReplyFrame::decode(reply.unwrap().unwrap()).unwrap().1
    }
}

fn envelope(kind: u16) -> Envelope {
    Envelope {
        from_node: 1,
        from_incarnation: 10,
        to_incarnation: ME.incarnation,
        deadline_remaining_ms: 1000,
        ..Envelope::new(kind, 7, Bytes::from_static(b"hello"))
    }
}

const NOT_HERE: ReplyFrame = ReplyFrame::NotOwner { leader_hint: None, epoch: 0 };
const UNSUPPORTED: ReplyFrame = ReplyFrame::Unsupported { max_version: WIRE_VERSION };

#[tokio::test]
async fn every_request_gets_an_answer_whatever_it_is() {
    let bench = Bench::new().await;
    let call = |envelope: Envelope| envelope.encode(Mode::Call);
    let late = Envelope { deadline_remaining_ms: 0, ..envelope(script::ECHO) };
    let short = Envelope { deadline_remaining_ms: 50, ..envelope(script::NEVER) };
    let misled = Envelope { to_incarnation: 19, ..envelope(script::ECHO) };
    let misled_probe = Envelope { to_incarnation: 19, ..envelope(KIND_PROBE) };
    let newer = Envelope { wire_version: 2, ..envelope(script::ECHO) };
    let cases = [
        (call(envelope(script::ECHO)), ReplyFrame::Ok(Bytes::from_static(b"hello"))),
        (call(envelope(KIND_PROBE)), ReplyFrame::Ok(Bytes::new())),
        (envelope(script::BUMP).encode(Mode::Post), ReplyFrame::Ok(Bytes::new())),
        (call(envelope(script::PANIC)), ReplyFrame::Internal),
        (call(envelope(script::LARGE)), ReplyFrame::Internal),
        (call(envelope(999)), UNSUPPORTED),
        (call(newer), UNSUPPORTED),
        (call(late), ReplyFrame::DeadlineExceeded),
        (call(short), ReplyFrame::DeadlineExceeded),
        (call(misled), NOT_HERE),
        (call(misled_probe), NOT_HERE),
        (vec![], ReplyFrame::Internal),
        (vec![1; 40], ReplyFrame::Internal),
    ];
    for (index, (bytes, expected)) in cases.into_iter().enumerate() {
        assert_eq!(bench.answer(bytes).await, expected, "case {index}");
    }
    assert_eq!(bench.desk.depth(), 0);
}

#[tokio::test]
async fn a_full_gateway_refuses_requests_and_still_answers_probes() {
    let bench = Bench::new().await;
    let busy = envelope(script::NEVER).encode(Mode::Call);
    let waiting: Vec<_> = (0..INBOUND_MAX).map(|_| bench.send(busy.clone())).collect();
    let refused = bench.answer(envelope(script::ECHO).encode(Mode::Call)).await;
    assert_eq!(refused, ReplyFrame::Overloaded { retry_after_ms: RETRY_AFTER_MS });
    let probed = bench.answer(envelope(KIND_PROBE).encode(Mode::Call)).await;
    assert_eq!(probed, ReplyFrame::Ok(Bytes::new()));
    for reply in waiting {
        let frame = ReplyFrame::decode(reply.await.unwrap()).unwrap().1;
        assert_eq!(frame, ReplyFrame::DeadlineExceeded);
    }
    assert_eq!(bench.desk.depth(), 0);
}

#[tokio::test]
async fn a_variant_of_a_later_version_is_answered_rather_than_dropped() {
    let (port, reply) = ractor::concurrency::oneshot();
    let message = SerializedMessage::Call {
        variant: "Later".to_owned(),
        args: vec![],
        reply: port.into(),
        metadata: None,
    };
    assert!(GatewayMessage::deserialize(message).is_err());
    assert_eq!(ReplyFrame::decode(reply.await.unwrap()), Ok((0, UNSUPPORTED)));
}

#[test]
fn the_wire_form_of_both_variants_is_fixed() {
    let (port, _reply) = ractor::concurrency::oneshot();
    let route = GatewayMessage::Route(vec![1], port.into()).serialize().unwrap();
    assert!(matches!(route, SerializedMessage::Call { variant, args, metadata: None, .. }
        if variant == "Route" && args == [1]));
    let post = GatewayMessage::Post(vec![2]).serialize().unwrap();
    assert!(matches!(post, SerializedMessage::Cast { variant, args, metadata: None }
        if variant == "Post" && args == [2]));
}
