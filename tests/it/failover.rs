//! The owner of a job dies in the middle of it: nothing is lost, done twice or billed twice, and every
//! replica agrees, before and after all of them were stopped.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::jobs::{Job, JobResult, NewJob};
use client::keys::NewKey;
use client::{Client, Retry, fresh_key};
use tests::{Cluster, Options, corpus};

use crate::stage::{on_three_nodes, same};

const DOCUMENTS: usize = 600;
const ATTACK_EVERY: usize = 10;
const JOB_WITHIN: Duration = Duration::from_secs(60);
/// The promise: a write is answered again within this.
const WRITE_WITHIN: Duration = Duration::from_secs(6);
/// Asks often, so that the figure is the cluster's and not the client's pauses.
const EAGER: Retry = Retry {
    tries_max: 300,
    deadline: Duration::from_secs(15),
    pause: Duration::from_millis(20),
    pause_max: Duration::from_millis(100),
};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_survives_its_owner_exactly_and_all_replicas_agree() {
    // Holds the job for several seconds on any machine, long enough to kill its owner in the middle.
    let options = Options::default().set("inference.slots=2").set("inference.delay_ms=40");
    on_three_nodes(options, async |cluster| {
        let samples = corpus::samples(21, DOCUMENTS, ATTACK_EVERY);
        let job = NewJob::scan(corpus::documents(&samples));
        let client = cluster.clients()?;
        let job = client.submit_job(&job, &fresh_key()).await?.body.id;
        let dead = kill_the_owner(cluster, &job).await.context("the kill")?;
        let client = survivors(cluster, dead)?;
        let ended = follow(&client, &job, |job| job.is_over()).await.context("the job")?;
        same("status", ended.status.as_str(), "completed")?;
        same("counts", (ended.counts.done, ended.counts.failed), (DOCUMENTS as u64, 0))?;
        let results = client.job_results(&job).await?.body;
        exactly_once(&results, &samples)?;
        usage_is_exact(&client).await?;

        cluster.restart(dead).await.context("the restart")?;
        cluster.digests().await.context("digests after the restart")?;
        same_after_a_stop(cluster, &job, &results).await
    })
    .await;
}

/// At about a third; prints how long it took until a write of the same shard was answered.
async fn kill_the_owner(cluster: &Cluster, job: &str) -> Result<usize> {
    let client = cluster.clients()?;
    let seen = follow(&client, job, |job| job.progress >= 0.3 || job.is_over()).await?;
    ensure!(!seen.is_over(), "the job ended before the kill");
    let owner = client.job(job).await?.meta.owner.context("the job has no owner")?;
    let dead = cluster.index_of(&owner).with_context(|| format!("no node is {owner}"))?;
    let began = Instant::now();
    cluster.kill(dead).await?;
    let key = NewKey { name: "after the kill".to_owned(), ..NewKey::default() };
    survivors(cluster, dead)?.create_key(&key, &fresh_key()).await?;
    let took = began.elapsed();
    say(&format!(
        "killed {owner} at {:.0} %: written again after {took:.2?}",
        seen.progress * 100.0
    ));
    ensure!(took <= WRITE_WITHIN, "a write took {took:?} after the kill");
    Ok(dead)
}

#[expect(clippy::print_stderr, reason = "a figure of a run that may be slow for good reasons")]
fn say(figure: &str) {
    eprintln!("{figure}");
}

/// A client that asks a living node first.
fn survivors(cluster: &Cluster, dead: usize) -> Result<Client> {
    let key = &cluster.tenant()?.api_key;
    let urls = (1..cluster.len()).map(|step| cluster.url((dead + step) % cluster.len()));
    Ok(Client::new(urls.collect(), client::Credential::key(key))?.with_retry(EAGER))
}

/// Follows a job until `reached`; its progress may never fall.
async fn follow(client: &Client, job: &str, reached: impl Fn(&Job) -> bool) -> Result<Job> {
    let began = Instant::now();
    let mut seen = (0.0, 0);
    loop {
        let job = client.job(job).await?.body;
        let now = (job.progress, job.counts.done);
        ensure!(now >= seen, "progress fell from {seen:?} to {now:?}");
        seen = now;
        if reached(&job) {
            return Ok(job);
        }
        ensure!(began.elapsed() < JOB_WITHIN, "the job stands at {seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One result per document, in the order submitted, with the right verdict.
fn exactly_once(results: &[JobResult], samples: &[corpus::Sample]) -> Result<()> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for result in results {
        *times.entry(&result.doc_id).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times != 1).collect();
    ensure!(twice.is_empty(), "results more than once: {twice:?}");
    same("results", results.len(), samples.len())?;
    for (result, sample) in results.iter().zip(samples) {
        same("order", &result.doc_id, &sample.id)?;
        same("status", result.status.as_str(), "done")?;
        same(&sample.id, result.quarantine, sample.attack)?;
    }
    Ok(())
}

async fn usage_is_exact(client: &Client) -> Result<()> {
    let usage = client.usage().await?.body;
    same("documents billed", usage.documents_scanned, DOCUMENTS as u64)?;
    same("calls", usage.total_calls, 1)?;
    ensure!(usage.tokens_processed > DOCUMENTS as u64, "{usage:?}");
    Ok(())
}

async fn same_after_a_stop(cluster: &mut Cluster, job: &str, results: &[JobResult]) -> Result<()> {
    let client = cluster.clients()?.with_retry(EAGER);
    let before = picture(cluster, &client, job).await.context("before the stop")?;
    cluster.stop_all().await?;
    cluster.restart_all().await.context("the start of all")?;
    let after = picture(cluster, &client, job).await.context("after the start")?;
    same("the state", after, before)?;
    let again = client.job_results(job).await?.body;
    ensure!(again == results, "the results changed over a restart");
    Ok(())
}

/// What must be the same after any restart, once all replicas agree on it. Digests themselves change
/// with the ownership, which is part of the state.
async fn picture(cluster: &Cluster, client: &Client, job: &str) -> Result<String> {
    cluster.digests().await?;
    let usage = client.usage().await?.body;
    let job = client.job(job).await?.body;
    let keys = client.keys(None, None).await?.body.data;
    Ok(format!("{usage:?} {job:?} {keys:?}"))
}
