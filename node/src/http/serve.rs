//! The listener for clients: accepts, bounds and ends connections.
//!
//! `axum::serve` sets no timer, so that a head sent byte by byte holds a connection for ever; and
//! nothing there bounds how many there are. Everything that may wait here has a limit in [`Limits`].

mod framing;
pub mod lane;
mod socket;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use self::framing::HEAD_BYTES_MAX;
use self::lane::Lane;
use self::socket::{Refuse, Shared, Socket};
use super::context::{Edge, request_id};
use super::error::{Code, PROBLEM_JSON, Problem};
use super::headers::Trace;

/// Open connections in total.
pub const CONNECTIONS_MAX: usize = 8192;
/// First and longest pause after an accept that failed for want of file descriptors.
const ACCEPT_PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The bounds of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; one more waits for `admission_time` and is then told 503.
    pub connections: usize,
    /// How long a connection waits for a place. Others queue in the kernel meanwhile.
    pub admission_time: Duration,
    /// From the first byte of a head to its last, and from a connection to its first head.
    pub head_time: Duration,
    /// Between two requests.
    pub idle_time: Duration,
    /// A write without progress.
    pub write_time: Duration,
    /// After our last word, for the client to read it.
    pub linger_time: Duration,
    /// For requests in flight when the node stops.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS_MAX,
            admission_time: Duration::from_secs(1),
            head_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(75),
            write_time: Duration::from_secs(30),
            linger_time: Duration::from_secs(2),
            drain_time: Duration::from_secs(20),
        }
    }
}

/// Serves until `shutdown` is cancelled and then until the requests in flight have ended or
/// [`Limits::drain_time`] is over. Runs on the caller's runtime.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    edge: Edge,
    limits: Limits,
    lane: Option<Lane>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let killed = CancellationToken::new();
    let server =
        Server { router, edge, limits, lane, shutdown: shutdown.clone(), killed: killed.clone() };
    let mut pause = ACCEPT_PAUSES.0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = ACCEPT_PAUSES.0;
                server.admit(stream, peer, &places).await;
            }
            Err(cause) if is_of_one_connection(&cause) => {}
            Err(cause) => {
                // Once per shortage: whoever caused it must not fill the log as well.
                if pause == ACCEPT_PAUSES.0 {
                    warn!(%cause, "accept failed, going on with pauses");
                }
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSES.1);
            }
        }
    }
    drop(listener);
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let ended = timeout(limits.drain_time, places.acquire_many(all)).await;
    if ended.is_err() {
        let open = limits.connections - places.available_permits();
        warn!(open, "connections cut at the drain deadline");
        killed.cancel();
    }
}

/// Errors of accept that say nothing about the listener.
fn is_of_one_connection(cause: &io::Error) -> bool {
    let kinds = [
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::Interrupted,
    ];
    kinds.contains(&cause.kind())
}

#[derive(Clone)]
struct Server {
    router: Router,
    edge: Edge,
    limits: Limits,
    lane: Option<Lane>,
    shutdown: CancellationToken,
    killed: CancellationToken,
}

impl Server {
    async fn admit(&self, stream: TcpStream, peer: SocketAddr, places: &Arc<Semaphore>) {
        let place = timeout(self.limits.admission_time, Arc::clone(places).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            self.edge.metrics.http_connections_refused.inc();
            // A socket buffer that is new takes these bytes at once; if not, the client just sees a close.
            let head =
                b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\r\n";
            let _ = stream.try_write(&refusal(&self.edge, Code::Overloaded, head));
            return;
        };
        let server = self.clone();
        tokio::spawn(async move { server.connection(stream, peer, place).await });
    }

    async fn connection(self, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        self.edge.metrics.http_connections.inc();
        if let Err(cause) = stream.set_nodelay(true) {
            debug!(%cause, "no TCP_NODELAY");
        }
        tokio::select! {
            () = self.exchange(stream, peer) => {}
            () = self.killed.cancelled() => {}
        }
        self.edge.metrics.http_connections.dec();
        drop(place);
    }

    /// All requests of one connection, and its end.
    async fn exchange(&self, stream: TcpStream, peer: SocketAddr) {
        let shared = Arc::new(Shared::default());
        let edge = self.edge.clone();
        let refuse: Refuse = Arc::new(move |code, head| refusal(&edge, code, head));
        let socket =
            Socket::new(stream, self.limits, Arc::clone(&shared), refuse, self.lane.clone());
        let service = service_fn(|request| Box::pin(self.answer(request, peer, &shared)));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // The socket keeps time; hyper's clock would also end connections that are merely idle.
            .header_read_timeout(None)
            .max_header_size(HEAD_BYTES_MAX + 1024)
            .half_close(true)
            .serve_connection(TokioIo::new(socket), service);
        let mut stopping = false;
        let ended = loop {
            tokio::select! {
                ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break ended,
                () = self.shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    shared.stopping.store(true, Ordering::Release);
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        };
        if let Err(cause) = ended {
            debug!(%cause, %peer, "connection ended early");
        }
        connection.into_parts().io.into_inner().close().await;
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        shared: &Arc<Shared>,
    ) -> Result<axum::http::Response<Answer>, Infallible> {
        let busy = Busy::begin(shared);
        request.extensions_mut().insert(ConnectInfo(peer));
        let response = self.router.clone().oneshot(request.map(Body::new)).await?;
        Ok(response.map(|body| Answer { body, _busy: busy }))
    }
}

/// The bytes of an answer to something that never became a request. `head` is the one it replaces and
/// gives its date.
fn refusal(edge: &Edge, code: Code, head: &[u8]) -> Vec<u8> {
    let id = request_id();
    let body = Problem::new(code).render("", &id);
    let status = code.meaning().status;
    edge.metrics.request_ended(&Method::GET, "unparsed", status, Duration::ZERO);
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16());
    let kept = String::from_utf8_lossy(head);
    for line in kept.split("\r\n").skip(1) {
        if !line.is_empty() && !line.starts_with("content-length") {
            text.push_str(line);
            text.push_str("\r\n");
        }
    }
    let trace = Trace::read(&HeaderMap::new()).header();
    let node = edge.status.node();
    for (name, value) in [
        ("content-type", PROBLEM_JSON),
        ("content-length", &body.len().to_string()),
        ("x-request-id", &id),
        ("traceparent", trace.to_str().unwrap_or_default()),
        ("skep-node", node.as_ref().and_then(|node| node.to_str().ok()).unwrap_or_default()),
    ] {
        if !value.is_empty() {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    text.push_str("\r\n");
    [text.into_bytes(), body].concat()
}

/// While it lives, silence on the connection is not the client's.
struct Busy(Arc<Shared>);

impl Busy {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.busy.store(true, Ordering::Release);
        Self(Arc::clone(shared))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

/// A response body that ends the request when it is dropped.
struct Answer {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
