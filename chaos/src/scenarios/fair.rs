//! One tenant has as many tasks queued as it likes: another of the same weight waits hardly longer than on
//! an idle cluster, and among tenants that are all busy each gets the share of its weight.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::jobs::NewJob;
use client::scan::Document;
use client::{Client, ClientError};
use futures::{StreamExt as _, TryStreamExt as _};
use node::cli::launch::{Probe, until};
use tests::machine::stolen;

use super::{Guest, Run};
use crate::live::Live;

const NODES: usize = 3;
/// Of a document, so that all slots are busy and the machine is not.
const DOCUMENT: Duration = Duration::from_millis(100);
const SETTINGS: [&str; 2] = ["inference.slots=2", "inference.delay_ms=100"];
/// The most that a job may have.
const JOB_DOCUMENTS: usize = 10_000;
const JOBS_AT_ONCE: usize = 2;
/// Jobs of one document on the idle cluster.
const IDLE: usize = 10;
const EVERY: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(4);
const JOB_WITHIN: Duration = Duration::from_secs(60);
/// Beside one task's run time, so many times the wait on an idle cluster.
const WAIT_FACTOR: u32 = 2;
const WEIGHTS: [u64; 2] = [1, 4];
/// By how much shares may differ from those of the weights,
const SHARE_OFF_MAX: f64 = 0.05;
/// beside tasks of which only a part was run while the shares were looked at.
const TASKS_CUT: u64 = 2;

pub(crate) async fn run(run: &Run, tasks: u64, secs: u64) -> Result<()> {
    let mut live = Live::start(NODES, &SETTINGS.map(str::to_owned)).await?;
    let done = Box::pin(play(run, &mut live, tasks, secs)).await;
    live.end(done, run.keep, run.report).await
}

async fn play(run: &Run, live: &mut Live, tasks: u64, secs: u64) -> Result<()> {
    let small = Guest::hire(live, "fair small", &[]).await?.client(live)?;
    let large = Guest::hire(live, "fair large", &[]).await?.client(live)?;
    let idle = Waits::of(&small, IDLE).await?;
    let jobs = flood(&large, tasks).await?;
    let queue = large.queue().await?.body;
    ensure!(queue.tasks_waiting >= tasks, "{} tasks wait of {tasks}", queue.tasks_waiting);
    let task = DOCUMENT * (queue.documents_waiting / queue.tasks_waiting.max(1)) as u32;
    let beside = Waits::of(&small, secs as usize).await?;
    let most = idle.p95() * WAIT_FACTOR + task;
    let told = format!(
        "fair: beside {} tasks of {task:?} each: {}; on the idle cluster: {}; p95 may be {most:.0?}",
        queue.tasks_waiting,
        beside.told(),
        idle.told()
    );
    ensure!(beside.p95() <= most, "{told}");
    run.report.summary(&told);
    cancel(&large, &jobs).await?;
    run.report.summary(&shares(live, EVERY * 2 * secs as u32).await?);
    Ok(())
}

/// How long single documents waited beyond their own time at a slot, shortest first. What neighbours of
/// the machine took meanwhile is taken off.
struct Waits(Vec<Duration>);

impl Waits {
    /// One job of one document after the other, a second apart.
    async fn of(client: &Client, jobs: usize) -> Result<Waits> {
        let mut ticks = tokio::time::interval(EVERY);
        let mut waits = Vec::new();
        for i in 0..jobs {
            ticks.tick().await;
            let job = NewJob::scan(vec![Document::new("d", format!("Note {i}: nothing new."))]);
            let (began, before) = (Instant::now(), stolen());
            let id = client.submit_job(&job, &client::fresh_key()).await?.body.id;
            while !client.job(&id).await?.body.is_over() {
                ensure!(began.elapsed() < JOB_WITHIN, "job {id} is not done");
                tokio::time::sleep(POLL).await;
            }
            let taken = stolen().saturating_sub(before);
            waits.push(began.elapsed().saturating_sub(DOCUMENT + taken));
        }
        waits.sort_unstable();
        Ok(Waits(waits))
    }

    fn at(&self, share: f64) -> Duration {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    fn p95(&self) -> Duration {
        self.at(0.95)
    }

    fn told(&self) -> String {
        let [p50, p95, max] = [0.5, 0.95, 1.0].map(|share| self.at(share).as_millis());
        format!("{} jobs of one document waited p50 {p50}, p95 {p95}, max {max} ms", self.0.len())
    }
}

/// Submits jobs of the largest size until so many tasks wait.
async fn flood(client: &Client, tasks: u64) -> Result<Vec<String>> {
    let submit = async || {
        let document = |i| Document::new(format!("{i}"), format!("Item {i}: in order."));
        let job = NewJob::scan((0..JOB_DOCUMENTS).map(document).collect());
        let submitted = client.submit_job(&job, &client::fresh_key()).await?.body;
        Ok::<_, ClientError>(submitted)
    };
    let first = submit().await?;
    ensure!(first.tasks > 0, "a job without tasks");
    // Some are done meanwhile.
    let more = (tasks + tasks / 50).saturating_sub(first.tasks).div_ceil(first.tasks);
    let submitted = futures::stream::iter(0..more).map(|_| submit()).buffered(JOBS_AT_ONCE);
    let mut ids: Vec<_> = submitted.map_ok(|job| job.id).try_collect().await?;
    ids.push(first.id);
    Ok(ids)
}

async fn cancel(client: &Client, jobs: &[String]) -> Result<()> {
    for job in jobs {
        client.cancel_job(job, &client::fresh_key()).await?;
    }
    until("an empty queue", JOB_WITHIN, async || {
        let running = client.queue().await?.body.tasks_running;
        Ok(if running == 0 { Probe::Done(()) } else { Probe::NotYet(format!("{running} run")) })
    })
    .await?;
    Ok(())
}

/// Two tenants with more to do than there is time, of different weights.
async fn shares(live: &Live, time: Duration) -> Result<String> {
    let mut busy = Vec::new();
    for weight in WEIGHTS {
        let guest = Guest::hire(live, &format!("fair {weight}"), &[("weight", weight)]).await?;
        let client = guest.client(live)?;
        let jobs = flood(&client, 1).await?;
        busy.push((client, jobs));
    }
    let done = async || {
        let mut all = Vec::new();
        for (client, jobs) in &busy {
            let job = client.job(jobs.first().context("no job")?).await?.body;
            ensure!(!job.is_over(), "job {} had too little to do", job.id);
            all.push(job.counts.done as f64);
        }
        Ok(all)
    };
    // What the first had begun before the second came.
    tokio::time::sleep(EVERY * 2).await;
    let before: Vec<f64> = done().await?;
    let queue = busy.first().context("nobody is busy")?.0.queue().await?.body;
    tokio::time::sleep(time).await;
    let after: Vec<f64> = done().await?;
    for (client, jobs) in &busy {
        cancel(client, jobs).await?;
    }
    let done: Vec<f64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    let all: f64 = done.iter().sum();
    let total: u64 = WEIGHTS.iter().sum();
    let task = queue.documents_waiting / queue.tasks_waiting.max(1);
    let due = |weight: u64| all * weight as f64 / total as f64;
    let off = |(done, weight): (&f64, u64)| (done / due(weight) - 1.0).abs();
    let worst = done.iter().zip(WEIGHTS).map(off).fold(0.0, f64::max);
    let told = format!(
        "fair: with weights {WEIGHTS:?}, {done:?} documents in {time:?}, tasks of {task}: {:.1} % off at most",
        worst * 100.0
    );
    let cut = (TASKS_CUT * task) as f64;
    let holds = |(done, weight): (&f64, u64)| {
        (done - due(weight)).abs() <= due(weight) * SHARE_OFF_MAX + cut
    };
    ensure!(done.iter().zip(WEIGHTS).all(holds), "{told}");
    Ok(told)
}
