//! A transport with a listener and a dialer of its own, in this process or in a child.
//!
//! ractor's registries are global, so a process holds one transport. Other nodes are children:
//! this test binary once more, running [`child_node`], steered over a control connection and
//! ending with it.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::super::{
    CallFailure, ClusterTransport, Envelope, PeerId, PeerState, PeerTransport, ReplyFrame,
    Settings, Wire,
};
use super::script::Script;

const CHILD: &str = "SKEP_TEST_CHILD";
const PATIENCE: Duration = Duration::from_secs(15);

/// Node to port.
type Book = Arc<Mutex<BTreeMap<u64, u16>>>;

pub(super) struct Node {
    pub(super) me: PeerId,
    pub(super) transport: ClusterTransport,
    port: u16,
    book: Book,
}

impl Node {
    pub(super) async fn start(node: u64, incarnation: u64) -> Self {
        let me = PeerId { node, incarnation };
        let book = Book::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let addresses = Arc::clone(&book);
        let dial = move |node| {
            let port = addresses.lock().unwrap().get(&node).copied();
            let dialed = async move {
                let port = port.ok_or(std::io::ErrorKind::NotFound)?;
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
                stream.write_u64(me.node).await?;
                stream.write_u64(me.incarnation).await?;
                stream.read_u8().await?;
                Wire::new(stream, |tcp| tcp)
            };
            Box::pin(dialed) as futures::future::BoxFuture<'static, _>
        };
        let settings = Settings { me, cookie: "0f".repeat(32), dial: Arc::new(dial) };
        let transport = ClusterTransport::start(settings, Arc::new(Script::default())).await;
        let transport = transport.unwrap();
        tokio::spawn(accept(listener, transport.clone()));
        Self { me, transport, port, book }
    }

    /// Wants these peers, given as "node:incarnation:port".
    pub(super) fn know<'a>(&self, peers: impl IntoIterator<Item = &'a str>) {
        let parse = |peer: &str| {
            let parts: Vec<u64> = peer.split(':').map(|part| part.parse().unwrap()).collect();
            (parts[0], parts[1], u16::try_from(parts[2]).unwrap())
        };
        let peers: Vec<_> = peers.into_iter().map(parse).collect();
        *self.book.lock().unwrap() = peers.iter().map(|peer| (peer.0, peer.2)).collect();
        self.transport.set_peers(peers.iter().map(|peer| (peer.0, peer.1)).collect());
    }

    pub(super) fn address(&self) -> String {
        format!("{}:{}:{}", self.me.node, self.me.incarnation, self.port)
    }

    pub(super) async fn until(&self, node: u64, expected: impl Fn(&PeerState) -> bool) {
        let mut states = self.transport.states();
        let there = states.wait_for(|states| states.get(&node).is_some_and(&expected));
        tokio::time::timeout(PATIENCE, there).await.unwrap().unwrap();
    }

    pub(super) async fn until_up(&self, peer: PeerId) {
        self.until(peer.node, |state| *state == PeerState::Up { incarnation: peer.incarnation })
            .await;
    }

    pub(super) async fn until_down(&self, node: u64) {
        self.until(node, |state| matches!(state, PeerState::Down { .. })).await;
    }

    pub(super) async fn call(
        &self,
        node: u64,
        kind: u16,
        deadline_ms: u32,
    ) -> Result<ReplyFrame, CallFailure> {
        let mut envelope = Envelope::new(kind, 1, Bytes::from_static(b"hello"));
        envelope.deadline_remaining_ms = deadline_ms;
        self.transport.call(node, envelope).await
    }

    /// Waits until nothing is on its way to the peer.
    pub(super) async fn until_idle(&self, node: u64) {
        let idle = async {
            while self.transport.window_depth(node) > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, idle).await.unwrap();
    }
}

async fn accept(listener: TcpListener, transport: ClusterTransport) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (Ok(node), Ok(incarnation)) = (stream.read_u64().await, stream.read_u64().await) else {
            continue;
        };
        if stream.write_u8(1).await.is_ok() {
            let wire = Wire::new(stream, |tcp| tcp).unwrap();
            if let Err(refused) = transport.accept(wire, PeerId { node, incarnation }) {
                // The set of peers lags; the other side dials again.
                tracing::debug!(node, %refused, "not accepted");
            }
        }
    }
}

/// A node in a process of its own.
pub(super) struct ChildNode {
    pub(super) me: PeerId,
    pub(super) process: Child,
    port: u16,
    lines: Lines<BufReader<OwnedReadHalf>>,
    control: OwnedWriteHalf,
}

impl ChildNode {
    pub(super) async fn start(node: u64, incarnation: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = listener.local_addr().unwrap().port();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "remote::tests::node::child_node", "--ignored", "--nocapture"])
            .env(CHILD, format!("{node}:{incarnation}:{control}"))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let connected = tokio::time::timeout(PATIENCE, listener.accept()).await;
        let (read, control) = connected.unwrap().unwrap().0.into_split();
        let mut lines = BufReader::new(read).lines();
        let port = lines.next_line().await.unwrap().unwrap().parse().unwrap();
        Self { me: PeerId { node, incarnation }, process, port, lines, control }
    }

    pub(super) fn address(&self) -> String {
        format!("{}:{}:{}", self.me.node, self.me.incarnation, self.port)
    }

    /// Sends one line and returns the line that answers it.
    pub(super) async fn ask(&mut self, command: &str) -> String {
        self.control.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        tokio::time::timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap().unwrap()
    }

    /// Stops the process, and returns once every thread of it stands still.
    pub(super) async fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
        let threads = format!("/proc/{}/task", self.process.id().unwrap());
        let stands = |thread: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            status.contains("State:\tT")
        };
        let frozen = async {
            while !std::fs::read_dir(&threads).unwrap().all(stands) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, frozen).await.unwrap();
    }

    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.process.id().unwrap()).unwrap();
        let id = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the body of a child process, not a test"]
async fn child_node() {
    let Ok(role) = std::env::var(CHILD) else { return };
    let parts: Vec<u64> = role.split(':').map(|part| part.parse().unwrap()).collect();
    let control = ("127.0.0.1", u16::try_from(parts[2]).unwrap());
    let (read, mut write) = TcpStream::connect(control).await.unwrap().into_split();
    let node = Node::start(parts[0], parts[1]).await;
    write.write_all(format!("{}\n", node.port).as_bytes()).await.unwrap();
    let mut lines = BufReader::new(read).lines();
    // The parent's end, however it comes, ends the control connection and with it this process.
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = obey(&node, &line).await;
        write.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
    }
}

async fn obey(node: &Node, line: &str) -> String {
    let words: Vec<_> = line.split(' ').collect();
    match words.as_slice() {
        ["know", peers @ ..] => {
            node.know(peers.iter().copied());
            "ok".to_owned()
        }
        ["up", peer, incarnation] => {
            let (peer, incarnation) = (peer.parse().unwrap(), incarnation.parse().unwrap());
            node.until_up(PeerId { node: peer, incarnation }).await;
            "ok".to_owned()
        }
        ["call", peer, kind] => {
            let answer = node.call(peer.parse().unwrap(), kind.parse().unwrap(), 2000).await;
            format!("{answer:?}")
        }
        ["dial-again", peer] => {
            let peer = peer.parse().unwrap();
            let stream = (node.transport.core.dial)(peer).await.unwrap();
            node.transport.core.hand_over(stream, peer, None).unwrap();
            "ok".to_owned()
        }
        ["remotable"] => {
            let all = ractor::registry::get_all_pids();
            let remotable: Vec<_> = all.iter().filter(|cell| cell.supports_remoting()).collect();
            let gateway = node.transport.core.gateway.get_id();
            let strangers = remotable.iter().filter(|cell| cell.get_id() != gateway).count();
            let named = remotable.iter().filter(|cell| cell.get_name().is_some()).count();
            format!("{} of many, {strangers} strangers, {named} named", remotable.len())
        }
        _ => panic!("unknown command {line}"),
    }
}
