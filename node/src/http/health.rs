//! Is this process alive, is this node ready, which version is it. No credential, no secrets.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use protocol::versions::Wire;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::context::Edge;
use super::error::{Code, Problem};
use super::query::{FromQuery, NoQuery, Parameters, Query};
use super::report::{Report, Spoken};

/// What the node can say about itself; the wiring implements it over the cluster.
pub trait Status: Send + Sync + 'static {
    /// Our node id for `Skep-Node`, once we have one.
    fn node(&self) -> Option<HeaderValue>;
    /// One line per thing that has to be true before we take work. Ready when all of them are.
    fn checks(&self) -> Vec<Check>;
    /// What `/readyz?verbose` has beside the checks.
    fn report(&self) -> Option<Report> {
        None
    }
    /// The versions of the wire, as far as they are known.
    fn wire(&self) -> Spoken {
        let Wire { min, max } = Wire::OURS;
        Spoken { active: None, min, max }
    }
    /// What autoscalers read.
    fn load(&self) -> Load;
}

/// One condition of readiness.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Check {
    /// Its name, e.g. `model_warm`.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// How far it is, for people.
    pub detail: String,
}

/// Answer of `/autoscale`.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Load {
    /// How long the cluster takes for all that waits, at the pace of late, over the 30 s that it may
    /// take: 1.0 is full.
    pub pressure: f64,
    /// Nodes that answer and take tasks.
    pub nodes: u64,
    /// Nodes that would bring the pressure to 1.0, at most twice as many; no fewer than keep three
    /// replicas, where there are three.
    pub wanted: u64,
}

/// Answer of `/readyz`; everything but the status comes with `?verbose`. The problem of a node that is
/// not ready has the same in its member `report`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    /// `ready`, never anything else: the other answer is a problem.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Vec<Check>>,
    #[serde(flatten)]
    report: Option<Report>,
}

/// Answer of `/health`: a superset of what the clients of the five systems read.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `healthy` or `degraded`.
    status: &'static str,
    /// The same as `/readyz`, as a word that older clients look for.
    ready: bool,
    service: &'static str,
    version: &'static str,
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    timestamp: jiff::Timestamp,
    checks: Vec<Check>,
}

/// Answer of `/version`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Version {
    name: &'static str,
    version: &'static str,
    wire: Spoken,
    /// What the clock of the node shows.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    time: jiff::Timestamp,
}

struct Verbose(bool);

impl FromQuery for Verbose {
    fn from_query(parameters: &mut Parameters<'_>) -> Option<Self> {
        Some(Self(parameters.flag("verbose")))
    }
}

/// The routes of this file; also the example of how a handler is described.
pub fn routes() -> OpenApiRouter<Edge> {
    OpenApiRouter::new()
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .routes(routes!(health))
        .routes(routes!(version))
        .routes(routes!(autoscale))
}

/// Is the process alive
#[utoipa::path(get, path = "/livez", tag = "operations", responses(
    (status = 200, description = "The process answers", body = String, content_type = "text/plain"),
))]
async fn livez(_: NoQuery) -> &'static str {
    "ok\n"
}

/// Does this node take work
#[utoipa::path(get, path = "/readyz", tag = "operations",
    params(("verbose" = Option<bool>, Query, description = "List each check, and how the node is")),
    responses(
        (status = 200, description = "Ready", body = Ready),
        (status = 503, response = super::openapi::ProblemResponse),
    ))]
async fn readyz(State(edge): State<Edge>, query: Query<Verbose>) -> Response {
    let checks = edge.status.checks();
    let missing: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
    let Query(Verbose(verbose)) = query;
    let report = || edge.status.report().filter(|_| verbose);
    if !missing.is_empty() {
        let missing: Vec<_> =
            missing.iter().map(|check| format!("{}: {}", check.name, check.detail)).collect();
        // When a node is not ready, how it is matters most.
        let report = report().and_then(|report| serde_json::to_value(report).ok());
        let problem = Problem::new(Code::NotReady).detail(missing.join("; ")).report(report);
        return problem.into_response();
    }
    let checks = verbose.then_some(checks);
    Json(Ready { status: "ready", checks, report: report() }).into_response()
}

/// How is this node
#[utoipa::path(get, path = "/health", tag = "operations", responses(
    (status = 200, description = "The node answers; `status` says how it is", body = Health),
))]
async fn health(State(edge): State<Edge>, _: NoQuery) -> Json<Health> {
    let checks = edge.status.checks();
    let ready = checks.iter().all(|check| check.ok);
    Json(Health {
        status: if ready { "healthy" } else { "degraded" },
        ready,
        service: "skep",
        version: env!("CARGO_PKG_VERSION"),
        timestamp: jiff::Timestamp::now(),
        checks,
    })
}

/// Which build is this
#[utoipa::path(get, path = "/version", tag = "operations", responses(
    (status = 200, description = "Name, version, versions of the wire, and the clock", body = Version),
))]
async fn version(State(edge): State<Edge>, _: NoQuery) -> Json<Version> {
    Json(Version {
        name: "skep",
        version: env!("CARGO_PKG_VERSION"),
        wire: edge.status.wire(),
        time: jiff::Timestamp::now(),
    })
}

/// How many nodes does this load want
#[utoipa::path(get, path = "/autoscale", tag = "operations", responses(
    (status = 200, description = "Pressure and the wanted number of nodes", body = Load),
))]
async fn autoscale(State(edge): State<Edge>, _: NoQuery) -> Json<Load> {
    Json(edge.status.load())
}

mod rfc3339 {
    use jiff::Timestamp;
    use serde::Serializer;

    /// Milliseconds and `Z`, as the contract has all times.
    pub(super) fn serialize<S: Serializer>(
        at: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{at:.3}"))
    }
}
