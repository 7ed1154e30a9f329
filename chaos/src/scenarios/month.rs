//! The units of a month are spent by many clients that ask again when nobody answers, while owners
//! die: each is spent once, and never one too many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::limits::Check;
use client::{Client, ClientError, Credential, Retry};
use futures::future::try_join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Guest, Run};
use crate::history::Tally;
use crate::live::{Live, READY_WITHIN};

const NODES: usize = 3;
const CLIENTS: u64 = 50;
const UNITS_MAX: u64 = 7;
/// Between two requests of a client, so that the month outlives some owners.
const PAUSE: Duration = Duration::from_millis(250);
const KILL_EVERY: Duration = Duration::from_secs(2);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Asks again on another node, with the same key, but gives up before every fault is over: so some
/// outcomes stay unknown.
const IMPATIENT: Retry = Retry {
    tries_max: 3,
    deadline: Duration::from_secs(4),
    pause: Duration::from_millis(50),
    pause_max: Duration::from_millis(200),
};

#[derive(Default)]
struct Spent {
    acked: u64,
    unknown: u64,
    refused: u64,
    /// Ids of the acknowledged requests.
    requests: Vec<String>,
}

pub(crate) async fn run(run: &Run, units: u64) -> Result<()> {
    let mut live = Live::start(NODES, &[]).await?;
    let done = Box::pin(play(run, &mut live, units)).await;
    live.end(done, run.keep, run.report).await
}

async fn play(run: &Run, live: &mut Live, units: u64) -> Result<()> {
    let guest = Guest::hire(live, "month", &[("per_month", units)]).await?;
    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let spenders = (0..CLIENTS).map(|number| {
        let mut urls = live.cluster.urls();
        urls.rotate_left(number as usize % NODES);
        let client = Client::new(urls, Credential::key(&guest.key))?;
        let client = client.with_retry(IMPATIENT).with_timeout(ATTEMPT_TIMEOUT);
        let dice = StdRng::seed_from_u64(run.seed ^ number);
        Ok(tokio::spawn(spend(client, dice, Arc::clone(&over))))
    });
    let spenders = spenders.collect::<Result<Vec<_>>>()?;
    let mut kills = 0;
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(KILL_EVERY).await;
        let owner = guest.owner(live).await?;
        live.cluster.kill(owner).await?;
        live.cluster.start(owner)?;
        live.cluster.wait_ready(owner, READY_WITHIN).await?;
        kills += 1;
    }
    let mut all = Spent::default();
    for spent in try_join_all(spenders).await? {
        let Spent { acked, unknown, refused, requests } = spent?;
        all.acked += acked;
        all.unknown += unknown;
        all.refused += refused;
        all.requests.extend(requests);
    }
    live.restart_all().await?;
    let usage = guest.client(live)?.usage().await?;
    let left = usage.quota_remaining.context("a month without a limit")?;
    let used = units - left;
    ensure!(used <= units, "{used} of {units} were spent");
    ensure!(
        (all.acked..=all.acked + all.unknown).contains(&used),
        "{used} were spent, {} acknowledged and {} unknown",
        all.acked,
        all.unknown
    );
    live.ensure_equal().await?;
    run.report.summary(&format!(
        "month: {used} of {units} units spent in {} s under {kills} kills: {} acknowledged, {} of {} unknown \
         ones had been spent, {} requests refused",
        began.elapsed().as_secs(),
        all.acked,
        used - all.acked,
        all.unknown,
        all.refused,
    ));
    // A check counts as no call, whatever it spends.
    let tally = Tally { requests: all.requests, ..Tally::default() };
    run.report.summary(&format!("month: {}", guest.settle(live, &tally, run.seed).await?));
    Ok(())
}

/// Spends until there is not even one unit left.
async fn spend(client: Client, mut dice: StdRng, over: Arc<AtomicBool>) -> Result<Spent> {
    let mut spent = Spent::default();
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let units = dice.random_range(1..=UNITS_MAX);
        let check = Check { units, policy: Some("per_month") };
        match client.check_limits(check, Some(&client::fresh_key())).await {
            Ok(checked) => {
                spent.acked += units;
                spent.requests.extend(checked.meta.request_id);
            }
            Err(ClientError::Problem(problem)) if problem.status == 429 => {
                ensure!(problem.code == "quota_exceeded", "{}", problem.code);
                spent.refused += 1;
                if units == 1 {
                    over.store(true, Ordering::Relaxed);
                }
            }
            Err(failure) if failure.status().is_none_or(|status| status >= 500) => {
                // Also when the last attempt surely was not applied: an earlier one may have been.
                spent.unknown += units;
            }
            Err(error) => return Err(error).context("an answer that no fault explains"),
        }
    }
    Ok(spent)
}
