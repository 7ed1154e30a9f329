//! One node becomes three, then five, then three again under a steady load of clients that retry once:
//! nobody's request fails, nothing is lost, and leaders end up even.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use client::cluster::ClusterView;
use node::cli::launch::{Probe, free_ports, until};

use super::{Run, hold};
use crate::live::Live;
use crate::workloads::steady::{RATE, Seen, Steady};

/// A change may make a client wait this much longer than without.
const INTERRUPTION_MAX: Duration = Duration::from_secs(1);
/// Until all replicas and leaders are where they should be.
const EVEN_WITHIN: Duration = Duration::from_secs(60);
/// Until a node that has joined holds something.
const WORKING_WITHIN: Duration = Duration::from_secs(5);
/// Replicas of a shard.
const REPLICAS: usize = 3;

pub(crate) async fn run(run: &Run, secs: u64) -> Result<()> {
    let began = Instant::now();
    let mut live = Live::start(1, &[]).await?;
    let done = Box::pin(play(run, &mut live, secs)).await;
    let outcome = if done.is_ok() { "held" } else { "did not hold" };
    run.report.summary(&format!("grow: {outcome} in {} s", began.elapsed().as_secs()));
    live.end(done, run.keep, run.report).await
}

async fn play(run: &Run, live: &mut Live, secs: u64) -> Result<()> {
    let pause = Duration::from_secs(secs);
    let steady = Steady::begin(live).await?;
    tokio::time::sleep(pause).await;
    let plain = steady.look();
    tell(run, &format!("1 node at {RATE}/s"), &plain, None);
    plain.ensure_none_failed()?;
    let mut longest = Duration::ZERO;
    for nodes in [3, 5, 3] {
        let before = live.cluster.urls().len();
        let began = Instant::now();
        let name = if alive(live).len() < nodes {
            grow(live, &steady, nodes).await?
        } else {
            shrink(live, &steady, nodes).await?
        };
        let even = wait_even(live, nodes).await?;
        let took = began.elapsed();
        tokio::time::sleep(pause).await;
        let seen = steady.look();
        let figure = format!("{name}; even after {:.1} s, leaders {even}", took.as_secs_f32());
        tell(run, &figure, &seen, Some(&plain));
        seen.ensure_none_failed().with_context(|| format!("from {before} to {nodes} nodes"))?;
        longest = longest.max(seen.longest.saturating_sub(plain.longest));
    }
    let there = steady.end(live).await?;
    run.report.summary(&format!("grow: {there}"));
    hold(longest, INTERRUPTION_MAX)
}

fn tell(run: &Run, what: &str, seen: &Seen, plain: Option<&Seen>) {
    let beyond = plain.map(|plain| seen.longest.saturating_sub(plain.longest).as_millis());
    let beyond = beyond.map(|ms| format!(" ({ms} ms beyond)")).unwrap_or_default();
    run.report.summary(&format!("grow: {what}: {}{beyond}", seen.told()));
}

fn alive(live: &Live) -> Vec<usize> {
    (0..live.cluster.len()).filter(|i| live.cluster.is_alive(*i)).collect()
}

async fn grow(live: &mut Live, steady: &Steady, nodes: usize) -> Result<String> {
    let mut working = Duration::ZERO;
    let before = alive(live).len();
    while alive(live).len() < nodes {
        let ports = free_ports(1)?;
        let ports = ports.first().copied().context("no ports")?;
        let i = live.cluster.add(ports).await?;
        let began = Instant::now();
        wait_working(live, i).await?;
        working = working.max(began.elapsed());
        steady.ask(alive(live).into_iter().map(|i| live.cluster.url(i)).collect());
    }
    Ok(format!(
        "{before} to {nodes} nodes, each at work {} ms after it was ready",
        working.as_millis()
    ))
}

/// Until node `i` has a replica that votes.
async fn wait_working(live: &Live, i: usize) -> Result<()> {
    let name = live.cluster.name(i);
    until(&format!("work for {name}"), WORKING_WITHIN, async || {
        let view = live.cluster.admin_of(i)?.cluster().await?.body;
        let votes = view.shards.iter().filter(|shard| shard.id != "0").any(|shard| {
            shard.replicas.iter().any(|replica| replica.node == name && replica.role == "voter")
        });
        Ok(if votes { Probe::Done(()) } else { Probe::NotYet("it votes nowhere".to_owned()) })
    })
    .await?;
    Ok(())
}

async fn shrink(live: &mut Live, steady: &Steady, nodes: usize) -> Result<String> {
    let before = alive(live).len();
    // The first ones, which lead the most.
    for i in alive(live).into_iter().take(before - nodes) {
        let name = live.cluster.name(i);
        let others: Vec<usize> = alive(live).into_iter().filter(|other| *other != i).collect();
        live.cluster.admin_of(others[0])?.remove_node(&name).await?;
        until(&format!("the end of {name}"), EVEN_WITHIN, async || {
            let over = live.cluster.exit_status(i);
            Ok(match over {
                Some(status) if status.success() => Probe::Done(()),
                over => Probe::NotYet(format!("it runs, or ended with {over:?}")),
            })
        })
        .await?;
        steady.ask(others.into_iter().map(|i| live.cluster.url(i)).collect());
    }
    Ok(format!("{before} to {nodes} nodes"))
}

/// Until every shard has its voters, nothing moves and leaders are even; gives how many each leads.
async fn wait_even(live: &Live, nodes: usize) -> Result<String> {
    let any = alive(live).first().copied().context("nobody lives")?;
    let led = until("even leaders", EVEN_WITHIN, async || {
        let view = match live.cluster.admin_of(any)?.cluster().await {
            Ok(view) => view.body,
            Err(error) => return Ok(Probe::NotYet(error.to_string())),
        };
        Ok(evenness(&view, nodes))
    });
    Ok(led.await?)
}

fn evenness(view: &ClusterView, nodes: usize) -> Probe<String> {
    let led: Vec<u64> = view.nodes.iter().filter_map(|node| node.shards_led).collect();
    let shards = view.shards.len().saturating_sub(1) as u64;
    let whole = view.nodes.len() == nodes
        && view.moves.is_empty()
        && view.voters_min() >= nodes.min(REPLICAS)
        && led.iter().sum::<u64>() == shards;
    let spread = led.iter().max().zip(led.iter().min()).map_or(0, |(most, least)| most - least);
    if whole && spread <= 1 {
        return Probe::Done(format!("{led:?}"));
    }
    Probe::NotYet(format!("{led:?} of {shards} led, {} moves", view.moves.len()))
}
