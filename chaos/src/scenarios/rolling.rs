//! A rolling restart of all nodes, by the command that operators use, under a steady load of clients
//! that retry once: nobody's request fails, and nobody waits long.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Run, hold};
use crate::live::{Live, binary};
use crate::workloads::steady::Steady;

const NODES: usize = 3;
/// The load before, for comparison, and after.
const PLAIN: Duration = Duration::from_secs(5);
/// A restart may make a client wait this long.
const UNAVAILABLE_MAX: Duration = Duration::from_secs(2);
/// From SIGTERM to exit 0.
const STOP_WITHIN: Duration = Duration::from_secs(10);

pub(crate) async fn run(run: &Run) -> Result<()> {
    let began = Instant::now();
    let mut live = Live::start(NODES, &[]).await?;
    let done = Box::pin(play(run, &mut live)).await;
    let outcome = if done.is_ok() { "held" } else { "did not hold" };
    run.report.summary(&format!("rolling: {outcome} in {} s", began.elapsed().as_secs()));
    live.end(done, run.keep, run.report).await
}

async fn play(run: &Run, live: &mut Live) -> Result<()> {
    let steady = Steady::begin(live).await?;
    tokio::time::sleep(PLAIN).await;
    let plain = steady.look();
    run.report.summary(&format!("rolling: without a restart: {}", plain.told()));
    plain.ensure_none_failed()?;

    let pids: Vec<_> = (0..NODES).map(|i| live.cluster.pid(i)).collect();
    let began = Instant::now();
    restart(live).await?;
    let took = began.elapsed();
    tokio::time::sleep(PLAIN).await;
    let seen = steady.look();
    run.report.summary(&format!(
        "rolling: all {NODES} restarted in {:.1} s: {}",
        took.as_secs_f32(),
        seen.told()
    ));
    seen.ensure_none_failed()?;
    hold(seen.longest, UNAVAILABLE_MAX)?;
    live.ensure_alive()?;
    let same = pids == (0..NODES).map(|i| live.cluster.pid(i)).collect::<Vec<_>>();
    ensure!(same, "a node runs as another process");

    let longest = stop_and_start(run, live, &steady).await?;
    hold(longest, UNAVAILABLE_MAX)?;
    let there = steady.end(live).await?;
    run.report.summary(&format!("rolling: {there}"));
    live.ensure_equal().await
}

async fn restart(live: &Live) -> Result<()> {
    let key = live.cluster.state().admin_key.clone().context("no operator's key")?;
    let mut command = tokio::process::Command::new(binary()?);
    command.args(["cluster", "restart", "--rolling"]).stdin(Stdio::null());
    command.env("SKEP_KEY", key).env("SKEP_NODE", live.cluster.urls().join(","));
    let output = command.kill_on_drop(true).output().await?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the restart ended with {}: {words}", output.status);
    Ok(())
}

/// The same by SIGTERM: exit 0 in time, then a start. Gives the longest wait of a client.
async fn stop_and_start(run: &Run, live: &mut Live, steady: &Steady) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    for i in 0..NODES {
        let began = Instant::now();
        let status = live.cluster.stop(i).await?;
        let took = began.elapsed();
        slowest = slowest.max(took);
        ensure!(status.is_some_and(|status| status.success()), "node {i} ended with {status:?}");
        ensure!(took <= STOP_WITHIN, "node {i} took {took:?} to stop");
        live.restart_all().await?;
    }
    let seen = steady.look();
    let slowest = slowest.as_millis();
    run.report.summary(&format!("rolling: SIGTERM, exit 0 within {slowest} ms: {}", seen.told()));
    seen.ensure_none_failed()?;
    Ok(seen.longest)
}
