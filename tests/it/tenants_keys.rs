//! The lives of tenants and keys, each step through another node, and calls that are made twice.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tests::raw::{Request, Response};
use tests::{Cluster, Options};

use crate::stage::{Account, account, call, on_three_nodes, operator, same, text};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

#[tokio::test(flavor = "multi_thread")]
async fn tenants_and_keys_live_the_same_life_on_every_node() {
    on_three_nodes(Options::default(), async |cluster| {
        plans_have_their_figures(cluster).await.context("plans")?;
        a_tenant_lives(cluster).await.context("a tenant")?;
        let home = account(cluster, "home", json!({})).await?;
        a_key_lives(cluster, &home).await.context("a key")?;
        scopes_bind(cluster, &home).await.context("scopes")?;
        lists_have_pages(cluster, &home).await.context("lists")?;
        a_call_made_twice_is_made_once(cluster, &home).await.context("idempotency")?;
        duplicates_at_once_have_one_effect(cluster, &home).await.context("duplicates")
    })
    .await;
}

async fn plans_have_their_figures(cluster: &Cluster) -> Result<()> {
    for (i, (plan, per_month)) in [
        ("trial", json!(1_000)),
        ("starter", json!(10_000)),
        ("professional", json!(100_000)),
        ("enterprise", json!(null)),
    ]
    .into_iter()
    .enumerate()
    {
        let body = json!({"name": plan, "plan": plan});
        let i = i % cluster.len();
        let made = operator(cluster, i, "POST", "/v1/tenants", Some(&body)).await?.ok(201)?;
        let limits = &made["limits"];
        let figures = ["rate", "burst", "key_rate", "key_burst"].map(|name| limits[name].as_u64());
        same(plan, figures, [Some(100), Some(200), Some(50), Some(100)])?;
        same(plan, &limits["per_month"], &per_month)?;
        let on_trial = made["trial_ends_at"].is_string();
        same("a trial ends", on_trial, plan == "trial")?;
    }
    // Nothing said is a trial of fourteen days.
    let body = json!({"name": "nothing said"});
    let made = operator(cluster, 1, "POST", "/v1/tenants", Some(&body)).await?.ok(201)?;
    same("plan", text(&made, "plan")?, "trial".to_owned())?;
    same("status", text(&made, "status")?, "trial".to_owned())?;
    let lasts = millis(&text(&made, "trial_ends_at")?)? - millis(&text(&made, "created_at")?)?;
    same("the trial lasts", lasts, 14 * DAY_MS)?;
    // A trial may work.
    let key = text(&made, "api_key")?;
    let scan = json!({"docs": [{"id": "a", "content": "b"}]});
    call(cluster, 2, &key, "POST", "/v1/scan", Some(&scan)).await?.ok(200)?;
    let usage = call(cluster, 0, &key, "GET", "/v1/usage", None).await?.ok(200)?;
    same("left of the month", usage["quota_remaining"].as_u64(), Some(999))
}

/// Milliseconds since 1970 of an RFC 3339 time in UTC with milliseconds.
fn millis(at: &str) -> Result<i64> {
    let shape = at.len() == 24 && at.ends_with('Z') && at.as_bytes()[19] == b'.';
    ensure!(shape, "{at:?} is not a time with milliseconds and Z");
    let part = |from: usize, to: usize| at[from..to].parse::<i64>();
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    // Days from 1970 by Howard Hinnant's civil calendar, with years that begin in March.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = years * 365 + years / 4 - years / 100 + years / 400 + (months * 153 + 2) / 5 + day;
    let of_day = (part(11, 13)? * 60 + part(14, 16)?) * 60 + part(17, 19)?;
    Ok(((days - 719_469) * 86_400 + of_day) * 1000 + part(20, 23)?)
}

async fn a_tenant_lives(cluster: &Cluster) -> Result<()> {
    let body = json!({"name": "Ze\u{301}ta", "plan": "starter", "overrides": {"rate": 7, "burst": null},
        "domain": "zeta.example", "region": "eu"});
    let made = operator(cluster, 0, "POST", "/v1/tenants", Some(&body)).await?;
    ensure!(made.header("skep-index").is_some_and(|at| at.contains(':')), "{:?}", made.headers);
    let made = made.ok(201)?;
    let (id, key) = (text(&made, "id")?, text(&made, "api_key")?);
    ensure!(id.starts_with("tnt_") && key.starts_with("sk_live_"), "{made}");
    same("the name in NFC", text(&made, "name")?, "Z\u{e9}ta".to_owned())?;
    same(
        "overrides",
        (&made["limits"]["rate"], &made["limits"]["burst"]),
        (&json!(7), &json!(null)),
    )?;
    let target = format!("/v1/tenants/{id}");
    let mut kept = made;
    for secret in ["api_key", "key_id", "key_prefix"] {
        kept.as_object_mut().context("an object")?.remove(secret);
    }
    for i in 0..cluster.len() {
        let read = operator(cluster, i, "GET", &target, None).await?;
        let tag = format!("\"{}\"", kept["version"]);
        same("ETag", read.header("etag"), Some(tag.as_str()))?;
        same("the tenant as made", &read.ok(200)?, &kept)?;
        let me = call(cluster, i, &key, "GET", "/v1/me", None).await?.ok(200)?;
        same("me", text(&me["tenant"], "id")?, id.clone())?;
        same("my plan", text(&me, "plan")?, "starter".to_owned())?;
        same("my scopes", me["scopes"].as_array().map(Vec::len), Some(7))?;
        ensure!(me["limits"].as_array().is_some_and(|limits| limits.len() >= 3), "{me}");
    }
    let renamed = json!({"name": "Eta", "domain": null});
    let patch =
        |version: u64| Request::new("PATCH", &target).header("If-Match", format!("\"{version}\""));
    let version = kept["version"].as_u64().context("a version")?;
    let send = async |request: Request, i: usize| -> Result<Response> {
        request.bearer(cluster.admin_key()?).json(renamed.to_string()).send(&cluster.url(i)).await
    };
    send(patch(version + 7), 1).await?.problem(412, "precondition_failed")?;
    let changed = send(patch(version), 1).await?.ok(200)?;
    same("name", text(&changed, "name")?, "Eta".to_owned())?;
    ensure!(changed["domain"].is_null() && changed["region"] == "eu", "{changed}");
    same("version", changed["version"].as_u64(), Some(version + 1))?;
    send(patch(version), 2).await?.problem(412, "precondition_failed")?;
    let plan = json!({"plan": "professional", "overrides": {"per_month": 5}});
    let moved =
        operator(cluster, 2, "PUT", &format!("{target}/plan"), Some(&plan)).await?.ok(200)?;
    let limits = &moved["limits"];
    same("new limits", (&limits["per_month"], &limits["burst"]), (&json!(5), &json!(200)))?;
    for (i, (verb, status)) in [
        ("suspend", "suspended"),
        ("suspend", "suspended"),
        ("resume", "active"),
        ("resume", "active"),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("{target}/{verb}");
        let now = operator(cluster, i % 3, "POST", &target, None).await?.ok(200)?;
        same(verb, text(&now, "status")?, status.to_owned())?;
    }
    operator(cluster, 0, "DELETE", &target, None).await?.ok(200)?;
    operator(cluster, 1, "DELETE", &target, None).await?.problem(404, "not_found")?;
    operator(cluster, 2, "GET", &target, None).await?.problem(404, "not_found")?;
    call(cluster, 2, &key, "GET", "/v1/me", None).await?.problem(401, "unauthenticated")?;
    Ok(())
}

/// Both forms of the routes: ours, and that of the published client.
async fn a_key_lives(cluster: &Cluster, home: &Account) -> Result<()> {
    let forms = [
        Request::post("/v1/keys").json(json!({"name": "Prod Key"}).to_string()),
        Request::post("/v1/keys/create?name=Prod%20Key")
            .header("Content-Type", "application/json")
            .body(""),
        Request::post("/v1/keys/create?name=Prod+Key"),
    ];
    let mut before = 1;
    for (i, (form, status)) in forms.into_iter().zip([201, 200, 200]).enumerate() {
        let node = |step: usize| (i + step) % cluster.len();
        let made = form.bearer(&home.key).send(&cluster.url(node(0))).await?.ok(status)?;
        let id = made["key_id"].as_u64().context("an integer key_id")?;
        ensure!(id > before, "key {id} after {before}: a number was used again");
        before = id;
        same("name", text(&made, "name")?, "Prod Key".to_owned())?;
        let (key, prefix) = (text(&made, "api_key")?, text(&made, "key_prefix")?);
        // Enough to tell keys apart, and not enough to be one.
        let shown = prefix.starts_with("sk_live_") && prefix.len() < key.len() / 2;
        ensure!(shown && prefix != key, "prefix {prefix:?}");
        let target = format!("/v1/keys/{id}");
        let read = call(cluster, node(1), &key, "GET", &target, None).await?.ok(200)?;
        ensure!(read.get("api_key").is_none(), "a key is shown once only: {read}");
        same("as made", (&read["name"], &read["scopes"]), (&made["name"], &made["scopes"]))?;
        let bare = call(cluster, node(1), &home.key, "GET", "/v1/keys/me", None).await?.ok(200)?;
        let listed = bare.as_array().context("a bare array")?.contains(&read);
        ensure!(listed, "{read} is not in {bare}");
        let gone = call(cluster, node(2), &key, "DELETE", &target, None).await?.ok(200)?;
        same("deletion", gone, json!({"key_id": id, "deleted": true}))?;
        for i in 0..cluster.len() {
            call(cluster, i, &key, "GET", "/v1/me", None).await?.problem(401, "unauthenticated")?;
            call(cluster, i, &home.key, "DELETE", &target, None)
                .await?
                .problem(404, "not_found")?;
        }
    }
    Ok(())
}

/// A key does what its scopes say, and gives away no more than it has.
async fn scopes_bind(cluster: &Cluster, home: &Account) -> Result<()> {
    let body = json!({"name": "clerk", "scopes": ["keys:write", "usage:read"]});
    let clerk = call(cluster, 0, &home.key, "POST", "/v1/keys", Some(&body)).await?.ok(201)?;
    let clerk = text(&clerk, "api_key")?;
    let scan = json!({"docs": [{"id": "a", "content": "b"}]});
    for (method, target, body, scope) in [
        ("POST", "/v1/scan", Some(&scan), "scan"),
        ("GET", "/v1/keys", None, "keys:read"),
        ("GET", "/v1/jobs", None, "jobs:read"),
        ("POST", "/v1/jobs", None, "jobs:write"),
    ] {
        let refused = call(cluster, 1, &clerk, method, target, body).await?;
        let detail = text(&refused.problem(403, "scope_missing")?, "detail")?;
        ensure!(detail.contains(scope), "{target}: {detail:?} does not name {scope}");
    }
    call(cluster, 2, &clerk, "GET", "/v1/usage", None).await?.ok(200)?;
    let more = json!({"name": "more", "scopes": ["scan"]});
    let more = call(cluster, 2, &clerk, "POST", "/v1/keys", Some(&more)).await?;
    more.problem(403, "scope_missing")?;
    let as_many =
        call(cluster, 1, &clerk, "POST", "/v1/keys/create?name=heir", None).await?.ok(200)?;
    same("inherited scopes", &as_many["scopes"], &json!(["keys:write", "usage:read"]))
}

async fn lists_have_pages(cluster: &Cluster, home: &Account) -> Result<()> {
    let make = |n: usize| {
        let target = format!("/v1/keys/create?name=list-{n}");
        async move { call(cluster, n % 3, &home.key, "POST", &target, None).await?.ok(200) }
    };
    try_join_all((0..7).map(make)).await?;
    let whole = call(cluster, 0, &home.key, "GET", "/v1/keys/me", None).await?.ok(200)?;
    let mut wanted: Vec<u64> = ids(&whole)?;
    ensure!(wanted.is_sorted() && wanted.len() >= 8, "{wanted:?}");
    for order in ["asc", "desc"] {
        let pages = pages(cluster, &home.key, &format!("/v1/keys?order={order}&limit=3")).await?;
        let got = pages.iter().map(ids).collect::<Result<Vec<_>>>()?.concat();
        same(order, &got, &wanted)?;
        wanted.reverse();
    }
    let all = pages(cluster, cluster.admin_key()?, "/v1/tenants?limit=2").await?;
    let listed: Vec<&str> =
        all.iter().flat_map(Value::as_array).flatten().filter_map(|t| t["id"].as_str()).collect();
    let distinct: BTreeSet<&str> = listed.iter().copied().collect();
    same("tenants listed once each", distinct.len(), listed.len())?;
    ensure!(distinct.contains(home.id.as_str()), "home is not listed");
    let once = operator(cluster, 1, "GET", "/v1/tenants?limit=1000", None).await?.ok(200)?;
    same("tenants on pages", listed.len(), once["data"].as_array().map_or(0, Vec::len))
}

fn ids(page: &Value) -> Result<Vec<u64>> {
    let keys = page.as_array().context("an array")?;
    keys.iter().map(|key| key["key_id"].as_u64().context("a key_id")).collect()
}

/// All pages of a list, each from another node.
async fn pages(cluster: &Cluster, key: &str, target: &str) -> Result<Vec<Value>> {
    let mut pages = Vec::new();
    let mut next = target.to_owned();
    loop {
        let page =
            call(cluster, pages.len() % cluster.len(), key, "GET", &next, None).await?.ok(200)?;
        same("object", page["object"].as_str(), Some("list"))?;
        let more = page["has_more"].as_bool().context("has_more")?;
        same("a cursor exactly where more follows", page["next_cursor"].is_string(), more)?;
        pages.push(page["data"].clone());
        if !more {
            return Ok(pages);
        }
        ensure!(pages.len() < 100, "the list does not end");
        next = format!("{target}&cursor={}", text(&page, "next_cursor")?);
    }
}

/// Same key and same call: the same answer, with the same secret, from any node. Same key and another
/// call: 422.
async fn a_call_made_twice_is_made_once(cluster: &Cluster, home: &Account) -> Result<()> {
    let admin = cluster.admin_key()?;
    let scan = json!({"docs": [{"id": "a", "content": "b"}]}).to_string();
    let job = json!({"type": "scan", "documents": [{"id": "a", "content": "b"}]}).to_string();
    let calls = [
        (admin, Request::post("/v1/tenants").json(r#"{"name":"once","plan":"starter"}"#), "id"),
        (
            &home.key,
            Request::post("/v1/keys").json(r#"{"name":"once","scopes":["scan"]}"#),
            "key_id",
        ),
        (&home.key, Request::post("/v1/keys/create?name=once"), "key_id"),
        (&home.key, Request::post("/v1/jobs").json(job), "id"),
        (&home.key, Request::post("/v1/scan").json(scan), "summary"),
    ];
    for (n, (key, request, id)) in calls.into_iter().enumerate() {
        let once = format!("once-{n}");
        let request = request.bearer(key);
        let mut first: Option<Response> = None;
        for i in 0..cluster.len() {
            // Quoted or bare, it is the same key.
            let spelt = if i == 1 { format!("\"{once}\"") } else { once.clone() };
            let answer =
                request.clone().header("Idempotency-Key", spelt).send(&cluster.url(i)).await?;
            ensure!(
                answer.status < 300,
                "call {n} on node {i}: {} {}",
                answer.status,
                answer.text()
            );
            let replayed = answer.header("idempotent-replayed") == Some("true");
            same(&format!("call {n} on node {i} is replayed"), replayed, first.is_some())?;
            if let Some(first) = &first {
                same("status of the replay", answer.status, first.status)?;
                same("body of the replay", answer.json()?, first.json()?)?;
            }
            ensure!(!answer.json()?[id].is_null(), "no {id}");
            first = first.or(Some(answer));
        }
    }
    // The order of keys and spaces do not make another call.
    let alike = Request::post("/v1/keys").json(r#" { "scopes" : ["scan"], "name" : "once" } "#);
    let alike =
        alike.bearer(&home.key).header("Idempotency-Key", "once-1").send(&cluster.url(2)).await?;
    same("respelt", alike.header("idempotent-replayed"), Some("true"))?;
    for (request, claim) in [
        (Request::post("/v1/keys").json(r#"{"name":"twice","scopes":["scan"]}"#), "another body"),
        (Request::post("/v1/keys/create?name=once"), "another route"),
        (Request::new("DELETE", "/v1/keys/1"), "another method"),
    ] {
        let request = request.bearer(&home.key).header("Idempotency-Key", "once-1");
        let answer = request.send(&cluster.url(0)).await?;
        answer.problem(422, "idempotency_mismatch").context(claim)?;
    }
    // Another tenant's key of the same text is another key.
    let other = account(cluster, "other", json!({})).await?;
    let made = Request::post("/v1/keys").json(r#"{"name":"once","scopes":["scan"]}"#);
    let made =
        made.bearer(&other.key).header("Idempotency-Key", "once-1").send(&cluster.url(1)).await?;
    same("other tenant", made.header("idempotent-replayed"), None)?;
    made.ok(201)?;
    // A refusal is not remembered: the key is free for the corrected call.
    let wrong =
        Request::post("/v1/keys").json("{}").bearer(&home.key).header("Idempotency-Key", "free");
    wrong.send(&cluster.url(0)).await?.problem(422, "validation")?;
    let right = Request::post("/v1/keys").json(r#"{"name":"right"}"#).bearer(&home.key);
    right.header("Idempotency-Key", "free").send(&cluster.url(1)).await?.ok(201)?;
    Ok(())
}

async fn duplicates_at_once_have_one_effect(cluster: &Cluster, home: &Account) -> Result<()> {
    let before =
        ids(&call(cluster, 0, &home.key, "GET", "/v1/keys/me", None).await?.ok(200)?)?.len();
    for round in 0..10 {
        let send = |i: usize| {
            let request = Request::post("/v1/keys/create?name=at-once").bearer(&home.key);
            let request = request.header("Idempotency-Key", format!("at-once-{round}"));
            let url = cluster.url(i % cluster.len());
            async move { request.send(&url).await }
        };
        let mut secrets = BTreeSet::new();
        for answer in try_join_all((0..9).map(send)).await? {
            if answer.status == 409 {
                answer.problem(409, "idempotency_in_progress")?;
            } else {
                secrets.insert(text(&answer.ok(200)?, "api_key")?);
            }
        }
        same("secrets made", secrets.len(), 1)?;
    }
    let after =
        ids(&call(cluster, 1, &home.key, "GET", "/v1/keys/me", None).await?.ok(200)?)?.len();
    same("keys made", after - before, 10)
}
