//! A tenant sees nothing of another, not even whether it is there; and what was taken away is gone
//! everywhere at once.

use anyhow::{Context, Result, ensure};
use protocol::{JobId, TenantId};
use serde_json::{Value, json};
use tests::raw::{Request, Response};
use tests::{Cluster, Options};

use crate::stage::{Account, account, call, on_three_nodes, operator, same, text};

const ROUNDS: usize = 50;
/// Ids that no parser accepts.
const BAD_IDS: [&str; 8] =
    ["x", "job_", "tnt_!", "-1", "007", "18446744073709551616", "%F0%9F%98%80", "a%2Fb"];

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_learns_nothing_of_others_and_what_is_taken_away_is_gone_everywhere() {
    on_three_nodes(Options::default(), async |cluster| {
        let ours = account(cluster, "ours", json!({})).await?;
        let theirs = account(cluster, "theirs", json!({})).await?;
        ids_of_others_are_as_missing_ones(cluster, &ours, &theirs).await.context("ids")?;
        cursors_of_others_are_refused(cluster, &ours, &theirs).await.context("cursors")?;
        credentials_fail_alike(cluster, &ours).await.context("credentials")?;
        a_revoked_key_is_refused_everywhere(cluster, &ours).await.context("revocation")?;
        a_suspended_tenant_reads_itself_only(cluster, &ours).await.context("suspension")?;
        a_deleted_tenant_is_gone(cluster, &theirs).await.context("deletion")
    })
    .await;
}

/// Status, header names and the body without what names the request.
fn face(response: &Response) -> Result<(u16, Vec<String>, Value)> {
    let mut body = response.json()?;
    let members = body.as_object_mut().context("an object")?;
    members.remove("request_id");
    members.remove("instance");
    let names = response.header_names().into_iter().map(str::to_owned).collect();
    Ok((response.status, names, body))
}

async fn alike(cluster: &Cluster, key: &str, method: &str, targets: &[String]) -> Result<()> {
    let mut first = None;
    for (i, target) in targets.iter().enumerate() {
        let answer = call(cluster, i % cluster.len(), key, method, target, None).await?;
        let body =
            answer.problem(404, "not_found").with_context(|| format!("{method} {target}"))?;
        let detail = text(&body, "detail")?;
        let id = target.rsplit('/').next().unwrap_or_default();
        ensure!(id.len() < 2 || !detail.contains(id), "the detail repeats the id: {detail}");
        let face = face(&answer)?;
        let first = first.get_or_insert_with(|| face.clone());
        ensure!(face == *first, "{method} {target}: {face:?} differs from {first:?}");
    }
    Ok(())
}

async fn ids_of_others_are_as_missing_ones(
    cluster: &Cluster,
    ours: &Account,
    theirs: &Account,
) -> Result<()> {
    let job = json!({"type": "scan", "documents": [{"id": "a", "content": "a secret of theirs"}]});
    let job = call(cluster, 1, &theirs.key, "POST", "/v1/jobs", Some(&job)).await?.ok(202)?;
    let bad = || BAD_IDS.iter().map(|id| (*id).to_owned());
    let jobs: Vec<String> =
        [text(&job, "id")?, JobId(u128::MAX >> 3).to_string(), theirs.id.clone()]
            .into_iter()
            .chain(bad())
            .collect();
    let of = |ids: &[String], before: &str, after: &str| -> Vec<String> {
        ids.iter().map(|id| format!("{before}{id}{after}")).collect()
    };
    alike(cluster, &ours.key, "GET", &of(&jobs, "/v1/jobs/", "")).await?;
    alike(cluster, &ours.key, "GET", &of(&jobs, "/v1/jobs/", "/results")).await?;
    for verb in ["/cancel", "/pause", "/resume", "/retry"] {
        alike(cluster, &ours.key, "POST", &of(&jobs, "/v1/jobs/", verb)).await?;
    }

    // Of keys, one of theirs with a number that we do not have, and one of ours that is revoked.
    let mut foreign = 0;
    for _ in 0..3 {
        foreign = new_key(cluster, 0, &theirs.key).await?.0;
    }
    let (revoked, _) = new_key(cluster, 1, &ours.key).await?;
    call(cluster, 2, &ours.key, "DELETE", &format!("/v1/keys/{revoked}"), None).await?.ok(200)?;
    let keys: Vec<String> =
        [foreign, revoked, 999_999].map(|id| id.to_string()).into_iter().chain(bad()).collect();
    alike(cluster, &ours.key, "GET", &of(&keys, "/v1/keys/", "")).await?;
    alike(cluster, &ours.key, "DELETE", &of(&keys, "/v1/keys/", "")).await?;
    call(cluster, 0, &theirs.key, "GET", &format!("/v1/keys/{foreign}"), None).await?.ok(200)?;

    let tenants: Vec<String> =
        std::iter::once(TenantId(u128::MAX >> 3).to_string()).chain(bad()).collect();
    let operators = cluster.admin_key()?;
    alike(cluster, operators, "GET", &of(&tenants, "/v1/tenants/", "")).await?;
    alike(cluster, operators, "DELETE", &of(&tenants, "/v1/tenants/", "")).await?;
    // A tenant's key learns nothing on an operator's route, whichever id it names.
    for id in tenants.iter().chain([&theirs.id, &ours.id]) {
        let target = format!("/v1/tenants/{id}");
        let answer = call(cluster, 2, &ours.key, "GET", &target, None).await?;
        answer.problem(403, "scope_missing").context(target)?;
    }
    Ok(())
}

async fn new_key(cluster: &Cluster, i: usize, key: &str) -> Result<(u64, String)> {
    let body = json!({"name": "another"});
    let made = call(cluster, i, key, "POST", "/v1/keys", Some(&body)).await?.ok(201)?;
    Ok((made["key_id"].as_u64().context("no key_id")?, text(&made, "api_key")?))
}

async fn cursors_of_others_are_refused(
    cluster: &Cluster,
    ours: &Account,
    theirs: &Account,
) -> Result<()> {
    let page = call(cluster, 0, &theirs.key, "GET", "/v1/keys?limit=1", None).await?.ok(200)?;
    let cursor = text(&page, "next_cursor")?;
    call(cluster, 1, &theirs.key, "GET", &format!("/v1/keys?cursor={cursor}"), None)
        .await?
        .ok(200)?;
    let mut altered = cursor.clone().into_bytes();
    let last = altered.len() - 1;
    altered[last / 2] = if altered[last / 2] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered)?;
    for (key, target) in [
        (&ours.key, format!("/v1/keys?cursor={cursor}")),
        (&theirs.key, format!("/v1/jobs?cursor={cursor}")),
        (&theirs.key, format!("/v1/keys?order=desc&cursor={cursor}")),
        (&theirs.key, format!("/v1/keys?cursor={altered}")),
        (&theirs.key, format!("/v1/keys?cursor={}", &cursor[..last])),
    ] {
        let answer = call(cluster, 2, key, "GET", &target, None).await?;
        let body = answer.problem(400, "malformed").with_context(|| target.clone())?;
        same(&target, body["errors"][0]["pointer"].as_str(), Some("?cursor"))?;
    }
    Ok(())
}

/// One body for every reason.
async fn credentials_fail_alike(cluster: &Cluster, ours: &Account) -> Result<()> {
    let (id, revoked) = new_key(cluster, 0, &ours.key).await?;
    call(cluster, 1, &ours.key, "DELETE", &format!("/v1/keys/{id}"), None).await?.ok(200)?;
    let mut checksum = ours.key.clone();
    let last = if checksum.pop() == Some('0') { '1' } else { '0' };
    checksum.push(last);
    let credentials = [
        String::new(),
        "Bearer".to_owned(),
        "Basic dTpw".to_owned(),
        "Bearer nonsense".to_owned(),
        "Bearer sk_live_".to_owned(),
        "Bearer sk_admin_nonsense".to_owned(),
        format!("Bearer {checksum}"),
        format!("Bearer {revoked}"),
        format!("Bearer {}", ours.key.to_lowercase()),
        format!("Bearer  {}", ours.key),
        format!("Bearer {}x", ours.key),
        format!("Bearer {}", ours.key.replace("sk_live_", "sk_test_")),
        format!("Bearer {}", "x".repeat(10_000)),
        format!("Bearer {}é", ours.key),
    ];
    let none = Request::get("/v1/me").send(&cluster.url(0)).await?;
    none.problem(401, "unauthenticated")?;
    let wanted = face(&none)?;
    for (i, credential) in credentials.iter().enumerate() {
        let request = Request::get("/v1/me").header("Authorization", credential);
        let answer = request.send(&cluster.url(i % cluster.len())).await?;
        answer.problem(401, "unauthenticated").with_context(|| credential.clone())?;
        ensure!(answer.header("www-authenticate").is_some(), "no WWW-Authenticate");
        same(credential, face(&answer)?, wanted.clone())?;
    }
    Ok(())
}

async fn a_revoked_key_is_refused_everywhere(cluster: &Cluster, ours: &Account) -> Result<()> {
    let nodes = cluster.len();
    for round in 0..ROUNDS {
        let (id, key) = new_key(cluster, round % nodes, &ours.key).await?;
        // Known, and therefore perhaps remembered, on every node.
        for i in 0..nodes {
            call(cluster, i, &key, "GET", "/v1/me", None).await?.ok(200)?;
        }
        let at = (round + 1) % nodes;
        let target = format!("/v1/keys/{id}");
        call(cluster, at, &ours.key, "DELETE", &target, None).await?.ok(200)?;
        let asked =
            (0..nodes).map(|i| call(cluster, (at + 1 + i) % nodes, &key, "GET", "/v1/me", None));
        for answer in futures::future::join_all(asked).await {
            let refused = answer?.problem(401, "unauthenticated");
            refused.with_context(|| format!("round {round}: key {id}, revoked on node {at}"))?;
        }
    }
    Ok(())
}

async fn a_suspended_tenant_reads_itself_only(cluster: &Cluster, ours: &Account) -> Result<()> {
    let target = format!("/v1/tenants/{}", ours.id);
    let suspended =
        operator(cluster, 1, "POST", &format!("{target}/suspend"), None).await?.ok(200)?;
    same("status", suspended["status"].as_str(), Some("suspended"))?;
    let scan = json!({"docs": [{"id": "a", "content": "b"}]});
    for i in 0..cluster.len() {
        for (method, route, body) in [
            ("POST", "/v1/scan", Some(&scan)),
            ("GET", "/v1/jobs", None),
            ("GET", "/v1/keys", None),
            ("POST", "/v1/keys/create?name=x", None),
        ] {
            let answer = call(cluster, i, &ours.key, method, route, body).await?;
            answer.problem(403, "tenant_suspended").with_context(|| format!("{method} {route}"))?;
        }
        for route in ["/v1/me", "/v1/usage", "/v1/keys/usage"] {
            call(cluster, i, &ours.key, "GET", route, None).await?.ok(200).context(route)?;
        }
    }
    operator(cluster, 2, "POST", &format!("{target}/resume"), None).await?.ok(200)?;
    for i in 0..cluster.len() {
        call(cluster, i, &ours.key, "POST", "/v1/scan", Some(&scan)).await?.ok(200)?;
    }
    Ok(())
}

async fn a_deleted_tenant_is_gone(cluster: &Cluster, theirs: &Account) -> Result<()> {
    let target = format!("/v1/tenants/{}", theirs.id);
    for i in 0..cluster.len() {
        call(cluster, i, &theirs.key, "GET", "/v1/me", None).await?.ok(200)?;
    }
    let gone = operator(cluster, 0, "DELETE", &target, None).await?.ok(200)?;
    same("deletion", gone, json!({"id": theirs.id, "deleted": true}))?;
    for i in 0..cluster.len() {
        let key = call(cluster, i, &theirs.key, "GET", "/v1/me", None).await?;
        key.problem(401, "unauthenticated")?;
        operator(cluster, i, "GET", &target, None).await?.problem(404, "not_found")?;
        operator(cluster, i, "DELETE", &target, None).await?.problem(404, "not_found")?;
        let acting = Request::get("/v1/usage").bearer(cluster.admin_key()?);
        let acting = acting.header("X-Tenant-Id", &theirs.id).send(&cluster.url(i)).await?;
        acting.problem(404, "not_found").context("an operator acting for it")?;
    }
    let listed = operator(cluster, 1, "GET", "/v1/tenants?limit=1000", None).await?.ok(200)?;
    let there = listed["data"].as_array().context("a list")?.iter().any(|t| t["id"] == theirs.id);
    ensure!(!there, "it is still listed");
    Ok(())
}
