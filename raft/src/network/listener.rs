//! The accepting end: TLS and the first message in a task of their own, then requests are served or
//! the stream is handed over. Invariant: whoever has not shown who it is costs a bounded number of
//! bytes for a bounded time, and keeps nobody else waiting.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use protocol::nodes::Start;
use protocol::{GroupId, NodeId};
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::LazyConfigAcceptor;
use tracing::{debug, warn};

use super::frame::{self, FRAME_BYTES_MAX, Frame};
use super::hello::{self, Peer};
use super::refusal::{Reason, whole};
use super::trust::Trust;
use super::{Class, Kind, Stream};

mod crowd;

use crowd::Crowd;

/// From the accepted connection to the answered first message.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests of one connection that are carried out at a time.
const REQUESTS_MAX: usize = 256;
/// Strangers that are served at a time; others are turned away.
const STRANGERS_MAX: usize = 32;
/// The request of a stranger is short and has a single answer.
const STRANGER_BYTES_MAX: usize = 16 * 1024;
const STRANGER_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Carries out requests of one class. An error travels back as text.
pub trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn call(
        &self,
        from: Peer,
        kind: Kind,
        group: GroupId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// Who serves which class.
#[derive(Clone)]
pub struct Services {
    /// All but [`Class::Bulk`] and [`Class::Actor`].
    pub raft: Arc<dyn Service>,
    pub bulk: Arc<dyn Service>,
    /// Takes over streams of [`Class::Actor`].
    pub actors: Arc<dyn Fn(Stream, Peer) + Send + Sync>,
    /// The incarnation of a node that answers at the moment.
    pub alive: Arc<dyn Fn(NodeId) -> Option<u64> + Send + Sync>,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Services")
    }
}

/// The peer port.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    door: Arc<Door>,
}

/// What every accepted connection needs.
#[derive(Debug)]
struct Door {
    trust: Arc<Trust>,
    services: Services,
    strangers: Arc<Semaphore>,
}

impl Listener {
    /// Serves on a bound socket.
    #[must_use]
    pub fn new(listener: TcpListener, trust: Arc<Trust>, services: Services) -> Self {
        let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
        Self { listener, door: Arc::new(Door { trust, services, strangers }) }
    }

    /// Accepts for ever.
    pub async fn run(self) {
        let crowd = Arc::new(Crowd::default());
        loop {
            let (stream, source) = match self.listener.accept().await {
                Ok((stream, source)) => (stream, source.ip()),
                Err(error) => {
                    warn!(%error, "peer connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let door = Arc::clone(&self.door);
            let gave_way = crowd.enter(source, |place| {
                let greeted = async move {
                    let greeted = door.greet(stream, source).await;
                    // One that gave way at the last moment ends like one that was aborted.
                    if place.leave()
                        && let Some((stream, peer, start)) = greeted
                    {
                        tokio::spawn(async move { door.serve(stream, peer, start).await });
                    }
                };
                tokio::spawn(greeted).abort_handle()
            });
            if let Some(source) = gave_way {
                self.door.trust.refusals().note(source, Reason::Crowded, "the oldest gave way");
            }
        }
    }
}

impl Door {
    async fn greet(&self, tcp: TcpStream, source: IpAddr) -> Option<(Stream, Peer, Start)> {
        let greeted = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.shake(tcp)).await;
        let error = match greeted {
            Ok(Ok(greeted)) => return Some(greeted),
            Ok(Err(error)) => error,
            Err(_) => Reason::Late.into(),
        };
        match Reason::of(&error) {
            Some(reason) => self.trust.refusals().note(source, reason, &whole(&error)),
            None => debug!(%source, %error, "peer connection ended in its handshake"),
        }
        None
    }

    async fn shake(&self, tcp: TcpStream) -> io::Result<(Stream, Peer, Start)> {
        tcp.set_nodelay(true)?;
        let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp);
        let begun = acceptor.await?;
        let config = self.trust.accepting(&begun.client_hello());
        let mut stream = begun.into_stream(config).await?;
        let alive = &*self.services.alive;
        let (peer, start) = hello::accept(&mut stream, &self.trust, alive).await?;
        Ok((Stream::Server(stream), peer, start))
    }

    /// Serves until the peer goes, or until the cluster map no longer lets it in.
    async fn serve(&self, stream: Stream, peer: Peer, start: Start) {
        let service = match peer.class {
            Class::Control | Class::Log | Class::Snapshot | Class::Claim => {
                Arc::clone(&self.services.raft)
            }
            Class::Bulk => Arc::clone(&self.services.bulk),
            // The set of peers that the transport wants follows the same map.
            Class::Actor => return (self.services.actors)(stream, peer),
            Class::Join => return self.serve_stranger(stream, peer).await,
        };
        tokio::select! {
            () = serve(stream, peer, service) => {}
            reason = self.trust.refused(peer.node, start) => {
                warn!(node = %peer.node, reason = reason.name(), "connections of a peer cut");
            }
        }
    }

    async fn serve_stranger(&self, stream: Stream, peer: Peer) {
        let Ok(_place) = self.strangers.try_acquire() else {
            return debug!("too many strangers at a time");
        };
        let served = serve_once(stream, peer, &*self.services.raft);
        match tokio::time::timeout(STRANGER_TIMEOUT, served).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "a stranger's request broke off"),
            Err(_) => debug!("a stranger took too long"),
        }
    }
}

async fn serve_once(mut stream: Stream, peer: Peer, service: &dyn Service) -> io::Result<()> {
    // Whoever says nothing must not keep a place from those who want to join.
    let request = frame::read(&mut stream, STRANGER_BYTES_MAX);
    let Some(request) = tokio::time::timeout(HANDSHAKE_TIMEOUT, request).await?? else {
        return Ok(());
    };
    let mut frames = vec![answer(service, peer, request).await];
    frame::write(&mut stream, &mut frames, &mut BytesMut::new()).await?;
    stream.shutdown().await
}

async fn serve(stream: Stream, peer: Peer, service: Arc<dyn Service>) {
    let (input, mut output) = tokio::io::split(stream);
    let (answers, mut queue) = mpsc::channel::<Frame>(REQUESTS_MAX);
    let write = async move {
        let mut frames = Vec::with_capacity(64);
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        while queue.recv_many(&mut frames, 64).await > 0 {
            if frame::write(&mut output, &mut frames, &mut buffer).await.is_err() {
                return;
            }
        }
    };
    // Ends with the reader, and with this future.
    let mut writer = tokio::task::JoinSet::new();
    writer.spawn(write);
    read_all(input, peer, service, answers).await;
}

async fn read_all<R: AsyncRead + Unpin>(
    input: R,
    peer: Peer,
    service: Arc<dyn Service>,
    answers: mpsc::Sender<Frame>,
) {
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut input = tokio::io::BufReader::with_capacity(64 * 1024, input);
    while let Ok(Some(request)) = frame::read(&mut input, FRAME_BYTES_MAX).await {
        let Ok(permit) = Arc::clone(&requests).acquire_owned().await else { break };
        let answers = answers.clone();
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let answer = answer(&*service, peer, request).await;
            // The peer may have gone; what was done stands.
            let _ = answers.send(answer).await;
            drop(permit);
        });
    }
}

async fn answer(service: &dyn Service, peer: Peer, request: Frame) -> Frame {
    let Frame { kind, id, group, body } = request;
    let outcome = match Kind::of(kind) {
        None => Err(format!("request kind {kind} is not known")),
        Some(kind) if (peer.class == Class::Join) != (kind == Kind::Join) => {
            Err("not on this connection".to_owned())
        }
        Some(_) if peer.class == Class::Claim => Err("not on this connection".to_owned()),
        Some(kind) => service.call(peer, kind, group, body).await,
    };
    match outcome {
        Ok(body) => Frame { kind: frame::ANSWER, id, group, body },
        Err(why) => Frame { kind: frame::REFUSAL, id, group, body: why.into() },
    }
}
