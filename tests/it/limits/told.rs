//! What an admitted request is told of its limits: `RateLimit-Policy`, `RateLimit` and what older clients
//! read of them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::Cluster;
use tests::raw::Response;

use super::{CHECK, ROUTES, admitted, limited_to, says_quota_of_periods_only, spend};
use crate::stage::same;

/// A quoted name and its parameters.
pub(super) type Item = (String, BTreeMap<String, String>);

/// The items of a header in the syntax of draft-ietf-httpapi-ratelimit-headers-10.
pub(super) fn items(answer: &Response, header: &str) -> Result<Vec<Item>> {
    let text =
        answer.header(header).with_context(|| format!("no {header}: {:?}", answer.headers))?;
    let item = |item: &str| -> Option<Item> {
        let mut parts = item.trim().split(';');
        let name = parts.next()?.strip_prefix('"')?.strip_suffix('"')?.to_owned();
        let parameter = |part: &str| {
            let (name, value) = part.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        Some((name, parts.map(parameter).collect::<Option<_>>()?))
    };
    let read: Option<Vec<_>> = text.split(',').map(item).collect();
    read.with_context(|| format!("{header} is not in the syntax of the draft: {text}"))
}

/// A parameter that is a number.
pub(super) fn number(item: &Item, name: &str) -> Result<u64> {
    let value = item.1.get(name).and_then(|value| value.parse().ok());
    value.with_context(|| format!("no number {name} in {item:?}"))
}

/// The one item of `RateLimit`, whose policy must be among those of `RateLimit-Policy`: its name, what
/// is left of it, and the seconds until there is more.
pub(super) fn state(answer: &Response) -> Result<(String, u64, u64)> {
    let policies = items(answer, "ratelimit-policy")?;
    for policy in &policies {
        number(policy, "q")?;
    }
    let states = items(answer, "ratelimit")?;
    let [state] = states.as_slice() else { anyhow::bail!("not one state: {states:?}") };
    ensure!(policies.iter().any(|(name, _)| *name == state.0), "{state:?} is of no {policies:?}");
    older(answer, &policies, state)?;
    Ok((state.0.clone(), number(state, "r")?, number(state, "t")?))
}

/// The headers of older clients say the same, their end as seconds since 1970.
fn older(answer: &Response, policies: &[Item], state: &Item) -> Result<()> {
    let told = |name: &str| {
        let text = answer.header(name).with_context(|| format!("no {name}"))?;
        text.parse::<u64>().with_context(|| format!("{name}: {text}"))
    };
    let policy = policies.iter().find(|policy| policy.0 == state.0).context("no policy")?;
    same("limit", told("x-ratelimit-limit")?, number(policy, "q")?)?;
    same("remaining", told("x-ratelimit-remaining")?, number(state, "r")?)?;
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let (at, wanted) = (told("x-ratelimit-reset")?, now_s + number(state, "t")?);
    // The answer was on its way for a while, and clocks of a second are read at either end of it.
    ensure!(at.abs_diff(wanted) <= 5, "reset at {at}, not about {wanted}");
    Ok(())
}

/// Each of the four routes, each through another node than the last: the policies are those of the
/// tenant, and what is left falls by the one request.
pub(super) async fn every_route_tells_what_is_left(cluster: &Cluster) -> Result<()> {
    // A rate of nothing never refills, so what is left is exact.
    let limits = json!({"rate": 0, "burst": 13, "key_rate": 7, "key_burst": 30, "per_minute": 240,
        "per_day": 5000, "per_month": 900, "concurrency": 40, "budget": 7000});
    let home = limited_to(cluster, "told", limits).await?;
    let wanted = [
        ("rate", 0, Some(1)),
        ("key_rate", 7, Some(1)),
        ("per_minute", 240, Some(60)),
        ("per_day", 5000, Some(86_400)),
        ("per_month", 900, None),
        ("concurrency", 40, None),
        ("budget", 7000, None),
    ];
    let mut left = 13;
    for (n, route) in ROUTES.into_iter().cycle().take(12).enumerate() {
        let node = (n + n / ROUTES.len()) % cluster.len();
        let answer = spend(cluster, node, &home.key, route, 1).await?;
        admitted(&answer).with_context(|| format!("{route} on node {node}"))?;
        let policies = items(&answer, "ratelimit-policy").context(route)?;
        same(route, policies.len(), wanted.len())?;
        for (name, most, window) in wanted {
            let found = policies.iter().find(|policy| policy.0 == name);
            let found = found.with_context(|| format!("{route}: no {name} in {policies:?}"))?;
            same(name, number(found, "q")?, most)?;
            same(name, found.1.get("w").and_then(|w| w.parse().ok()), window)?;
        }
        left -= 1;
        let (name, now, reset_s) = state(&answer).context(route)?;
        same(route, (name.as_str(), now), ("rate", left))?;
        says_quota_of_periods_only(&answer)?;
        if route == CHECK {
            let body = answer.json()?;
            let said = (body["policy"].as_str(), body["remaining"].as_u64());
            same("the body", said, (Some("rate"), Some(left)))?;
            same("reset_s", body["reset_s"].as_u64(), Some(reset_s))?;
        }
    }
    Ok(())
}

/// A limit that is large enough to be divided among nodes is told by the node that holds a part.
pub(super) async fn a_node_with_a_slab_tells_the_same(cluster: &Cluster) -> Result<()> {
    for node in 0..cluster.len() {
        let home = limited_to(cluster, "slabs", json!({"rate": 0, "burst": 600})).await?;
        let mut before = u64::MAX;
        for n in 0..20 {
            let answer = spend(cluster, node, &home.key, CHECK, 1).await?;
            let body = admitted(&answer).with_context(|| format!("{n} on node {node}"))?;
            let policies = items(&answer, "ratelimit-policy")?;
            let found = policies.iter().find(|policy| policy.0 == "rate").context("no rate")?;
            same("policy", (number(found, "q")?, number(found, "w")?), (0, 1))?;
            let (name, left, _) = state(&answer)?;
            same("state", (name.as_str(), body["remaining"].as_u64()), ("rate", Some(left)))?;
            same("limit", body["limit"].as_u64(), Some(0))?;
            ensure!(left < before && left < 600, "{left} are left after {before}");
            before = left;
        }
    }
    Ok(())
}
