//! A tenant may have four requests running. Many clients scan through all nodes while nodes die: it is
//! never said that more run, and what died with a node is free again soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::scan::Document;
use client::{Client, ClientError, Credential, Retry};
use futures::future::try_join_all;
use node::cli::launch::{Probe, until};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Guest, Run};
use crate::history::Tally;
use crate::live::{Live, READY_WITHIN};

const NODES: usize = 3;
const CLIENTS: u64 = 16;
const CONCURRENCY: u64 = 4;
const DOCUMENTS_MAX: u64 = 3;
/// Each document takes so long, so that requests meet.
const DELAY: &str = "inference.delay_ms=30";
/// and so also where it was scanned before.
const UNCACHED: &str = "cache.memory_mb=0";
/// Between two requests of a client, so that not only refusals are written to the audit.
const PAUSE: Duration = Duration::from_millis(40);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const KILL_EVERY: Duration = Duration::from_secs(3);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// What a dead node ran is given free when its lease is over; a release that was lost, after 120 s.
const FREE_WITHIN: Duration = Duration::from_secs(130);

/// What came of the scans of a client.
#[derive(Debug, Default)]
struct Scanned {
    tally: Tally,
    refused: u64,
    failed: u64,
}

/// What was seen of the limit.
#[derive(Debug, Default)]
struct Seen {
    looks: u64,
    most: u64,
    full: u64,
}

pub(crate) async fn run(run: &Run, secs: u64) -> Result<()> {
    let mut live = Live::start(NODES, &[DELAY.to_owned(), UNCACHED.to_owned()]).await?;
    let done = Box::pin(play(run, &mut live, Duration::from_secs(secs))).await;
    live.end(done, run.keep, run.report).await
}

async fn play(run: &Run, live: &mut Live, time: Duration) -> Result<()> {
    let guest = Guest::hire(live, "concurrency", &[("concurrency", CONCURRENCY)]).await?;
    let over = Arc::new(AtomicBool::new(false));
    let scans = (0..CLIENTS).map(|number| {
        let nodes = of_nodes(live, &guest)?;
        let dice = StdRng::seed_from_u64(run.seed ^ number);
        Ok(tokio::spawn(scan(nodes, dice, Arc::clone(&over))))
    });
    let scans = scans.collect::<Result<Vec<_>>>()?;
    let nodes = of_nodes(live, &guest)?.into_iter();
    let watchers = nodes.map(|node| tokio::spawn(watch(node, Arc::clone(&over))));
    let watchers: Vec<_> = watchers.collect();

    let kills = kill(live, &guest, time, &over).await;
    over.store(true, Ordering::Relaxed);
    let mut seen = Seen::default();
    for of_node in try_join_all(watchers).await? {
        let Seen { looks, most, full } = of_node?;
        seen.looks += looks;
        seen.most = seen.most.max(most);
        seen.full += full;
    }
    let kills = kills?;
    let mut all = Scanned::default();
    for scanned in try_join_all(scans).await? {
        let Scanned { tally, refused, failed } = scanned?;
        all.tally.add(tally);
        all.refused += refused;
        all.failed += failed;
    }
    let freed = freed(live, &guest).await?;
    live.restart_all().await?;
    run.report.summary(&format!(
        "concurrency: {} scans in {} s under {kills} kills, {} refused, {} failed; {} looks saw at most {} of \
         {CONCURRENCY} running, {} times all of them; after the last all were free within {} ms",
        all.tally.acked.calls,
        time.as_secs(),
        all.refused,
        all.failed,
        seen.looks,
        seen.most,
        seen.full,
        freed.as_millis(),
    ));
    ensure!(seen.full > 0, "the limit was never reached, so nothing was shown");
    run.report
        .summary(&format!("concurrency: {}", guest.settle(live, &all.tally, run.seed).await?));
    live.ensure_equal().await
}

/// Kills the owner and another node by turns, and starts it again; tells how often.
async fn kill(live: &mut Live, guest: &Guest, time: Duration, over: &AtomicBool) -> Result<u32> {
    let began = Instant::now();
    let mut kills = 0;
    while began.elapsed() < time && !over.load(Ordering::Relaxed) {
        tokio::time::sleep(KILL_EVERY.min(time / 3)).await;
        let owner = guest.owner(live).await?;
        let victim = if kills % 2 == 0 { owner } else { (owner + 1) % NODES };
        live.cluster.kill(victim).await?;
        live.cluster.start(victim)?;
        live.cluster.wait_ready(victim, READY_WITHIN).await?;
        kills += 1;
    }
    // What runs at the end runs on a node that dies, too.
    let owner = guest.owner(live).await?;
    live.cluster.kill((owner + 1) % NODES).await?;
    Ok(kills + 1)
}

async fn scan(nodes: Vec<Client>, mut dice: StdRng, over: Arc<AtomicBool>) -> Result<Scanned> {
    let mut scanned = Scanned::default();
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let node = &nodes[dice.random_range(0..nodes.len())];
        let count = dice.random_range(1..=DOCUMENTS_MAX);
        let text = |i| format!("Note {i}: nothing new this week.");
        let answer = if dice.random() {
            let documents: Vec<_> =
                (0..count).map(|i| Document::new(format!("d{i}"), text(i))).collect();
            node.scan(&documents, None).await.map(|scan| scan.meta)
        } else {
            let texts: Vec<_> = (0..count).map(text).collect();
            node.analyze(&texts).await.map(|analysis| analysis.meta)
        };
        match answer {
            Ok(meta) => scanned.tally.ack(count, &meta),
            Err(ClientError::Problem(problem)) if problem.status == 429 => {
                ensure!(problem.code == "concurrency_exceeded", "{problem}");
                scanned.refused += 1;
            }
            Err(failure) if failure.status().is_none_or(|status| status >= 500) => {
                scanned.tally.fail(count, &failure);
                scanned.failed += 1;
            }
            Err(error) => return Err(error).context("an answer that no fault explains"),
        }
    }
    Ok(scanned)
}

/// Looks at the limit through one node.
async fn watch(node: Client, over: Arc<AtomicBool>) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        // A node that is dead, or that finds no owner, sees nothing.
        let Ok(used) = used(&node).await else { continue };
        seen.looks += 1;
        seen.most = seen.most.max(used);
        seen.full += u64::from(used == CONCURRENCY);
        if used > CONCURRENCY {
            over.store(true, Ordering::Relaxed);
        }
        ensure!(used <= CONCURRENCY, "{used} ran at the same time, {CONCURRENCY} may");
    }
    Ok(seen)
}

/// How long after the last request nothing runs any more.
async fn freed(live: &Live, guest: &Guest) -> Result<Duration> {
    let began = Instant::now();
    let client = guest.client(live)?;
    until("free slots", FREE_WITHIN, async || {
        Ok(match used(&client).await? {
            0 => Probe::Done(()),
            used => Probe::NotYet(format!("{used} are said to run")),
        })
    })
    .await?;
    Ok(began.elapsed())
}

async fn used(client: &Client) -> Result<u64, ClientError> {
    let limits = client.limits().await?.body.data;
    let row = limits.into_iter().find(|limit| limit.policy == "concurrency");
    row.map(|limit| limit.used)
        .ok_or_else(|| ClientError::Setup("no limit of concurrency is shown".to_owned()))
}

fn of_nodes(live: &Live, guest: &Guest) -> Result<Vec<Client>> {
    let of_node = |url: String| {
        let client = Client::new(vec![url], Credential::key(&guest.key))?;
        Ok(client.with_retry(Retry::NEVER).with_timeout(ATTEMPT_TIMEOUT))
    };
    live.cluster.urls().into_iter().map(of_node).collect()
}
