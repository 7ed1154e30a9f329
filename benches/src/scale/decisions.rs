//! A warm decision when few tenants are held, when many are held and few are asked for, and when the
//! checks are spread over many: of two clusters side by side, in turn, for what a machine gives changes
//! from one minute to the next by more than what is looked for.

mod arm;

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use tokio::time::Instant;

use super::population::Population;
use super::{ASKED, KINDS, Plan};
use crate::bare::Bare;
use crate::cpu;
use crate::figures::Figures;
use crate::limits::{BODY, LEAD_IN, LINE};
use crate::load::{Connection, request};
use crate::sample::{HEAD, Medians, Sample, median};
use crate::skep::{Limits, Skep};
use crate::table::{Table, line};

use arm::Arm;

/// Tenants of a kind that exist before all others.
const FEW: usize = 10;
/// Contestants of a kind.
const ARMS: usize = 3;
/// What flat means.
const FLAT: f64 = 0.10;
/// Nodes look for slabs that went unused twice a second.
const SLABS_GO_BACK: Duration = Duration::from_millis(1_800);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const MINUTE: Duration = Duration::from_secs(60);
/// What every key takes to be asked for twice.
const WARM_WITHIN: Duration = Duration::from_secs(20);
/// Proposals between two looks when nothing is given back.
const QUIET: u64 = 20;
const QUIET_WITHIN: Duration = Duration::from_secs(30);

/// Keys of the few, by kind.
#[derive(Debug)]
pub(super) struct Few {
    keys: Vec<(Limits, Vec<String>)>,
}

impl Few {
    pub(super) async fn make(skep: &Skep) -> Result<Few> {
        let mut keys = Vec::new();
        for kind in KINDS {
            let mut of_kind = Vec::new();
            for i in 0..FEW {
                of_kind.push(skep.tenant(&format!("few {i}"), kind).await?.key);
            }
            keys.push((kind, of_kind));
        }
        Ok(Few { keys })
    }

    /// Any of the keys.
    pub(super) fn key(&self) -> &str {
        &self.keys[0].1[0]
    }

    /// One answer.
    pub(super) async fn body(&self, skep: &Skep) -> Result<String> {
        let address = skep.address(ASKED);
        let mut connection = Connection::open(&address).await?;
        let request = request(LINE, &address, Some(self.key()), Some(BODY));
        let status = connection.ask(&request).await?;
        ensure!(status == 200, "{status} {}", connection.text());
        Ok(connection.text())
    }
}

/// Bare axum, few of an empty cluster, and few and many of the one that holds the population. Gives
/// what went wrong: the rest of a long run is worth hearing all the same.
pub(super) async fn run(
    plan: &Plan,
    skep: &Skep,
    few: &Few,
    population: &Population,
) -> Result<Option<String>> {
    let empty = Skep::start().await?;
    let alone = Few::make(&empty).await?;
    let bare = Bare::start(&alone.body(&empty).await?).await?;
    let mut arms = vec![Arm::axum(plan, &bare)];
    for ((kind, alone), (_, few)) in alone.keys.iter().zip(&few.keys) {
        let [alone, few] =
            [alone, few].map(|keys| keys.iter().map(String::as_str).collect::<Vec<_>>());
        let mut many = population.first_keys(*kind);
        many.truncate(plan.spread());
        arms.push(Arm::of_skep(plan, &empty, *kind, &alone, FEW * KINDS.len()));
        for keys in [few, many] {
            arms.push(Arm::of_skep(plan, skep, *kind, &keys, population.tenants()));
        }
    }
    measure(plan, &[&empty, skep], &mut arms).await?;
    for ((kind, _), arms) in few.keys.iter().zip(arms[1..].chunks(ARMS)) {
        let [alone, asked, spread] = arms else { continue };
        let held = in_turn(asked, alone);
        tell_flat(&format!("{}, few asked: many held beside none", kind.name()), held);
        let spread = in_turn(spread, asked);
        tell_flat(&format!("{}, many held: checks spread beside few asked", kind.name()), spread);
    }
    for arm in arms.iter().filter(|arm| arm.takes_slabs).skip(1) {
        let proposals = arm.proposals(skep, plan.window()).await?;
        quiet(skep).await?;
        line(&format!("proposals a check: {proposals:.4}, {}", arm.name));
    }
    empty.stop().await?;
    Ok(arms.iter().find_map(Arm::complaint))
}

async fn measure(plan: &Plan, clusters: &[&Skep], arms: &mut [Arm]) -> Result<()> {
    for arm in arms.iter() {
        arm.warm_up(plan.window()).await?;
    }
    for skep in clusters {
        quiet(skep).await?;
        cpu::settle("skep before the windows", &skep.pids()).await?;
    }
    // Those with slabs come last: what these changed is written to checkpoints for a minute.
    for arms in arms.chunk_by_mut(|a, b| a.takes_slabs == b.takes_slabs) {
        for _ in 0..plan.rounds {
            round(plan, clusters, arms).await?;
        }
    }
    let mut table = Table::new(&[&["decisions"], HEAD.as_slice(), &["of axum"]].concat());
    let axum = arms[0].medians();
    for arm in arms.iter() {
        let medians = arm.medians();
        let (rate, cpu) = beside(&medians, &axum);
        let ratio = vec![format!("{rate:.3}x, CPU {cpu:.2}x")];
        table.row([vec![arm.name.clone()], medians.cells().to_vec(), ratio].concat());
    }
    table.print();
    Ok(())
}

/// A window of each, one after another.
async fn round(plan: &Plan, clusters: &[&Skep], arms: &mut [Arm]) -> Result<()> {
    let take_slabs = arms.iter().any(|arm| arm.takes_slabs);
    if take_slabs {
        // One wait for all of them, so that those that are compared follow on each other.
        minute_with(WARM_WITHIN + (LEAD_IN + plan.window()) * arms.len() as u32).await;
    }
    for arm in arms {
        // What nobody asked for while the others had their turns was let go.
        arm.warm_up(plan.window()).await?;
        let sample = arm.window(LEAD_IN, plan.window()).await?;
        arm.windows.push(sample);
    }
    if take_slabs {
        for skep in clusters {
            quiet(skep).await?;
        }
    }
    Ok(())
}

/// Waits until this minute has so much left: slabs end with it, and each that is new is a proposal.
async fn minute_with(time: Duration) {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let left = MINUTE.saturating_sub(Duration::from_secs(since_epoch.as_secs() % MINUTE.as_secs()));
    if left < time {
        tokio::time::sleep(left).await;
    }
}

/// Slabs go back when nobody used them for a second, each by a proposal: the window that comes next
/// must not pay for them.
async fn quiet(skep: &Skep) -> Result<()> {
    let deadline = Instant::now() + QUIET_WITHIN;
    tokio::time::sleep(SLABS_GO_BACK).await;
    let mut before = Figures::read(skep, ASKED).await?;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = Figures::read(skep, ASKED).await?;
        let proposals = now.since(&before).proposals;
        if proposals <= QUIET {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{proposals} proposals in {LOOK_EVERY:?}, unasked");
        before = now;
    }
}

/// Rate and CPU per operation beside another's.
fn beside(ours: &Medians, other: &Medians) -> (f64, f64) {
    (ours.per_second / other.per_second, ours.cpu_ms_per_op / other.cpu_ms_per_op)
}

/// The same in the middle of the rounds: what else the machine does is shared by windows that follow each
/// other, and not by those of other minutes.
fn in_turn(ours: &Arm, other: &Arm) -> (f64, f64) {
    let rounds = ours.windows.iter().zip(&other.windows);
    let ratios = rounds.map(|(ours, other)| beside(&one(ours), &one(other)));
    let (rates, cpu): (Vec<f64>, Vec<f64>) = ratios.unzip();
    (median(rates), median(cpu))
}

fn one(window: &Sample) -> Medians {
    Medians::of(std::slice::from_ref(window))
}

fn tell_flat(what: &str, (rate, cpu): (f64, f64)) {
    let flat = rate >= 1.0 - FLAT && cpu <= 1.0 + FLAT;
    let verdict = if flat { "yes" } else { "NO" };
    line(&format!("{what}: {rate:.3}x the rate, {cpu:.3}x the CPU; flat within 10 %: {verdict}"));
}
