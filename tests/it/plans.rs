//! Plans are data: a change is in force on every node when it is acknowledged, through the death of
//! owners. Keys are rotated and end; days and months are those of the tenant's zone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use client::{Call, Client, ClientError};
use serde_json::{Value, json};
use tests::{Cluster, Options, Probe, until};

/// An owner that is killed has a successor within this.
const RESUMED_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn plans_keys_and_zones_are_the_same_on_every_node() -> Result<()> {
    let mut cluster = Cluster::start(3, Options::default()).await?;
    a_plan_is_in_force_everywhere_when_it_is_acknowledged(&mut cluster).await.context("plans")?;
    a_key_is_rotated_and_ends(&cluster).await.context("keys")?;
    months_end_with_the_zone(&cluster).await.context("zones")
}

async fn put(client: &Client, name: &str, body: &Value) -> Result<Value> {
    let call = Call::put("/v1/plans").segment(name).json(body)?.harmless();
    Ok(client.json(call).await?.body)
}

async fn hire(cluster: &Cluster, body: &Value) -> Result<(String, String)> {
    let call = Call::post("/v1/tenants").json(body)?.idempotency_key(client::fresh_key());
    let made: Value = cluster.admins()?.json(call).await?.body;
    let text =
        |name: &str| Ok::<_, anyhow::Error>(made[name].as_str().context("no text")?.to_owned());
    Ok((text("id")?, text("api_key")?))
}

fn refused<T>(answer: Result<T, ClientError>, status: u16, code: &str) -> Result<()> {
    match answer {
        Err(ClientError::Problem(problem))
            if (problem.status, problem.code.as_str()) == (status, code) =>
        {
            Ok(())
        }
        Err(error) => Err(error).context(format!("instead of {status} {code}")),
        Ok(_) => anyhow::bail!("allowed instead of {status} {code}"),
    }
}

async fn a_plan_is_in_force_everywhere_when_it_is_acknowledged(
    cluster: &mut Cluster,
) -> Result<()> {
    let shipped: Value = cluster.admin(1)?.json(Call::get("/v1/plans/starter")).await?.body;
    ensure!(shipped["per_month"] == 10_000 && shipped["unit_price_micros"] == 10_000, "{shipped}");

    let made = put(&cluster.admin(0)?, "gold", &json!({"rate": 1000, "per_month": 5})).await?;
    ensure!(made["version"] == 1 && made["burst"].is_null(), "{made}");
    let (id, key) = hire(cluster, &json!({"name": "golden", "plan": "gold"})).await?;
    for node in 0..3 {
        let me: Value = cluster.client_of(node, &key)?.json(Call::get("/v1/me")).await?.body;
        ensure!(me["plan"] == "gold", "node {node}: {me}");
    }
    let owner = cluster.client_of(0, &key)?.usage().await?.meta.owner.context("no owner")?;
    let owner = cluster.index_of(&owner).context("an owner that is no node")?;
    let through = (owner + 1) % 3;
    cluster.kill(owner).await?;
    let admin = cluster.admin(through)?;
    let now = until("a plan without an owner", RESUMED_WITHIN, async || {
        Ok(match put(&admin, "gold", &json!({"rate": 1000, "per_month": 7})).await {
            Ok(plan) => Probe::Done(plan),
            Err(error) => Probe::NotYet(error.to_string()),
        })
    })
    .await?;
    for node in (0..3).filter(|&node| node != owner) {
        let usage = cluster.client_of(node, &key)?.usage().await?.body;
        ensure!(usage.quota_limit == Some(7), "node {node} after {now}: {usage:?}");
        let limits = cluster.client_of(node, &key)?.limits().await?.body.data;
        let month = limits.iter().find(|limit| limit.policy == "per_month");
        ensure!(month.is_some_and(|limit| limit.limit == 7), "node {node}: {limits:?}");
    }
    let stale = Call::put("/v1/plans/gold").json(&json!({}))?;
    let stale = cluster.admin(through)?.json::<Value>(stale.if_match("\"1\"")).await;
    refused(stale, 412, "precondition_failed")?;
    let unknown = Call::put("/v1/tenants").segment(&id).segment("plan");
    let unknown = unknown.json(&json!({"plan": "platinum"}))?;
    refused(cluster.admin(through)?.json::<Value>(unknown).await, 422, "validation")?;
    cluster.restart(owner).await
}

async fn a_key_is_rotated_and_ends(cluster: &Cluster) -> Result<()> {
    let (_, key) = hire(cluster, &json!({"name": "rotating", "plan": "enterprise"})).await?;
    let first = cluster.client_of(0, &key)?;
    let reads = json!({"name": "reader", "scopes": ["keys:write"]});
    let reader: Value = first.json(Call::post("/v1/keys").json(&reads)?).await?.body;
    let reader = reader["api_key"].as_str().context("no key")?;
    let greedy = Call::post("/v1/keys/1/rotate").json(&json!({}))?;
    let greedy = cluster.client_of(1, reader)?.json::<Value>(greedy).await;
    refused(greedy, 403, "scope_missing").context("more scopes by rotation")?;

    let once = client::fresh_key();
    let rotate = Call::post("/v1/keys/1/rotate").json(&json!({"overlap_s": 3600}))?;
    let rotate = rotate.idempotency_key(&once);
    let new: Value = first.json(rotate.clone()).await?.body;
    let again: Value = cluster.client_of(2, &key)?.json(rotate).await?.body;
    ensure!(new == again, "{new} and {again}");
    let new = new["api_key"].as_str().context("no key")?;
    for node in 0..3 {
        for key in [key.as_str(), new] {
            let _: Value = cluster.client_of(node, key)?.json(Call::get("/v1/me")).await?.body;
        }
    }
    let at_once = Call::post("/v1/keys/1/rotate").json(&json!({"overlap_s": 0}))?;
    let _: Value = cluster.client_of(1, new)?.json(at_once).await?.body;
    for node in 0..3 {
        let old = cluster.client_of(node, &key)?.json::<Value>(Call::get("/v1/me")).await;
        refused(old, 401, "unauthenticated").with_context(|| format!("node {node}"))?;
    }
    let past = json!({"name": "late", "expires_at": "2020-01-01T00:00:00Z"});
    let past = cluster.client_of(1, new)?.json::<Value>(Call::post("/v1/keys").json(&past)?).await;
    refused(past, 422, "validation")
}

async fn months_end_with_the_zone(cluster: &Cluster) -> Result<()> {
    let wrong = json!({"name": "nowhere", "time_zone": "Mars/Base"});
    let wrong = cluster.admin(0)?.json::<Value>(Call::post("/v1/tenants").json(&wrong)?).await;
    refused(wrong, 422, "validation")?;
    // Kiritimati is fourteen hours ahead of UTC, all year.
    let wanted = json!({"name": "far east", "time_zone": "Pacific/Kiritimati", "plan": "starter"});
    let (_, key) = hire(cluster, &wanted).await?;
    for node in 0..3 {
        let limits = cluster.client_of(node, &key)?.limits().await?.body.data;
        let month = limits.iter().find(|limit| limit.policy == "per_month").context("no month")?;
        ensure!(month.reset_at.contains("T10:00:00"), "node {node}: {month:?}");
    }
    Ok(())
}
