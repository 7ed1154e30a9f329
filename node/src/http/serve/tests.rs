//! The listener as a client with a raw socket sees it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderValue;
use axum::routing;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::http::context;
use crate::http::health::{Check, Load, Status};
use crate::http::json::{Empty, Json};
use crate::http::metrics::Metrics;

pub(super) struct Alone;

impl Status for Alone {
    fn node(&self) -> Option<HeaderValue> {
        Some(HeaderValue::from_static("1"))
    }

    fn checks(&self) -> Vec<Check> {
        Vec::new()
    }

    fn load(&self) -> Load {
        Load { pressure: 0.0, nodes: 1, wanted: 1 }
    }
}

struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    edge: Edge,
}

fn quick() -> Limits {
    Limits {
        admission_time: Duration::from_millis(50),
        head_time: Duration::from_millis(300),
        idle_time: Duration::from_millis(900),
        drain_time: Duration::from_millis(500),
        ..Limits::default()
    }
}

async fn start(limits: Limits) -> Running {
    let edge =
        Edge { metrics: Arc::new(Metrics::new().unwrap()), status: Arc::new(Alone), auditor: None };
    let router = Router::new()
        .route("/hello", routing::get(async || "hello"))
        .route("/echo", routing::post(async |_: Json<Empty>| "read"))
        .route(
            "/slow",
            routing::get(async || {
                sleep(Duration::from_millis(200)).await;
                "slow"
            }),
        )
        .route("/hang", routing::get(std::future::pending::<()>));
    let router = context::complete(router, edge.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let served =
        tokio::spawn(serve(listener, router, edge.clone(), limits, None, shutdown.clone()));
    Running { address, shutdown, served, edge }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends the bytes and reads until the server closes.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        rest(&mut stream).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut text)).await;
    read.expect("the server closes").unwrap();
    String::from_utf8(text).unwrap()
}

async fn first(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 4096];
    let count = timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.unwrap().unwrap();
    String::from_utf8(buffer[..count].to_vec()).unwrap()
}

/// Asserts one problem+json answer with this status, complete with its headers, and nothing else.
fn assert_problem(answer: &str, status: u16, code: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\ncontent-type: application/problem+json"), "{answer}");
    assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{answer}");
    for name in ["x-request-id: req_", "traceparent: 00-", "skep-node: 1", "date: "] {
        assert!(head.contains(&format!("\r\n{name}")), "{name} in {answer}");
    }
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["status"], &body["code"]), (&status.into(), &code.into()));
}

const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn requests_are_answered_one_after_another_also_in_a_pipeline() {
    let server = start(quick()).await;
    let answer = server.say(format!("{HELLO}{HELLO}{LAST}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    assert_eq!(answer.matches("\r\n\r\nhello").count(), 3);
}

#[tokio::test]
async fn what_is_no_request_is_400_as_a_problem() {
    let server = start(quick()).await;
    for fields in [
        "Host: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
        "Host: a\r\nContent-Length: 3\r\nContent-Length: 4",
        "Host: a\r\nContent-Length: -3",
        "Host: a\r\nTransfer-Encoding: gzip",
        "Host: a\r\nX : y",
        "Host: a\r\nX: y\r\n z: folded",
        "Host: a\nX: y",
        "X: no-host",
        "Host: a\r\nno colon",
    ] {
        let text = format!("POST /echo HTTP/1.1\r\n{fields}\r\n\r\nabc");
        assert_problem(&server.say(text.as_bytes()).await, 400, "malformed");
    }
    for line in [
        "GET",
        "GET /",
        "GET / HTTP/9.9",
        "G\u{e9}T / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "\u{16}\u{3}\u{1}",
    ] {
        let text = format!("{line}\r\nHost: a\r\n\r\n");
        assert_problem(&server.say(text.as_bytes()).await, 400, "malformed");
    }
    let metrics = server.edge.metrics.render().unwrap();
    assert!(metrics.contains("route=\"unparsed\",status=\"400\"} 15"), "{metrics}");
}

#[tokio::test]
async fn a_smuggled_request_is_never_answered() {
    let server = start(quick()).await;
    let text = format!(
        "{HELLO}POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{LAST}"
    );
    let answer = server.say(text.as_bytes()).await;
    let (good, refused) = answer.split_at(answer.rfind("HTTP/1.1").unwrap());
    assert_eq!(good.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
    assert_problem(refused, 400, "malformed");
    let text = format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n{LAST}"
    );
    let answer = server.say(text.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1);
    assert_problem(&answer, 400, "malformed");
}

#[tokio::test]
async fn large_heads_are_431() {
    let server = start(quick()).await;
    let text = format!("GET /hello HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(64 << 10));
    assert_problem(&server.say(text.as_bytes()).await, 431, "header_too_large");
    let text = format!("GET /hello HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
    assert_problem(&server.say(text.as_bytes()).await, 431, "header_too_large");
    let text = format!(
        "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n",
        "X: y\r\n".repeat(98)
    );
    assert!(server.say(text.as_bytes()).await.starts_with("HTTP/1.1 200 OK"));
    let text = format!(
        "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {}\r\n\r\n",
        "y".repeat(8 << 10)
    );
    assert!(server.say(text.as_bytes()).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_slow_head_ends_after_its_time_and_an_idle_connection_after_a_longer_one() {
    let server = start(quick()).await;
    let mut stream = server.connect().await;
    let began = Instant::now();
    let (mut read, mut write) = stream.split();
    let crawl = async {
        for byte in HELLO.bytes() {
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let mut text = Vec::new();
    tokio::select! {
        () = crawl => panic!("the server waited for the whole head"),
        count = read.read_to_end(&mut text) => drop(count),
    }
    assert!((250..600).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_problem(&String::from_utf8(text).unwrap(), 408, "request_timeout");

    let began = Instant::now();
    assert_eq!(server.say(b"").await, "");
    assert!((250..600).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());

    let began = Instant::now();
    assert!(server.say(HELLO.as_bytes()).await.ends_with("hello"));
    assert!((850..1500).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_body_over_its_limit_is_refused_unread_and_without_100_continue() {
    let server = start(quick()).await;
    let head = |more: &str| {
        format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{more}\r\n\r\n"
        )
    };
    let large = head("Content-Length: 2000000\r\nExpect: 100-continue");
    assert_problem(&server.say(large.as_bytes()).await, 413, "too_large");
    assert_problem(&server.say(head("Content-Length: 2000000").as_bytes()).await, 413, "too_large");
    // All of it is sent, as by a client that does not look: it still gets to read the answer.
    let mut sent = head("Content-Length: 20000000").into_bytes();
    sent.resize(sent.len() + 20_000_000, b' ');
    let mut stream = server.connect().await;
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let (_, received) = tokio::join!(write.write_all(&sent), read.read_to_end(&mut answer));
    received.unwrap();
    assert_problem(&String::from_utf8(answer).unwrap(), 413, "too_large");

    let mut sent = head("Transfer-Encoding: chunked").into_bytes();
    for _ in 0..40 {
        sent.extend_from_slice(b"8000\r\n");
        sent.resize(sent.len() + 0x8000, b' ');
        sent.extend_from_slice(b"\r\n");
    }
    let answer = server.say(&sent).await;
    assert_problem(&answer, 413, "too_large");

    let small = head("Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close");
    let mut stream = server.connect().await;
    stream.write_all(small.as_bytes()).await.unwrap();
    assert_eq!(first(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").await.unwrap();
    assert!(rest(&mut stream).await.ends_with("read"));
}

#[tokio::test]
async fn a_half_closed_client_gets_its_answer() {
    let server = start(quick()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(rest(&mut stream).await.ends_with("slow"));
}

#[tokio::test]
async fn one_connection_too_many_is_told_503() {
    let server = start(Limits { connections: 2, ..quick() }).await;
    let mut held = [server.connect().await, server.connect().await];
    for stream in &mut held {
        stream.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    }
    sleep(Duration::from_millis(50)).await;
    let mut stream = server.connect().await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    drop(held);
}

#[tokio::test]
async fn shutdown_waits_for_answers_but_not_for_ever() {
    let server = start(quick()).await;
    let mut idle = server.connect().await;
    idle.write_all(HELLO.as_bytes()).await.unwrap();
    assert!(first(&mut idle).await.ends_with("hello"));
    let mut slow = server.connect().await;
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    server.shutdown.cancel();
    assert_eq!(rest(&mut idle).await, "");
    assert!(rest(&mut slow).await.ends_with("slow"));
    timeout(Duration::from_secs(2), server.served).await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_millis(450), "{:?}", began.elapsed());

    let server = start(quick()).await;
    let mut hung = server.connect().await;
    hung.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(50)).await;
    server.shutdown.cancel();
    timeout(Duration::from_secs(2), server.served).await.unwrap().unwrap();
    assert_eq!(rest(&mut hung).await, "");
}
