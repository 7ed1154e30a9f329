//! Kill -9 of a random node during writes on all shards; the others go on, it comes back, and
//! nothing that was acknowledged is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Run, written};
use crate::checks;
use crate::history::{Board, Counts};
use crate::live::{Live, READY_WITHIN};
use crate::report::Times;
use crate::workloads::Writers;

const NODES: usize = 3;
/// Digests of all replicas are compared after this many rounds, and at the end.
const DIGESTS_EVERY: u32 = 10;
/// Writes on every shard are answered again within this after the death of a node.
const RESUMED_WITHIN: Duration = Duration::from_secs(6);
/// Long enough for a slow machine to say more than that the promise is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// Writes before the kill, and more before the node comes back.
const BEFORE: std::ops::Range<u64> = 60..160;
const AFTER: u64 = 60;

#[derive(Default)]
struct Told {
    rounds: u32,
    first: Times,
    every: Times,
    ready: Times,
    counts: Counts,
}

pub(crate) async fn run(run: &Run, rounds: u32) -> Result<()> {
    let began = Instant::now();
    let mut live = Live::start(NODES, &[]).await?;
    let mut told = Told::default();
    let done = Box::pin(play(run, &mut live, rounds, &mut told)).await;
    let Told { rounds: held, first, every, ready, counts } = &told;
    run.report.summary(&format!(
        "crash-one: {held} of {rounds} rounds held in {} s, {}; lost {}; first write on a shard of the victim \
         after {}; on the last of its shards after {}; ready {}",
        began.elapsed().as_secs(),
        counts.told(),
        if done.is_ok() { "0" } else { "?" },
        first.told(),
        every.told(),
        ready.told(),
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
        let compared = number % DIGESTS_EVERY == 0 || number == rounds;
        if compared {
            live.ensure_equal().await.with_context(|| format!("after round {number}"))?;
        }
        let equal = if compared { ", 17 groups equal" } else { "" };
        told.rounds = number;
        run.report.line(&format!("round {number:>3}: {line}{equal}"));
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

    let victim = dice.random_range(0..live.cluster.len());
    let led = led_by(live, victim).await?;
    board.fault();
    live.cluster.kill(victim).await?;
    let acked = board.counts().acked;
    written("writes after the kill", PATIENCE, &working, || {
        let resumed = board.resumed();
        shards.iter().all(|shard| resumed.contains_key(shard))
            && board.counts().acked >= acked + AFTER
    })
    .await?;

    let began = Instant::now();
    live.cluster.start(victim)?;
    live.cluster.wait_ready(victim, READY_WITHIN).await?;
    let ready = began.elapsed();
    let mut writers = working.rest().await?;
    let found = checks::ledgers(&mut writers).await?;
    live.ensure_alive()?;

    told.counts.add(board.counts());
    told.ready.push(ready);
    let resumed = board.resumed();
    let of_victim = led.iter().filter_map(|shard| resumed.get(shard).copied());
    let times = of_victim.clone().min().zip(of_victim.max());
    let mut outage = "led nothing".to_owned();
    if let Some((first, every)) = times {
        told.first.push(first);
        told.every.push(every);
        outage = format!(
            "led {:>2}, writes after {:>4} ms, on all after {:>4} ms",
            led.len(),
            first.as_millis(),
            every.as_millis()
        );
    }
    ensure!(
        times.is_none_or(|(_, every)| every <= RESUMED_WITHIN),
        "writes were not answered within {RESUMED_WITHIN:?}: {outage}, {resumed:?}"
    );
    let line = format!(
        "kill node {victim} ({outage}), ready {:>4} ms, {}, 0 lost of {} keys, {} revoked, {} jobs, {} documents",
        ready.as_millis(),
        board.counts().told(),
        found.keys,
        found.revoked,
        found.jobs,
        found.documents,
    );
    Ok((writers, line))
}

/// The shards that node `victim` leads, as another node sees it.
async fn led_by(live: &Live, victim: usize) -> Result<BTreeSet<u32>> {
    let other = live.cluster.admin_of((victim + 1) % live.cluster.len())?;
    let name = live.cluster.name(victim);
    let view = other.cluster().await?.body;
    let led = view.shards.iter().filter(|shard| shard.leader.as_deref() == Some(&name));
    // The meta group takes none of these writes.
    Ok(led.filter_map(|shard| shard.id.parse().ok()).filter(|shard| *shard != 0).collect())
}
