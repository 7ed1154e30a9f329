//! What a client waits while the machine has half of what it can do to do: an open loop, windows of
//! bare axum and of skep in turn, at the same rate. Axum's wait is what the machine and the
//! generator make of it. One more window holds the end of a minute, when every slab of a tenant with
//! `per_minute` is over at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::{Contestant, LEAD_IN};
use crate::pace::Offer;
use crate::sample::{Sample, Seen};
use crate::table::{Table, line};

const WINDOWS: u32 = 5;
const WINDOW: Duration = Duration::from_secs(2);
const MINUTE_MS: u64 = 60_000;
/// What 99 of 100 must stay below.
const P99_MS: f64 = 1.0;
const HEAD: [&str; 6] = ["contestant", "ops/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms"];

pub(super) async fn run(
    axum: &Contestant,
    ours: &Contestant,
    per_second: f64,
    connections: usize,
) -> Result<()> {
    line(&format!(
        "half load: {per_second:.0} requests fall due a second, on {connections} connections; \
         latency counts from then, over all windows"
    ));
    let contestants = [axum, ours];
    let mut seen = [Seen::default(), Seen::default()];
    for _ in 0..WINDOWS {
        for (contestant, seen) in contestants.iter().zip(&mut seen) {
            let window = offer(contestant, per_second, connections).await;
            seen.add(window.context(contestant.name)?);
        }
    }
    tokio::time::sleep(until_minute_ends()?.saturating_sub(LEAD_IN + WINDOW / 2)).await;
    let minute = offer(ours, per_second, connections).await.context("the end of a minute")?;
    let [axums, all] = seen.map(|seen| seen.sample(WINDOW * WINDOWS));
    let minute_name = format!("{}, a minute ending", ours.name);
    let rows = [(axum.name, &axums), (ours.name, &all), (&minute_name, &minute.sample(WINDOW))];
    let mut table = Table::new(&HEAD);
    for (name, sample) in rows {
        let complaint = sample.complaint();
        ensure!(complaint.is_none(), "{name}: {}", complaint.unwrap_or_default());
        table.row(row(name, sample));
    }
    table.print();
    let p99_ms = all.p99_ms;
    let verdict = if p99_ms < P99_MS { "yes" } else { "NO" };
    line(&format!("{} at half load: p99 under {P99_MS} ms: {verdict}, {p99_ms:.3}", ours.name));
    Ok(())
}

/// From now to the end of a minute before which a window has time to begin.
fn until_minute_ends() -> Result<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let left_ms = MINUTE_MS - now.as_millis() as u64 % MINUTE_MS;
    let needed_ms = (LEAD_IN + WINDOW / 2).as_millis() as u64;
    Ok(Duration::from_millis(if left_ms < needed_ms { left_ms + MINUTE_MS } else { left_ms }))
}

async fn offer(contestant: &Contestant, per_second: f64, connections: usize) -> Result<Seen> {
    let (address, request) = (contestant.address.clone(), contestant.request.clone());
    let offer = Offer { address, request, per_second, connections, lead_in: LEAD_IN, time: WINDOW };
    offer.run().await
}

fn row(name: &str, sample: &Sample) -> Vec<String> {
    let ms = [sample.p50_ms, sample.p99_ms, sample.p999_ms, sample.max_ms];
    let rate = format!("{:.0}", sample.ops as f64 / sample.seconds);
    [vec![name.to_owned(), rate], ms.map(|ms| format!("{ms:.3}")).to_vec()].concat()
}
