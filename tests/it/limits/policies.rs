//! Each policy by itself: explained before it refuses, refusing on every route that it counts, and
//! spending nothing of the others; and in shadow mode only counting.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::Cluster;
use tests::raw::Request;

use super::refusals::{refusal_of, refused, within_a_minute};
use super::{
    CHECK, ROUTES, admitted, limited_to, says_quota_of_periods_only, soon, spend, spent, spent_of,
    work,
};
use crate::stage::{Account, call, same, text};

/// Documents of a request: what one cent buys.
const DOCUMENTS: usize = 5;
/// Every policy, and a limit that has room for one request of [`DOCUMENTS`], or for none at all.
const POLICIES: [(&str, u64); 7] = [
    ("rate", 0),
    ("key_rate", 0),
    ("per_minute", 1),
    ("per_day", 1),
    ("per_month", DOCUMENTS as u64),
    ("concurrency", 0),
    ("budget", 1),
];
/// Those that `limits/check` counts.
const OF_REQUESTS: [&str; 4] = ["rate", "key_rate", "per_minute", "per_day"];

/// Limits with room in every policy but `tight`. A rate of nothing never refills.
fn tight_in(tight: &str, limit: u64) -> Value {
    let mut limits = json!({"rate": 0, "burst": 50, "key_rate": 0, "key_burst": 50,
        "per_minute": 500, "per_day": 500, "per_month": 500, "concurrency": 50, "budget": 500});
    limits[tight] = json!(limit);
    match tight {
        "rate" => limits["burst"] = json!(1),
        "key_rate" => limits["key_burst"] = json!(1),
        _ => {}
    }
    limits
}

pub(super) async fn each_is_explained_refuses_alone_and_spends_nothing(
    cluster: &Cluster,
) -> Result<()> {
    for (policy, limit) in POLICIES {
        within_a_minute(async || one_refuses(cluster, policy, limit).await)
            .await
            .context(policy)?;
    }
    Ok(())
}

async fn one_refuses(cluster: &Cluster, policy: &str, limit: u64) -> Result<()> {
    let home = limited_to(cluster, policy, tight_in(policy, limit)).await?;
    if policy != "concurrency" {
        // There is room for one request, and to explain it takes none of it.
        explained(cluster, &home, "/v1/scan", None).await?;
        admitted(&spend(cluster, 0, &home.key, "/v1/scan", DOCUMENTS).await?)?;
    }
    no_slot_is_held(cluster, &home).await?;
    let before = spent(cluster, 0, &home.key).await?;
    for route in ROUTES {
        let counts = route != CHECK || OF_REQUESTS.contains(&policy);
        explained(cluster, &home, route, counts.then_some(policy)).await?;
        for node in (0..cluster.len()).filter(|_| counts) {
            let answer = spend(cluster, node, &home.key, route, DOCUMENTS).await?;
            let told = refused(&answer, refusal_of(policy), policy, limit);
            let told = told.with_context(|| format!("{route} on node {node}"))?;
            same("remaining", told.remaining, 0)?;
        }
    }
    let after = spent(cluster, 1, &home.key).await?;
    same("spent before and after the refusals", after, before)
}

/// Every node names `refuses` as the one rule that would refuse, and says why.
async fn explained(
    cluster: &Cluster,
    home: &Account,
    route: &str,
    refuses: Option<&str>,
) -> Result<()> {
    let units = if route == CHECK { 1 } else { DOCUMENTS };
    let body = json!({"route": route, "units": units});
    for node in 0..cluster.len() {
        let answer = call(cluster, node, &home.key, "POST", "/v1/limits/explain", Some(&body));
        let said = answer.await?.ok(200)?;
        same(route, said["allowed"].as_bool(), Some(refuses.is_none()))?;
        let rules = said["rules"].as_array().context("rules")?;
        let named: Vec<_> = rules
            .iter()
            .filter(|rule| rule["allows"] == false)
            .filter_map(|rule| rule["policy"].as_str())
            .collect();
        same(route, named, refuses.into_iter().collect())?;
        for rule in rules {
            let why = text(rule, "why")?;
            ensure!(rule["takes"].as_u64() > Some(0) && !why.is_empty(), "{rule}");
        }
    }
    Ok(())
}

/// Nor is it in the tenant's usage: neither when it is asked nor when a job is done.
pub(super) async fn what_operators_do_for_a_tenant_spends_nothing(cluster: &Cluster) -> Result<()> {
    let limits = json!({"rate": 0, "burst": 5, "per_month": 3, "budget": 1, "concurrency": 2});
    let home = limited_to(cluster, "helped", limits).await?;
    let usage = async |node: usize| -> Result<Value> {
        call(cluster, node, &home.key, "GET", "/v1/usage", None).await?.ok(200)
    };
    let before = (spent(cluster, 0, &home.key).await?, usage(0).await?);
    let admin = cluster.admin_key()?;
    let act = async |node: usize, request: Request| {
        request.bearer(admin).header("X-Tenant-Id", &home.id).send(&cluster.url(node)).await
    };
    for node in 0..cluster.len() {
        for route in ["/v1/scan", "/v1/analyze"] {
            let body = work(route, 2 * DOCUMENTS).to_string();
            admitted(&act(node, Request::post(route).json(body)).await?).context(route)?;
        }
        let job = Request::post("/v1/jobs").json(work("/v1/jobs", DOCUMENTS).to_string());
        let job = text(&admitted(&act(node, job).await?)?, "id")?;
        soon("the job is done", async || {
            let target = format!("/v1/jobs/{job}");
            let job = call(cluster, node, &home.key, "GET", &target, None).await?.ok(200)?;
            same("status", job["status"].as_str(), Some("completed"))
        })
        .await?;
    }
    let after = (spent(cluster, 1, &home.key).await?, usage(1).await?);
    same("spent and used", after, before)
}

/// A slot is freed a moment after the answer.
async fn no_slot_is_held(cluster: &Cluster, home: &Account) -> Result<()> {
    soon("a slot is free", async || {
        same("slots", spent_of(cluster, 0, &home.key, "concurrency").await?.0, 0)
    })
    .await
}

const SCANS: u64 = 6;

pub(super) async fn in_shadow_mode_none_refuses_and_all_count(cluster: &Cluster) -> Result<()> {
    let names: Vec<_> = POLICIES.iter().map(|(name, _)| *name).collect();
    let mut limits = json!({"burst": 1, "key_burst": 1, "shadow": names});
    for (policy, limit) in POLICIES {
        limits[policy] = json!(limit);
    }
    let home = limited_to(cluster, "shadow", limits).await?;
    let before = shadowed(cluster).await?;
    for n in 0..SCANS {
        let route = ROUTES[1 + n as usize % 3];
        let answer = spend(cluster, n as usize % 3, &home.key, route, DOCUMENTS).await?;
        admitted(&answer).with_context(|| format!("{n}: {route}"))?;
        says_quota_of_periods_only(&answer)?;
    }
    admitted(&spend(cluster, 0, &home.key, CHECK, 1).await?)?;
    soon("shadows are counted", async || {
        let after = shadowed(cluster).await?;
        for (policy, limit) in POLICIES {
            let rose = after.get(policy).unwrap_or(&0) - before.get(policy).unwrap_or(&0);
            // The first has room, where there is any; a minute may end in between.
            let has_room = policy != "concurrency" && limit < SCANS;
            let least = SCANS - u64::from(has_room) - u64::from(policy == "per_minute");
            ensure!(rose >= least, "{policy} would have refused {least} times, counted are {rose}");
        }
        Ok(())
    })
    .await?;
    let listed = call(cluster, 1, &home.key, "GET", "/v1/limits", None).await?.ok(200)?;
    let rows = listed["data"].as_array().context("a list")?;
    same("limits", rows.len(), POLICIES.len())?;
    ensure!(rows.iter().all(|row| row["shadow"] == true), "{listed}");
    explained(cluster, &home, "/v1/scan", None).await
}

/// `skep_limit_shadowed_total` by policy, over all nodes.
async fn shadowed(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    let mut sums = BTreeMap::new();
    for node in 0..cluster.len() {
        let answer = Request::get("/metrics").send(&cluster.url(node)).await?;
        for line in answer.text().lines() {
            let Some(rest) = line.strip_prefix("skep_limit_shadowed_total{policy=\"") else {
                continue;
            };
            let (policy, value) = rest.split_once("\"} ").context("a policy and a value")?;
            *sums.entry(policy.to_owned()).or_default() += value.parse::<u64>()?;
        }
    }
    Ok(sums)
}
