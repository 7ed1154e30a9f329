//! Limits from outside: what is told of them, who is refused and until when, the same through every
//! node and by either way into it; and what of them outlives the death of a node.

mod lane;
mod once;
mod policies;
mod refusals;
mod slots;
mod told;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::raw::Response;
use tests::{Cluster, Options, Probe, until};

use crate::stage::{Account, account, call, on_three_nodes};

const CHECK: &str = "/v1/limits/check";
/// Every route that spends.
const ROUTES: [&str; 4] = [CHECK, "/v1/scan", "/v1/analyze", "/v1/jobs"];
/// What is told or freed a moment later shows within this, and on a busy machine too.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_told_and_kept_alike_on_every_node_and_outlive_each() {
    // A document takes long enough to look at requests while they run.
    let options = Options::default()
        .set("inference.slots=2")
        .set("inference.delay_ms=10")
        .set("cache.memory_mb=0");
    on_three_nodes(options, async |cluster| {
        // Its window ends while the next steps are played.
        let minute = refusals::a_minute_is_used_up(cluster).await.context("a minute")?;
        told::every_route_tells_what_is_left(cluster).await.context("headers")?;
        told::a_node_with_a_slab_tells_the_same(cluster).await.context("headers of a slab")?;
        refusals::a_bucket_admits_when_it_said(cluster).await.context("rates")?;
        refusals::periods_end_with_the_calendar(cluster).await.context("periods")?;
        refusals::sizes_are_told(cluster).await.context("sizes")?;
        policies::each_is_explained_refuses_alone_and_spends_nothing(cluster)
            .await
            .context("policies")?;
        policies::what_operators_do_for_a_tenant_spends_nothing(cluster)
            .await
            .context("operators")?;
        policies::in_shadow_mode_none_refuses_and_all_count(cluster).await.context("shadow")?;
        lane::both_ways_into_a_node_answer_alike(cluster).await.context("two ways")?;
        lane::a_suspension_holds_when_it_is_acknowledged(cluster).await.context("suspension")?;
        once::fifty_at_once_are_one(cluster).await.context("duplicates")?;
        once::a_refusal_for_want_of_money_is_remembered(cluster).await.context("no money")?;
        slots::two_run_and_the_third_is_refused(cluster).await.context("slots")?;
        slots::who_hangs_up_holds_no_slot_after_the_work(cluster).await.context("hanging up")?;
        refusals::a_new_minute_admits(cluster, &minute).await.context("a new minute")?;
        once::a_unit_of_a_month_is_spent_once_through_a_kill(cluster).await.context("a month")?;
        once::an_operators_key_is_for_one_request(cluster).await.context("operators' keys")?;
        slots::a_killed_node_holds_no_slot(cluster).await.context("slots of a killed node")
    })
    .await;
}

/// A tenant with these limits and no others.
async fn limited_to(cluster: &Cluster, name: &str, limits: Value) -> Result<Account> {
    let mut overrides = json!({"rate": null, "burst": null, "key_rate": null, "key_burst": null, "per_month": null});
    let fields = overrides.as_object_mut().context("an object")?;
    fields.extend(limits.as_object().cloned().unwrap_or_default());
    account(cluster, name, json!({"overrides": overrides})).await
}

/// A request of so many documents on a route that spends; of one request on the check.
fn work(route: &str, documents: usize) -> Value {
    let contents = (0..documents).map(|i| format!("the delivery of week {i} was on time"));
    let listed = || -> Vec<Value> {
        let document = |(i, content)| json!({"id": format!("d{i}"), "content": content});
        contents.clone().enumerate().map(document).collect()
    };
    match route {
        CHECK => json!({}),
        "/v1/scan" => json!({"docs": listed()}),
        "/v1/analyze" => json!({"texts": contents.collect::<Vec<_>>()}),
        _ => json!({"type": "scan", "documents": listed()}),
    }
}

/// Sends such a request through node `i`.
async fn spend(
    cluster: &Cluster,
    i: usize,
    key: &str,
    route: &str,
    documents: usize,
) -> Result<Response> {
    call(cluster, i, key, "POST", route, Some(&work(route, documents))).await
}

/// Fails unless the request was admitted.
fn admitted(answer: &Response) -> Result<Value> {
    answer.ok(if answer.status == 202 { 202 } else { 200 })
}

/// What has been spent of a limit: used, reserved and remaining.
type Spent = (u64, u64, u64);

/// What has been spent of every limit, by policy, as node `i` tells.
async fn spent(cluster: &Cluster, i: usize, key: &str) -> Result<BTreeMap<String, Spent>> {
    let listed = call(cluster, i, key, "GET", "/v1/limits", None).await?.ok(200)?;
    let rows = listed["data"].as_array().context("a list")?.iter();
    let figure = |row: &Value, name: &str| row[name].as_u64().with_context(|| format!("{row}"));
    rows.map(|row| {
        let policy = row["policy"].as_str().context("a policy")?.to_owned();
        Ok((policy, (figure(row, "used")?, figure(row, "reserved")?, figure(row, "remaining")?)))
    })
    .collect()
}

/// What has been spent of one limit.
async fn spent_of(cluster: &Cluster, i: usize, key: &str, policy: &str) -> Result<Spent> {
    let all = spent(cluster, i, key).await?;
    all.get(policy).copied().with_context(|| format!("no {policy} in {all:?}"))
}

/// Fails unless the answer says "quota" exactly when a period is used up: anywhere in it.
fn says_quota_of_periods_only(answer: &Response) -> Result<()> {
    let period = answer.status == 429 && answer.json()?["code"] == "quota_exceeded";
    let mut said = answer.text();
    for (name, value) in &answer.headers {
        said.push_str(&format!("\n{name}: {value}"));
    }
    let says = said.to_lowercase().contains("quota");
    ensure!(says == period, "it says quota: {says}; it is of a period: {period}: {said}");
    Ok(())
}

/// Looks until it holds.
async fn soon(what: &str, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    Ok(until(what, SOON, async || {
        Ok(match look().await {
            Ok(()) => Probe::Done(()),
            Err(error) => Probe::NotYet(format!("{error:#}")),
        })
    })
    .await?)
}
