//! The transport between processes, with real deaths.

mod node;
pub(super) mod script;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, MutexGuard};

use super::*;
use node::{ChildNode, Node};

/// One transport per process, also where tests share one.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The peer's own "too late" and the caller's clock may come in either order.
fn too_late(ended: &Result<ReplyFrame, CallFailure>) -> bool {
    matches!(ended, Ok(ReplyFrame::DeadlineExceeded) | Err(CallFailure::Unknown))
}

const HELLO: ReplyFrame = ReplyFrame::Ok(Bytes::from_static(b"hello"));

/// This process as one node and children as the others, all connected.
struct Cluster {
    node: Node,
    children: Vec<ChildNode>,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    async fn start(me: u64, others: &[u64]) -> Self {
        let alone = ALONE.lock().await;
        let node = Node::start(me, 100 + me).await;
        let children = others.iter().map(|&other| ChildNode::start(other, 100 + other));
        let children = join_all(children).await;
        let mut cluster = Self { node, children, _alone: alone };
        cluster.introduce().await;
        cluster
    }

    /// Tells every node of all the others and waits until all are connected.
    async fn introduce(&mut self) {
        let children = self.children.iter().map(ChildNode::address);
        let all: Vec<_> = children.chain([self.node.address()]).collect();
        let ids: Vec<_> =
            self.children.iter().map(|child| child.me).chain([self.node.me]).collect();
        let without = |me: &str| -> Vec<_> {
            all.iter().map(String::as_str).filter(|&other| other != me).collect()
        };
        self.node.know(without(&self.node.address()));
        for child in &mut self.children {
            let others = without(&child.address()).join(" ");
            assert_eq!(child.ask(&format!("know {others}")).await, "ok");
        }
        for child in &mut self.children {
            self.node.until_up(child.me).await;
            let me = child.me;
            for id in ids.iter().filter(|id| **id != me) {
                let up = format!("up {} {}", id.node, id.incarnation);
                assert_eq!(child.ask(&up).await, "ok");
            }
        }
    }

    /// Starts `count` calls that the peer never answers, and returns once they are on their way.
    async fn pending(
        &self,
        peer: u64,
        count: usize,
        deadline_ms: u32,
    ) -> Vec<JoinHandle<Result<ReplyFrame, CallFailure>>> {
        let before = self.node.transport.window_depth(peer);
        let call = || {
            let transport = self.node.transport.clone();
            let mut envelope = Envelope::new(script::NEVER, 1, Bytes::new());
            envelope.deadline_remaining_ms = deadline_ms;
            tokio::spawn(async move { transport.call(peer, envelope).await })
        };
        let calls = (0..count).map(|_| call()).collect();
        while self.node.transport.window_depth(peer) < before + count {
            tokio::task::yield_now().await;
        }
        calls
    }

    async fn stop(self) {
        self.node.transport.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_call_each_other_whoever_dialed() {
    let mut cluster = Cluster::start(5, &[2, 9]).await;
    for peer in [2, 9] {
        assert_eq!(cluster.node.call(peer, script::ECHO, 0).await, Ok(HELLO));
        let who = cluster.node.call(peer, script::WHO, 0).await;
        assert_eq!(who, Ok(ReplyFrame::Ok(Bytes::from_static(b"5.105"))));
    }
    let [two, nine] = cluster.children.as_mut_slice() else { panic!("two children") };
    assert_eq!(two.ask("call 9 7").await, "Ok(Ok(b\"2.102\"))");
    assert_eq!(nine.ask("call 2 7").await, "Ok(Ok(b\"9.109\"))");
    assert_eq!(nine.ask("call 5 7").await, "Ok(Ok(b\"9.109\"))");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_call_fails_alone() {
    let cluster = Cluster::start(1, &[2]).await;
    let node = &cluster.node;
    let mut states = node.transport.states();
    states.mark_unchanged();
    let bystanders = cluster.pending(2, 20, 1500).await;
    let unsupported = ReplyFrame::Unsupported { max_version: WIRE_VERSION };
    assert_eq!(node.call(2, 999, 0).await, Ok(unsupported));
    assert_eq!(node.call(2, script::PANIC, 0).await, Ok(ReplyFrame::Internal));
    assert_eq!(node.call(2, script::LARGE, 0).await, Ok(ReplyFrame::Internal));
    let sized = |bytes| Envelope::new(script::ECHO, 1, Bytes::from(vec![7; bytes]));
    let largest = node.transport.call(2, sized(PAYLOAD_MAX)).await;
    assert_eq!(largest, Ok(ReplyFrame::Ok(Bytes::from(vec![7; PAYLOAD_MAX]))));
    let larger = node.transport.call(2, sized(PAYLOAD_MAX + 1)).await;
    assert_eq!(larger, Err(CallFailure::TooLarge { bytes: PAYLOAD_MAX + 1 }));
    assert_eq!(node.call(3, script::ECHO, 0).await, Err(CallFailure::NotConnected));
    let mut other_boot = sized(1);
    other_boot.to_incarnation = 7;
    let pinned = node.transport.call(2, other_boot).await;
    assert_eq!(pinned, Err(CallFailure::NotConnected));
    for bystander in bystanders {
        assert!(too_late(&bystander.await.unwrap()));
    }
    assert!(!states.has_changed().unwrap(), "the session outlived all of these");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_window_refuses_and_answers_make_room() {
    let cluster = Cluster::start(1, &[2, 3]).await;
    let node = &cluster.node;
    let pending = cluster.pending(2, WINDOW_CALLS, 1000).await;
    assert_eq!(node.call(2, script::ECHO, 0).await, Err(CallFailure::Overloaded));
    let envelope = Envelope::new(script::BUMP, 1, Bytes::new());
    assert_eq!(node.transport.post(2, envelope), Err(CallFailure::Overloaded));
    assert_eq!(node.call(3, script::ECHO, 0).await, Ok(HELLO));
    for call in pending {
        assert!(too_late(&call.await.unwrap()));
    }
    node.until_idle(2).await;
    assert_eq!(node.call(2, script::ECHO, 0).await, Ok(HELLO));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_never_answered_ends_by_its_deadline_and_leaks_no_place() {
    let cluster = Cluster::start(1, &[2]).await;
    let begun = Instant::now();
    let ended = cluster.node.call(2, script::NEVER, 300).await;
    assert!(too_late(&ended), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(1), "took {:?}", begun.elapsed());
    // A caller that goes away leaves its place taken until the answer, and no longer.
    let pending = cluster.pending(2, 10, 500).await;
    pending.iter().for_each(JoinHandle::abort);
    assert_eq!(cluster.node.transport.window_depth(2), 10);
    cluster.node.until_idle(2).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_arrive_and_give_their_places_back() {
    let cluster = Cluster::start(2, &[1]).await;
    for _ in 0..100 {
        let envelope = Envelope::new(script::BUMP, 1, Bytes::new());
        assert_eq!(cluster.node.transport.post(1, envelope), Ok(()));
    }
    cluster.node.until_idle(1).await;
    let count = cluster.node.call(1, script::COUNT, 0).await;
    assert_eq!(count, Ok(ReplyFrame::Ok(Bytes::from_static(b"100"))));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_arrives_and_takes_no_place() {
    let cluster = Cluster::start(2, &[1]).await;
    let transport = &cluster.node.transport;
    let word = |bytes| Envelope::new(script::BUMP, 1, Bytes::from(vec![0; bytes]));
    for _ in 0..100 {
        assert_eq!(transport.say(1, word(0)), Ok(()));
    }
    assert_eq!(transport.window_depth(1), 0);
    let deadline = Instant::now() + Duration::from_secs(5);
    let all = Ok(ReplyFrame::Ok(Bytes::from_static(b"100")));
    while cluster.node.call(1, script::COUNT, 0).await != all {
        assert!(Instant::now() < deadline, "not all of it arrived");
    }
    let bytes = PAYLOAD_NORMAL_MAX + 1;
    assert_eq!(transport.say(1, word(bytes)), Err(CallFailure::TooLarge { bytes }));
    assert_eq!(transport.say(3, word(0)), Err(CallFailure::NotConnected));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_peer_is_noticed_at_once_and_its_next_boot_is_called() {
    for (me, peer) in [(1, 2), (2, 1)] {
        let mut cluster = Cluster::start(me, &[peer]).await;
        let pending = cluster.pending(peer, 50, 20_000).await;
        let begun = Instant::now();
        cluster.children[0].signal(Signal::KILL);
        for call in pending {
            assert_eq!(call.await.unwrap(), Err(CallFailure::Unknown));
        }
        cluster.node.until_down(peer).await;
        let noticed = begun.elapsed();
        assert!(noticed < Duration::from_secs(1), "noticed after {noticed:?}");
        let refused = cluster.node.call(peer, script::ECHO, 0).await;
        assert_eq!(refused, Err(CallFailure::NotConnected));

        cluster.children[0] = ChildNode::start(peer, 500).await;
        cluster.introduce().await;
        assert_eq!(cluster.node.call(peer, script::ECHO, 0).await, Ok(HELLO));
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_is_given_up_and_carries_out_nothing_late() {
    for (me, peer) in [(1, 2), (2, 1)] {
        let cluster = Cluster::start(me, &[peer]).await;
        let child = cluster.children[0].me;
        child_stops_and_resumes(&cluster, peer).await;
        cluster.node.until_up(child).await;
        let count = cluster.node.call(peer, script::COUNT, 5000).await;
        assert_eq!(count, Ok(ReplyFrame::Ok(Bytes::from_static(b"0"))));
        cluster.stop().await;
    }
}

async fn child_stops_and_resumes(cluster: &Cluster, peer: u64) {
    let node = &cluster.node;
    cluster.children[0].freeze().await;
    let begun = Instant::now();
    let bumps = (0..10).map(|_| node.call(peer, script::BUMP, 500));
    for bump in join_all(bumps).await {
        assert_eq!(bump, Err(CallFailure::Unknown));
    }
    let pending = cluster.pending(peer, 50, 20_000).await;
    assert_eq!(node.transport.window_depth(peer), 60, "unanswered calls keep their places");
    for call in pending {
        assert_eq!(call.await.unwrap(), Err(CallFailure::Unknown));
    }
    node.until_down(peer).await;
    let given_up = begun.elapsed();
    let expected = Duration::from_millis(1500)..Duration::from_secs(4);
    assert!(expected.contains(&given_up), "given up after {given_up:?}");
    cluster.children[0].signal(Signal::CONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_of_a_peer_replaces_the_first() {
    let mut cluster = Cluster::start(2, &[1]).await;
    let child = cluster.children[0].me;
    for _ in 0..5 {
        let mut states = cluster.node.transport.states();
        states.mark_unchanged();
        assert_eq!(cluster.children[0].ask("dial-again 2").await, "ok");
        states.changed().await.unwrap();
        cluster.node.until_up(child).await;
        assert_eq!(cluster.node.call(1, script::ECHO, 0).await, Ok(HELLO));
    }
    let known = cluster.node.transport.core.server.call(NodeServerMessage::GetSessions, None).await;
    assert_eq!(known.unwrap().unwrap().len(), 1, "the node server forgets what was replaced");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_busy_with_calls_stays_up() {
    let cluster = Cluster::start(1, &[2]).await;
    let mut states = cluster.node.transport.states();
    states.mark_unchanged();
    let envelope = Envelope::new(script::ECHO, 1, Bytes::from(vec![7; 30_000]));
    let caller = async || {
        for _ in 0..100 {
            let answer = cluster.node.transport.call(2, envelope.clone()).await;
            assert_eq!(answer, Ok(ReplyFrame::Ok(envelope.payload.clone())));
        }
    };
    join_all((0..WINDOW_CALLS).map(|_| caller())).await;
    assert!(!states.has_changed().unwrap());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_gateway_can_be_reached_from_other_nodes() {
    let mut cluster = Cluster::start(1, &[2]).await;
    let seen = cluster.children[0].ask("remotable").await;
    assert_eq!(seen, "1 of many, 0 strangers, 0 named");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_no_longer_wanted_is_let_go() {
    let cluster = Cluster::start(1, &[2, 3]).await;
    let pending = cluster.pending(2, 5, 20_000).await;
    cluster.node.know([cluster.children[1].address().as_str()]);
    for call in pending {
        assert_eq!(call.await.unwrap(), Err(CallFailure::Unknown));
    }
    assert_eq!(cluster.node.call(2, script::ECHO, 0).await, Err(CallFailure::NotConnected));
    assert_eq!(cluster.node.call(3, script::ECHO, 0).await, Ok(HELLO));
    let known: Vec<u64> = cluster.node.transport.states().borrow().keys().copied().collect();
    assert_eq!(known, [3]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_should_not_be_are_refused() {
    let cluster = Cluster::start(5, &[]).await;
    let transport = &cluster.node.transport;
    transport.set_peers(BTreeMap::from([(2, 20), (9, 90)]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let offer = async |node, incarnation| {
        let stream = TcpStream::connect(address).await.unwrap();
        transport.accept(Wire::new(stream, |tcp| tcp).unwrap(), PeerId { node, incarnation })
    };
    assert!(matches!(offer(9, 90).await, Err(Refused::WrongDirection)));
    assert!(matches!(offer(3, 1).await, Err(Refused::Unwanted)));
    assert!(matches!(offer(2, 19).await, Err(Refused::Outdated)));
    assert!(offer(2, 21).await.is_ok());
    cluster.stop().await;
}
