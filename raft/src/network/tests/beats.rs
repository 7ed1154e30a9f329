use std::sync::atomic::{AtomicUsize, Ordering};

use protocol::codec;

use super::super::beats::{Answers, Beat};
use super::*;

/// Group 4 is not here.
#[derive(Default)]
struct Counting {
    requests: AtomicUsize,
}

impl Service for Counting {
    fn call(
        &self,
        _from: Peer,
        kind: Kind,
        _group: GroupId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        assert_eq!(kind, Kind::Beats);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let beats: Vec<Beat> = codec::decode(&body).map_err(|error| error.to_string())?;
            let answer = |beat: Beat| match beat.group {
                GroupId(4) => Err("not here".to_owned()),
                _ => Ok(beat.body),
            };
            let answers: Answers = beats.into_iter().map(answer).collect();
            codec::encode(&answers).map(Bytes::from).map_err(|error| error.to_string())
        })
    }
}

async fn beat(peers: &Arc<Peers>, group: u32) -> Result<Bytes, CallError> {
    let body = Bytes::from(vec![group as u8; 3]);
    peers.beat(NodeId(2), GroupId(group), body, Duration::from_millis(1500)).await
}

#[tokio::test]
async fn groups_that_beat_at_one_moment_are_one_request_and_each_has_its_own_answer() {
    let mut cluster = Cluster::new(1);
    let (one, two) = (cluster.node(1), cluster.node(2));
    let counting = Arc::new(Counting::default());
    let address = listen_with(&two, Services { raft: counting.clone(), ..services() }).await;
    one.learn(cluster.at(&address));
    two.learn(cluster.at(&address));
    let peers = Peers::new(one, BTreeMap::new());
    let answers = tokio::join!(beat(&peers, 3), beat(&peers, 4), beat(&peers, 5));
    let refused = CallError::Refused { node: NodeId(2), why: "not here".to_owned() };
    assert_eq!(answers.0.unwrap(), [3; 3].as_slice());
    assert_eq!(answers.1, Err(refused));
    assert_eq!(answers.2.unwrap(), [5; 3].as_slice());
    assert_eq!(counting.requests.load(Ordering::Relaxed), 1);
    assert_eq!(beat(&peers, 6).await.unwrap(), [6; 3].as_slice(), "a later one goes as well");
    assert_eq!(counting.requests.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_peer_that_is_gone_fails_all_that_wait_together() {
    let mut cluster = Cluster::new(1);
    let (one, _two) = (cluster.node(1), cluster.node(2));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    one.learn(cluster.at(&address));
    let peers = Peers::new(one, BTreeMap::new());
    let (first, second) = tokio::join!(beat(&peers, 3), beat(&peers, 4));
    for answer in [first, second] {
        assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{answer:?}");
    }
}
