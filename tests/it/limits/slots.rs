//! Requests that run at the same time: each holds a slot until its answer, and no longer than its
//! client or its node lives.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tests::Cluster;
use tests::raw::{Request, Response};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::once::owner;
use super::refusals::{refusal_of, refused};
use super::{admitted, limited_to, soon, spend, spent_of, work};
use crate::stage::{Account, same};

const SCAN: &str = "/v1/scan";
/// Documents of scans that run for five seconds, for three, and for one.
const LONG: usize = 1_000;
const SHORT: usize = 600;
const BRIEF: usize = 200;

async fn two_slots(cluster: &Cluster, name: &str) -> Result<Account> {
    limited_to(cluster, name, json!({"concurrency": 2})).await
}

/// A scan that nobody waits for yet. While its shard has no owner, which may be so for a moment after a
/// restart, it is sent again.
fn begin(
    cluster: &Cluster,
    node: usize,
    home: &Account,
    documents: usize,
) -> JoinHandle<Result<Response>> {
    let request = Request::post(SCAN).bearer(&home.key).json(work(SCAN, documents).to_string());
    let url = cluster.url(node);
    tokio::spawn(async move {
        for _ in 0..200 {
            let answer = request.send(&url).await?;
            if answer.status != 503 {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the shard has no owner")
    })
}

/// A scan whose client can hang up.
async fn connect(
    cluster: &Cluster,
    node: usize,
    home: &Account,
    documents: usize,
) -> Result<TcpStream> {
    let (url, body) = (cluster.url(node), work(SCAN, documents).to_string());
    let address = url.strip_prefix("http://").context("no http://")?;
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST {SCAN} HTTP/1.1\r\nHost: skep\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        home.key,
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    Ok(stream)
}

/// Returns when so many slots are held, as node `i` tells.
async fn held(cluster: &Cluster, i: usize, home: &Account, slots: u64) -> Result<()> {
    soon(&format!("{slots} slots are held"), async || {
        same("slots", spent_of(cluster, i, &home.key, "concurrency").await?.0, slots)
    })
    .await
}

pub(super) async fn two_run_and_the_third_is_refused(cluster: &Cluster) -> Result<()> {
    let home = two_slots(cluster, "slots").await?;
    let running = [begin(cluster, 0, &home, SHORT), begin(cluster, 1, &home, SHORT)];
    held(cluster, 2, &home, 2).await?;
    let answer = spend(cluster, 2, &home.key, SCAN, 1).await?;
    let told = refused(&answer, refusal_of("concurrency"), "concurrency", 2)?;
    same("remaining", told.remaining, 0)?;
    for node in 0..cluster.len() {
        let answer = spend(cluster, node, &home.key, "/v1/jobs", 1).await?;
        refused(&answer, refusal_of("concurrency"), "concurrency", 2).context("a job")?;
    }
    ensure!(running.iter().all(|scan| !scan.is_finished()), "the scans were over too soon");
    for scan in running {
        admitted(&scan.await??)?;
    }
    held(cluster, 0, &home, 0).await.context("after the answers")?;
    admitted(&spend(cluster, 2, &home.key, SCAN, 1).await?).map(drop)
}

/// Both ways to hang up: to close, and to reset.
pub(super) async fn who_hangs_up_holds_no_slot_after_the_work(cluster: &Cluster) -> Result<()> {
    let home = two_slots(cluster, "hanging up").await?;
    let closing = connect(cluster, 0, &home, BRIEF).await?;
    let resetting = connect(cluster, 1, &home, BRIEF).await?;
    held(cluster, 2, &home, 2).await?;
    resetting.set_zero_linger()?;
    drop(resetting);
    drop(closing);
    held(cluster, 2, &home, 0).await
}

/// First a node that is not the owner, then the owner: its successor knows who held what.
pub(super) async fn a_killed_node_holds_no_slot(cluster: &mut Cluster) -> Result<()> {
    let home = two_slots(cluster, "killed").await?;
    for of_owner in [false, true] {
        let owner = owner(cluster, &home).await?;
        let dead = if of_owner { owner } else { (owner + 1) % 3 };
        let alive = (dead + 1) % 3;
        let running = [begin(cluster, dead, &home, LONG), begin(cluster, dead, &home, LONG)];
        held(cluster, alive, &home, 2).await?;
        let answer = spend(cluster, alive, &home.key, SCAN, 1).await?;
        refused(&answer, refusal_of("concurrency"), "concurrency", 2)?;
        cluster.kill(dead).await?;
        for scan in running {
            ensure!(scan.await?.is_err(), "a killed node has answered");
        }
        held(cluster, alive, &home, 0).await.with_context(|| format!("owner: {of_owner}"))?;
        soon("a scan", async || {
            admitted(&spend(cluster, alive, &home.key, SCAN, 1).await?).map(drop)
        })
        .await?;
        if !of_owner {
            cluster.restart(dead).await?;
        }
    }
    Ok(())
}
