//! A stream of events is cut again and again while jobs run and nodes die, and goes on at another
//! node: without a gap, in order, each event once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use client::jobs::NewJob;
use node::cli::demo::corpus::{documents, samples};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tests::events::{Event, Events};

use super::{Guest, Run};
use crate::live::{Live, READY_WITHIN};
use crate::report::Times;

const NODES: usize = 3;
/// With a slot on each of three nodes a job lasts a few seconds on any machine.
const SETTINGS: [&str; 2] = ["inference.slots=1", "inference.delay_ms=20"];
const DOCUMENTS: usize = 480;
/// Events that are read before a cut, at most.
const READ_MAX: usize = 3;
/// Cuts between two kills.
const KILL_EVERY: u32 = 10;
/// A stream may be refused for so long after a kill: until the shard has an owner again.
const RESUMED_WITHIN: Duration = Duration::from_secs(10);
/// A node without a stream is asked again after this.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Told {
    cuts: u32,
    kills: u32,
    jobs: u32,
    events: usize,
    resumed: Times,
}

pub(crate) async fn run(run: &Run, cuts: u32) -> Result<()> {
    let began = Instant::now();
    let mut live = Live::start(NODES, &SETTINGS.map(str::to_owned)).await?;
    let mut told = Told::default();
    let done = Box::pin(play(run, &mut live, cuts, &mut told)).await;
    let Told { cuts: held, kills, jobs, events, resumed } = &told;
    run.report.summary(&format!(
        "events: {held} cuts and {kills} kills of the serving node in {} s, {events} events of {jobs} jobs, \
         missing, double and out of order {}; resumed after {}",
        began.elapsed().as_secs(),
        if done.is_ok() { "0" } else { "?" },
        resumed.told(),
    ));
    live.end(done, run.keep, run.report).await
}

async fn play(run: &Run, live: &mut Live, cuts: u32, told: &mut Told) -> Result<()> {
    let mut dice = StdRng::seed_from_u64(run.seed);
    let tenant = Guest::hire(live, "events", &[]).await?;
    while told.cuts < cuts {
        follow(live, &tenant, &mut dice, told).await?;
        told.jobs += 1;
    }
    live.ensure_equal().await
}

/// Follows one job to its end, cut by cut.
async fn follow(live: &mut Live, tenant: &Guest, dice: &mut StdRng, told: &mut Told) -> Result<()> {
    let samples = samples(dice.random_range(0..1_000_000), DOCUMENTS, 0);
    let client = tenant.client(live)?;
    let job = NewJob::scan(documents(&samples));
    let job = client.submit_job(&job, &client::fresh_key()).await?.body.id;
    let mut seen: Vec<Event> = Vec::new();
    let mut at = dice.random_range(0..NODES);
    while seen.last().is_none_or(|event| event.name != "done") {
        let cut = Instant::now();
        // Never the same one twice.
        at = (at + dice.random_range(1..NODES)) % NODES;
        let mut events = open(live, tenant, &job, seen.last(), &mut at, cut).await?;
        told.resumed.push(cut.elapsed());
        for _ in 0..dice.random_range(1..=READ_MAX) {
            let Some(event) = events.next().await? else { break };
            seen.push(event);
        }
        told.cuts += 1;
        if told.cuts.is_multiple_of(KILL_EVERY) {
            live.cluster.kill(at).await?;
            while let Some(event) = events.next().await? {
                seen.push(event);
            }
            live.cluster.start(at)?;
            live.cluster.wait_ready(at, READY_WITHIN).await?;
            told.kills += 1;
        }
    }
    ensure_whole(&seen)?;
    for node in 0..NODES {
        let all = Events::open(&live.cluster.url(node), &tenant.key, &job, None).await?;
        ensure!(all.rest().await? == seen, "node {node} tells other events of {job}");
    }
    told.events += seen.len();
    Ok(())
}

/// The stream, at the next node that gives it.
async fn open(
    live: &Live,
    tenant: &Guest,
    job: &str,
    last: Option<&Event>,
    at: &mut usize,
    cut: Instant,
) -> Result<Events> {
    loop {
        let url = live.cluster.url(*at);
        match Events::open(&url, &tenant.key, job, last.map(|event| event.id)).await {
            Ok(events) => return Ok(events),
            Err(error) if cut.elapsed() < RESUMED_WITHIN => {
                drop(error);
                *at = (*at + 1) % NODES;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error).context("no node goes on with the stream"),
        }
    }
}

fn ensure_whole(seen: &[Event]) -> Result<()> {
    let mut done = 0;
    for (index, event) in seen.iter().enumerate() {
        let wanted = index as u64 + 1;
        let right = event.id == wanted && event.data["seq"] == wanted;
        ensure!(right, "event {} where {wanted} should be", event.id);
        let now = event.data["counts"]["done"].as_u64().context("an event without counts")?;
        ensure!(now >= done, "{now} done after {done}");
        done = now;
    }
    ensure!(done == DOCUMENTS as u64, "{done} documents are done at the end");
    Ok(())
}
