//! An S3 service for the tests: one bucket in memory, requests that must be signed, and ways to be a bad
//! one. Listens on loopback twice, with TLS and without, over the same objects.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::bucket::{self, Bucket};
use super::sign::{self, Keys};

/// A running service; dropped, it is dead.
pub(super) struct Server {
    pub(super) plain: SocketAddr,
    pub(super) tls: SocketAddr,
    /// The certificate that clients must trust, as PEM.
    pub(super) certificate: String,
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    listening: JoinSet<()>,
}

struct Shared {
    name: String,
    state: Mutex<State>,
    died: tokio::sync::watch::Sender<u64>,
}

struct State {
    keys: Keys,
    bucket: Bucket,
    /// Before each answer.
    delay: Duration,
    /// Changes that are yet done before the service dies.
    changes_left: Option<usize>,
}

impl Server {
    pub(super) async fn start(name: &str, keys: Keys) -> Result<Server> {
        let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der());
        let key = key.map_err(|error| anyhow::anyhow!(error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)?;
        let state =
            State { keys, bucket: Bucket::default(), delay: Duration::ZERO, changes_left: None };
        let died = tokio::sync::watch::Sender::default();
        let shared = Shared { name: name.to_owned(), state: Mutex::new(state), died };
        let mut server = Server {
            plain: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: SocketAddr::from(([127, 0, 0, 1], 0)),
            certificate: pem(certified.cert.der()),
            shared: Arc::new(shared),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            listening: JoinSet::new(),
        };
        server.revive().await?;
        Ok(server)
    }

    /// Listens, again at the same addresses if it did before, with the same objects.
    pub(super) async fn revive(&mut self) -> Result<()> {
        self.listening.shutdown().await;
        self.state().changes_left = None;
        let plain = TcpListener::bind(self.plain).await.context("the address of before")?;
        let tls = TcpListener::bind(self.tls).await.context("the address of before")?;
        (self.plain, self.tls) = (plain.local_addr()?, tls.local_addr()?);
        self.listening.spawn(listen(plain, None, Arc::clone(&self.shared)));
        let acceptor = Some(self.acceptor.clone());
        self.listening.spawn(listen(tls, acceptor, Arc::clone(&self.shared)));
        Ok(())
    }

    /// Dies in the middle of a request, when it has made so many more changes.
    pub(super) fn dies_after(&self, changes: usize) {
        self.state().changes_left = Some(changes);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().changes_left == Some(0)
    }

    pub(super) fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Names of objects, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.state().bucket.objects.keys().cloned().collect()
    }

    pub(super) fn content(&self, name: &str) -> Option<Bytes> {
        self.state().bucket.objects.get(name).cloned()
    }

    /// Puts an object in place without asking, or takes it away; gives what was there.
    pub(super) fn swap(&self, name: &str, content: Option<Bytes>) -> Option<Bytes> {
        let objects = &mut self.state().bucket.objects;
        match content {
            Some(content) => objects.insert(name.to_owned(), content),
            None => objects.remove(name),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }
}

fn pem(certificate: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

/// With the task its connections end, also in the middle of an answer.
async fn listen(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut died = shared.died.subscribe();
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted.map(|(socket, _)| socket),
            _ = died.changed() => return,
        };
        let Ok(socket) = socket else { continue };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            match acceptor {
                None => talk(socket, shared).await,
                Some(acceptor) => {
                    // Whoever does not trust the certificate goes away here.
                    let Ok(socket) = acceptor.accept(socket).await else { return };
                    talk(socket, shared).await;
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn talk(socket: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let answer = service_fn(|request| answer(request, Arc::clone(&shared)));
    // It ends when the client goes away or the service dies.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let delay = shared.state().delay;
    if !delay.is_zero() {
        // This is what a slow service is.
        tokio::time::sleep(delay).await;
    }
    let mut state = shared.state();
    if !matches!(parts.method.as_str(), "GET" | "HEAD") {
        match &mut state.changes_left {
            Some(0) => return Err(std::io::Error::other("it is dead")),
            Some(left) => {
                *left -= 1;
                if *left == 0 {
                    shared.died.send_modify(|deaths| *deaths += 1);
                    return Err(std::io::Error::other("it dies"));
                }
            }
            None => {}
        }
    }
    if let Err(sign::Refused(code, message)) = sign::check(&parts, &body, &state.keys) {
        return Ok(bucket::refusal(403, code, &message));
    }
    let decoded = String::from_utf8_lossy(&sign::decode(parts.uri.path())).into_owned();
    let path = decoded.trim_start_matches('/');
    let (name, key) = path.split_once('/').unwrap_or((path, ""));
    if name != shared.name {
        return Ok(bucket::refusal(404, "NoSuchBucket", "The specified bucket does not exist"));
    }
    Ok(state.bucket.answer(&parts, key, body))
}
