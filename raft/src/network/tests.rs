use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::{ClusterId, GroupId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

struct Echo;

impl Service for Echo {
    fn call(
        &self,
        from: Peer,
        kind: Kind,
        group: GroupId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async move {
            if kind == Kind::Vote {
                return std::future::pending().await;
            }
            if kind == Kind::PreVote {
                return Err("no".to_owned());
            }
            Ok(Bytes::from(format!("{} {kind:?} {group} {} bytes", from.node, body.len())))
        })
    }
}

fn identity(cluster: u128, node: u64, secret: u8) -> Identity {
    let (cluster, node) = (ClusterId(cluster), NodeId(node));
    Identity { cluster, node, incarnation: 1, secret: [secret; 32] }
}

async fn listen(identity: Identity) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let services =
        Services { raft: Arc::new(Echo), bulk: Arc::new(Echo), actors: Arc::new(|_, _| {}) };
    tokio::spawn(Listener::new(listener, identity, services).run());
    address
}

fn peers(identity: Identity, address: &str) -> Arc<Peers> {
    let peers = Peers::new(identity, BTreeMap::new());
    peers.set_addresses(BTreeMap::from([(NodeId(2), address.to_owned())]));
    peers
}

async fn call(peers: &Peers, class: Class, kind: Kind, bytes: usize) -> Result<Bytes, CallError> {
    let body = Bytes::from(vec![7; bytes]);
    peers.call(NodeId(2), class, kind, GroupId(3), body, Duration::from_millis(500)).await
}

#[tokio::test]
async fn a_member_is_answered_and_a_large_body_arrives_whole() {
    let address = listen(identity(1, 2, 5)).await;
    let peers = peers(identity(1, 1, 5), &address);
    let small = call(&peers, Class::Control, Kind::Append, 10).await;
    assert_eq!(small.unwrap(), "n1 Append 3 10 bytes");
    let large = call(&peers, Class::Bulk, Kind::BlobPut, 8 << 20).await;
    assert_eq!(large.unwrap(), "n1 BlobPut 3 8388608 bytes");
    let refused = call(&peers, Class::Control, Kind::PreVote, 0).await;
    assert_eq!(refused, Err(CallError::Refused { node: NodeId(2), why: "no".to_owned() }));
}

#[tokio::test]
async fn a_silent_peer_costs_its_deadline_and_nobody_elses() {
    let address = listen(identity(1, 2, 5)).await;
    let peers = peers(identity(1, 1, 5), &address);
    let silent = call(&peers, Class::Control, Kind::Vote, 0);
    let (silent, answered) = tokio::join!(silent, call(&peers, Class::Control, Kind::Append, 1));
    assert_eq!(silent, Err(CallError::Timeout { node: NodeId(2) }));
    assert!(answered.is_ok());
}

#[tokio::test]
async fn strangers_are_refused() {
    let address = listen(identity(1, 2, 5)).await;
    for (what, who) in [("wrong secret", identity(1, 1, 6)), ("another cluster", identity(9, 1, 5))]
    {
        let answer = call(&peers(who, &address), Class::Control, Kind::Append, 0).await;
        assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{what}: {answer:?}");
    }
    let wrong_node = Peers::new(identity(1, 1, 5), BTreeMap::new());
    wrong_node.set_addresses(BTreeMap::from([(NodeId(3), address)]));
    let dialed = wrong_node.dial(NodeId(3), Class::Control).await;
    assert!(dialed.is_err());
}

#[tokio::test]
async fn a_node_that_is_no_member_may_only_ask_to_join() {
    let address = listen(identity(1, 2, 5)).await;
    let joined = ask_to_join(&address, Bytes::new(), Duration::from_secs(1)).await;
    assert_eq!(joined.unwrap(), "n0 Join 0 0 bytes");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    hello::dial_as_stranger(&mut stream).await.unwrap();
    let link = Link::start(NodeId(2), stream);
    let deadline = Instant::now() + Duration::from_secs(1);
    let append = link.call(Kind::Append, GroupId(0), Bytes::new(), deadline).await;
    assert!(matches!(append, Err(CallError::Refused { .. })), "{append:?}");
}

#[tokio::test]
async fn garbage_is_closed_and_told_nothing() {
    let address = listen(identity(1, 2, 5)).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SKEP\x01\xff\xff\xff\xff", b"SKEP\x02....."] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut told = Vec::new();
        // A reset is as good a close as any.
        let _ = stream.read_to_end(&mut told).await;
        assert_eq!(told, b"", "{garbage:?}");
    }
    let peers = peers(identity(1, 1, 5), &address);
    assert!(call(&peers, Class::Control, Kind::Append, 0).await.is_ok());
}

#[tokio::test]
async fn a_peer_that_is_gone_fails_at_once_and_its_return_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let peers = peers(identity(1, 1, 5), &address);
    let gone = call(&peers, Class::Control, Kind::Append, 0).await;
    assert!(matches!(gone, Err(CallError::Unreachable { .. })), "{gone:?}");
    let listener = TcpListener::bind(&address).await.unwrap();
    let services =
        Services { raft: Arc::new(Echo), bulk: Arc::new(Echo), actors: Arc::new(|_, _| {}) };
    tokio::spawn(Listener::new(listener, identity(1, 2, 5), services).run());
    let deadline = Instant::now() + Duration::from_secs(5);
    while call(&peers, Class::Control, Kind::Append, 0).await.is_err() {
        assert!(Instant::now() < deadline, "the peer is back and not found");
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}
