//! What a document costs that was scored before: in a scan, in a job; and whether a tenant can tell by
//! the time that another has the same one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use client::jobs::NewJob;
use client::scan::Document;
use client::{Client, Credential};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cpu;
use crate::load::{Connection, Cycle, Loop, request};
use crate::sample::{HEAD, Medians};
use crate::skep::{Limits, Skep, Tenant};
use crate::table::{Table, line, preamble};

const SCAN: &str = "POST /v1/scan";
/// Bytes of a document.
const BYTES: usize = 512;
const JOB_DOCUMENTS: usize = 10_000;
const JOB_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);
/// Before a window, so that what is fetched at a first touch is there.
const LEAD_IN: Duration = Duration::from_millis(500);
/// Beyond it two means are not of the same thing.
const WELCH_MAX: f64 = 4.5;

/// How much to measure.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Seconds per window
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Connections, each a closed loop
    #[arg(long, default_value_t = 16)]
    conns: usize,
    /// Windows of each size, in turn; medians are told
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Documents of a request
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32])]
    documents: Vec<usize>,
    /// Jobs of 10,000 documents that were scored before
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Requests of each kind for the comparison of times
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
}

pub(crate) async fn run(plan: &Plan) -> Result<()> {
    preamble("cache: documents that were scored before, on one node");
    let skep = Skep::start_with(1, &[]).await?;
    cpu::settle("skep", &skep.pids()).await?;
    scans(plan, &skep).await.context("scans")?;
    jobs(plan, &skep).await.context("jobs")?;
    tenants(plan, &skep).await.context("tenants")?;
    skep.stop().await
}

/// A text of words, different for each number.
fn text(of: &str, number: usize) -> String {
    let mut text = format!("{of} {number}: ");
    while text.len() < BYTES {
        text.push_str("the shipment arrived on time and was checked twice; ");
    }
    text.truncate(BYTES);
    text
}

fn scan(skep: &Skep, tenant: &Tenant, texts: impl Iterator<Item = String>) -> Vec<u8> {
    let document =
        |(i, content): (usize, String)| json!({"id": format!("d{i}"), "content": content});
    let documents: Vec<Value> = texts.enumerate().map(document).collect();
    let body = json!({"docs": documents}).to_string();
    request(SCAN, &skep.address(0), Some(&tenant.key), Some(&body))
}

/// Of the answer to a request: documents from the cache, and others.
async fn hits(connection: &mut Connection, request: &[u8]) -> Result<(usize, usize)> {
    let status = connection.ask(request).await?;
    ensure!(status == 200, "{status} {}", connection.text());
    let answer: Value = serde_json::from_slice(connection.body())?;
    let results = answer["results"].as_array().context("results")?;
    let hits = results.iter().filter(|result| result["cached"] == true).count();
    Ok((hits, results.len() - hits))
}

async fn scans(plan: &Plan, skep: &Skep) -> Result<()> {
    let tenant = skep.tenant("hits", Limits::None).await?;
    let (address, pids) = (skep.address(0), skep.pids());
    let time = Duration::from_secs_f64(plan.secs);
    let mut table = Table::new(&[&["documents"], HEAD.as_slice()].concat());
    for &documents in &plan.documents {
        let request = scan(skep, &tenant, (0..documents).map(|number| text("scan", number)));
        let mut connection = Connection::open(&address).await?;
        hits(&mut connection, &request).await?;
        let found = hits(&mut connection, &request).await?;
        ensure!(found == (documents, 0), "hits and others of {documents}: {found:?}");
        let mut rounds = Vec::new();
        for _ in 0..plan.rounds {
            let cycles = vec![Cycle::from([request.clone()]); plan.conns];
            let window = Loop { address: &address, cycles, lead_in: LEAD_IN, time, pids: &pids };
            rounds.push(window.run().await?);
        }
        table.row(
            [[documents.to_string()].as_slice(), Medians::of(&rounds).cells().as_slice()].concat(),
        );
    }
    table.print();
    Ok(())
}

/// From submission to the end, with all that HTTP, log and blobs take.
async fn jobs(plan: &Plan, skep: &Skep) -> Result<()> {
    let tenant = skep.tenant("jobs", Limits::None).await?;
    let client = Client::new(skep.urls(), Credential::key(&tenant.key))?;
    let document = |i: usize| Document::new(format!("d{i}"), text("job", i));
    let documents: Vec<Document> = (0..JOB_DOCUMENTS).map(document).collect();
    let pids = skep.pids();
    for round in 0..=plan.jobs {
        let (before, began) = (cpu::used_ms(&pids)?, Instant::now());
        let job = NewJob::scan(documents.clone());
        let job = client.submit_job(&job, &client::fresh_key()).await?.body.id;
        let submitted = cpu::used_ms(&pids)?;
        let ended = loop {
            let job = client.job(&job).await?.body;
            if job.is_over() {
                break job;
            }
            ensure!(began.elapsed() < JOB_WITHIN, "the job stands at {}", job.progress);
            tokio::time::sleep(POLL).await;
        };
        let after = cpu::used_ms(&pids)?;
        let rate = |cpu_ms: f64| JOB_DOCUMENTS as f64 * 1000.0 / cpu_ms.max(1.0);
        line(&format!(
            "job {round}: {} of {JOB_DOCUMENTS} cached, {} ms; {:.0} documents a CPU-second with the \
             submission, {:.0} without",
            ended.counts.cached,
            began.elapsed().as_millis(),
            rate(after - before),
            rate(after - submitted),
        ));
        let wanted = if round == 0 { 0 } else { JOB_DOCUMENTS as u64 };
        ensure!(ended.counts.cached == wanted, "{} were cached", ended.counts.cached);
    }
    Ok(())
}

/// One tenant's documents; another's requests with these and with documents that nobody has, in turn.
async fn tenants(plan: &Plan, skep: &Skep) -> Result<()> {
    let owner = skep.tenant("owner", Limits::None).await?;
    let prober = skep.tenant("prober", Limits::None).await?;
    let mut connection = Connection::open(&skep.address(0)).await?;
    let (mut held, mut fresh) = (Vec::new(), Vec::new());
    // All of them before: what was just done for a text is warm in the processor as well.
    for number in 0..plan.requests {
        let of_owner = scan(skep, &owner, std::iter::once(text("held", number)));
        hits(&mut connection, &of_owner).await?;
    }
    for number in 0..plan.requests {
        let of_prober = scan(skep, &prober, std::iter::once(text("held", number)));
        let of_nobody = scan(skep, &prober, std::iter::once(text("free", number)));
        // Which comes first changes, so that what follows on what falls on both alike.
        let turns = [(&of_prober, true), (&of_nobody, false)];
        let turns = if number % 2 == 0 { turns } else { [turns[1], turns[0]] };
        for (request, is_held) in turns {
            let began = Instant::now();
            let status = connection.ask(request).await?;
            let took_us = began.elapsed().as_secs_f64() * 1e6;
            ensure!(status == 200, "{status} {}", connection.text());
            ensure!(connection.text().contains("\"cached\":false"), "it is told to another tenant");
            if is_held { held.push(took_us) } else { fresh.push(took_us) }
        }
    }
    let t = welch(&held, &fresh);
    line(&format!(
        "documents that another tenant has: {:.1} us, that nobody has: {:.1} us, Welch t = {t:.2} over {} \
         requests of each",
        mean(&held),
        mean(&fresh),
        plan.requests,
    ));
    ensure!(t.abs() < WELCH_MAX, "|t| is not below {WELCH_MAX}");
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Welch's t: how many standard errors two means are apart.
fn welch(a: &[f64], b: &[f64]) -> f64 {
    let error = |values: &[f64]| {
        let (mean, count) = (mean(values), values.len() as f64);
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        squares / (count - 1.0).max(1.0) / count.max(1.0)
    };
    (mean(a) - mean(b)) / (error(a) + error(b)).sqrt().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_means_are_no_errors_apart_and_others_many() {
        let a: Vec<f64> = (0..1_000).map(|i| f64::from(i % 10)).collect();
        let b: Vec<f64> = a.iter().map(|value| value + 1.0).collect();
        assert!(welch(&a, &a).abs() < 1e-9);
        // Variance 8.25 of a thousand each: a standard error of 0.128 between them.
        assert!((welch(&b, &a) - 7.78).abs() < 0.05, "{}", welch(&b, &a));
    }

    #[test]
    fn texts_differ_and_have_their_length() {
        assert_eq!((text("a", 1).len(), text("a", 1) == text("a", 2)), (BYTES, false));
    }
}
