//! Is everything there that was acknowledged, and nothing else? Read through the API, on any node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use client::jobs::Job;
use client::{Call, Client, ClientError, List};
use node::cli::launch::{Probe, until};
use serde_json::Value;

use crate::history::Tally;
use crate::workloads::{Writer, Writers};

const PAGE: u32 = 1_000;
/// Small jobs that were submitted must end by then, also after the death of their owner.
const JOBS_WITHIN: Duration = Duration::from_secs(60);

/// What was found to be there.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found {
    pub(crate) keys: usize,
    pub(crate) revoked: usize,
    pub(crate) jobs: usize,
    pub(crate) documents: u64,
}

/// Compares every ledger with what the cluster says.
pub(crate) async fn ledgers(writers: &mut Writers) -> Result<Found> {
    let looks = writers.writers.iter_mut().map(|writer| async {
        let place = format!("tenant {} on shard {}", writer.id, writer.shard());
        ledger(writer).await.context(place)
    });
    let mut total = Found::default();
    for found in futures::future::try_join_all(looks).await? {
        total.keys += found.keys;
        total.revoked += found.revoked;
        total.jobs += found.jobs;
        total.documents += found.documents;
    }
    Ok(total)
}

async fn ledger(writer: &mut Writer) -> Result<Found> {
    let tenant = writer.operator().tenant(&writer.id).await?.body;
    let wanted = (&writer.ledger.plan, &writer.ledger.name);
    ensure!((&tenant.plan, &tenant.name) == wanted, "{tenant:?} instead of {wanted:?}");
    keys(writer).await?;
    jobs(writer).await?;
    let usage = writer.reader().usage().await?.body;
    let (calls, documents) = (writer.ledger.calls, writer.ledger.documents);
    ensure!(
        usage.total_calls == calls && usage.documents_scanned == documents,
        "usage of {} calls and {} documents, acknowledged are {calls} and {documents}",
        usage.total_calls,
        usage.documents_scanned,
    );
    let (keys, revoked) = (writer.ledger.keys.len(), writer.ledger.revoked.len());
    Ok(Found { keys, revoked, jobs: writer.ledger.jobs.len(), documents })
}

/// Usage is what the clients of the tenant were told, and at most what they do not know besides.
pub(crate) async fn usage(client: &Client, tally: &Tally) -> Result<String> {
    let Tally { acked, unknown, .. } = tally;
    let used = client.usage().await?.body;
    let sums = [
        ("calls", used.total_calls, acked.calls, unknown.calls),
        ("documents", used.documents_scanned, acked.documents, unknown.documents),
    ];
    for (what, used, acked, unknown) in sums {
        ensure!(
            (acked..=acked + unknown).contains(&used),
            "{used} {what} are billed, {acked} are acknowledged and {unknown} unknown"
        );
    }
    Ok(format!(
        "{} calls are billed, {} acknowledged and {} unknown",
        used.total_calls, acked.calls, unknown.calls
    ))
}

/// Acknowledged keys are there, revoked ones are not, and none is there that nobody made.
async fn keys(writer: &mut Writer) -> Result<()> {
    let rows = pages(&writer.reader(), "/v1/keys").await?;
    let mut found = BTreeMap::new();
    for row in rows {
        let id = row["key_id"].as_u64().context("a key without an id")?;
        let name = row["name"].as_str().unwrap_or_default().to_owned();
        ensure!(found.insert(id, name).is_none(), "key {id} is listed twice");
    }
    let wanted = &writer.ledger.keys;
    let lost: Vec<_> = wanted.iter().filter(|(id, name)| found.get(id) != Some(name)).collect();
    ensure!(lost.is_empty(), "{} acknowledged keys are lost: {lost:?}", lost.len());
    let extra: Vec<_> = found.keys().filter(|id| !wanted.contains_key(id)).collect();
    let risen: Vec<_> = extra.iter().filter(|id| writer.ledger.revoked.contains(id)).collect();
    ensure!(risen.is_empty(), "{} revoked keys are back: {risen:?}", risen.len());
    ensure!(extra.is_empty(), "{} keys that nobody made: {extra:?}", extra.len());
    Ok(())
}

/// Acknowledged jobs are there once, and end with a result for each document.
async fn jobs(writer: &mut Writer) -> Result<()> {
    let found = whole_jobs(&writer.reader()).await?;
    let wanted: BTreeSet<_> = writer.ledger.jobs.keys().cloned().collect();
    ensure!(found == wanted, "jobs {found:?} instead of {wanted:?}");
    Ok(())
}

/// The jobs of a tenant, once all have ended with a result for each document.
pub(crate) async fn whole_jobs(client: &Client) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    until("the end of the small jobs", JOBS_WITHIN, async || {
        let mut waiting = Vec::new();
        found.clear();
        for row in pages(client, "/v1/jobs").await? {
            let job: Job = serde_json::from_value(row)
                .map_err(|source| ClientError::Decode { what: "a job".to_owned(), source })?;
            let whole = job.status == "completed" && job.counts.done == job.counts.total;
            if !whole {
                waiting.push(format!("{} {} {:?}", job.id, job.status, job.counts));
            }
            found.insert(job.id);
        }
        Ok(if waiting.is_empty() { Probe::Done(()) } else { Probe::NotYet(waiting.join(", ")) })
    })
    .await?;
    Ok(found)
}

/// All rows of a list.
pub(crate) async fn pages(client: &Client, path: &str) -> Result<Vec<Value>, ClientError> {
    let mut rows = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let call = Call::get(path).query("limit", Some(PAGE)).query("cursor", cursor.as_ref());
        let page: List<Value> = client.json(call).await?.body;
        rows.extend(page.data);
        cursor = page.next_cursor.filter(|_| page.has_more);
        if cursor.is_none() {
            return Ok(rows);
        }
    }
}
