//! A node has two ways in: a plain check that it can admit by itself is answered where its bytes
//! arrive, everything else goes through the route table. A client must not be able to tell them apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tests::Cluster;
use tests::raw::{Response, send_bytes};

use super::{limited_to, soon};
use crate::stage::{Account, call, operator, same, text};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// Sent of each form; the plain ones need a slab at hand, which comes with the first.
const TIMES: usize = 20;

/// A check with nothing in its head but what every client sends, and `more`.
fn head(key: &str, more: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /v1/limits/check HTTP/1.1\r\nHost: skep\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\n{more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Fields that send a check the ordinary way and mean nothing to it.
fn detours() -> [String; 3] {
    [
        "X-Unknown: 1\r\n".to_owned(),
        format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n"),
        "Connection: keep-alive\r\n".to_owned(),
    ]
}

/// Status, names of headers, and the members of the body with what kind of value they have.
type Face = (u16, Vec<String>, BTreeMap<String, &'static str>);

fn face(answer: &Response) -> Result<Face> {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let body = answer.json()?;
    let members = body.as_object().context("an object")?.iter();
    let members = members.map(|(name, value)| (name.clone(), kind(value))).collect();
    let names = answer.header_names().into_iter().map(str::to_owned).collect();
    Ok((answer.status, names, members))
}

pub(super) async fn both_ways_into_a_node_answer_alike(cluster: &Cluster) -> Result<()> {
    // Divided among nodes, and never met.
    let wide = limited_to(cluster, "wide", json!({"rate": 900, "burst": 9000})).await?;
    warm_checks_answer_alike(cluster, &wide).await.context("admitted")?;
    let free = limited_to(cluster, "free", json!({})).await?;
    warm_checks_answer_alike(cluster, &free).await.context("without limits")?;
    let mut all = Vec::new();
    for body in [r#"{"units":"#, r#"{"units":0}"#, r#"{"unit":1}"#, "[]", r#"{} {}"#] {
        all.push(alike(cluster, &wide.key, body).await.context(body)?);
    }
    same("bad bodies", all, vec![400, 422, 422, 422, 400])?;

    let short = limited_to(cluster, "short", json!({"rate": 0, "burst": 64})).await?;
    used_up(cluster, &short).await.context("used up")?;
    same("used up", alike(cluster, &short.key, "{}").await?, 429)?;

    let made = call(cluster, 0, &wide.key, "POST", "/v1/keys/create?name=gone", None).await?;
    let made = made.ok(200)?;
    let gone = text(&made, "api_key")?;
    for node in 0..cluster.len() {
        send_bytes(&cluster.url(node), &head(&gone, "", "{}")).await?.ok(200)?;
    }
    let target = format!("/v1/keys/{}", made["key_id"]);
    call(cluster, 1, &wide.key, "DELETE", &target, None).await?.ok(200)?;
    same("a revoked key", alike(cluster, &gone, "{}").await?, 401)?;

    let target = format!("/v1/tenants/{}/suspend", wide.id);
    operator(cluster, 2, "POST", &target, None).await?.ok(200)?;
    same("a suspended tenant", alike(cluster, &wide.key, "{}").await?, 403)
}

/// Through every node and in every form the same; gives the status.
async fn alike(cluster: &Cluster, key: &str, body: &str) -> Result<u16> {
    let mut first = None;
    for node in 0..cluster.len() {
        for more in [String::new()].iter().chain(&detours()) {
            let answer = send_bytes(&cluster.url(node), &head(key, more, body)).await?;
            let status = answer.status;
            if status >= 400 {
                let code = answer.json()?["code"].as_str().context("a code")?.to_owned();
                answer.problem(status, &code)?;
            }
            let face = face(&answer)?;
            let first = first.get_or_insert_with(|| face.clone());
            ensure!(face == *first, "{more:?} on node {node}: {face:?} differs from {first:?}");
        }
    }
    Ok(first.context("no answer")?.0)
}

/// The short way leaves no line in the log, so the log tells that both were taken.
async fn warm_checks_answer_alike(cluster: &Cluster, home: &Account) -> Result<()> {
    for node in 0..cluster.len() {
        let url = cluster.url(node);
        let mut short = Vec::new();
        for _ in 0..TIMES {
            short.push(send_bytes(&url, &head(&home.key, "", "{}")).await?);
        }
        let mut long = Vec::new();
        for more in detours() {
            long.push(send_bytes(&url, &head(&home.key, &more, "{}")).await?);
        }
        let trace = long[1].header("traceparent").unwrap_or_default();
        ensure!(trace.contains(TRACE), "the trace is not continued: {trace}");
        let wanted = face(&long[0])?;
        same("status", wanted.0, 200)?;
        for answer in short.iter().chain(&long) {
            same(&format!("node {node}"), face(answer)?, wanted.clone())?;
            let fixed = ["allowed", "policy", "limit"];
            let [one, other] = [answer.json()?, long[0].json()?];
            same("body", fixed.map(|name| &one[name]), fixed.map(|name| &other[name]))?;
            for name in ["ratelimit-policy", "skep-node", "skep-owner", "content-type"] {
                same(name, answer.header(name), long[0].header(name))?;
            }
        }
        let log = cluster.data(node).join("log/skep.log");
        let logged = async || -> Result<Vec<bool>> {
            let text = tokio::fs::read_to_string(&log).await?;
            let id = |answer: &Response| answer.header("x-request-id").map(str::to_owned);
            let ids = long.iter().chain(&short).map(|answer| id(answer).context("an id"));
            ids.map(|id| Ok(text.contains(&id?))).collect()
        };
        soon("the ordinary ones are logged", async || {
            ensure!(logged().await?.iter().take(long.len()).all(|logged| *logged), "not yet");
            Ok(())
        })
        .await?;
        let overtaken = logged().await?.iter().skip(long.len()).filter(|logged| !**logged).count();
        ensure!(overtaken > TIMES / 2, "only {overtaken} of {TIMES} took the short way");
    }
    Ok(())
}

/// Spends through all nodes until every one refuses.
async fn used_up(cluster: &Cluster, home: &Account) -> Result<()> {
    soon("nothing is left", async || {
        for node in 0..cluster.len() {
            for _ in 0..10 {
                let url = cluster.url(node);
                let status = send_bytes(&url, &head(&home.key, "", "{}")).await?.status;
                ensure!(matches!(status, 200 | 429), "node {node} says {status}");
                if status == 429 {
                    break;
                }
            }
        }
        let url = |node| cluster.url(node);
        for node in 0..cluster.len() {
            let status = send_bytes(&url(node), &head(&home.key, "", "{}")).await?.status;
            ensure!(status == 429, "node {node} says {status}");
        }
        Ok(())
    })
    .await
}

/// What a tenant's state must make of a check that is sent now.
const OPEN: u8 = 0;
const EITHER: u8 = 1;
const SHUT: u8 = 2;
/// Checks that are answered between two changes, on each node.
const BETWEEN: usize = 15;

/// While plain checks never stop on any node.
pub(super) async fn a_suspension_holds_when_it_is_acknowledged(cluster: &Cluster) -> Result<()> {
    let home = limited_to(cluster, "state", json!({"rate": 9000, "burst": 9000})).await?;
    let must = Arc::new(AtomicU8::new(OPEN));
    let over = Arc::new(AtomicUsize::new(0));
    let answered: Vec<_> = (0..cluster.len()).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let checks = answered.iter().enumerate().map(|(node, answered)| {
        let (must, over) = (Arc::clone(&must), Arc::clone(&over));
        let (url, bytes) = (cluster.url(node), head(&home.key, "", "{}"));
        let answered = Arc::clone(answered);
        tokio::spawn(async move {
            while over.load(Ordering::SeqCst) == 0 {
                let before = must.load(Ordering::SeqCst);
                let (sent, answer) = (Instant::now(), send_bytes(&url, &bytes).await?);
                let after = must.load(Ordering::SeqCst);
                // Only where nothing was changed meanwhile can one say what it must be.
                let wanted = if before == after { before } else { EITHER };
                let right = match wanted {
                    OPEN => answer.status == 200,
                    SHUT => answer.status == 403,
                    _ => matches!(answer.status, 200 | 403),
                };
                let took = sent.elapsed();
                ensure!(right, "node {node}, {wanted}, {took:?}: {}", answer.text());
                answered.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        })
    });
    let checks: Vec<_> = checks.collect();
    let changed = async {
        for round in 0..2 {
            for (verb, then) in [("suspend", SHUT), ("resume", OPEN)] {
                more_answers(&answered).await.with_context(|| format!("before {verb}"))?;
                must.store(EITHER, Ordering::SeqCst);
                let target = format!("/v1/tenants/{}/{verb}", home.id);
                operator(cluster, round, "POST", &target, None).await?.ok(200)?;
                must.store(then, Ordering::SeqCst);
            }
        }
        more_answers(&answered).await
    }
    .await;
    over.store(1, Ordering::SeqCst);
    for check in try_join_all(checks).await? {
        check?;
    }
    changed
}

/// Returns when every node has answered some more.
async fn more_answers(answered: &[Arc<AtomicUsize>]) -> Result<()> {
    let now = || answered.iter().map(|count| count.load(Ordering::SeqCst));
    let before: Vec<usize> = now().collect();
    soon("more answers", async || {
        let more = now().zip(&before).all(|(now, before)| now >= before + BETWEEN);
        ensure!(more, "{:?} after {before:?}", now().collect::<Vec<_>>());
        Ok(())
    })
    .await
}
