//! Every change and every refusal of a tenant is in its audit, on every node, also after the death of
//! its owner; and an export is believed only while it is whole.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use client::keys::NewKey;
use client::{Call, Client, ClientError};
use serde_json::{Value, json};
use tests::{Cluster, Options, Probe, binary, until};

/// Refusals show within a second, and a busy machine takes a little longer.
const SHOWN_WITHIN: Duration = Duration::from_secs(3);
/// Those of strangers are collected for 5 s.
const STRANGERS_WITHIN: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_and_denied_is_told_and_an_export_is_verified_offline() -> Result<()> {
    let cluster = Cluster::start(3, Options::default()).await?;
    let made: Value = cluster
        .admin(0)?
        .json(Call::post("/v1/tenants").json(&json!({"name": "audited", "plan": "enterprise"}))?)
        .await?
        .body;
    let key = made["api_key"].as_str().context("no key")?.to_owned();
    let tenant = made["id"].as_str().context("no id")?.to_owned();

    let first = cluster.client_of(1, &key)?;
    let second = NewKey { name: "second".to_owned(), ..NewKey::default() };
    let second = first.create_key(&second, "once-1").await?.body.key_id;
    let _: client::Answer<Value> =
        first.json(Call::post("/v1/analyze").json(&json!({"texts": ["hello"]}))?).await?;
    first.revoke_key(second).await?;
    denied(first.revoke_key(second).await, 404)?;
    denied(first.json::<Value>(Call::post("/v1/scan").json(&json!({"docs": []}))?).await, 422)?;

    let wanted = [
        ("POST", "/v1/tenants", 201, "operator"),
        ("POST", "/v1/keys", 201, "sk_live_"),
        ("POST", "/v1/analyze", 200, "sk_live_"),
        ("DELETE", "/v1/keys/2", 200, "sk_live_"),
        ("DELETE", "/v1/keys/2", 404, "sk_live_"),
        ("POST", "/v1/scan", 422, "sk_live_"),
    ];
    for node in 0..3 {
        told(&cluster.client_of(node, &key)?, &wanted)
            .await
            .with_context(|| format!("node {node}"))?;
    }

    let owner = first.usage().await?.meta.owner.context("no owner")?;
    let owner = cluster.index_of(&owner).context("an owner that is no node")?;
    cluster.kill(owner).await?;
    let survivor = cluster.clients_of(&key)?;
    let export = until("an export without the owner", Duration::from_secs(20), async || {
        Ok(match survivor.export_audit().await {
            Ok(export) => Probe::Done(export),
            Err(error) => Probe::NotYet(error.to_string()),
        })
    })
    .await?;
    ensure!(export.lines().count() == wanted.len() + 1, "{export}");
    ensure!(!export.contains(&key), "the key is in the export");
    ensure!(export.contains(&tenant), "a checkpoint of another tenant");
    let trust = cluster.admins()?.trust().await?;
    verify(&export, &trust)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_tells_what_operators_did_and_who_came_with_a_wrong_key() -> Result<()> {
    let cluster = Cluster::start(3, Options::default()).await?;
    let plan = Call::put("/v1/plans/gold").json(&json!({"rate": 5}))?.idempotency_key("plan-1");
    let made = cluster.admin(0)?.json::<Value>(plan.clone()).await?;
    let again = cluster.admin(1)?.json::<Value>(plan).await?;
    ensure!(again.meta.replayed && again.body == made.body, "{made:?} and {again:?}");
    let other = Call::put("/v1/plans/gold").json(&json!({"rate": 6}))?.idempotency_key("plan-1");
    denied(cluster.admin(2)?.json::<Value>(other).await, 422)?;
    let token = Call::post("/admin/v1/join-tokens").json(&json!({}))?.idempotency_key("token-1");
    let issued: Value = cluster.admin(1)?.json(token.clone()).await?.body;
    let same: Value = cluster.admin(2)?.json(token).await?.body;
    ensure!(issued["token"] == same["token"], "a repeated call made another token");
    ensure!(issued["expires_at"] == same["expires_at"], "{issued} and {same}");
    let tenant = json!({"name": "short lived", "plan": "gold"});
    let tenant: Value =
        cluster.admin(0)?.json(Call::post("/v1/tenants").json(&tenant)?).await?.body;
    let id = tenant["id"].as_str().context("no id")?;
    let suspend = Call::post("/v1/tenants").segment(id).segment("suspend");
    let repeated = suspend.clone().idempotency_key("suspend-1");
    let _: Value = cluster.admin(2)?.json(repeated.clone()).await?.body;
    let _: Value = cluster.admin(1)?.json(Call::delete("/v1/tenants").segment(id)).await?.body;
    let untold = after_it_is_gone(&cluster, id, suspend, repeated).await?;

    // Whatever node leads the meta group, what was acknowledged is told by the others.
    let leader = cluster.admin(0)?.cluster().await?.body.leader.context("no leader")?;
    let leader = cluster.index_of(&leader).context("a leader that is no node")?;
    cluster.kill(leader).await?;
    let of_operators = [
        ("PUT", "/v1/plans/gold".to_owned(), 200, "operator"),
        ("PUT", "/v1/plans/gold".to_owned(), 422, "operator"),
        ("POST", "/admin/v1/join-tokens".to_owned(), 201, "operator"),
        ("DELETE", format!("/v1/tenants/{id}"), 200, "operator"),
    ];
    let wanted = [of_operators.as_slice(), &untold].concat();
    let survivors = cluster.admins()?;
    let export = export_with(&survivors, &wanted).await?;
    let trust = survivors.trust().await?;
    let (code, said) = judged(&export, Some(&trust))?;
    ensure!(code == Some(0) && said.contains("signed by"), "{code:?} {said}");
    let forged = export.replacen("\"status\":422", "\"status\":200", 1);
    let (code, said) = judged(&forged, Some(&trust))?;
    ensure!(code == Some(1) && said.contains("changed"), "{code:?} {said}");
    Ok(())
}

/// Method, path, status and actor of a record.
type Line = (&'static str, String, u64, &'static str);

/// What concerns a tenant that is deleted, and what concerns nobody, is told by the cluster.
async fn after_it_is_gone(
    cluster: &Cluster,
    id: &str,
    suspend: Call,
    repeated: Call,
) -> Result<[Line; 3]> {
    denied(cluster.admin(0)?.json::<Value>(suspend).await, 404)?;
    let again = cluster.admin(1)?.json::<Value>(repeated).await?;
    ensure!(again.meta.replayed, "{again:?}");
    let stranger = Call::get("/v1/me").query("api_key", Some("sk_live_secret"));
    let nobody = cluster.client_of(2, "sk_live_nobody")?;
    denied(nobody.json::<Value>(stranger).await, 401)?;
    let path = format!("/v1/tenants/{id}/suspend");
    let wanted = [
        ("POST", path.clone(), 404, "operator"),
        ("POST", path, 200, "operator"),
        ("GET", "/v1/me?api_key=sk_live_…".to_owned(), 401, "unknown"),
    ];
    // Refusals are written a moment after their answer.
    export_with(&cluster.admin(1)?, &wanted).await?;
    Ok(wanted)
}

/// The cluster's own audit, once it tells of these.
async fn export_with(cluster: &Client, wanted: &[Line]) -> Result<String> {
    Ok(until("the word of the survivors", STRANGERS_WITHIN, async || {
        let export = match cluster.export_cluster_audit().await {
            Ok(export) => export,
            Err(error) => return Ok(Probe::NotYet(error.to_string())),
        };
        let records: Vec<Value> =
            export.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let lacks = wanted.iter().find(|(method, path, status, actor)| {
            !records.iter().any(|record| {
                record["method"] == *method
                    && record["path"] == *path
                    && record["status"] == *status
                    && record["actor"] == *actor
            })
        });
        Ok(match lacks {
            None => Probe::Done(export),
            Some(lacks) => Probe::NotYet(format!("{lacks:?} is not in\n{export}")),
        })
    })
    .await?)
}

fn denied<T>(answer: Result<T, ClientError>, status: u16) -> Result<()> {
    match answer {
        Err(ClientError::Problem(problem)) if problem.status == status => Ok(()),
        Err(error) => bail!("{error} instead of {status}"),
        Ok(_) => bail!("allowed instead of {status}"),
    }
}

/// The records, in order, through one node.
async fn told(client: &Client, wanted: &[(&str, &str, u64, &str)]) -> Result<()> {
    let records = until("records of refusals", SHOWN_WITHIN, async || {
        let page: Value = client.json(Call::get("/v1/audit")).await?.body;
        let records = page["data"].as_array().cloned().unwrap_or_default();
        let enough = records.len() >= wanted.len();
        Ok(if enough { Probe::Done(records) } else { Probe::NotYet(format!("{}", records.len())) })
    })
    .await?;
    for (record, (method, path, status, actor)) in records.iter().zip(wanted) {
        let found = record["method"] == *method
            && record["path"] == *path
            && record["status"] == *status
            && record["actor"].as_str().is_some_and(|found| found.starts_with(actor))
            && record["address"] == "127.0.0.1";
        ensure!(found, "{record} instead of {method} {path} {status}");
    }
    ensure!(records.len() == wanted.len(), "{records:?}");
    Ok(())
}

/// What the verifier says of an export.
fn judged(export: &str, trust: Option<&str>) -> Result<(Option<i32>, String)> {
    let folder = tempfile::tempdir()?;
    let (file, trusted) = (folder.path().join("export"), folder.path().join("trust"));
    std::fs::write(&file, export)?;
    let mut command = Command::new(binary()?);
    command.args(["audit", "verify"]).arg(file);
    if let Some(trust) = trust {
        std::fs::write(&trusted, trust)?;
        command.arg("--trust").arg(trusted);
    }
    let output = command.output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

fn verify(export: &str, trust: &str) -> Result<()> {
    let (code, said) = judged(export, Some(trust))?;
    ensure!(code == Some(0) && said.contains("signed by"), "{code:?} {said}");
    let (code, said) = judged(export, None)?;
    ensure!(code == Some(0) && said.contains("integrity only"), "{code:?} {said}");

    let flipped = export.replacen("\"status\":404", "\"status\":405", 1);
    let (code, said) = judged(&flipped, Some(trust))?;
    ensure!(code == Some(1) && said.contains("seq 5: changed"), "{code:?} {said}");
    let lines: Vec<&str> = export.lines().collect();
    let (last, before) = lines.split_last().context("an empty export")?;
    let shorter = [&before[..before.len() - 1], &[*last]].concat().join("\n");
    let (code, said) = judged(&shorter, Some(trust))?;
    ensure!(code == Some(1) && said.contains("seq 6: truncated"), "{code:?} {said}");
    let (code, said) = judged(&before.join("\n"), Some(trust))?;
    ensure!(code == Some(1) && said.contains("seq 7: truncated"), "{code:?} {said}");
    Ok(())
}
