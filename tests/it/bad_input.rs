//! Bad input on every route that the document lists: the answer that the contract gives it, never a
//! 500, never plain text; and afterwards nothing has changed anywhere.

mod bodies;
mod fields;
mod heads;
mod lines;
mod routes;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use tests::raw::{Request, Response, send_bytes};
use tests::{Cluster, Options};

use crate::openapi::operations;
use crate::stage::{account, call, on_three_nodes, operator, text};
use routes::{Keys, Route};

const AT_ONCE: usize = 6;
/// How long a shard may be without an owner, and the pause before it is asked again.
const OWNED_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);
/// Failures shown; the first few say what is wrong.
const SHOWN: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_the_answer_of_the_catalogue_and_changes_nothing() {
    on_three_nodes(Options::default(), async |cluster| {
        let keys = keys(cluster).await?;
        let document = Request::get("/openapi.json").send(&cluster.url(0)).await?.ok(200)?;
        let routes: Vec<Route> = operations(&document)?
            .into_iter()
            .map(|operation| Route::of(operation, &keys))
            .collect::<Result<_>>()?;
        cluster.digests().await.context("replicas agree before")?;
        let before = picture(cluster, &keys).await.context("before")?;
        let told = changes(cluster, &keys).await.context("the audit before")?;
        let mut cases = Vec::new();
        for route in &routes {
            cases.extend(heads::cases(route, &keys));
            cases.extend(lines::cases(route, &routes));
            cases.extend(bodies::cases(route));
        }
        cases.extend(fields::cases(&keys));
        cases.extend(lines::smuggling(&keys));
        try_all(cluster, &cases).await?;
        let after = picture(cluster, &keys).await.context("after")?;
        ensure!(after == before, "bad input changed something:\n{before}\n{after}");
        let more = changes(cluster, &keys).await.context("the audit after")?;
        ensure!(more == told, "bad input is told as a change:\n{told:#?}\n{more:#?}");
        cluster.digests().await.context("replicas agree after").map(drop)
    })
    .await;
}

/// One bad request and its answer.
pub(crate) struct Case {
    claim: String,
    sent: Sent,
    status: u16,
    code: &'static str,
    /// A pointer that `errors` must name.
    pointer: Option<String>,
    closes: bool,
}

enum Sent {
    Request(Request),
    Bytes(Vec<u8>),
}

impl Case {
    fn new(claim: impl Into<String>, request: Request, status: u16, code: &'static str) -> Case {
        let sent = Sent::Request(request);
        Case { claim: claim.into(), sent, status, code, pointer: None, closes: false }
    }

    fn bytes(claim: &str, bytes: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Case {
        let sent = Sent::Bytes(bytes.into());
        Case { claim: claim.to_owned(), sent, status, code, pointer: None, closes: true }
    }

    fn at(mut self, pointer: &str) -> Case {
        self.pointer = Some(pointer.to_owned());
        self
    }

    /// On a machine that is held up for a second, a shard loses its owner and says so. Then it is asked
    /// again, as any client would.
    async fn try_on(&self, url: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let answer = match &self.sent {
                Sent::Request(request) => request.send(url).await?,
                Sent::Bytes(bytes) => send_bytes(url, bytes).await?,
            };
            let held = self.hold(&answer);
            let nobody =
                ["no_leader", "no_quorum"].iter().any(|code| answer.problem(503, code).is_ok());
            if held.is_ok() || !nobody || began.elapsed() > OWNED_WITHIN {
                return held;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn hold(&self, answer: &Response) -> Result<()> {
        let body = answer.problem(self.status, self.code)?;
        match self.status {
            401 => ensure!(answer.header("www-authenticate").is_some(), "no WWW-Authenticate"),
            405 => ensure!(answer.header("allow").is_some(), "no Allow"),
            413 => ensure!(body["limit"].is_u64() && body["got"].is_u64(), "no figures: {body}"),
            _ => {}
        }
        let mistakes = body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        ensure!(mistakes.len() <= 20, "{} mistakes are listed", mistakes.len());
        if let Some(pointer) = &self.pointer {
            let named = mistakes.iter().any(|mistake| mistake["pointer"] == *pointer);
            ensure!(named, "no mistake at {pointer}: {body}");
        }
        let closing = answer.header("connection") == Some("close");
        ensure!(!self.closes || closing, "the connection stays open: {:?}", answer.headers);
        Ok(())
    }
}

async fn try_all(cluster: &Cluster, cases: &[Case]) -> Result<()> {
    let tries = cases.iter().enumerate().map(|(n, case)| {
        let url = cluster.url(n % cluster.len());
        async move { case.try_on(&url).await.with_context(|| case.claim.clone()) }
    });
    let failures: Vec<String> = stream::iter(tries)
        .buffer_unordered(AT_ONCE)
        .filter_map(async |tried| tried.err().map(|error| format!("{error:#}")))
        .collect()
        .await;
    say(&format!("{} bad requests, {} answered wrongly", cases.len(), failures.len()));
    let shown = failures[..failures.len().min(SHOWN)].join("\n");
    ensure!(failures.is_empty(), "{} of {} bad requests:\n{shown}", failures.len(), cases.len());
    Ok(())
}

#[expect(clippy::print_stderr, reason = "how many requests were tried is the worth of this test")]
fn say(figure: &str) {
    eprintln!("{figure}");
}

/// A tenant with something to lose, and keys of every kind.
async fn keys(cluster: &Cluster) -> Result<Keys> {
    let home = account(cluster, "target", json!({})).await?;
    let key = async |scopes: Value| -> Result<String> {
        let body = json!({"name": "narrow", "scopes": scopes});
        text(
            &call(cluster, 0, &home.key, "POST", "/v1/keys", Some(&body)).await?.ok(201)?,
            "api_key",
        )
    };
    let (scanner, reader) = (key(json!(["scan"])).await?, key(json!(["usage:read"])).await?);
    let scan = json!({"docs": [{"id": "a", "content": "a document"}]});
    call(cluster, 1, &home.key, "POST", "/v1/scan", Some(&scan)).await?.ok(200)?;
    Ok(Keys {
        admin: cluster.admin_key()?.to_owned(),
        tenant: home.key,
        id: home.id,
        scanner,
        reader,
    })
}

/// All that bad input could have changed.
async fn picture(cluster: &Cluster, keys: &Keys) -> Result<String> {
    let mut picture = String::new();
    for target in ["/v1/usage", "/v1/keys?limit=1000", "/v1/jobs?limit=1000"] {
        let answer = call(cluster, 0, &keys.tenant, "GET", target, None).await?.ok(200)?;
        picture.push_str(&format!("{target} {answer}\n"));
    }
    let tenants = operator(cluster, 1, "GET", "/v1/tenants?limit=1000", None).await?.ok(200)?;
    picture.push_str(&format!("{tenants}\n"));
    // Not the places of the logs, which go on: refusals are told in the audits.
    let plans = operator(cluster, 1, "GET", "/v1/plans", None).await?.ok(200)?;
    picture.push_str(&format!("{plans}\n"));
    Ok(picture)
}

/// What the tenant's audit says was done, reads and refusals aside.
async fn changes(cluster: &Cluster, keys: &Keys) -> Result<Vec<Value>> {
    let mut changes = Vec::new();
    let mut target = "/v1/audit?limit=1000".to_owned();
    loop {
        let page = call(cluster, 0, &keys.tenant, "GET", &target, None).await?.ok(200)?;
        let records = page["data"].as_array().context("no records")?;
        let done =
            |record: &&Value| record["method"] != "GET" && record["status"].as_u64() < Some(400);
        changes.extend(records.iter().filter(done).cloned());
        let Some(cursor) = page["next_cursor"].as_str() else { return Ok(changes) };
        target = format!("/v1/audit?limit=1000&cursor={cursor}");
    }
}
