//! The accepting end: shakes hands, then serves requests or hands the stream over.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use protocol::GroupId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, warn};

use super::frame::{self, Frame};
use super::hello::{self, Peer};
use super::{Class, Identity, Kind};

/// Connections that may shake hands at a time; others wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 64;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests of one connection that are carried out at a time.
const REQUESTS_MAX: usize = 256;
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
    pub actors: Arc<dyn Fn(TcpStream, Peer) + Send + Sync>,
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
    identity: Identity,
    services: Services,
}

impl Listener {
    /// Serves on a bound socket.
    #[must_use]
    pub fn new(listener: TcpListener, identity: Identity, services: Services) -> Self {
        Self { listener, identity, services }
    }

    /// Accepts for ever.
    pub async fn run(self) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "peer connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let identity = self.identity.clone();
            let services = self.services.clone();
            tokio::spawn(async move {
                let accepted = greet(stream, &identity).await;
                drop(permit);
                if let Some((stream, peer)) = accepted {
                    route(stream, peer, services).await;
                }
            });
        }
    }
}

async fn greet(mut stream: TcpStream, identity: &Identity) -> Option<(TcpStream, Peer)> {
    stream.set_nodelay(true).ok()?;
    let shaken =
        tokio::time::timeout(HANDSHAKE_TIMEOUT, hello::accept(&mut stream, identity)).await;
    match shaken {
        Ok(Ok(peer)) => Some((stream, peer)),
        Ok(Err(error)) => {
            debug!(%error, "peer connection refused");
            None
        }
        Err(_) => {
            debug!("peer connection without a handshake");
            None
        }
    }
}

async fn route(stream: TcpStream, peer: Peer, services: Services) {
    match peer.class {
        Class::Control | Class::Log | Class::Snapshot | Class::Join => {
            serve(stream, peer, services.raft).await;
        }
        Class::Bulk => serve(stream, peer, services.bulk).await,
        Class::Actor => (services.actors)(stream, peer),
    }
}

async fn serve(stream: TcpStream, peer: Peer, service: Arc<dyn Service>) {
    let (input, mut output) = stream.into_split();
    let (answers, mut queue) = mpsc::channel::<Frame>(REQUESTS_MAX);
    let writer = tokio::spawn(async move {
        let mut frames = Vec::with_capacity(64);
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        while queue.recv_many(&mut frames, 64).await > 0 {
            if frame::write(&mut output, &mut frames, &mut buffer).await.is_err() {
                return;
            }
        }
    });
    let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
    let mut input = tokio::io::BufReader::with_capacity(64 * 1024, input);
    while let Ok(Some(request)) = frame::read(&mut input).await {
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
    drop(answers);
    writer.abort();
}

async fn answer(service: &dyn Service, peer: Peer, request: Frame) -> Frame {
    let Frame { kind, id, group, body } = request;
    let outcome = match Kind::of(kind) {
        None => Err(format!("request kind {kind} is not known")),
        Some(kind) if peer.class == Class::Join && kind != Kind::Join => {
            Err("not a member of the cluster".to_owned())
        }
        Some(kind) => service.call(peer, kind, group, body).await,
    };
    match outcome {
        Ok(body) => Frame { kind: frame::ANSWER, id, group, body },
        Err(why) => Frame { kind: frame::REFUSAL, id, group, body: why.into() },
    }
}
