//! One key is hammered on all nodes while owners die, sleep, are cut off, have their clocks set or their
//! limits changed: whatever happens, no interval sees more than `burst + rate * time`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use client::keys::NewKey;
use client::limits::Check;
use client::{Call, Client, Credential, Retry};
use serde_json::json;

use super::{Guest, Run};
use crate::live::{Live, READY_WITHIN};
use crate::walls;
use crate::wires::Cut;
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

const ONE: Check<'static> = Check { units: 1, policy: None };
const CUT_FOR: Duration = Duration::from_secs(8);
/// What a node was granted it may use for two seconds.
const LEASE_OVER_AFTER: Duration = Duration::from_secs(3);
const ALONE_TIMEOUT: Duration = Duration::from_secs(2);
const HOUR_S: i64 = 3_600;
const SET_FOR: Duration = Duration::from_secs(2);
/// A clock may be off so much on a machine that runs all nodes and their clients.
const CLOCK_S: i64 = 5;

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
    /// The owner, or another node, is cut off from its peers for 8 s; clients still reach it
    Cut,
    /// The owner's wall clock is set an hour ahead and back, again and again
    Clock,
}

impl Fault {
    /// Those that any cluster can have.
    const PLAIN: [Self; 4] = [Self::None, Self::Kill, Self::Stop, Self::Plans];
}

pub(crate) async fn run(run: &Run, fault: Option<Fault>, secs: u64) -> Result<()> {
    let time = Duration::from_secs(secs);
    let wanted = |other: Fault| fault.is_none_or(|fault| fault == other);
    let plain: Vec<_> = Fault::PLAIN.into_iter().filter(|&fault| wanted(fault)).collect();
    if !plain.is_empty() {
        act(run, Live::start(NODES, &[]).await?, &plain, time).await?;
    }
    if wanted(Fault::Cut) {
        act(run, Live::start_wired(NODES).await?, &[Fault::Cut], time).await?;
    }
    if wanted(Fault::Clock) {
        match walls::library() {
            Ok(library) => {
                let live = Live::start_walled(NODES, library).await?;
                act(run, live, &[Fault::Clock], time).await?;
            }
            Err(error) => run.report.summary(&format!("SKIPPED rate, Clock: {error}")),
        }
    }
    Ok(())
}

async fn act(run: &Run, mut live: Live, faults: &[Fault], time: Duration) -> Result<()> {
    let done = Box::pin(play(run, &mut live, faults, time)).await;
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
        let books = guest.settle(live, &taken.billed, run.seed).await;
        let books = books.with_context(|| format!("{fault:?}"))?;
        run.report.summary(&format!("rate, {fault:?}: {books}"));
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
            Fault::Cut => {
                rest(KILL_EVERY.min(time / 4)).await;
                cut(live, guest, times, CUT_FOR.min(time * 3 / 4)).await?;
                times += 1;
            }
            Fault::Clock => {
                let owner = guest.owner(live).await?;
                let offset_s = if times % 2 == 0 { HOUR_S } else { -HOUR_S };
                live.walls()?.set(&live.cluster, owner, offset_s).await?;
                rest(SET_FOR).await;
                ensure_dated(live, guest).await?;
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

/// The owner and another node take turns, and so do cuts that both sides notice and silent ones.
async fn cut(live: &Live, guest: &Guest, times: u32, time: Duration) -> Result<()> {
    let owner = guest.owner(live).await?;
    let victim = (owner + (times % 2) as usize) % NODES;
    let kind = [Cut::Silent, Cut::Broken][(times / 2 % 2) as usize];
    let wires = live.wires()?;
    let began = Instant::now();
    wires.cut(victim, kind);
    rest(LEASE_OVER_AFTER).await;
    let alone = Client::new(vec![live.cluster.url(victim)], Credential::key(&guest.key))?;
    let alone = alone.with_retry(Retry::NEVER).with_timeout(ALONE_TIMEOUT);
    if let Ok(admitted) = alone.check_limits(ONE, None).await {
        bail!("node {victim}, {kind:?} cut from owner {owner} and others, admits {admitted:?}");
    }
    rest(time.saturating_sub(began.elapsed())).await;
    wires.heal(victim)?;
    Ok(())
}

/// What the owner dates now has today's date.
async fn ensure_dated(live: &Live, guest: &Guest) -> Result<()> {
    let earliest = walls::told(-CLOCK_S);
    let wanted = NewKey { name: "dated".to_owned(), ..NewKey::default() };
    let made = guest.client(live)?.create_key(&wanted, &client::fresh_key()).await?.body;
    let dated = made.created_at.context("a new key came without its date")?;
    let latest = walls::told(CLOCK_S);
    ensure!(earliest <= dated && dated <= latest, "dated {dated} between {earliest} and {latest}");
    Ok(())
}

/// The time that a fault lasts, or that passes between two.
async fn rest(time: Duration) {
    tokio::time::sleep(time).await;
}
