//! The outermost layer: gives each request its id and trace, renders every problem, adds the headers
//! that each response has, counts, and writes the one access line.
//!
//! Invariant: no response leaves without `X-Request-Id` and `traceparent`, and none with a status of
//! 400 or more is anything else than problem+json, whoever made it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use actors::audit::Auditor;
use actors::figures::figures;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use protocol::audit::{Call, Note, shown_path};
use protocol::id::base62_of_u128;
use protocol::{Digest, KeyId, TenantId};
use tracing::{Level, enabled, error, info};

use super::app::{IDEMPOTENT_REPLAYED, Untold};
use super::error::{Code, Committed, Problem};
use super::headers::{IDEMPOTENCY_KEY, SKEP_NODE, Served, TRACEPARENT, Trace, X_REQUEST_ID};
use super::health::Status;
use super::json::Marks;
use super::metrics::Metrics;
use crate::telemetry;

/// Route label of requests that no route took; never the raw path.
const UNMATCHED: &str = "unmatched";
/// Who has a key that nobody has.
const STRANGER: &str = "unknown";
const CLIENT_ID_CHARS_MAX: usize = 64;

/// What the layer needs from the node.
#[derive(Clone)]
pub struct Edge {
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Who we are and whether we are ready.
    pub status: Arc<dyn Status>,
    /// Where refusals and reads are told; none where there is no cluster behind.
    pub auditor: Option<Auditor>,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge").finish_non_exhaustive()
    }
}

/// What a handler may want to know of its request; in the request's extensions.
#[derive(Debug, Clone)]
pub struct Context {
    /// `req_…`, also in `X-Request-Id`.
    pub request_id: Arc<str>,
    /// The trace that this call belongs to.
    pub trace: Trace,
    /// When its head had arrived.
    pub started: Instant,
    caller: Arc<OnceLock<Known>>,
    /// SHA-256 of the body, once it is read.
    pub body: Arc<OnceLock<Digest>>,
}

/// Who calls, as far as the credential check has come.
#[derive(Debug, Clone)]
pub struct Known {
    /// The tenant that the call is for.
    pub tenant: TenantId,
    /// The masked key, or `operator`.
    pub actor: String,
    /// The key, if it is a tenant's.
    pub key: Option<KeyId>,
}

impl Context {
    /// Names the caller for the access line and the audit; the credential check calls it once.
    pub fn set_caller(&self, known: Known) {
        // A second name would be a second credential check; the first one stands.
        let _ = self.caller.set(known);
    }

    /// Who calls, once the credential is checked.
    pub fn caller(&self) -> Option<&Known> {
        self.caller.get()
    }
}

/// Completes a route table: fallbacks for unknown paths and methods, then the layer around it all.
/// Call it last; routes that are added later have neither.
pub fn complete(router: Router, edge: Edge) -> Router {
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state(edge, around))
}

/// A new request id: time-ordered, so that logs of several nodes sort.
pub fn request_id() -> String {
    format!("req_{}", base62_of_u128(uuid::Uuid::now_v7().as_u128()))
}

async fn unknown_path(method: Method, request: Request) -> Response {
    // `OPTIONS *` asks about the server, not about a path.
    if method == Method::OPTIONS && request.uri().path() == "*" {
        return StatusCode::NO_CONTENT.into_response();
    }
    Problem::not_found().into_response()
}

/// axum adds `Allow`, the methods with a handler, to whatever this returns, outside of our layer.
async fn unknown_method(method: Method) -> Response {
    match method {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => Problem::new(Code::MethodNotAllowed).into_response(),
    }
}

async fn around(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    let context = Context {
        request_id: request_id().into(),
        trace: Trace::read(request.headers()),
        started: Instant::now(),
        caller: Arc::default(),
        body: Arc::default(),
    };
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let path = request.uri().path().to_owned();
    let client_id = request.headers().get(X_REQUEST_ID).map(printable);
    let line = Line::of(&request);
    request.extensions_mut().insert(context.clone());

    let active = edge.metrics.request_began();
    // A panic is a defect, yet the client gets an answer in the usual shape.
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    drop(active);
    let response = answer.unwrap_or_else(|_panic| {
        error!(%method, route, request_id = %context.request_id, "handler panicked");
        Problem::new(Code::Internal).into_response()
    });
    let mut response = rendered(response, &path, &context.request_id, &method);
    audit(&edge, &context, line, &response);
    decorate(&mut response, &edge, &context);

    let took = context.started.elapsed();
    edge.metrics.request_ended(&method, route, response.status(), took);
    access_line(&method, route, response.status(), took, &context, client_id.as_deref());
    response
}

/// What the audit tells of a request line.
struct Line {
    method: String,
    path: String,
    address: String,
    once: bool,
}

impl Line {
    fn of(request: &Request) -> Self {
        let from = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        Self {
            method: printable_text(request.method().as_str()),
            path: shown_path(path),
            once: request.headers().contains_key(IDEMPOTENCY_KEY),
            address: from.map_or_else(String::new, |from| from.0.ip().to_string()),
        }
    }
}

/// Refusals, reads if they are wanted, and writes of which no entry tells. What was committed with a
/// note has told itself.
fn audit(edge: &Edge, context: &Context, line: Line, response: &Response) {
    let status = response.status();
    if status == StatusCode::UNAUTHORIZED {
        figures().auth_failures.inc();
    }
    let Some(auditor) = &edge.auditor else { return };
    let told = response.extensions();
    let untold = told.get::<Untold>().is_some();
    let committed = told.get::<Committed>().is_some()
        || told.get::<Served>().is_some_and(|served| served.index.is_some());
    let read = line.method == "GET" && status.is_success() && auditor.wants_read();
    if !untold && (committed || !(status.is_client_error() || read)) {
        return;
    }
    let known = context.caller();
    let Line { method, path, address, once } = line;
    let note = Note {
        request: context.request_id.to_string(),
        actor: known.map_or_else(|| STRANGER.to_owned(), |known| known.actor.clone()),
        key: known.and_then(|known| known.key),
        method,
        path,
        address,
        body: context.body.get().copied().unwrap_or_else(|| Digest(Marks::of_nothing().sha256)),
        status: status.as_u16(),
        ms: u32::try_from(context.started.elapsed().as_millis()).unwrap_or(u32::MAX),
        once,
    };
    let code = response.extensions().get::<Code>();
    let code = code.map_or("ok", |code| code.meaning().name);
    let replayed = response.headers().contains_key(IDEMPOTENT_REPLAYED);
    let call = Call { note, code: code.to_owned(), replayed, count: 1 };
    match known {
        Some(known) => auditor.take(known.tenant, call),
        None if status == StatusCode::UNAUTHORIZED => auditor.take_stranger(call),
        // Nobody has said who asks.
        None => {}
    }
}

/// Turns the mark that a handler left, or an answer that the framework made, into problem+json.
fn rendered(mut response: Response, path: &str, request_id: &str, method: &Method) -> Response {
    let problem = response.extensions_mut().remove::<Problem>();
    let status = response.status();
    let problem = match problem {
        Some(problem) => problem,
        None if status.is_client_error() || status.is_server_error() => {
            Problem::new(Code::of_status(status))
        }
        None => return response,
    };
    let code = problem.code();
    let mut answer = problem.respond(path, request_id);
    answer.extensions_mut().insert(code);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if method == Method::HEAD {
        *answer.body_mut() = Body::empty();
    }
    answer
}

fn decorate(response: &mut Response, edge: &Edge, context: &Context) {
    let served = response.extensions_mut().remove::<Served>().unwrap_or_default();
    let headers = response.headers_mut();
    served.write(headers);
    if let Ok(id) = HeaderValue::from_str(&context.request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(TRACEPARENT, context.trace.header());
    if let Some(node) = edge.status.node() {
        headers.insert(SKEP_NODE, node);
    }
}

fn access_line(
    method: &Method,
    route: &str,
    status: StatusCode,
    took: Duration,
    context: &Context,
    client_id: Option<&str>,
) {
    if !enabled!(Level::INFO) {
        return;
    }
    let (status, ms) = (status.as_u16(), took.as_millis() as u64);
    let (request_id, trace_id) = (&context.request_id, context.trace.id());
    let tenant = context.caller.get().map(|known| known.tenant);
    let written = telemetry::line(module_path!(), "request", |line| {
        let method = printable_text(method.as_str());
        // A Vec takes whatever is written into it, and a text always has a JSON form.
        let _ = write!(line, r#","method":"{method}","route":"{route}","status":{status}"#);
        let _ = write!(line, r#","ms":{ms},"request_id":"{request_id}","trace_id":"{trace_id}""#);
        if let Some(tenant) = tenant {
            let _ = write!(line, r#","tenant":"{tenant}""#);
        }
        if let Some(client_id) = client_id {
            line.extend_from_slice(br#","client_request_id":"#);
            let _ = serde_json::to_writer(line, client_id);
        }
    });
    if written {
        return;
    }
    info!(
        method = %printable_text(method.as_str()),
        route,
        status,
        ms,
        %request_id,
        %trace_id,
        tenant = tenant.map(tracing::field::display),
        client_request_id = client_id,
        "request"
    );
}

fn printable(value: &HeaderValue) -> String {
    printable_text(&String::from_utf8_lossy(value.as_bytes()))
}

/// What a client sends reaches a log only without control characters and cut.
fn printable_text(text: &str) -> String {
    text.chars()
        .take(CLIENT_ID_CHARS_MAX)
        .map(|character| if character.is_ascii_graphic() { character } else { '.' })
        .collect()
}
