//! The operations routes and everything that all routes have in common, by oneshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response};
use axum::{Extension, Router, routing};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;
use utoipa_axum::router::OpenApiRouter;

use super::context::{Edge, complete};
use super::error::{Code, Problem};
use super::headers::Served;
use super::health::{Check, Load, Status};
use super::metrics::Metrics;
use super::query::{FromSegment, NoQuery, Segments};
use super::{docs, health, metrics, openapi};

#[derive(Default)]
struct Node {
    ready: AtomicBool,
}

impl Status for Node {
    fn node(&self) -> Option<HeaderValue> {
        Some(HeaderValue::from_static("2"))
    }

    fn checks(&self) -> Vec<Check> {
        let ok = self.ready.load(Ordering::Relaxed);
        vec![Check { name: "model_warm", ok, detail: "loading".to_owned() }]
    }

    fn load(&self) -> Load {
        Load { pressure: 0.25, nodes: 3, wanted: 3 }
    }
}

struct Number;

impl FromSegment for Number {
    fn from_segment(segment: &str) -> Option<Self> {
        segment.parse::<u64>().ok().map(|_| Self)
    }
}

async fn thing(_: Segments<(Number,)>, _: NoQuery) -> (Extension<Served>, &'static str) {
    let served = Served { owner: Some("3".to_owned()), index: Some("4:17".to_owned()) };
    (Extension(served), "thing")
}

fn panics() -> &'static str {
    panic!("on purpose")
}

fn app() -> (Router, Arc<Node>) {
    let node = Arc::new(Node::default());
    let edge =
        Edge { metrics: Arc::new(Metrics::new().unwrap()), status: node.clone(), auditor: None };
    let table = OpenApiRouter::with_openapi(openapi::base())
        .merge(health::routes())
        .merge(metrics::routes())
        .merge(docs::routes());
    let (router, _) = docs::publish(table).unwrap();
    let router = router
        .route("/things/{id}", routing::get(thing).post(thing))
        .route("/panics", routing::get(async || panics()))
        .route("/plain", routing::get(async || (axum::http::StatusCode::BAD_GATEWAY, "text")))
        .route("/no", routing::get(async || Problem::unauthenticated()));
    (complete(router.with_state(edge.clone()), edge), node)
}

async fn call(method: &str, path: &str) -> (Response<()>, String) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    split(app().0.oneshot(request).await.unwrap()).await
}

async fn split(response: Response<Body>) -> (Response<()>, String) {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(parts, ()), String::from_utf8_lossy(&bytes).into_owned())
}

fn header<'r>(response: &'r Response<()>, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn check_problem(method: &str, path: &str, status: u16, code: &str) -> Response<()> {
    let (response, body) = call(method, path).await;
    assert_eq!(response.status(), status, "{method} {path}: {body}");
    assert_eq!(header(&response, "content-type"), "application/problem+json");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["code"], &body["status"]), (&code.into(), &status.into()));
    assert_eq!(body["request_id"], header(&response, "x-request-id"));
    assert_eq!(body["instance"], path.split('?').next().unwrap());
    assert!(header(&response, "traceparent").starts_with("00-"));
    assert_eq!(header(&response, "skep-node"), "2");
    response
}

#[tokio::test]
async fn unknown_paths_and_tricks_are_404() {
    for path in [
        "/",
        "/nothing",
        "/livez/",
        "//livez",
        "/livez//",
        "/./livez",
        "/x/../livez",
        "/%6civez",
        "/livez%00",
        "/LIVEZ",
        "/things/",
        "/things/%2e%2e",
        "/things/..",
        "/things/1/",
        "/things/%00",
        "/things/%c0%af",
        "/things/%ff",
        "/things/1%2f2",
        "/problems/nothing",
        "/docs/nothing.js",
        "/docs/../livez",
    ] {
        check_problem("GET", path, 404, "not_found").await;
    }
}

#[tokio::test]
async fn a_wrong_method_is_405_with_allow_and_options_is_204() {
    let response = check_problem("DELETE", "/things/1", 405, "method_not_allowed").await;
    assert_eq!(header(&response, "allow"), "GET,HEAD,POST");
    check_problem("BREW", "/livez", 405, "method_not_allowed").await;
    check_problem("TRACE", "/openapi.json", 405, "method_not_allowed").await;
    let (response, body) = call("OPTIONS", "/livez").await;
    assert_eq!((response.status().as_u16(), body.as_str()), (204, ""));
    assert_eq!(header(&response, "allow"), "GET,HEAD");
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    for (path, status) in [("/livez", 200), ("/nothing", 404), ("/no", 401)] {
        let (response, body) = call("HEAD", path).await;
        assert_eq!((response.status().as_u16(), body.as_str()), (status, ""), "{path}");
    }
}

#[tokio::test]
async fn unknown_parameters_are_400_on_every_get_route_of_operations() {
    for path in [
        "/livez",
        "/readyz",
        "/health",
        "/version",
        "/metrics",
        "/openapi.json",
        "/autoscale",
        "/problems/gone",
    ] {
        check_problem("GET", &format!("{path}?limti=1"), 400, "malformed").await;
    }
}

#[tokio::test]
async fn framework_answers_and_panics_become_problems() {
    let (response, body) = call("GET", "/plain").await;
    assert_eq!(header(&response, "content-type"), "application/problem+json", "{body}");
    let (response, body) = call("GET", "/panics").await;
    assert_eq!(response.status(), 500);
    assert!(body.contains("\"outcome\":\"unknown\"") && !body.contains("on purpose"), "{body}");
    let response = check_problem("GET", "/no", 401, "unauthenticated").await;
    assert_eq!(header(&response, "www-authenticate"), "Bearer");
}

#[tokio::test]
async fn who_decided_is_in_the_headers() {
    let (response, body) = call("GET", "/things/1").await;
    assert_eq!(body, "thing");
    assert_eq!(header(&response, "skep-owner"), "3");
    assert_eq!(header(&response, "skep-index"), "4:17");
    assert_eq!(header(&response, "x-request-id").len(), 26);
}

#[tokio::test]
async fn readiness_follows_the_checks() {
    let response = check_problem("GET", "/readyz", 503, "not_ready").await;
    assert_eq!(header(&response, "retry-after"), "1");
    let (router, node) = app();
    node.ready.store(true, Ordering::Relaxed);
    let request = Request::get("/readyz?verbose").body(Body::empty()).unwrap();
    let (response, body) = split(router.oneshot(request).await.unwrap()).await;
    assert_eq!(response.status(), 200);
    assert!(body.contains("model_warm"), "{body}");
    let (_, body) = call("GET", "/health").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["status"], &body["ready"]), (&"degraded".into(), &false.into()));
    let timestamp = body["timestamp"].as_str().unwrap();
    assert!(timestamp.ends_with('Z') && timestamp.len() == 24, "{timestamp}");
}

#[tokio::test]
async fn metrics_count_by_template_and_never_by_path() {
    let (router, _) = app();
    for path in ["/things/1", "/things/2", "/secret-path"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap();
    }
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let (response, text) = split(router.oneshot(request).await.unwrap()).await;
    assert!(header(&response, "content-type").starts_with("text/plain; version=0.0.4"));
    for line in [
        "skep_api_requests_total{method=\"GET\",route=\"/things/{id}\",status=\"200\"} 2",
        "skep_api_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "skep_api_active_requests 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("secret-path") && !text.contains("/things/1"));
}

#[tokio::test]
async fn the_document_is_openapi_3_1_and_describes_every_answer() {
    let (response, body) = call("GET", "/openapi.json").await;
    assert_eq!(header(&response, "content-type"), "application/json");
    let document: Value = serde_json::from_str(&body).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(undescribed(&document).is_empty(), "{:?}", undescribed(&document));
    assert!(dangling(&document, &document).is_empty(), "{:?}", dangling(&document, &document));
    let paths = document["paths"].as_object().unwrap();
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs/", "/problems/{code}"] {
        assert!(paths.contains_key(path), "{path}");
    }
    assert!(document["components"]["schemas"]["Problem"]["properties"]["request_id"].is_object());
}

/// Answers without a description. The whole route table is held to this as well.
pub(super) fn undescribed(document: &Value) -> Vec<String> {
    let mut bare = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let text = response["description"].as_str().unwrap_or_default();
                if response["$ref"].is_null() && text.is_empty() {
                    bare.push(format!("{method} {path} {status}"));
                }
            }
        }
    }
    bare
}

/// References that lead nowhere.
pub(super) fn dangling(document: &Value, part: &Value) -> Vec<String> {
    match part {
        Value::Object(fields) => {
            let to = fields.get("$ref").and_then(Value::as_str);
            let lost = to.filter(|to| document.pointer(&to[1..]).is_none()).map(str::to_owned);
            let below = fields.values().flat_map(|part| dangling(document, part));
            lost.into_iter().chain(below).collect()
        }
        Value::Array(items) => items.iter().flat_map(|part| dangling(document, part)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[tokio::test]
async fn the_pages_come_out_of_the_binary() {
    let (response, _) = call("GET", "/docs").await;
    assert_eq!((response.status().as_u16(), header(&response, "location")), (303, "/docs/"));
    let (response, page) = call("GET", "/docs/").await;
    assert_eq!(response.status(), 200);
    assert!(header(&response, "content-security-policy").starts_with("default-src 'self'"));
    let (_, start) = call("GET", "/docs/swagger-initializer.js").await;
    for text in [&page, &start] {
        assert!(!text.contains("http://") && !text.contains("https://"), "{text}");
        assert!(!text.contains("src=\"//"));
    }
    assert!(start.contains("/openapi.json"), "{start}");
    assert!(start.contains("\"validatorUrl\": \"none\""), "{start}");
    let (response, script) = call("GET", "/docs/swagger-ui-bundle.js").await;
    assert_eq!((response.status().as_u16(), script.len() > 1_000_000), (200, true));
}

#[tokio::test]
async fn every_problem_has_its_page() {
    for code in Code::ALL {
        let (response, body) = call("GET", &format!("/problems/{}", code.meaning().name)).await;
        assert_eq!(response.status(), 200);
        assert!(body.contains("advice"));
    }
}
