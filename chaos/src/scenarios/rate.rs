//! One key is hammered on all nodes while owners die, sleep, or have their limits changed: whatever
//! happens, no interval sees more than `burst + rate * time`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::{Call, Retry};
use serde_json::json;

use super::{Guest, Run};
use crate::live::{Live, READY_WITHIN};
use crate::workloads::hammer::{Hammer, Taken};

const NODES: usize = 3;
const CLIENTS: usize = 10;
const RATE: u64 = 100;
const BURST: u64 = 100;
/// The lower plan of the two that are switched.
const LOWER: u64 = 50;
/// Between two requests of a client: twenty times the rate over all.
const HAMMERING: Duration = Duration::from_millis(5);
/// The same for an offer of twice the rate.
const OFFERING: Duration = Duration::from_millis(CLIENTS as u64 * 1000 / (2 * RATE));
/// Without faults, of what could have been admitted.
const SHARE_MIN: f64 = 0.95;
const KILL_EVERY: Duration = Duration::from_secs(3);
const FREEZE_FOR: Duration = Duration::from_secs(10);
const SWITCH_EVERY: Duration = Duration::from_millis(700);

/// What happens meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    /// Nothing: the rate must be given out as well as kept
    None,
    /// Kill -9 of the owner every 3 s
    Kill,
    /// SIGSTOP of the owner for 10 s
    Stop,
    /// Two plans are switched
    Plans,
}

impl Fault {
    const ALL: [Self; 4] = [Self::None, Self::Kill, Self::Stop, Self::Plans];
}

pub(crate) async fn run(run: &Run, fault: Option<Fault>, secs: u64) -> Result<()> {
    let mut live = Live::start(NODES, &[]).await?;
    let faults = fault.map_or_else(|| Fault::ALL.to_vec(), |fault| vec![fault]);
    let done = Box::pin(play(run, &mut live, &faults, Duration::from_secs(secs))).await;
    live.end(done, run.keep, run.report).await
}

async fn play(run: &Run, live: &mut Live, faults: &[Fault], time: Duration) -> Result<()> {
    for &fault in faults {
        let guest = Guest::hire(live, "rate", &[("rate", RATE), ("burst", BURST)]).await?;
        let pause = if fault == Fault::None { OFFERING } else { HAMMERING };
        let urls = live.cluster.urls();
        let hammer = Hammer::begin(&urls, &guest.key, CLIENTS, pause, run.seed)?;
        let faults = trouble(live, &guest, fault, time).await;
        let taken = hammer.end().await?;
        let faults = faults.with_context(|| format!("{fault:?}"))?;
        live.restart_all().await?;
        tell(run, fault, faults, &taken)?;
    }
    live.ensure_equal().await
}

fn tell(run: &Run, fault: Fault, faults: u32, taken: &Taken) -> Result<()> {
    let room = taken.ensure_within(RATE, BURST).with_context(|| format!("{fault:?}"))?;
    let share = taken.share(RATE, BURST);
    run.report.summary(&format!(
        "rate, {faults} times {fault:?}: in {:.0} s {} admitted ({:.1} % of the most there could be), {} denied, \
         {} unknown; the fullest interval had room for {room} more",
        taken.took.as_secs_f64(),
        taken.admitted.len(),
        share * 100.0,
        taken.denied,
        taken.unknown,
    ));
    ensure!(
        fault != Fault::None || share >= SHARE_MIN,
        "only {share:.3} of the rate was given out"
    );
    Ok(())
}

/// Makes trouble until the time is over; tells how often.
async fn trouble(live: &mut Live, guest: &Guest, fault: Fault, time: Duration) -> Result<u32> {
    let began = Instant::now();
    let mut times = 0;
    while began.elapsed() < time {
        match fault {
            Fault::None => rest(time).await,
            Fault::Kill => {
                rest(KILL_EVERY).await;
                let owner = guest.owner(live).await?;
                live.cluster.kill(owner).await?;
                live.cluster.start(owner)?;
                live.cluster.wait_ready(owner, READY_WITHIN).await?;
                times += 1;
            }
            Fault::Stop => {
                rest(KILL_EVERY).await;
                let owner = guest.owner(live).await?;
                live.cluster.freeze(owner);
                rest(FREEZE_FOR.min(time)).await;
                live.cluster.thaw(owner);
                times += 1;
            }
            Fault::Plans => {
                rest(SWITCH_EVERY).await;
                let most = if times % 2 == 0 { LOWER } else { RATE };
                switch(live, guest, most).await?;
                times += 1;
            }
        }
    }
    Ok(times)
}

async fn switch(live: &Live, guest: &Guest, most: u64) -> Result<()> {
    let limits = json!({"rate": most, "burst": most, "key_rate": null});
    let body = json!({"plan": "enterprise", "overrides": limits});
    let call = Call::put("/v1/tenants").segment(&guest.id).segment("plan").json(&body)?;
    let call = call.idempotency_key(client::fresh_key());
    let _: client::Answer<serde_json::Value> =
        live.cluster.admin()?.with_retry(Retry::PATIENT).json(call).await?;
    Ok(())
}

/// The time that a fault lasts, or that passes between two.
async fn rest(time: Duration) {
    tokio::time::sleep(time).await;
}
