//! Kill -9 of the owner of a job of 1,000 documents at a random progress: each result once, each
//! document billed once, and writes answered again within seconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use client::jobs::{Job, JobResult, NewJob};
use client::keys::NewKey;
use client::tenants::{NewTenant, unlimited};
use client::{Answer, Client, Credential, Retry};
use node::cli::demo::corpus::{Sample, documents, samples};
use node::cli::launch::{Probe, until};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Run;
use crate::live::{Live, READY_WITHIN};
use crate::report::Times;

const NODES: usize = 3;
const DOCUMENTS: usize = 1_000;
const ATTACK_EVERY: usize = 10;
// With two slots on each of three nodes the job lasts about 4 s on any machine.
const SETTINGS: [&str; 2] = ["inference.slots=2", "inference.delay_ms=20"];
const PROGRESS: std::ops::Range<f64> = 0.1..0.8;
/// The promise: writes are answered again within this after the death of an owner.
const RESUMED_WITHIN: Duration = Duration::from_secs(6);
const JOB_WITHIN: Duration = Duration::from_secs(90);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Asks often, so that the figures are the cluster's and not the client's pauses.
const EAGER: Retry = Retry {
    tries_max: 1_000,
    deadline: Duration::from_secs(20),
    pause: Duration::from_millis(10),
    pause_max: Duration::from_millis(40),
};

#[derive(Default)]
struct Told {
    rounds: u32,
    write: Times,
    finish: Times,
    ready: Times,
    results: usize,
}

pub(crate) async fn run(run: &Run, rounds: u32) -> Result<()> {
    let began = Instant::now();
    let settings = SETTINGS.map(str::to_owned);
    let mut live = Live::start(NODES, &settings).await?;
    let mut told = Told::default();
    let done = Box::pin(play(run, &mut live, rounds, &mut told)).await;
    let Told { rounds: held, write, finish, ready, results } = &told;
    run.report.summary(&format!(
        "job-owner: {held} of {rounds} rounds held in {} s, {results} results, lost and double {}; write again \
         after {}; job done after the kill {}; ready {}",
        began.elapsed().as_secs(),
        if done.is_ok() { "0" } else { "?" },
        write.told(),
        finish.told(),
        ready.told(),
    ));
    live.end(done, run.keep, run.report).await
}

async fn play(run: &Run, live: &mut Live, rounds: u32, told: &mut Told) -> Result<()> {
    let mut dice = StdRng::seed_from_u64(run.seed);
    for number in 1..=rounds {
        let line = round(live, &mut dice, told).await;
        let line = line.with_context(|| format!("round {number} of {rounds}"))?;
        told.rounds = number;
        run.report.line(&format!("round {number:>3}: {line}"));
    }
    live.ensure_equal().await
}

async fn round(live: &mut Live, dice: &mut StdRng, told: &mut Told) -> Result<String> {
    // A new tenant each time, so that the job falls on any shard and any owner.
    let tenant = Tenant::hire(live).await?;
    let through = tenant.client(live, dice.random_range(0..NODES))?;
    let before = through.usage().await?.body;
    // Never seen before, so that no cache answers. Small, as a long number in a text that happens to
    // have the check digit of a credit card is found, and quarantined.
    let samples = samples(dice.random_range(0..1_000_000), DOCUMENTS, ATTACK_EVERY);
    let job = NewJob::scan(documents(&samples));
    let job = through.submit_job(&job, &client::fresh_key()).await?.body.id;

    let target = dice.random_range(PROGRESS);
    let mut seen = Seen::default();
    let at = seen.follow(&through, &job, |job| job.progress >= target || job.is_over()).await?;
    ensure!(!at.is_over(), "the job ended before its owner was killed");
    let owner = at.meta.owner.clone().context("a job without Skep-Owner")?;
    let victim = live.cluster.index_of(&owner).context("an owner that is no node")?;
    let killed = Instant::now();
    live.cluster.kill(victim).await?;

    let survivor = tenant.client(live, (victim + 1) % NODES)?;
    let key = NewKey { name: "after the kill".to_owned(), ..NewKey::default() };
    let key = survivor.create_key(&key, &client::fresh_key()).await?.body.key_id;
    let write = killed.elapsed();
    ensure!(write <= RESUMED_WITHIN, "a write took {write:?} after the kill");
    let over = seen.follow(&survivor, &job, Job::is_over).await?;
    let finish = killed.elapsed();
    ensure!(over.status == "completed", "the job is {}", over.status);

    let results = survivor.job_results(&job).await?;
    ensure!(results.meta.complete == Some(true), "results are not complete");
    ensure_each_once(&samples, &results.body)?;
    let after = survivor.usage().await?.body;
    let billed = after.documents_scanned - before.documents_scanned;
    ensure!(billed == DOCUMENTS as u64, "{billed} documents were billed");
    let calls = after.total_calls - before.total_calls;
    ensure!(calls == 1, "{calls} calls were billed");
    survivor.revoke_key(key).await?;

    let began = Instant::now();
    live.cluster.start(victim)?;
    live.cluster.wait_ready(victim, READY_WITHIN).await?;
    let ready = began.elapsed();
    ensure_still_once(&tenant.client(live, victim)?, &job, &results.body).await?;
    live.ensure_alive()?;
    told.write.push(write);
    told.finish.push(finish);
    told.ready.push(ready);
    told.results += results.body.len();
    Ok(format!(
        "kill {owner} at {:>2.0} %, write after {:>4} ms, job done after {:>5} ms, {} results, \
         0 lost, 0 double, {billed} billed, ready {:>4} ms",
        at.progress * 100.0,
        write.as_millis(),
        finish.as_millis(),
        results.body.len(),
        ready.as_millis(),
    ))
}

/// The key of one round's tenant.
struct Tenant(String);

impl Tenant {
    async fn hire(live: &Live) -> Result<Tenant> {
        let wanted = NewTenant {
            name: "job owner".to_owned(),
            plan: Some("enterprise".to_owned()),
            overrides: Some(unlimited()),
        };
        let made = live.cluster.admin()?.create_tenant(&wanted, &client::fresh_key()).await?.body;
        Ok(Tenant(made.api_key.context("a new tenant came without a key")?))
    }

    /// A client of all nodes that asks node `first` first.
    fn client(&self, live: &Live, first: usize) -> Result<Client> {
        let mut urls = live.cluster.urls();
        urls.rotate_left(first % NODES);
        let client = Client::new(urls, Credential::key(&self.0))?;
        Ok(client.with_retry(EAGER).with_timeout(ATTEMPT_TIMEOUT))
    }
}

/// The furthest that a job was seen: it may never fall back.
#[derive(Default)]
struct Seen(f64, u64);

impl Seen {
    async fn follow(
        &mut self,
        client: &Client,
        job: &str,
        reached: impl Fn(&Job) -> bool,
    ) -> Result<Answer<Job>> {
        let began = Instant::now();
        loop {
            let answer = client.job(job).await?;
            let now = (answer.progress, answer.counts.done);
            let fell = now.0 < self.0 || now.1 < self.1;
            ensure!(!fell, "progress fell from {} ({}) to {now:?}", self.0, self.1);
            *self = Seen(now.0, now.1);
            if reached(&answer) {
                return Ok(answer);
            }
            let waited = began.elapsed();
            ensure!(waited < JOB_WITHIN, "the job stands at {now:?} after {waited:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn ensure_each_once(samples: &[Sample], results: &[JobResult]) -> Result<()> {
    let mut times: BTreeMap<&str, u32> = BTreeMap::new();
    for result in results {
        *times.entry(&result.doc_id).or_default() += 1;
    }
    let lost = samples.iter().filter(|sample| !times.contains_key(sample.id.as_str())).count();
    let double = times.values().filter(|times| **times > 1).count();
    let total = results.len();
    ensure!(
        lost == 0 && double == 0 && total == samples.len(),
        "{total} results, {lost} lost, {double} double"
    );
    for (result, sample) in results.iter().zip(samples) {
        let right = result.doc_id == sample.id
            && result.status == "done"
            && result.quarantine == sample.attack;
        if !right {
            bail!("{result:?} for {sample:?}");
        }
    }
    Ok(())
}

/// The node that came back gives the same results.
async fn ensure_still_once(client: &Client, job: &str, wanted: &[JobResult]) -> Result<()> {
    let found = until("results through the restarted node", READY_WITHIN, async || {
        let found = client.job_results(job).await?;
        let complete = found.meta.complete == Some(true);
        Ok(if complete { Probe::Done(found.body) } else { Probe::NotYet("incomplete".to_owned()) })
    })
    .await?;
    ensure!(found == wanted, "other results after the restart");
    Ok(())
}
