//! A node that nobody heard of until the logs did not reach back to it: it is sent the states of its groups,
//! and what clients of a leader wait meanwhile is held against what they wait before.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::Instant;

use super::population::Population;
use super::{ASKED, Plan, VICTIM};
use crate::cpu;
use crate::load::request;
use crate::pace::Offer;
use crate::sample::Seen;
use crate::skep::{Limits, Skep};
use crate::table::{Table, line};

/// Writes of one leader: each is scanned, metered and audited.
const PER_SECOND: f64 = 200.0;
const CONNECTIONS: usize = 16;
/// Long enough that checkpoints are in it as they are in what follows.
const PLAIN: Duration = Duration::from_secs(40);
const WINDOW: Duration = Duration::from_secs(1);
/// Entries of each group that are written while the node is away; twice what is kept behind a checkpoint.
const BEHIND: f64 = 2_000.0;
/// Keys that are made between two looks at how many entries that were, and how often.
const LOT: usize = 16_000;
const LOTS_MAX: usize = 32;
/// Who makes them: with more of them an entry holds more of the keys.
const MAKERS: usize = 2 * SHARDS;
const SHARDS: usize = 16;
const PURGED_WITHIN: Duration = Duration::from_secs(200);
const SENT_WITHIN: Duration = Duration::from_secs(120);
const APPLIED: &str = "skep_raft_applied_index";
const LOG: &str = "skep_raft_log_entries";
const SENT: &str = "skep_raft_states_sent";
const POLL: Duration = Duration::from_millis(500);
const RATIO_MAX: f64 = 2.0;
const HEAD: [&str; 5] = ["scans of one leader", "scans", "p50 ms", "p99 ms", "max ms"];

pub(super) async fn run(plan: &Plan, skep: &mut Skep, population: &mut Population) -> Result<()> {
    let tenant = skep.tenant_led(Limits::None, |leader| leader == ASKED).await?;
    let address = skep.address(ASKED);
    let body = r#"{"docs":[{"id":"a","content":"nothing to see here"}]}"#;
    let scan = request("POST /v1/scan", &address, Some(&tenant.key), Some(body));
    let offer = |time| Offer {
        address: address.clone(),
        request: scan.clone(),
        per_second: PER_SECOND,
        connections: CONNECTIONS,
        lead_in: Duration::ZERO,
        time,
    };
    let held = by_group(&skep.metrics_of(VICTIM).await?, APPLIED);
    skep.put_to_sleep(VICTIM)?;
    skep.wait_led().await?;
    leave_behind(plan, skep, population, &held).await?;
    wait_purged(skep, &held).await?;
    cpu::settle("skep", &skep.pids()).await?;
    // What comes first pays for what is fetched once.
    offer(WINDOW).run().await?;
    let plain = offer(PLAIN).run().await?;

    let before = sent(skep).await?;
    skep.wake(VICTIM)?;
    let (begin, mut during) = (Instant::now(), Seen::default());
    let mut states = 0.0;
    while states < SHARDS as f64 {
        ensure!(begin.elapsed() < SENT_WITHIN, "{states} of {SHARDS} states were sent");
        during.add(offer(WINDOW).run().await?);
        states = sent(skep).await? - before;
    }
    let took = begin.elapsed();
    skep.wait_ready(VICTIM, SENT_WITHIN).await?;
    line(&format!("{states} states were with the node {:.1} s after it woke", took.as_secs_f64()));
    let mut table = Table::new(&HEAD);
    let mut p99s = Vec::new();
    for (name, seen, time) in [("before", plain, PLAIN), ("meanwhile", during, took)] {
        let sample = seen.sample(time);
        let complaint = sample.complaint();
        ensure!(complaint.is_none(), "{name}: {}", complaint.unwrap_or_default());
        let ms = [sample.p50_ms, sample.p99_ms, sample.max_ms].map(|ms| format!("{ms:.2}"));
        table.row([vec![name.to_owned(), sample.ops.to_string()], ms.to_vec()].concat());
        p99s.push(sample.p99_ms);
    }
    table.print();
    let ratio = p99s[1] / p99s[0];
    let verdict = if ratio <= RATIO_MAX { "yes" } else { "NO" };
    line(&format!("p99 at most {RATIO_MAX} times that of before: {verdict}, {ratio:.2}"));
    skep.wait_spread().await
}

/// Writes to every group until the node that sleeps is far behind in each.
async fn leave_behind(
    plan: &Plan,
    skep: &Skep,
    population: &mut Population,
    held: &BTreeMap<String, f64>,
) -> Result<()> {
    let plan = Plan { makers: MAKERS, ..plan.clone() };
    for _ in 0..LOTS_MAX {
        population.make_more(&plan, skep, LOT).await?;
        let pages = pages(skep).await?;
        let applied: Vec<_> = pages.iter().map(|page| by_group(page, APPLIED)).collect();
        let newest = |group| {
            applied.iter().filter_map(|of_node| of_node.get(group)).copied().fold(0.0, f64::max)
        };
        if held.iter().all(|(group, held)| newest(group) >= held + BEHIND) {
            return Ok(());
        }
    }
    bail!("{LOTS_MAX} times {LOT} keys are no {BEHIND} entries of each group")
}

/// Waits until the logs of the others begin after what the node holds of each group.
async fn wait_purged(skep: &Skep, held: &BTreeMap<String, f64>) -> Result<()> {
    let begin = Instant::now();
    loop {
        let pages = pages(skep).await?;
        let reaches = pages.iter().flat_map(|page| {
            let (applied, lengths) = (by_group(page, APPLIED), by_group(page, LOG));
            let begins = lengths.into_iter().map(move |(group, length)| {
                let applied = applied.get(&group).copied().unwrap_or_default();
                (group, applied - length)
            });
            begins.filter(|(group, begins)| held.get(group).is_some_and(|held| begins < held))
        });
        let Some((group, begins)) = reaches.last() else { return Ok(()) };
        ensure!(
            begin.elapsed() < PURGED_WITHIN,
            "the log of group {group} begins at {begins}, which the node has"
        );
        tokio::time::sleep(POLL).await;
    }
}

async fn sent(skep: &Skep) -> Result<f64> {
    let pages = pages(skep).await?;
    Ok(pages.iter().flat_map(|page| by_group(page, SENT).into_values()).sum())
}

async fn pages(skep: &Skep) -> Result<Vec<String>> {
    let mut pages = Vec::new();
    for i in (0..skep.nodes()).filter(|i| *i != VICTIM) {
        pages.push(skep.metrics_of(i).await.context("metrics")?);
    }
    Ok(pages)
}

/// The values of a figure by group, the meta group left out.
fn by_group(page: &str, name: &str) -> BTreeMap<String, f64> {
    let value = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        let group = labels.strip_prefix("{group=\"")?.strip_suffix("\"}")?;
        Some((group.to_owned(), value.parse().ok()?))
    };
    page.lines().filter_map(value).filter(|(group, _)| group != "0").collect()
}
