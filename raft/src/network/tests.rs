mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::BoxFuture;
use protocol::nodes::{Directory, LifeId, Node, Registration, State};
use protocol::versions::Wire;
use protocol::{ClusterId, GroupId, NodeId, Time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::trust::{Authority, Keys, NodeKey};
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

#[expect(clippy::disallowed_methods, reason = "certificates are for the time of day")]
fn wall() -> Time {
    Time(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

/// A cluster's authority, and what its map says of the nodes that were made.
struct Cluster {
    id: ClusterId,
    authority: Authority,
    directory: Directory,
    keys: BTreeMap<u64, Vec<u8>>,
}

impl Cluster {
    fn new(id: u128) -> Self {
        let id = ClusterId(id);
        let authority = Authority::found(id, wall()).unwrap();
        let directory = Directory { revision: 1, ..Directory::default() };
        Self { id, authority, directory, keys: BTreeMap::new() }
    }

    /// A registered node.
    fn node(&mut self, node: u64) -> Arc<Trust> {
        let key = NodeKey::generate().unwrap();
        let registration = Registration {
            incarnation: 1,
            life: LifeId(u128::from(node)),
            pin: key.pin(),
            http: String::new(),
            peer: String::new(),
            version: String::new(),
            wire: Wire::OURS,
            labels: BTreeMap::new(),
            weight: 1,
            key: [0; 32],
        };
        let row = Node {
            id: NodeId(node),
            registration,
            joined_at: Time(0),
            state: State::Active,
            lost: false,
        };
        self.directory.nodes.insert(NodeId(node), row);
        self.directory.next_node = self.directory.next_node.max(node + 1);
        self.directory.revision += 1;
        self.keys.insert(node, key.to_bytes());
        self.trust(node, key, Duration::from_secs(3600))
    }

    /// The key of a registered node once more, as a copy of its directory has it.
    fn key(&self, node: u64) -> NodeKey {
        NodeKey::from_bytes(&self.keys[&node]).unwrap()
    }

    /// A node that shows a good certificate, whatever the map says of it.
    fn trust(&self, node: u64, key: NodeKey, term: Duration) -> Arc<Trust> {
        let start = Start { incarnation: 1, life: LifeId(u128::from(node)), before: Vec::new() };
        let identity = Identity { cluster: self.id, node: NodeId(node), start, wire: Wire::OURS };
        let keys = Keys { authority: self.authority.clone(), key, term };
        Trust::new(identity, keys, wall).unwrap()
    }

    /// What the map says, with all nodes at one address.
    fn at(&self, address: &str) -> Directory {
        let mut directory = self.directory.clone();
        for node in directory.nodes.values_mut() {
            address.clone_into(&mut node.registration.peer);
        }
        directory
    }
}

fn services() -> Services {
    Services {
        raft: Arc::new(Echo),
        bulk: Arc::new(Echo),
        actors: Arc::new(|_, _| {}),
        alive: Arc::new(|_| None),
    }
}

async fn listen(trust: &Arc<Trust>) -> String {
    listen_with(trust, services()).await
}

async fn listen_with(trust: &Arc<Trust>, services: Services) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(Listener::new(listener, Arc::clone(trust), services).run());
    address
}

/// Two nodes that know each other; node 2 listens.
async fn pair() -> (Cluster, Arc<Peers>, Arc<Trust>, String) {
    let mut cluster = Cluster::new(1);
    let (one, two) = (cluster.node(1), cluster.node(2));
    let address = listen(&two).await;
    one.learn(cluster.at(&address));
    two.learn(cluster.at(&address));
    (cluster, Peers::new(one, BTreeMap::new()), two, address)
}

async fn call(peers: &Peers, class: Class, kind: Kind, bytes: usize) -> Result<Bytes, CallError> {
    let body = Bytes::from(vec![7; bytes]);
    peers.call(NodeId(2), class, kind, GroupId(3), body, Duration::from_millis(1500)).await
}

#[tokio::test]
async fn a_member_is_answered_and_a_large_body_arrives_whole() {
    let (_cluster, peers, _two, _) = pair().await;
    let small = call(&peers, Class::Control, Kind::Append, 10).await;
    assert_eq!(small.unwrap(), "n1 Append 3 10 bytes");
    let large = call(&peers, Class::Bulk, Kind::BlobPut, 8 << 20).await;
    assert_eq!(large.unwrap(), "n1 BlobPut 3 8388608 bytes");
    let refused = call(&peers, Class::Control, Kind::PreVote, 0).await;
    assert_eq!(refused, Err(CallError::Refused { node: NodeId(2), why: "no".to_owned() }));
}

#[tokio::test]
async fn a_silent_peer_costs_its_deadline_and_nobody_elses() {
    let (_cluster, peers, _two, _) = pair().await;
    let silent = call(&peers, Class::Control, Kind::Vote, 0);
    let (silent, answered) = tokio::join!(silent, call(&peers, Class::Control, Kind::Append, 1));
    assert_eq!(silent, Err(CallError::Timeout { node: NodeId(2) }));
    assert!(answered.is_ok());
}

#[tokio::test]
async fn a_peer_that_is_gone_fails_at_once_and_its_return_is_found() {
    let mut cluster = Cluster::new(1);
    let (one, two) = (cluster.node(1), cluster.node(2));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    one.learn(cluster.at(&address));
    let peers = Peers::new(one, BTreeMap::new());
    let gone = call(&peers, Class::Control, Kind::Append, 0).await;
    assert!(matches!(gone, Err(CallError::Unreachable { .. })), "{gone:?}");
    let listener = TcpListener::bind(&address).await.unwrap();
    tokio::spawn(Listener::new(listener, two, services()).run());
    let deadline = Instant::now() + Duration::from_secs(5);
    while call(&peers, Class::Control, Kind::Append, 0).await.is_err() {
        assert!(Instant::now() < deadline, "the peer is back and not found");
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}
