//! Units are spent once, whoever asks again: many at the same time on every node, and somebody whose
//! owner was killed.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tests::Cluster;
use tests::raw::{Request, Response};

use super::{CHECK, admitted, limited_to, soon, spent_of, work};
use crate::stage::{Account, account, call, operator, same};

const AT_ONCE: usize = 50;

fn request(route: &str, body: &Value, key: &str, once: &str) -> Request {
    let request = Request::post(route).bearer(key).json(body.to_string());
    request.header("Idempotency-Key", once)
}

async fn units_spent(cluster: &Cluster, node: usize, home: &Account) -> Result<u64> {
    Ok(spent_of(cluster, node, &home.key, "per_month").await?.0)
}

pub(super) async fn fifty_at_once_are_one(cluster: &Cluster) -> Result<()> {
    let home = limited_to(cluster, "once", json!({"per_month": 60})).await?;
    let units = json!({"units": 4, "policy": "per_month"});
    for (n, (route, body, takes)) in
        [(CHECK, &units, 4), ("/v1/jobs", &work("/v1/jobs", 3), 3)].into_iter().enumerate()
    {
        let before = units_spent(cluster, 0, &home).await?;
        let once = format!("once-{n}");
        let send = |i: usize| {
            let request = request(route, body, &home.key, &once);
            let url = cluster.url(i % cluster.len());
            async move { request.send(&url).await }
        };
        let (mut bodies, mut first) = (BTreeSet::new(), 0);
        for answer in try_join_all((0..AT_ONCE).map(send)).await? {
            if answer.status == 409 {
                answer.problem(409, "idempotency_in_progress")?;
                continue;
            }
            bodies.insert(admitted(&answer)?.to_string());
            first += usize::from(answer.header("idempotent-replayed").is_none());
        }
        same(&format!("{route}: answers"), bodies.len(), 1)?;
        ensure!(first <= 1, "{first} answers of {route} are not marked as repeated");
        same(route, units_spent(cluster, 1, &home).await? - before, takes)?;
        // Another body under the same key is another request, on every node.
        let other = if route == CHECK { json!({"units": 5}) } else { work(route, 2) };
        for node in 0..cluster.len() {
            let answer = request(route, &other, &home.key, &once).send(&cluster.url(node)).await?;
            answer.problem(422, "idempotency_mismatch").context(route)?;
        }
        same(route, units_spent(cluster, 2, &home).await? - before, takes)?;
    }
    let jobs = call(cluster, 0, &home.key, "GET", "/v1/jobs", None).await?.ok(200)?;
    same("jobs", jobs["data"].as_array().map(Vec::len), Some(1))?;
    a_repeated_call_asks_no_limit(cluster).await.context("used up")
}

/// The key comes before the limits: a repeated call gets its answer though nothing is left.
async fn a_repeated_call_asks_no_limit(cluster: &Cluster) -> Result<()> {
    let home = limited_to(cluster, "repeated", json!({"rate": 0, "burst": 1})).await?;
    let send = async |node: usize, once: &str| -> Result<Response> {
        request(CHECK, &json!({}), &home.key, once).send(&cluster.url(node)).await
    };
    let first = send(0, "first").await?.ok(200)?;
    send(1, "second").await?.problem(429, "rate_limited")?;
    for node in 0..cluster.len() {
        let again = send(node, "first").await?;
        same("replayed", again.header("idempotent-replayed"), Some("true"))?;
        same("the answer", again.ok(200)?, first.clone())?;
        // What was refused is not remembered, and refused again.
        send(node, "second").await?.problem(429, "rate_limited")?;
    }
    Ok(())
}

/// What money refused stays refused under its key, also when there is money again; another key is
/// another request.
pub(super) async fn a_refusal_for_want_of_money_is_remembered(cluster: &Cluster) -> Result<()> {
    let home = limited_to(cluster, "poor", json!({"budget": 1})).await?;
    let (scan, dear) = (work("/v1/scan", 1), work("/v1/scan", 100));
    let send = async |node: usize, body: &Value, once: &str| -> Result<Response> {
        request("/v1/scan", body, &home.key, once).send(&cluster.url(node)).await
    };
    let first = send(0, &dear, "dear").await?;
    let refused = first.problem(402, "plan_limit")?;
    same("replayed", first.header("idempotent-replayed"), None)?;
    let plan = format!("/v1/tenants/{}/plan", home.id);
    let more = json!({"plan": "enterprise", "overrides": {"budget": null}});
    operator(cluster, 1, "PUT", &plan, Some(&more)).await?.ok(200)?;
    for node in 0..cluster.len() {
        let again = send(node, &dear, "dear").await?;
        same("the detail", &again.problem(402, "plan_limit")?["detail"], &refused["detail"])?;
        same("replayed", again.header("idempotent-replayed"), Some("true"))?;
        send(node, &scan, "dear").await?.problem(422, "idempotency_mismatch")?;
    }
    admitted(&send(2, &dear, "dear, again").await?)?;
    Ok(())
}

/// An operator's key is one for the whole cluster: whatever tenant, shard or node a call is about.
pub(super) async fn an_operators_key_is_for_one_request(cluster: &mut Cluster) -> Result<()> {
    let [one, two] =
        [account(cluster, "one", json!({})).await?, account(cluster, "two", json!({})).await?];
    let admin = cluster.admin_key()?.to_owned();
    let ask = |method: &str, target: String, body: Value, once: &str| {
        let request = Request::new(method, &target).bearer(&admin).json(body.to_string());
        request.header("Idempotency-Key", once)
    };
    let path = |home: &Account| format!("/v1/tenants/{}", home.id);
    let change = json!({"domain": "one.example"});
    let plan = json!({"rate": 5, "burst": 5});

    // What was refused is not remembered: the key is free for another request.
    let missing = ask("PATCH", "/v1/tenants/tnt_0".to_owned(), change.clone(), "a");
    missing.send(&cluster.url(0)).await?.problem(404, "not_found")?;
    let gone = format!("/v1/tenants/tnt_{}1", "0".repeat(21));
    ask("PATCH", gone, change.clone(), "a")
        .send(&cluster.url(1))
        .await?
        .problem(404, "not_found")?;
    let first = ask("PATCH", path(&one), change.clone(), "a");
    first.send(&cluster.url(2)).await?.ok(200)?;
    let made = ask("PUT", "/v1/plans/kept-once".to_owned(), plan.clone(), "b");
    made.send(&cluster.url(2)).await?.ok(200)?;
    let named = |home: &Account, once: &str| {
        let body = json!({"name": "further"});
        ask("POST", "/v1/keys".to_owned(), body, once).header("X-Tenant-Id", &home.id)
    };
    let key = named(&one, "c").send(&cluster.url(0)).await?.ok(201)?;

    let others = [
        ask("PATCH", path(&two), change.clone(), "a"),
        ask("PATCH", path(&one), json!({"domain": "two.example"}), "a"),
        ask("PUT", "/v1/plans/kept-once".to_owned(), plan, "a"),
        ask("POST", "/v1/tenants".to_owned(), json!({"name": "three"}), "a"),
        ask("PATCH", path(&two), change, "b"),
        named(&two, "c"),
    ];
    let settled = async |cluster: &Cluster, node: usize| -> Result<()> {
        let url = cluster.url(node);
        for other in &others {
            other.send(&url).await?.problem(422, "idempotency_mismatch")?;
        }
        for again in [&first, &made, &named(&one, "c")] {
            let again = again.send(&url).await?;
            ensure!(again.status < 300, "{again:?}");
            same("replayed", again.header("idempotent-replayed"), Some("true"))?;
        }
        let again = named(&one, "c").send(&url).await?.ok(201)?;
        same("the key", &again["api_key"], &key["api_key"])?;
        let untouched = operator(cluster, node, "GET", &path(&two), None).await?.ok(200)?;
        same("the other tenant's domain", &untouched["domain"], &Value::Null)
    };
    for node in 0..cluster.len() {
        settled(cluster, node).await.with_context(|| format!("node {node}"))?;
    }
    let owner = owner(cluster, &one).await?;
    cluster.kill(owner).await?;
    let near = (owner + 1) % cluster.len();
    soon("a new owner", async || settled(cluster, near).await).await?;
    cluster.restart(owner).await?;
    soon("it is back", async || settled(cluster, owner).await).await
}

/// One call is acknowledged before the owner is killed, one is under way when it is.
pub(super) async fn a_unit_of_a_month_is_spent_once_through_a_kill(
    cluster: &mut Cluster,
) -> Result<()> {
    let home = limited_to(cluster, "month", json!({"per_month": 100})).await?;
    let body = json!({"units": 7, "policy": "per_month"});
    let owner = owner(cluster, &home).await?;
    let [near, far] = [(owner + 1) % 3, (owner + 2) % 3];
    let acknowledged = request(CHECK, &body, &home.key, "acknowledged");
    let first = acknowledged.send(&cluster.url(near)).await?.ok(200)?;
    same("spent", units_spent(cluster, near, &home).await?, 7)?;

    let under_way = request(CHECK, &body, &home.key, "under way");
    let url = cluster.url(near);
    let (sent, killed) = tokio::join!(under_way.send(&url), cluster.kill(owner));
    killed?;
    // Whatever came of it, its key settles it.
    let mut settled = Value::Null;
    soon("a new owner", async || {
        settled = under_way.send(&cluster.url(far)).await?.ok(200)?;
        Ok(())
    })
    .await?;
    match sent {
        Ok(sent) if sent.status < 500 => same("the first answer", &sent.ok(200)?, &settled)?,
        Ok(_) | Err(_) => {}
    }
    let calls = [(acknowledged, first), (under_way, settled)];
    let replayed = async |cluster: &Cluster, node: usize| -> Result<()> {
        for (call, first) in &calls {
            let again = call.send(&cluster.url(node)).await?;
            same("replayed", again.header("idempotent-replayed"), Some("true"))?;
            same("the answer", &again.ok(200)?, first)?;
        }
        same("spent", units_spent(cluster, node, &home).await?, 14)
    };
    for node in [far, near] {
        replayed(cluster, node).await.with_context(|| format!("node {node}"))?;
    }
    cluster.restart(owner).await?;
    replayed(cluster, owner).await.context("after the restart")
}

/// The node that owns the tenant's shard.
pub(super) async fn owner(cluster: &Cluster, home: &Account) -> Result<usize> {
    let answer = call(cluster, 0, &home.key, "GET", "/v1/limits", None).await?;
    let owner = answer.header("skep-owner").context("no owner")?;
    cluster.index_of(owner).with_context(|| format!("no node is {owner}"))
}
