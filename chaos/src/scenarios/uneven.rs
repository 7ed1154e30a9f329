//! Nodes that are not alike: one is ten times as slow and gets work by its speed; one hangs and gets
//! nothing more, and what it held is done by others; one is killed and no task is lost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::jobs::NewJob;
use client::{Client, Credential};
use futures::future::try_join_all;
use node::cli::demo::corpus::{documents, samples};
use node::cli::launch::{Probe, until};

use super::{Guest, Run};
use crate::live::{Live, READY_WITHIN};

const NODES: usize = 3;
const SLOW: usize = 2;
const SETTINGS: [&str; 2] = ["inference.slots=2", "inference.delay_ms=40"];
const SLOWED: &str = "inference.delay_ms=400";
/// Documents that the two fast nodes do in a second, at most.
const RATE: u64 = 100;
const TENANTS: usize = 4;
const ATTACK_EVERY: usize = 10;
/// By how much the share of the slow node may differ from that of its speed.
const SHARE_OFF_MAX: f64 = 0.2;
/// Of a job; the last tasks are for the fast ones.
const WINDOW: std::ops::Range<f64> = 0.05..0.8;
/// Documents that a node holds: a task per slot and one ahead, of half a second each.
const HELD_MAX: usize = 4 * 16;
/// A hung node is noticed after 1.6 s, and its tasks last half a second.
const LATE_MAX: Duration = Duration::from_secs(6);
const JOBS_WITHIN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(100);

pub(crate) async fn run(run: &Run, secs: u64) -> Result<()> {
    let settings = SETTINGS.map(str::to_owned);
    let slowed = ["--set", SLOWED].map(str::to_owned).to_vec();
    let arguments = (0..NODES).map(|i| if i == SLOW { slowed.clone() } else { Vec::new() });
    let mut live = Live::start_with(NODES, &settings, arguments.collect()).await?;
    let done = Box::pin(play(run, &mut live, secs)).await;
    live.end(done, run.keep, run.report).await
}

async fn play(run: &Run, live: &mut Live, secs: u64) -> Result<()> {
    let mut guests = Vec::new();
    for i in 0..TENANTS {
        guests.push(Guest::hire(live, &format!("uneven {i}"), &[]).await?);
    }
    run.report.summary(&slow(live, &guests, run.seed, secs).await.context("slow")?);
    run.report.summary(&hung(live, run.seed, secs).await.context("hung")?);
    run.report.summary(&killed(live, &guests, run.seed, secs).await.context("killed")?);
    live.ensure_equal().await
}

/// Jobs of several tenants at the same time.
struct Jobs {
    jobs: Vec<(Client, String)>,
    documents: usize,
}

impl Jobs {
    /// Through all nodes but one, of which the clients should not notice anything.
    async fn submit(
        live: &Live,
        guests: &[Guest],
        without: Option<usize>,
        seed: u64,
        total: u64,
    ) -> Result<Jobs> {
        let documents = total as usize / guests.len();
        let nodes = (0..NODES).filter(|i| Some(*i) != without);
        let urls: &Vec<String> = &nodes.map(|i| live.cluster.url(i)).collect();
        let submitted = guests.iter().enumerate().map(|(i, guest)| async move {
            let client = Client::new(urls.clone(), Credential::key(&guest.key))?;
            let samples = samples((seed ^ i as u64) % 1_000_000, documents, ATTACK_EVERY);
            let job = NewJob::scan(self::documents(&samples));
            let id = client.submit_job(&job, &client::fresh_key()).await?.body.id;
            Ok::<_, anyhow::Error>((client, id))
        });
        Ok(Jobs { jobs: try_join_all(submitted).await?, documents })
    }

    async fn progress(&self) -> Result<f64> {
        let mut done = 0.0;
        for (client, id) in &self.jobs {
            let job = client.job(id).await?.body;
            ensure!(job.counts.failed == 0, "{job:?}");
            done += job.progress;
        }
        Ok(done / self.jobs.len() as f64)
    }

    async fn reach(&self, progress: f64) -> Result<()> {
        let began = Instant::now();
        loop {
            let now = self.progress().await?;
            if now >= progress {
                return Ok(());
            }
            ensure!(began.elapsed() < JOBS_WITHIN, "the jobs stand at {now:.2}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Every document has one result; gives those that were leased more than once.
    async fn ensure_each_once(&self) -> Result<usize> {
        let mut again = 0;
        for (client, id) in &self.jobs {
            let results = client.job_results(id).await?.body;
            let names: BTreeSet<&str> = results.iter().map(|one| one.doc_id.as_str()).collect();
            let (all, different) = (results.len(), names.len());
            ensure!(
                all == self.documents && different == all,
                "{all} results, {different} different, of {}",
                self.documents
            );
            ensure!(results.iter().all(|one| one.status == "done"), "a document is not done");
            again += results.iter().filter(|one| one.attempt > 1).count();
        }
        Ok(again)
    }
}

/// Documents that each node has scored since its start.
async fn scored(live: &Live) -> Result<Vec<f64>> {
    let mut scored = Vec::new();
    for i in 0..NODES {
        let metrics = live.cluster.admin_of(i)?.metrics().await?.body;
        let line = metrics.lines().find_map(|l| l.strip_prefix("skep_documents_scanned_total "));
        scored.push(line.context("no count of documents")?.trim().parse()?);
    }
    Ok(scored)
}

/// Documents that each node does in a second, as it says.
async fn speeds(live: &Live) -> Result<Vec<f64>> {
    let mut speeds = vec![0.0; NODES];
    for node in live.cluster.admin()?.cluster().await?.body.nodes {
        // Ids are given in the order of joining.
        let i = live.cluster.index_of(&node.id).context("an unknown node")?;
        speeds[i] = node.documents_per_s.context("a node does not tell its speed")?;
    }
    Ok(speeds)
}

async fn slow(live: &Live, guests: &[Guest], seed: u64, secs: u64) -> Result<String> {
    let jobs = Jobs::submit(live, guests, None, seed, secs * RATE).await?;
    jobs.reach(WINDOW.start).await?;
    let before = scored(live).await?;
    jobs.reach(WINDOW.end).await?;
    let after = scored(live).await?;
    let speeds = speeds(live).await?;
    jobs.reach(1.0).await?;
    let again = jobs.ensure_each_once().await?;
    let done: Vec<f64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    let share = done[SLOW] / done.iter().sum::<f64>();
    let fair = speeds[SLOW] / speeds.iter().sum::<f64>();
    let told = format!(
        "uneven: the slow node did {share:.3} of the documents ({done:?}) and has {fair:.3} of the speed: \
         {:.2} of its share; {again} documents leased again",
        share / fair
    );
    ensure!((share / fair - 1.0).abs() <= SHARE_OFF_MAX, "{told}");
    Ok(told)
}

/// Tenants whose shards another node leads, so that only the work is interrupted.
async fn led_by_others(live: &Live, victim: usize) -> Result<Vec<Guest>> {
    let mut guests = Vec::new();
    while guests.len() < TENANTS {
        let guest = Guest::hire(live, "uneven", &[]).await?;
        if guest.owner(live).await? != victim {
            guests.push(guest);
        }
    }
    Ok(guests)
}

async fn hung(live: &Live, seed: u64, secs: u64) -> Result<String> {
    let victim = 0;
    let guests = led_by_others(live, victim).await?;
    let total = secs * RATE / 2;
    let jobs = Jobs::submit(live, &guests, Some(victim), seed, total).await?;
    jobs.reach(0.3).await?;
    let left = (1.0 - jobs.progress().await?) * total as f64;
    let frozen = Instant::now();
    live.cluster.freeze(victim);
    let over = jobs.reach(1.0).await;
    let took = frozen.elapsed();
    live.cluster.thaw(victim);
    over?;
    live.cluster.wait_ready(victim, READY_WITHIN).await?;
    let again = jobs.ensure_each_once().await?;
    // One fast node is left, and the slow one.
    let due = Duration::from_secs_f64(left / (RATE as f64 * 0.55));
    let told = format!(
        "uneven: a node hung with {left:.0} documents to do: {again} of them were leased again, all done \
         after {:.1} s, {:.1} s if nothing had been lost on it",
        took.as_secs_f64(),
        due.as_secs_f64()
    );
    ensure!(again <= HELD_MAX, "{told}: it held too many");
    ensure!(took <= due * 3 / 2 + LATE_MAX, "{told}: too late");
    Ok(told)
}

async fn killed(live: &mut Live, guests: &[Guest], seed: u64, secs: u64) -> Result<String> {
    let victim = 1;
    let jobs = Jobs::submit(live, guests, Some(victim), seed, secs * RATE / 2).await?;
    jobs.reach(0.3).await?;
    live.cluster.kill(victim).await?;
    jobs.reach(1.0).await?;
    live.cluster.start(victim)?;
    live.cluster.wait_ready(victim, READY_WITHIN).await?;
    let again = until("results of all", READY_WITHIN, async || {
        Ok(match jobs.ensure_each_once().await {
            Ok(again) => Probe::Done(again),
            Err(error) => Probe::NotYet(format!("{error:#}")),
        })
    })
    .await?;
    ensure!(again <= HELD_MAX, "{again} documents were leased again");
    Ok(format!("uneven: a node killed: each document has one result, {again} were leased again"))
}
