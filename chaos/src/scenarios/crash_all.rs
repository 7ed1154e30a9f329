//! Kill -9 of all nodes at once during writes on all shards; they come back, and nothing that was
//! acknowledged is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Run, written};
use crate::checks;
use crate::history::{Board, Counts};
use crate::live::Live;
use crate::report::Times;
use crate::workloads::Writers;

const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);
const BEFORE: std::ops::Range<u64> = 60..300;

#[derive(Default)]
struct Told {
    rounds: u32,
    ready: Times,
    resumed: Times,
    counts: Counts,
}

pub(crate) async fn run(run: &Run, rounds: u32) -> Result<()> {
    let began = Instant::now();
    let mut live = Live::start(NODES, &[]).await?;
    let mut told = Told::default();
    let done = Box::pin(play(run, &mut live, rounds, &mut told)).await;
    let Told { rounds: held, ready, resumed, counts } = &told;
    run.report.summary(&format!(
        "crash-all: {held} of {rounds} rounds held in {} s, {}; lost {}; all nodes ready after {}; writes on all \
         shards after {}",
        began.elapsed().as_secs(),
        counts.told(),
        if done.is_ok() { "0" } else { "?" },
        ready.told(),
        resumed.told(),
    ));
    live.end(done, run.keep, run.report).await
}

async fn play(run: &Run, live: &mut Live, rounds: u32, told: &mut Told) -> Result<()> {
    let mut dice = StdRng::seed_from_u64(run.seed);
    let mut writers = Writers::hire(&live.cluster, &mut dice).await?;
    for number in 1..=rounds {
        let line;
        (writers, line) = round(live, writers, &mut dice, told)
            .await
            .with_context(|| format!("round {number} of {rounds}"))?;
        told.rounds = number;
        run.report.line(&format!("round {number:>3}: {line}"));
    }
    Ok(())
}

async fn round(
    live: &mut Live,
    writers: Writers,
    dice: &mut StdRng,
    told: &mut Told,
) -> Result<(Writers, String)> {
    let shards = writers.shards();
    let board = Arc::new(Board::default());
    let working = writers.begin(&board);
    let before = dice.random_range(BEFORE);
    written("a round's first writes", PATIENCE, &working, || {
        board.acks_min(&shards) >= 1 && board.counts().acked >= before
    })
    .await?;

    live.cluster.kill_all().await?;
    // From here, when nothing runs: an answer on its way at the kill is not a resumption.
    board.fault();
    let began = Instant::now();
    live.restart_all().await?;
    let ready = began.elapsed();
    written("writes after the restart", PATIENCE, &working, || {
        board.resumed().len() == shards.len()
    })
    .await?;
    let mut writers = working.rest().await?;
    let found = checks::ledgers(&mut writers).await?;
    live.ensure_equal().await?;
    live.ensure_alive()?;

    let resumed = board.resumed().into_values().max().unwrap_or_default();
    told.counts.add(board.counts());
    told.ready.push(ready);
    told.resumed.push(resumed);
    let line = format!(
        "kill all, ready {:>4} ms, writes on all shards after {:>4} ms, {}, 0 lost of {} keys, {} \
         revoked, {} jobs, {} documents, 17 groups equal",
        ready.as_millis(),
        resumed.as_millis(),
        board.counts().told(),
        found.keys,
        found.revoked,
        found.jobs,
        found.documents,
    );
    Ok((writers, line))
}
