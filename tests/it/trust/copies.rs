//! A copied directory: nobody while the original lives, the node once it is gone.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tests::raw::Request;
use tests::{Cluster, Options, free_ports};
use tokio::process::Child;

use super::{copy, ended, run, spawn};
use crate::stage::on_three_nodes;

const READY_WITHIN: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_nobody_while_the_original_lives_and_the_node_when_it_is_gone() {
    on_three_nodes(Options::default(), async |cluster| {
        let copied = TempDir::new()?;
        copy(&cluster.data(1), copied.path())?;
        refused_beside_the_original(cluster, copied.path()).await.context("beside it")?;
        // The second process on one directory.
        run(&cluster.data(1), &[]).await?.is_refusal(5, "")?;

        // What the original has acknowledged since must be in the copy that takes its place.
        cluster.kill(1).await?;
        copy(&cluster.data(1), copied.path())?;
        let _copy = takes_over(copied.path()).await.context("the copy in its place")?;
        let original = cluster.data(1);
        run(&original, &[]).await?.is_refusal(5, "another start of the node")?;

        // A frozen original counts as gone, and hears of it when it wakes.
        let copied = TempDir::new()?;
        cluster.launcher().freeze(2);
        copy(&cluster.data(2), copied.path())?;
        let _copy = takes_over(copied.path()).await.context("the copy of a frozen node")?;
        cluster.launcher().thaw(2);
        ends(cluster, 2).await.context("the thawed original")
    })
    .await;
}

/// Wherever it listens, and also where the original's address is not the one that it knows.
async fn refused_beside_the_original(cluster: &Cluster, copied: &Path) -> Result<()> {
    let words = "the node runs elsewhere";
    run(copied, &[]).await?.is_refusal(5, words)?;
    let nowhere = free_ports(1)?[0].peer;
    let hidden = format!("n2=127.0.0.1:{nowhere}");
    let id = &cluster.admin(1)?.cluster().await?.body.nodes[1].id;
    ensure!(id == "n2", "{id} is not n2");
    for node in ["n2", "n3"] {
        let dial = hidden.replace("n2", node);
        let beside = run(copied, &["--peer-dial", &dial]).await?;
        beside.is_refusal(5, words).with_context(|| format!("{node} hidden"))?;
    }
    Ok(())
}

async fn takes_over(copied: &Path) -> Result<Child> {
    let ports = free_ports(1)?[0];
    let mut child = spawn(copied, ports, &[])?;
    let begun = Instant::now();
    let url = format!("http://127.0.0.1:{}", ports.http);
    loop {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("it ended with {status}: {:?}", ended(child, begun).await?);
        }
        let ready = Request::get("/readyz").send(&url).await;
        if ready.is_ok_and(|ready| ready.status == 200) {
            return Ok(child);
        }
        ensure!(begun.elapsed() < READY_WITHIN, "it is not ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ends(cluster: &mut Cluster, i: usize) -> Result<()> {
    let begun = Instant::now();
    while cluster.launcher().is_alive(i) {
        ensure!(begun.elapsed() < Duration::from_secs(10), "it goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = cluster.launcher().exit_status(i).context("no exit status")?;
    let line = cluster.launcher().last_words(i);
    ensure!(status.code() == Some(5), "{status}: {line}");
    ensure!(line.starts_with("skep: refused: ") && line.contains("another start"), "{line}");
    Ok(())
}
