//! Nodes that die at every step of a replica's move: whatever step that is and whoever dies, the
//! shards end with three voters each, nothing on its way and nothing lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::Retry;
use client::cluster::{ClusterView, ShardView};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::Run;
use crate::checks;
use crate::history::Board;
use crate::live::{Live, READY_WITHIN};
use crate::workloads::Writers;

/// Where a node can be told to die. The first two are the meta leader's, those of `move` the leaders' of
/// shards, those of `host` the node's that gets a replica, and the last one is that of the node that loses it.
const PLACES: [&str; 12] = [
    "place-add",
    "place-remove",
    "move-add",
    "move-promote",
    "move-tell",
    "move-transfer",
    "move-demote",
    "move-drop",
    "move-done",
    "host-noted",
    "host-running",
    "retire-stopped",
];
const NODES: usize = 4;
const VOTERS: usize = 3;
/// Until the node is gone and all is whole without it.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks at who lives.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) async fn run(run: &Run, rounds: u32) -> Result<()> {
    let began = Instant::now();
    let mut deaths = 0;
    for (number, place) in
        (0..rounds).map(|number| (number, PLACES[number as usize % PLACES.len()]))
    {
        let mut live = Live::start(NODES, &[]).await?;
        let done = Box::pin(round(&mut live, place, run.seed ^ u64::from(number))).await;
        let done = done.with_context(|| format!("death at {place}"));
        if let Ok((died, line)) = &done {
            deaths += died;
            run.report.line(&format!("{place:>15}: {line}"));
        }
        live.end(done.map(drop), run.keep, run.report).await?;
    }
    run.report.summary(&format!(
        "move-kills: {rounds} rounds held in {} s, {deaths} deaths at their places, lost 0",
        began.elapsed().as_secs()
    ));
    Ok(())
}

/// Every node is armed; the last one is removed while writers write. Whoever dies is started again
/// without arms.
async fn round(live: &mut Live, place: &str, seed: u64) -> Result<(usize, String)> {
    let mut dice = StdRng::seed_from_u64(seed);
    let writers = Writers::hire(&live.cluster, &mut dice).await?;
    for i in 0..NODES {
        let armed = ("SKEP_FAILPOINTS".to_owned(), format!("{place}=abort"));
        live.cluster.set_variables(i, vec![armed]);
        live.cluster.stop(i).await?;
        live.cluster.start(i)?;
        live.cluster.set_variables(i, Vec::new());
    }
    let board = Arc::new(Board::default());
    let working = writers.begin(&board);
    let began = Instant::now();
    let leaving = live.cluster.name(NODES - 1);
    let deaths = heal(live, &leaving).await?;
    let healed = began.elapsed();
    // Those that never came to the place still would.
    for i in 0..NODES - 1 {
        live.cluster.stop(i).await?;
        live.cluster.start(i)?;
        live.cluster.wait_ready(i, READY_WITHIN).await?;
    }
    let mut writers = working.rest().await?;
    writers.writers.iter_mut().for_each(|writer| writer.leave_out(NODES - 1));
    let found = checks::ledgers(&mut writers).await?;
    live.ensure_equal().await?;
    let line = format!(
        "{deaths} deaths, whole after {:.1} s, {}, 0 lost of {} keys, {} jobs",
        healed.as_secs_f32(),
        board.counts().told(),
        found.keys,
        found.jobs
    );
    Ok((deaths, line))
}

/// Asks for the removal until it is taken, and starts who dies, until all is whole without the node.
async fn heal(live: &mut Live, leaving: &str) -> Result<usize> {
    let began = Instant::now();
    let (mut deaths, mut asked) = (0, false);
    loop {
        for i in 0..NODES {
            let over = live.cluster.exit_status(i);
            // One that was removed ends well, and does not come back.
            if over.is_some_and(|status| !status.success()) {
                deaths += 1;
                live.cluster.start(i)?;
            }
        }
        let alive = (0..NODES).find(|i| live.cluster.is_alive(*i)).context("nobody lives")?;
        let admin = live.cluster.admin_of(alive)?.with_retry(Retry::NEVER);
        if !asked {
            asked = admin.remove_node(leaving).await.is_ok();
        }
        let last = match admin.cluster().await.map(|view| lacking(&view.body, leaving)) {
            Ok(None) if asked => return Ok(deaths),
            Ok(why) => why.unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        ensure!(began.elapsed() < WHOLE_WITHIN, "not whole after {WHOLE_WITHIN:?}: {last}");
        tokio::time::sleep(LOOK).await;
    }
}

fn lacking(view: &ClusterView, leaving: &str) -> Option<String> {
    if view.nodes.iter().any(|node| node.id == leaving) {
        return Some(format!("{leaving} is there"));
    }
    if !view.moves.is_empty() {
        return Some(format!("{} replicas are on their way", view.moves.len()));
    }
    let right = |shard: &ShardView| {
        let voters = shard.replicas.iter().filter(|replica| replica.role == "voter");
        voters.count() == VOTERS && shard.replicas.len() == VOTERS && shard.leader.is_some()
    };
    let wrong = view.shards.iter().find(|shard| !right(shard))?;
    Some(format!("{wrong:?}"))
}
