//! Who is let in, who is cut off, and what it costs to try.

use std::sync::atomic::{AtomicUsize, Ordering};

use protocol::Digest;

use super::*;

/// Calls a node that listens as 2 from a node with that trust.
async fn knock(from: Arc<Trust>, directory: Directory) -> Result<Bytes, CallError> {
    from.learn(directory);
    call(&Peers::new(from, BTreeMap::new()), Class::Control, Kind::Append, 0).await
}

fn count(trust: &Trust, wanted: Reason) -> u64 {
    trust.refusals().counts().find(|(reason, _)| *reason == wanted).unwrap().1
}

async fn counted(trust: &Trust, wanted: Reason) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while count(trust, wanted) == 0 {
        assert!(Instant::now() < deadline, "{wanted:?} is not counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn refused(answer: Result<Bytes, CallError>, wanted: Reason) {
    let Err(CallError::Unreachable { why, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(why, wanted.to_string());
}

#[tokio::test]
async fn a_foreign_authority_proves_nothing() {
    let (cluster, _, two, address) = pair().await;
    let mut other = Cluster::new(1);
    let stranger = other.node(1);
    let answer = knock(stranger, cluster.at(&address)).await;
    assert!(matches!(answer, Err(CallError::Unreachable { .. })), "{answer:?}");
    // It took itself away, because the other side proved nothing to it either; who takes any server
    // is tried from outside, in `tests/it/trust.rs`.
    assert_eq!(two.refusals().counts().map(|(_, count)| count).sum::<u64>(), 0);
}

#[tokio::test]
async fn a_signature_of_the_authority_without_the_registered_key_is_not_enough() {
    let (cluster, _, two, address) = pair().await;
    let forged = cluster.trust(1, NodeKey::generate().unwrap(), Duration::from_secs(60));
    refused(knock(forged, cluster.at(&address)).await, Reason::Pin);
    counted(&two, Reason::Pin).await;
    let unknown = cluster.trust(7, NodeKey::generate().unwrap(), Duration::from_secs(60));
    refused(knock(unknown, cluster.at(&address)).await, Reason::Unknown);
    let doubted = tokio::time::timeout(Duration::from_secs(5), two.doubted());
    doubted.await.expect("a node from the future makes one ask around");
}

#[tokio::test]
async fn a_server_without_the_registered_key_is_told_nothing() {
    let (mut cluster, _, _, _) = pair().await;
    let false_two = cluster.trust(2, NodeKey::generate().unwrap(), Duration::from_secs(60));
    let address = listen(&false_two).await;
    let one = cluster.node(3);
    refused(knock(one, cluster.at(&address)).await, Reason::Pin);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_a_renewed_one_is_not() {
    let (cluster, _, two, address) = pair().await;
    let directory = cluster.at(&address);
    let short = cluster.trust(1, cluster.key(1), Duration::from_secs(1));
    let made = short.expires_at();
    while wall().0 < made.0 + 1000 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(knock(Arc::clone(&short), directory.clone()).await.is_err());
    counted(&two, Reason::Expired).await;
    tokio::spawn(Arc::clone(&short).keep_renewed());
    while short.expires_at() == made {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(knock(short, directory).await.is_ok());
}

#[tokio::test]
async fn a_removed_node_is_cut_off_on_both_sides_and_told_why() {
    let (cluster, peers, two, address) = pair().await;
    assert!(call(&peers, Class::Control, Kind::Append, 0).await.is_ok());
    // It never ends by itself, and is broken by the cut.
    let pending = call(&peers, Class::Control, Kind::Vote, 0);
    let mut without = cluster.at(&address);
    without.nodes.remove(&NodeId(1));
    without.revision += 1;
    let cut = async {
        // The request must be on its way.
        tokio::time::sleep(Duration::from_millis(100)).await;
        two.learn(without);
    };
    let (broken, ()) = tokio::join!(pending, cut);
    assert_eq!(broken, Err(CallError::Broken { node: NodeId(2) }));
    refused(call(&peers, Class::Control, Kind::Append, 0).await, Reason::Removed);
    let over = tokio::time::timeout(Duration::from_secs(1), peers.trust().over()).await;
    assert_eq!(over, Ok(Reason::Removed));
    // The other direction: whoever removed it hangs up what it dialled itself.
    let (cluster, peers, _two, address) = pair().await;
    let pending = call(&peers, Class::Control, Kind::Vote, 0);
    let mut without = cluster.at(&address);
    without.nodes.remove(&NodeId(2));
    without.revision += 1;
    let cut = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        peers.trust().learn(without);
    };
    let (broken, ()) = tokio::join!(pending, cut);
    assert_eq!(broken, Err(CallError::Broken { node: NodeId(2) }));
}

#[tokio::test]
async fn a_later_life_takes_the_place_of_an_earlier_one() {
    let (cluster, peers, two, address) = pair().await;
    assert!(call(&peers, Class::Control, Kind::Append, 0).await.is_ok());
    let mut restarted = cluster.at(&address);
    let row = restarted.nodes.get_mut(&NodeId(1)).unwrap();
    (row.registration.incarnation, row.registration.life) = (2, LifeId(77));
    restarted.revision += 1;
    two.learn(restarted);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let answer = call(&peers, Class::Control, Kind::Append, 0).await;
        if matches!(answer, Err(CallError::Unreachable { .. })) {
            break refused(answer, Reason::Over);
        }
        assert!(Instant::now() < deadline, "{answer:?}");
    }
    assert_eq!(peers.claim().await, Err(Reason::Over));
}

#[tokio::test]
async fn a_claim_is_refused_while_another_start_of_the_node_answers() {
    let mut cluster = Cluster::new(1);
    let (one, two) = (cluster.node(1), cluster.node(2));
    let answering = Arc::new(AtomicUsize::new(1));
    let seen = Arc::clone(&answering);
    let alive = move |_| Some(seen.load(Ordering::Relaxed) as u64).filter(|boot| *boot > 0);
    let address = listen_with(&two, Services { alive: Arc::new(alive), ..services() }).await;
    two.learn(cluster.at(&address));
    let start = Start { incarnation: 2, life: LifeId(5), before: vec![LifeId(1)] };
    let identity = Identity { start, ..one.identity().clone() };
    let (authority, term) = (cluster.authority.clone(), Duration::from_secs(60));
    let copy = Trust::new(identity, Keys { authority, key: cluster.key(1), term }, wall).unwrap();
    copy.learn(cluster.at(&address));
    let peers = Peers::new(Arc::clone(&copy), BTreeMap::new());
    assert_eq!(peers.claim().await, Err(Reason::Twin));
    answering.store(0, Ordering::Relaxed);
    assert_eq!(peers.claim().await, Ok(()));
    // The original itself, found at the registered address.
    let original = listen(&one).await;
    one.learn(cluster.at(&address));
    let peers = Peers::new(copy, BTreeMap::from([(NodeId(1), original.clone())]));
    assert_eq!(peers.claim().await, Err(Reason::Twin));
    let peers = Peers::new(one, BTreeMap::from([(NodeId(1), original)]));
    assert_eq!(peers.claim().await, Ok(()), "a process may find itself");
}

#[tokio::test]
async fn a_node_that_is_no_member_may_only_ask_to_join() {
    let (cluster, _, _two, address) = pair().await;
    let authority = cluster.authority.digest();
    let second = Duration::from_secs(1);
    let joined = ask_to_join(&address, authority, Bytes::new(), second).await;
    assert_eq!(joined.unwrap(), "n0 Join 0 0 bytes");
    let stream = TcpStream::connect(&address).await.unwrap();
    let stream = hello::dial_as_stranger(stream, authority).await.unwrap();
    let link = Link::start(NodeId(2), stream, std::future::pending());
    let append = link.call(Kind::Append, GroupId(0), Bytes::new(), Instant::now() + second).await;
    assert!(matches!(append, Err(CallError::Refused { .. })), "{append:?}");
    let stream = TcpStream::connect(&address).await.unwrap();
    let stream = hello::dial_as_stranger(stream, authority).await.unwrap();
    let link = Link::start(NodeId(2), stream, std::future::pending());
    let large = Bytes::from(vec![0; 1 << 20]);
    let large = link.call(Kind::Join, GroupId(0), large, Instant::now() + second).await;
    assert_eq!(large, Err(CallError::Broken { node: NodeId(2) }));
}

#[tokio::test]
async fn a_stranger_says_nothing_to_the_wrong_cluster() {
    let (_, _, _two, address) = pair().await;
    let second = Duration::from_secs(1);
    let asked = ask_to_join(&address, Digest([1; 32]), Bytes::new(), second).await;
    assert_eq!(Reason::of(&asked.unwrap_err()), Some(Reason::Authority));
}

#[tokio::test]
async fn garbage_is_closed_and_told_no_more_than_an_alert() {
    let (_cluster, peers, two, address) = pair().await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SKEP\x01\xff\xff\xff\xff", &[0x16; 64]] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut told = Vec::new();
        // A reset is as good a close as any.
        let _ = stream.read_to_end(&mut told).await;
        assert!(told.is_empty() || (told.len() == 7 && told[0] == 0x15), "{told:?}");
    }
    counted(&two, Reason::NoTls).await;
    assert!(call(&peers, Class::Control, Kind::Append, 0).await.is_ok());
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let (_cluster, peers, two, address) = pair().await;
    let mut silent = Vec::new();
    for _ in 0..700 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    assert!(call(&peers, Class::Control, Kind::Append, 0).await.is_ok());
    counted(&two, Reason::Crowded).await;
    counted(&two, Reason::Late).await;
}

#[tokio::test]
async fn a_build_that_does_not_speak_what_is_spoken_is_refused_for_good() {
    let mut cluster = Cluster::new(1);
    let (one, two) = (cluster.node(1), cluster.node(2));
    let address = listen(&two).await;
    let mut directory = cluster.at(&address);
    directory.wire = Wire::OURS.max + 1;
    two.learn(directory);
    // What this build says of itself; its own directory is that of a cluster before the change.
    one.learn(cluster.at(&address));
    let peers = Peers::new(Arc::clone(&one), BTreeMap::new());
    assert_eq!(peers.claim().await, Err(Reason::Wire));
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), one.over()).await, Ok(Reason::Wire));
    let newer = Wire { min: 1, max: Wire::OURS.max + 1 };
    let identity = Identity { wire: newer, ..one.identity().clone() };
    let (authority, term) = (cluster.authority.clone(), Duration::from_secs(60));
    let newer = Trust::new(identity, Keys { authority, key: cluster.key(1), term }, wall).unwrap();
    newer.learn(cluster.at(&address));
    assert_eq!(Peers::new(newer, BTreeMap::new()).claim().await, Ok(()));
}
