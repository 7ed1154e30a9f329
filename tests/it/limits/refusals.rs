//! What a refused request is told: which limit, what is left of it, and when to come again; and that
//! it is admitted then, on any node.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::Cluster;
use tests::raw::Response;

use super::{
    CHECK, ROUTES, SOON, admitted, limited_to, says_quota_of_periods_only, spend, spent, told, work,
};
use crate::stage::{Account, call, same, text};

const DAY_MS: u64 = 86_400_000;
/// The clocks of a test and of a shard, on one machine.
const CLOCKS_APART_MS: u64 = 3_000;

/// A wait of which a part can be measured.
const WAIT_MIN: Duration = Duration::from_millis(500);
/// The way of an answer through a busy machine.
const TOLERANCE: Duration = Duration::from_millis(50);

/// What a refused request was told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) remaining: u64,
    pub(super) retry_after_ms: u64,
}

/// Holds a refusal against the contract: every figure, and the headers that repeat them.
pub(super) fn refused(
    answer: &Response,
    (status, code): (u16, &str),
    policy: &str,
    limit: u64,
) -> Result<Told> {
    let body = answer.problem(status, code)?;
    let figure = |name: &str| body[name].as_u64().with_context(|| format!("no {name}: {body}"));
    same("policy", text(&body, "policy")?.as_str(), policy)?;
    same("limit", figure("limit")?, limit)?;
    let told = Told { remaining: figure("remaining")?, retry_after_ms: figure("retry_after_ms")? };
    let (seconds, reset_s) = (told.retry_after_ms.div_ceil(1000), figure("reset_s")?);
    ensure!(told.retry_after_ms > 0 && reset_s >= seconds, "a wait of nothing: {body}");
    if status == 429 {
        same("Retry-After", answer.header("retry-after"), Some(seconds.to_string().as_str()))?;
        same("retryable", body["retryable"].as_bool(), Some(true))?;
    }
    if policy != "max_backlog" {
        same("RateLimit", told::state(answer)?, (policy.to_owned(), told.remaining, reset_s))?;
    }
    let says = text(&body, "detail")?.contains("quota");
    same("the detail says quota", says, code == "quota_exceeded")?;
    says_quota_of_periods_only(answer)?;
    Ok(told)
}

/// The status and code of a refusal by this policy.
pub(super) fn refusal_of(policy: &str) -> (u16, &'static str) {
    match policy {
        "rate" | "key_rate" => (429, "rate_limited"),
        "concurrency" => (429, "concurrency_exceeded"),
        "budget" => (402, "plan_limit"),
        "max_backlog" => (429, "queue_full"),
        _ => (429, "quota_exceeded"),
    }
}

/// Milliseconds since 1970, as this machine's clock says.
fn now_ms() -> Result<u64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as u64)
}

/// Returns when no minute, and so no day or month, ends within the next seconds.
async fn early_in_a_minute() -> Result<()> {
    let left_ms = 60_000 - now_ms()? % 60_000;
    if left_ms < 5_000 {
        tokio::time::sleep(Duration::from_millis(left_ms + 100)).await;
    }
    Ok(())
}

/// Plays a step; when it fails and a minute ended meanwhile, which empties windows, once more.
pub(super) async fn within_a_minute<T>(mut step: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    early_in_a_minute().await?;
    let minute = now_ms()? / 60_000;
    let played = step().await;
    if played.is_ok() || now_ms()? / 60_000 == minute {
        return played;
    }
    early_in_a_minute().await?;
    step().await
}

/// A tenant that waits for a new minute.
pub(super) struct Minute {
    home: Account,
    ends: Instant,
}

pub(super) async fn a_minute_is_used_up(cluster: &Cluster) -> Result<Minute> {
    within_a_minute(async || use_a_minute_up(cluster).await).await
}

async fn use_a_minute_up(cluster: &Cluster) -> Result<Minute> {
    let home = limited_to(cluster, "minute", json!({"per_minute": 2})).await?;
    for node in 0..2 {
        admitted(&spend(cluster, node, &home.key, CHECK, 1).await?)?;
    }
    let answer = spend(cluster, 2, &home.key, CHECK, 1).await?;
    let told = refused(&answer, refusal_of("per_minute"), "per_minute", 2)?;
    let ends = Instant::now() + Duration::from_millis(told.retry_after_ms);
    let end_ms = (now_ms()? + told.retry_after_ms) % 60_000;
    let off = end_ms.min(60_000 - end_ms);
    ensure!(off < CLOCKS_APART_MS, "{} ms from now no minute ends", told.retry_after_ms);
    for node in 0..cluster.len() {
        let answer = spend(cluster, node, &home.key, "/v1/scan", 1).await?;
        refused(&answer, refusal_of("per_minute"), "per_minute", 2)?;
    }
    Ok(Minute { home, ends })
}

pub(super) async fn a_new_minute_admits(cluster: &Cluster, minute: &Minute) -> Result<()> {
    tokio::time::sleep_until(minute.ends.into()).await;
    for node in [1, 2] {
        admitted(&spend(cluster, node, &minute.home.key, CHECK, 1).await?)
            .with_context(|| format!("at the time that node 2 said, node {node}"))?;
    }
    Ok(())
}

/// At the time told, and not before it, on another node than the one that told.
pub(super) async fn a_bucket_admits_when_it_said(cluster: &Cluster) -> Result<()> {
    for (policy, limits, divided) in [
        ("rate", json!({"rate": 1, "burst": 2}), false),
        ("key_rate", json!({"key_rate": 1, "key_burst": 2}), false),
        // Large enough to be divided, so that another node may have one before.
        ("rate", json!({"rate": 1, "burst": 40}), true),
    ] {
        let most =
            limits["burst"].as_u64().or_else(|| limits["key_burst"].as_u64()).context("a burst")?;
        let home = limited_to(cluster, policy, limits.clone()).await?;
        let (node, asked, wait) = used_up(cluster, &home.key, policy, most).await?;
        let answered = Instant::now();
        if !divided {
            tokio::time::sleep(wait / 2).await;
            let early = spend(cluster, (node + 1) % 3, &home.key, CHECK, 1).await?;
            if early.status == 200 {
                // Only where this machine paused for so long.
                ensure!(asked.elapsed() >= wait, "{limits}: admitted before its time, {wait:?}");
                continue;
            }
            let told = refused(&early, refusal_of(policy), policy, 1)?;
            let left = Duration::from_millis(told.retry_after_ms);
            ensure!(left <= wait / 2 + TOLERANCE, "half of {wait:?} is over: {told:?}");
        }
        if policy == "key_rate" {
            let other = call(cluster, 0, &home.key, "POST", "/v1/keys/create?name=other", None);
            let other = text(&other.await?.ok(200)?, "api_key")?;
            admitted(&spend(cluster, node, &other, CHECK, 1).await?).context("another key")?;
        }
        tokio::time::sleep_until((answered + wait).into()).await;
        let mut late = spend(cluster, (node + 2) % 3, &home.key, CHECK, 1).await?;
        if divided && late.status == 429 {
            // It was told of the same second on another way, and may have heard of it later.
            let told = refused(&late, refusal_of(policy), policy, 1)?;
            tokio::time::sleep(Duration::from_millis(told.retry_after_ms)).await;
            late = spend(cluster, (node + 2) % 3, &home.key, CHECK, 1).await?;
        }
        admitted(&late).with_context(|| format!("{limits} after {wait:?}"))?;
    }
    Ok(())
}

/// Spends through all nodes until one refuses: that node, when it was asked, and the wait it told.
async fn used_up(
    cluster: &Cluster,
    key: &str,
    policy: &str,
    most: u64,
) -> Result<(usize, Instant, Duration)> {
    let (began, mut granted) = (Instant::now(), 0);
    for node in (0..cluster.len()).cycle() {
        let asked = Instant::now();
        let answer = spend(cluster, node, key, CHECK, 1).await?;
        ensure!(began.elapsed() < SOON, "{granted} admitted, and no wait is long enough");
        if answer.status == 429 {
            let told = refused(&answer, refusal_of(policy), policy, 1)?;
            same("remaining", told.remaining, 0)?;
            ensure!(told.retry_after_ms <= 1_000, "a second brings one: {told:?}");
            let wait = Duration::from_millis(told.retry_after_ms);
            if wait >= WAIT_MIN {
                return Ok((node, asked, wait));
            }
            tokio::time::sleep(wait).await;
            continue;
        }
        admitted(&answer)?;
        granted += 1;
        let grown = began.elapsed().as_secs() + 1;
        ensure!(granted < most + grown, "{granted} admitted of {most} in {grown} s");
    }
    unreachable!("a cycle does not end")
}

/// A day and a month end at midnight of the tenant's zone, and every node says so.
pub(super) async fn periods_end_with_the_calendar(cluster: &Cluster) -> Result<()> {
    for (policy, periods) in [("per_day", 1), ("per_month", 31)] {
        early_in_a_minute().await?;
        let home = limited_to(cluster, policy, json!({policy: 3})).await?;
        for node in 0..3 {
            admitted(&spend(cluster, node, &home.key, "/v1/scan", 1).await?)?;
        }
        for node in 0..cluster.len() {
            let answer = spend(cluster, node, &home.key, "/v1/scan", 1).await?;
            let told = refused(&answer, refusal_of(policy), policy, 3)?;
            same("remaining", told.remaining, 0)?;
            let end_ms = (now_ms()? + told.retry_after_ms) % DAY_MS;
            let off = end_ms.min(DAY_MS - end_ms);
            ensure!(off < CLOCKS_APART_MS, "{policy} does not end at midnight: {told:?}");
            ensure!(told.retry_after_ms <= periods * DAY_MS, "{policy} is too long: {told:?}");
        }
    }
    Ok(())
}

/// 413 with both figures, also for what waits; and nothing is spent.
pub(super) async fn sizes_are_told(cluster: &Cluster) -> Result<()> {
    let limits = json!({"max_documents": 2, "max_bytes": 400, "max_backlog": 1, "per_month": 50,
        "rate": 0, "burst": 50});
    let home = limited_to(cluster, "sizes", limits).await?;
    let before = spent(cluster, 0, &home.key).await?;
    for (node, route) in ROUTES.into_iter().filter(|route| *route != CHECK).enumerate() {
        let answer = spend(cluster, node, &home.key, route, 3).await?;
        let body = answer.problem(413, "too_large").context(route)?;
        same(route, (body["limit"].as_u64(), body["got"].as_u64()), (Some(2), Some(3)))?;
        says_quota_of_periods_only(&answer)?;
        let mut long = work(route, 2).to_string();
        long.push_str(&" ".repeat(401 - long.len()));
        let request = tests::raw::Request::post(route).bearer(&home.key).json(&long);
        let body = request.send(&cluster.url(node)).await?.problem(413, "too_large")?;
        same(route, (body["limit"].as_u64(), body["got"].as_u64()), (Some(400), Some(401)))?;
    }
    let answer = spend(cluster, 1, &home.key, "/v1/jobs", 2).await?;
    let told = refused(&answer, refusal_of("max_backlog"), "max_backlog", 1)?;
    same("remaining of the backlog", told.remaining, 1)?;
    same("nothing was spent", spent(cluster, 1, &home.key).await?, before)
}
