//! The HTTP client under the S3 client, with the TLS of *ring* and the roots of the machine.
//!
//! Invariant: every wait ends, and of an answer that is no success only its code and message go on. The
//! body of such an answer may repeat the request, with the session token in it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, channel::mpsc};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout};

/// To connect, before a name's next address is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is not used is closed after this time; services close theirs after some more.
const IDLE: Duration = Duration::from_secs(15);
/// Connections that are kept unused: what is written and read at a time.
const IDLE_MAX: usize = 8;
/// A body may take the time-out and what it takes at this rate.
const BYTES_PER_S_MIN: u64 = 64 << 10;
/// Of the body of an answer that is no success.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Of a service's message.
const MESSAGE_CHARS_MAX: usize = 300;
/// Pieces of a body that wait for whoever reads it.
const PIECES_MAX: usize = 1;

/// Why there is no client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientFault {
    #[error(
        "no root certificates on this machine ({0}): install ca-certificates or set SSL_CERT_FILE"
    )]
    NoRoots(String),
    #[error("TLS: {0}")]
    Tls(String),
}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("cannot connect: {0}")]
    Unreachable(String),
    #[error("no answer within {} s", .0.as_secs())]
    Slow(Duration),
    #[error("broke off: {0}")]
    Broken(String),
    /// Asking again would not help.
    #[error("refused with {status} {code}: {message}")]
    Refused { status: u16, code: String, message: String },
}

impl Fault {
    fn kind(&self) -> HttpErrorKind {
        match self {
            Self::Unreachable(_) => HttpErrorKind::Connect,
            Self::Slow(_) => HttpErrorKind::Timeout,
            Self::Broken(_) => HttpErrorKind::Interrupted,
            Self::Refused { .. } => HttpErrorKind::Unknown,
        }
    }

    fn into_error(self) -> HttpError {
        HttpError::new(self.kind(), self)
    }
}

/// A client whose connections are kept; `tls` or nothing.
pub(super) fn client(tls: bool, patience: Duration) -> Result<HttpClient, ClientFault> {
    let mut tcp = TcpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    // Where only plain HTTP is spoken no certificate is looked for.
    let roots = if tls { roots()? } else { RootCertStore::empty() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientFault::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = HttpsConnectorBuilder::new().with_tls_config(config);
    let builder = if tls { builder.https_only() } else { builder.https_or_http() };
    let client = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_MAX)
        .pool_timer(TokioTimer::new())
        .build(builder.enable_http1().wrap_connector(tcp));
    Ok(HttpClient::new(Https { client, patience }))
}

fn roots() -> Result<RootCertStore, ClientFault> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    Err(ClientFault::NoRoots(why.join("; ")))
}

/// Gives the S3 client a client that is there already.
#[derive(Debug)]
pub(super) struct Given(pub(super) HttpClient);

impl HttpConnector for Given {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

#[derive(Debug)]
struct Https {
    client: Client<HttpsConnector<TcpConnector>, HttpRequestBody>,
    patience: Duration,
}

impl HttpService for Https {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move { self.send(request).await.map_err(Fault::into_error) })
    }
}

impl Https {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, Fault> {
        let patience = self.patience + time_of(request.body().content_length() as u64);
        let token = request.headers().get("x-amz-security-token").cloned();
        let answer = timeout(patience, self.client.request(request)).await;
        let (parts, body) = match answer {
            Ok(answer) => answer.map_err(|error| fault(&error))?.into_parts(),
            Err(_) => return Err(Fault::Slow(patience)),
        };
        if parts.status.is_success() {
            return Ok(HttpResponse::from_parts(parts, patient(body, self.patience)));
        }
        let read = timeout(self.patience, Limited::new(body, REFUSAL_BYTES_MAX).collect()).await;
        // Without it there still is the status.
        let text = match read {
            Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Ok(Err(_)) | Err(_) => String::new(),
        };
        let status = parts.status.as_u16();
        let code = element(&text, "Code");
        let code = code.or_else(|| parts.status.canonical_reason().map(str::to_owned));
        let code = code.unwrap_or_default();
        let token = token.as_ref().and_then(|token| token.to_str().ok());
        let message = element(&text, "Message");
        let message = message.filter(|text| token.is_none_or(|token| !text.contains(token)));
        let message = message.unwrap_or_else(|| meaning(status).to_owned());
        if is_final(status, &code) {
            return Err(Fault::Refused { status, code, message });
        }
        let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(body)))
    }
}

/// Whether the client above should not look at it: it would try again, or take a bucket that is not
/// there for an object that is not there.
fn is_final(status: u16, code: &str) -> bool {
    match status {
        404 => code == "NoSuchBucket",
        304 | 408 | 409 | 412 | 416 | 429 => false,
        _ => status < 500,
    }
}

/// What a refusal without a body means, as that of a HEAD.
fn meaning(status: u16) -> &'static str {
    match status {
        300..=399 => "the bucket is elsewhere: see s3.endpoint and s3.region",
        401 | 403 => "the credentials are wrong or may not do this",
        _ => "no more is said",
    }
}

/// The text of an element, without what would break a line of a log.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    Some(plain.take(MESSAGE_CHARS_MAX).collect::<String>()).filter(|text| !text.is_empty())
}

fn time_of(bytes: u64) -> Duration {
    Duration::from_millis(bytes * 1000 / BYTES_PER_S_MIN)
}

/// The same body, which fails when too little comes for too long. Time in which nobody reads it does
/// not count, so the waits are in a task of their own.
fn patient<B, E>(mut body: B, patience: Duration) -> HttpResponseBody
where
    B: BodyExt<Data = Bytes, Error = E> + Unpin + Send + 'static,
    E: std::error::Error + Send + 'static,
{
    if body.is_end_stream() {
        return HttpResponseBody::from(Bytes::new());
    }
    let (mut send, receive) = mpsc::channel(PIECES_MAX);
    tokio::spawn(async move {
        let mut left = patience;
        loop {
            let began = Instant::now();
            let piece = match timeout(left, body.frame()).await {
                Ok(Some(piece)) => piece.map_err(|error| Fault::Broken(deepest(&error))),
                Ok(None) => return,
                Err(_) => Err(Fault::Slow(patience)),
            };
            let bytes =
                piece.as_ref().ok().and_then(|frame| frame.data_ref()).map_or(0, Bytes::len);
            let earned = time_of(bytes as u64);
            left = patience.min(left.saturating_sub(began.elapsed()) + earned);
            let is_over = piece.is_err();
            // Whoever read it may have seen enough.
            if send.send(piece.map_err(Fault::into_error)).await.is_err() || is_over {
                return;
            }
        }
    });
    HttpResponseBody::new(StreamBody::new(receive))
}

fn fault(error: &ClientError) -> Fault {
    let text = deepest(error);
    if error.is_connect() { Fault::Unreachable(text) } else { Fault::Broken(text) }
}

/// What is at the bottom of an error; what is above it says that there was an error.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(deeper) = deepest.source() {
        deepest = deeper;
    }
    deepest.to_string()
}
