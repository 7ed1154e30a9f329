//! Whether nodes that are added pay: the same jobs per node on clusters of one, two, three and five, where
//! a slot is held for a while by each document, so that two cores can be five nodes' worth of slots.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use client::jobs::NewJob;
use client::scan::Document;
use client::{Client, Credential, fresh_key};
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::skep::{Limits, Skep};
use crate::table::{Table, line, preamble};

/// Jobs of different tenants at the same time, so that most nodes own one.
const JOBS: usize = 8;
const POLL: Duration = Duration::from_millis(20);
const DONE_WITHIN: Duration = Duration::from_secs(300);
/// Of what as many times one node would do.
const LINEAR_MIN: f64 = 0.9;
const HEAD: [&str; 5] = ["nodes", "documents", "s", "documents/s", "of linear"];

/// How much to do.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Milliseconds that each document holds its slot
    #[arg(long, default_value_t = 20)]
    delay_ms: u64,
    /// Slots of a node
    #[arg(long, default_value_t = 2)]
    slots: u64,
    /// Seconds that the jobs take when no slot is ever without work
    #[arg(long, default_value_t = 15)]
    secs: u64,
    /// Sizes of the clusters; the first is what the others are compared with
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3, 5])]
    nodes: Vec<usize>,
    /// Further settings of the nodes, `key=value`
    #[arg(long = "set")]
    settings: Vec<String>,
}

pub(crate) async fn run(plan: &Plan) -> Result<()> {
    preamble("growth: jobs on clusters of different sizes, slots slowed down");
    let mut settings = plan.settings.clone();
    settings.push(format!("inference.delay_ms={}", plan.delay_ms));
    settings.push(format!("inference.slots={}", plan.slots));
    let mut table = Table::new(&HEAD);
    let (mut first, mut least) = (None, f64::INFINITY);
    for &nodes in &plan.nodes {
        let skep = Skep::start_with(nodes, &settings).await?;
        let documents = nodes as u64 * plan.slots * plan.secs * 1000 / plan.delay_ms;
        let took = work(&skep, documents as usize / JOBS).await?;
        let rate = documents as f64 / took.as_secs_f64();
        let per_node = rate / nodes as f64;
        let linear = per_node / *first.get_or_insert(per_node);
        least = least.min(linear);
        let figures = [took.as_secs_f64(), rate, linear].map(|figure| format!("{figure:.2}"));
        let row = [nodes.to_string(), documents.to_string()].into_iter().chain(figures);
        table.row(row.collect());
        skep.stop().await?;
    }
    table.print();
    line(&format!("at least {LINEAR_MIN} of linear: {least:.2}"));
    ensure!(least >= LINEAR_MIN, "growing does not pay");
    Ok(())
}

/// From the first submission to the end of the last job.
async fn work(skep: &Skep, documents: usize) -> Result<Duration> {
    let mut clients = Vec::new();
    for number in 0..JOBS {
        let tenant = skep.tenant(&format!("bench {number}"), Limits::None).await?;
        clients.push(Client::new(skep.urls(), Credential::key(&tenant.key))?);
    }
    let begin = Instant::now();
    let jobs = clients.iter().enumerate().map(|(number, client)| async move {
        let text = |i| format!("Line {i} of job {number}: nothing to see here.");
        let documents = (0..documents).map(|i| Document::new(format!("d{i}"), text(i)));
        let job = NewJob::scan(documents.collect());
        let id = client.submit_job(&job, &fresh_key()).await?.body.id;
        loop {
            let job = client.job(&id).await?.body;
            if job.is_over() {
                ensure!(job.status == "completed" && job.counts.failed == 0, "{job:?}");
                ensure!(job.counts.done == job.counts.total, "{job:?}");
                return Ok(());
            }
            ensure!(begin.elapsed() < DONE_WITHIN, "not done: {job:?}");
            tokio::time::sleep(POLL).await;
        }
    });
    try_join_all(jobs).await?;
    Ok(begin.elapsed())
}
