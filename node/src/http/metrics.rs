//! What Prometheus reads at `/metrics`. Labels are route templates, statuses and other small sets;
//! never a raw path, a tenant or an id.
//!
//! The names are those of the first of the five systems with our prefix, where the thing still exists:
//!
//! | documented name (`sentineldf_…`) | here (`skep_…`) |
//! |---|---|
//! | `api_requests_total` | `api_requests_total{method,route,status}` |
//! | `api_request_duration_seconds` | `api_request_duration_seconds{route}` |
//! | `api_active_requests` | `api_active_requests` |
//! | `job_queue_depth{priority}` | `job_queue_depth{priority}`: tasks of the shards that this node owns |
//! | `job_processing_duration_seconds` | `job_processing_duration_seconds` |
//! | `jobs_completed_total{status}` | `jobs_completed_total{status}` |
//! | `worker_active_tasks` | `worker_active_tasks`: batches that wait for or hold a slot |
//! | `worker_task_duration_seconds` | `worker_task_duration_seconds` |
//! | `db_query_duration_seconds` | `proposal_duration_seconds`: the log is the database |
//! | `db_connections` | `http_connections` |
//! | `inference_duration_seconds{model}` | `inference_duration_seconds`: there is one model |
//! | `documents_scanned_total{org_id}` | `documents_scanned_total`: tenants are in `/v1/usage` |
//! | `quarantine_rate{org_id}` | `documents_quarantined_total`: a rate is a query |
//! | `errors_total{error_type,component}` | `errors_total{code}` |
//! | `rate_limit_hits_total{org_id}` | `rate_limit_hits_total{policy}` |
//! | `system` | `build_info{version}` |
//!
//! The names of caches follow with the cache. Those of the actors are made in `actors::figures`, and
//! the state of the cluster in [`super::state`].

use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, Method, StatusCode};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::context::Edge;
use super::error::Problem;
use super::query::NoQuery;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// From a warm limit check to a long scan.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// All figures of this process. Cheap to share; every field may be used from anywhere.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    active_requests: IntGauge,
    errors: IntCounterVec,
    /// Open client connections.
    pub http_connections: IntGauge,
    /// Connections turned away because all places were taken.
    pub http_connections_refused: IntCounter,
}

/// The request counts as active until this is dropped.
#[derive(Debug)]
pub struct Active(IntGauge);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// A registry of its own, so that tests and nodes in one process do not share figures.
    pub fn new() -> Result<Self, prometheus::Error> {
        let make = Maker(Registry::new_custom(Some("skep".to_owned()), None)?);
        let build = make.gauges("build_info", "Always 1; the version is the label", "version")?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            requests: make.requests()?,
            request_seconds: make.timers(
                "api_request_duration_seconds",
                "Head in to head out, by route",
                "route",
            )?,
            active_requests: make.gauge("api_active_requests", "Requests being handled")?,
            errors: make.counters("errors_total", "Answers of 500 and more", "code")?,
            http_connections: make.gauge("http_connections", "Open client connections")?,
            http_connections_refused: make
                .counter("http_connections_refused_total", "Connections turned away")?,
            registry: make.0,
        })
    }

    /// A request begins.
    pub fn request_began(&self) -> Active {
        self.active_requests.inc();
        Active(self.active_requests.clone())
    }

    /// A request has its answer. `route` is a template out of the route table.
    pub fn request_ended(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        self.requests.with_label_values(&[method_label(method), route, status.as_str()]).inc();
        self.request_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
        if status.is_server_error() {
            self.errors.with_label_values(&[status.as_str()]).inc();
        }
    }

    /// The counter and the timer of one route and status, for those who use them often.
    pub fn handles(&self, method: &str, route: &str, status: &str) -> (IntCounter, Histogram) {
        let answered = self.requests.with_label_values(&[method, route, status]);
        (answered, self.request_seconds.with_label_values(&[route]))
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Registers a collector of another module, e.g. the figures of Raft.
    pub fn register(
        &self,
        collector: Box<dyn prometheus::core::Collector>,
    ) -> Result<(), prometheus::Error> {
        self.registry.register(collector)
    }
}

/// Clients may invent methods; labels may not grow with them.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

struct Maker(Registry);

impl Maker {
    fn keep<C>(&self, collector: C) -> Result<C, prometheus::Error>
    where
        C: prometheus::core::Collector + Clone + 'static,
    {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn requests(&self) -> Result<IntCounterVec, prometheus::Error> {
        let opts = Opts::new("api_requests_total", "Answered requests");
        self.keep(IntCounterVec::new(opts, &["method", "route", "status"])?)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.keep(IntCounter::new(name, help)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.keep(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.keep(IntGauge::new(name, help)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        label: &str,
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), &[label])?)
    }

    fn timers(
        &self,
        name: &str,
        help: &str,
        label: &str,
    ) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.keep(HistogramVec::new(opts, &[label])?)
    }
}

/// The route of this file.
pub fn routes() -> OpenApiRouter<Edge> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Figures of this node for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operations", responses(
    (status = 200, description = "Prometheus text format", body = String, content_type = "text/plain"),
))]
async fn metrics(
    State(edge): State<Edge>,
    _: NoQuery,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    let failed = |_cause| Problem::new(super::error::Code::Internal);
    let text = edge.metrics.render().map_err(failed)?;
    Ok(([(CONTENT_TYPE, TEXT)], text))
}
