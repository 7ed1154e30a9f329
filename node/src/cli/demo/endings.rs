//! The acts that prove what was promised: every result once, every document billed once, every replica
//! the same, and the same again after everything was stopped.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use client::jobs::{Job, JobResult};
use client::usage::Usage;

use super::acts::Stage;
use super::story::{Told, expect, seconds};
use crate::cli::failure::Failure;
use crate::cli::output::Output;

const RESTART_WITHIN: Duration = Duration::from_secs(60);
const DIGESTS_WITHIN: Duration = Duration::from_secs(30);

/// What a tenant can see, to compare before and after.
#[derive(Debug, PartialEq)]
struct Picture {
    usage: Usage,
    job: (String, f64, client::jobs::Counts, String),
    results: Vec<JobResult>,
}

impl Stage {
    /// The job completes on the survivors, with each result exactly once.
    pub(super) async fn complete(&mut self, output: Output) -> Result<Told, Failure> {
        let began = Instant::now();
        let job = self.follow(output, Job::is_over).await?;
        let took = seconds(began.elapsed());
        expect(job.status == "completed", || format!("completed, got {}", job.status))?;
        let results = self.survivors()?.job_results(&self.job).await?;
        expect(results.meta.complete == Some(true), || "Skep-Complete: true".to_owned())?;
        let (lost, twice) = self.check_results(&results.body)?;
        self.billed += self.samples.len() as u64;
        let total = results.body.len();
        let figure = format!("{total} results, lost {lost}, duplicates {twice}, after {took}");
        Ok(Told::new("the job completes, progress never fell", figure))
    }

    /// How many results are missing and double: both must be none.
    fn check_results(&self, results: &[JobResult]) -> Result<(usize, usize), Failure> {
        let ids: BTreeSet<_> = results.iter().map(|result| result.doc_id.as_str()).collect();
        let lost = self.samples.iter().filter(|sample| !ids.contains(sample.id.as_str())).count();
        let twice = results.len() - ids.len();
        expect(lost == 0 && twice == 0 && results.len() == self.samples.len(), || {
            let wanted = self.samples.len();
            format!("{wanted} results, got {}: lost {lost}, duplicates {twice}", results.len())
        })?;
        for (result, sample) in results.iter().zip(&self.samples) {
            let as_expected = result.doc_id == sample.id
                && result.status == "done"
                && result.quarantine == sample.attack;
            expect(as_expected, || {
                let JobResult { doc_id, status, risk, .. } = result;
                format!("{} (attack: {}), got {doc_id} {status} {risk}", sample.id, sample.attack)
            })?;
        }
        Ok((lost, twice))
    }

    /// The bill has every document once.
    pub(super) async fn usage_is_exact(&mut self) -> Result<Told, Failure> {
        let usage = self.survivors()?.usage().await?.body;
        let (billed, expected) = (usage.documents_scanned, self.billed);
        expect(billed == expected, || format!("{expected} documents billed, got {billed}"))?;
        Ok(Told::new("usage", format!("billed {billed} of {expected} documents")))
    }

    /// The killed node comes back and agrees with the others.
    pub(super) async fn restart_killed(&mut self) -> Result<Told, Failure> {
        let killed = self.killed.take();
        let killed = killed.ok_or_else(|| Failure::failed("no node was killed"))?;
        let began = Instant::now();
        self.cluster.start(killed.node)?;
        self.cluster.wait_ready(killed.node, RESTART_WITHIN).await?;
        let ready = seconds(began.elapsed());
        let shards = self.cluster.digests(DIGESTS_WITHIN).await?.len();
        let figure = format!("ready in {ready}, all replicas of {shards} groups equal");
        Ok(Told::new(format!("restart {}", self.cluster.name(killed.node)), figure))
    }

    /// Everything stops and starts; nothing has changed.
    pub(super) async fn restart_all(&mut self) -> Result<Told, Failure> {
        let before = self.picture().await?;
        let began = Instant::now();
        self.cluster.stop_all().await?;
        let stopped = seconds(began.elapsed());
        let began = Instant::now();
        for i in 0..self.cluster.len() {
            self.cluster.start(i)?;
        }
        self.cluster.wait_formed(RESTART_WITHIN).await?;
        let ready = seconds(began.elapsed());
        let after = self.picture().await?;
        expect(before.usage == after.usage, || {
            format!("the usage {:?}, got {:?}", before.usage, after.usage)
        })?;
        expect(before.job == after.job, || {
            format!("the job {:?}, got {:?}", before.job, after.job)
        })?;
        expect(before.results == after.results, || "the same results".to_owned())?;
        self.cluster.digests(DIGESTS_WITHIN).await?;
        let figure = format!("down in {stopped}, ready in {ready}, state unchanged");
        Ok(Told::new("stop all, start all", figure))
    }

    pub(super) async fn stop(&mut self) -> Result<Told, Failure> {
        let began = Instant::now();
        self.cluster.stop_all().await?;
        for i in 0..self.cluster.len() {
            let status = self.cluster.exit_status(i);
            let clean = status.is_some_and(|status| status.success());
            expect(clean, || format!("node {i} to exit with 0, got {status:?}"))?;
        }
        Ok(Told::new("stop", format!("all exited with 0 in {}", seconds(began.elapsed()))))
    }

    async fn picture(&self) -> Result<Picture, Failure> {
        let client = self.survivors()?;
        let usage = client.usage().await?.body;
        let Job { status, progress, counts, created_at, .. } = client.job(&self.job).await?.body;
        let results = client.job_results(&self.job).await?.body;
        Ok(Picture { usage, job: (status, progress, counts, created_at), results })
    }
}
