//! States are written to disk and logs purged behind them: what was acknowledged survives that, on a
//! node that was away meanwhile, and after all nodes were stopped.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::raw::{Request, Response};
use tests::{Cluster, Options};

use crate::stage::{Account, account, call, on_three_nodes, same};

const KEEP_ENTRIES: usize = 20;
const WITHIN: Duration = Duration::from_secs(30);
const ONCE: &str = "the-first-of-all";
const NONE: Option<usize> = None;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_purged_from_the_log_is_still_known() {
    let options = Options::default()
        .set("storage.checkpoint_s=1")
        .set(&format!("storage.keep_entries={KEEP_ENTRIES}"));
    on_three_nodes(options, async |cluster| {
        let account = account(cluster, "kept", json!({})).await?;
        let first = make_once(cluster, 0, &account).await?;
        first.ok(201)?;
        let shard = shard_of(&first)?;
        let away = (0..cluster.len()).find(|node| !is_owner(cluster, *node, &first));
        let away = away.context("every node owns it")?;
        cluster.kill(away).await?;
        let made = purge_the_log(cluster, away, &account, &shard).await.context("the purge")?;

        cluster.restart(away).await.context("the restart")?;
        until(async || Ok(figure(cluster, away, "raft_states_installed", &shard).await? >= 1.0))
            .await
            .context("the state does not come by itself")?;
        cluster.digests().await.context("digests with the node that was away")?;
        is_known(cluster, NONE, &account, &first, made).await.context("beside the others")?;

        // Only that node and one more have it now.
        let owner = (0..cluster.len()).find(|node| is_owner(cluster, *node, &first));
        let owner = owner.context("no node owns it")?;
        cluster.kill(owner).await?;
        is_known(cluster, Some(owner), &account, &first, made)
            .await
            .context("without the owner")?;
        cluster.kill_all().await?;
        cluster.restart_all().await?;
        is_known(cluster, NONE, &account, &first, made).await.context("after a restart of all")?;
        cluster.digests().await.context("digests after the restart of all").map(drop)
    })
    .await;
}

async fn make_once(cluster: &Cluster, node: usize, account: &Account) -> Result<Response> {
    let body = json!({"name": "once", "scopes": ["scan"]});
    let request = Request::new("POST", "/v1/keys").bearer(&account.key);
    let request = request.header("Idempotency-Key", ONCE).json(body.to_string());
    request.send(&cluster.url(node)).await
}

fn shard_of(answer: &Response) -> Result<String> {
    let index = answer.header("skep-index").context("no Skep-Index")?;
    Ok(index.split(':').next().unwrap_or_default().to_owned())
}

fn is_owner(cluster: &Cluster, node: usize, answer: &Response) -> bool {
    answer.header("skep-owner").and_then(|id| cluster.index_of(id)) == Some(node)
}

/// Makes keys until the log does not reach back to the time before; returns how many.
async fn purge_the_log(
    cluster: &Cluster,
    away: usize,
    account: &Account,
    shard: &str,
) -> Result<usize> {
    let node = (away + 1) % cluster.len();
    let mut made = 0;
    until(async || {
        for _ in 0..KEEP_ENTRIES {
            let body = json!({"name": format!("filler {made}"), "scopes": ["scan"]});
            call(cluster, node, &account.key, "POST", "/v1/keys", Some(&body)).await?.ok(201)?;
            made += 1;
        }
        // Entries are purged in batches.
        let mut short = made > 400;
        for node in (0..cluster.len()).filter(|node| *node != away) {
            let kept = figure(cluster, node, "raft_log_entries", shard).await?;
            short &= kept < 300.0;
        }
        Ok(short)
    })
    .await?;
    Ok(made)
}

/// The first outcome is given again by every node but a dead one; and every key is there.
async fn is_known(
    cluster: &Cluster,
    dead: Option<usize>,
    account: &Account,
    first: &Response,
    made: usize,
) -> Result<()> {
    let id = first.json()?["key_id"].clone();
    for node in (0..cluster.len()).filter(|node| Some(*node) != dead) {
        let began = Instant::now();
        let again = loop {
            let again = make_once(cluster, node, account).await?;
            if again.status != 503 || began.elapsed() > WITHIN {
                break again;
            }
        };
        same("id", again.ok(201)?["key_id"].clone(), id.clone())?;
        same("replayed", again.header("idempotent-replayed"), Some("true"))?;
        let keys = keys_of(cluster, node, account).await?;
        // The tenant's own, the one that is made once, and the others.
        same("keys", keys, made + 2)?;
    }
    Ok(())
}

async fn keys_of(cluster: &Cluster, node: usize, account: &Account) -> Result<usize> {
    let (mut keys, mut cursor) = (0, None::<String>);
    loop {
        let more = cursor.map_or(String::new(), |cursor| format!("&cursor={cursor}"));
        let target = format!("/v1/keys?limit=100{more}");
        let page = call(cluster, node, &account.key, "GET", &target, None).await?.ok(200)?;
        keys += page["data"].as_array().context("a page")?.len();
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(keys);
        }
    }
}

/// A figure of one group at `/metrics`.
async fn figure(cluster: &Cluster, node: usize, name: &str, group: &str) -> Result<f64> {
    let answer = Request::get("/metrics").send(&cluster.url(node)).await?;
    let line = format!("skep_{name}{{group=\"{group}\"}} ");
    let text = answer.text();
    let value = text.lines().find_map(|found| found.strip_prefix(&line));
    value.with_context(|| format!("no figure {line}"))?.parse().context("a number")
}

/// Whatever fails meanwhile fails for good.
async fn until(mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !holds().await? {
        ensure!(began.elapsed() < WITHIN, "not within {WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
