//! The warm limit check beside bare axum that answers the same bytes, by pairs of short windows: one
//! of axum's goes before each of ours, so that a machine whose speed drifts moves both.

mod half_load;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::bare::Bare;
use crate::cpu;
use crate::figures::Figures;
use crate::load::{Connection, Cycle, Loop, request};
use crate::sample::{HEAD, Medians, Sample};
use crate::skep::{Limits, Skep, Tenant};
use crate::table::{Table, line, preamble};

pub(crate) const LINE: &str = "POST /v1/limits/check";
pub(crate) const BODY: &str = r#"{"units":1}"#;
/// A slab that nobody used for a second goes back to its owner, so the first requests of a window
/// ask for a new one, small at first. That is not the warm path.
pub(crate) const LEAD_IN: Duration = Duration::from_millis(300);
/// The node that is asked.
const ASKED: usize = 0;

/// How much to measure.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Seconds per window
    #[arg(long, default_value_t = 1.0)]
    secs: f64,
    /// Connections, each a closed loop
    #[arg(long, default_value_t = 16)]
    conns: usize,
    /// Pairs of windows per kind of tenant; ratios are of their medians
    #[arg(long, default_value_t = 10)]
    pairs: usize,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { secs: 1.0, conns: 16, pairs: 10 }
    }
}

impl Plan {
    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.secs)
    }
}

/// Somebody who answers limit checks.
#[derive(Debug)]
struct Contestant {
    name: &'static str,
    address: String,
    request: Vec<u8>,
    pids: Vec<u32>,
}

/// The windows of one of ours, and those of axum before them.
struct Pairs {
    axum: Vec<Sample>,
    ours: Vec<Sample>,
}

pub(crate) async fn run(plan: &Plan) -> Result<()> {
    preamble("limits: warm POST /v1/limits/check at node 1 of three beside bare axum");
    let skep = Skep::start().await?;
    let here = skep.tenant_led(Limits::Vast, |leader| leader == ASKED).await?;
    let elsewhere = skep.tenant_led(Limits::Vast, |leader| leader != ASKED).await?;
    let unlimited = skep.tenant_led(Limits::None, |leader| leader != ASKED).await?;
    let ours = [
        of_skep(&skep, "(a) owned by the asked node", &here),
        of_skep(&skep, "(b) owned by another node", &elsewhere),
        of_skep(&skep, "(c) without any limit", &unlimited),
    ];
    for (contestant, limited) in ours.iter().zip([true, true, false]) {
        contestant.is_limited(limited).await?;
    }
    let body = ours[0].answer().await?;
    let bare = Bare::start(&body).await?;
    let axum = Contestant {
        name: "bare axum",
        address: bare.address.clone(),
        request: request(LINE, &bare.address, None, Some(BODY)),
        pids: bare.pids(),
    };
    line(&format!("the body has {} bytes; bare axum answers the same ones", body.len()));
    line("CPU of skep is that of its three processes; the load runs on the same cores");
    cpu::settle("skep", &skep.pids()).await?;

    let before = Figures::read(&skep, ASKED).await?;
    let all = measure(plan, &axum, &ours).await?;
    tell(&axum, &ours, &all)?;
    let with_limits = all[..2].iter().flat_map(|pairs| &pairs.ours);
    let out_of_slabs = with_limits.map(|sample| sample.ops).sum();
    Figures::read(&skep, ASKED).await?.since(&before).tell(out_of_slabs)?;

    let reached = Medians::of(&all[1].ours).per_second;
    half_load::run(&axum, &ours[1], reached / 2.0, plan.conns).await?;
    for tenant in [&here, &elsewhere, &unlimited] {
        skep.warn_if_moved(tenant).await?;
    }
    skep.stop().await
}

fn of_skep(skep: &Skep, name: &'static str, tenant: &Tenant) -> Contestant {
    let address = skep.address(ASKED);
    let request = request(LINE, &address, Some(&tenant.key), Some(BODY));
    Contestant { name, address, request, pids: skep.pids() }
}

async fn measure(plan: &Plan, axum: &Contestant, ours: &[Contestant]) -> Result<Vec<Pairs>> {
    let mut all: Vec<Pairs> =
        ours.iter().map(|_| Pairs { axum: Vec::new(), ours: Vec::new() }).collect();
    for _ in 0..plan.pairs {
        for (contestant, pairs) in ours.iter().zip(&mut all) {
            pairs.axum.push(axum.ask(plan).await?);
            pairs.ours.push(contestant.ask(plan).await?);
        }
    }
    Ok(all)
}

fn tell(axum: &Contestant, ours: &[Contestant], all: &[Pairs]) -> Result<()> {
    let mut table = Table::new(&[&["contestant"], HEAD.as_slice()].concat());
    let mut ratios = Vec::new();
    for (contestant, pairs) in ours.iter().zip(all) {
        let (theirs, medians) = (Medians::of(&pairs.axum), Medians::of(&pairs.ours));
        for (name, medians) in [(axum.name, &theirs), (contestant.name, &medians)] {
            table.row([[name.to_owned()].as_slice(), medians.cells().as_slice()].concat());
        }
        let (name, ratio) = (contestant.name, medians.ratio(&theirs));
        let more = (medians.cpu_ms_per_op - theirs.cpu_ms_per_op) * 1000.0;
        ratios.push(format!("{name}: {ratio} of bare axum; {more:.1} CPU-microseconds more"));
    }
    table.print();
    ratios.iter().for_each(|ratio| line(ratio));
    let windows = all.iter().flat_map(|pairs| pairs.axum.iter().chain(&pairs.ours));
    let complaint = windows.filter_map(Sample::complaint).next();
    ensure!(complaint.is_none(), "{}", complaint.unwrap_or_default());
    Ok(())
}

impl Contestant {
    async fn ask(&self, plan: &Plan) -> Result<Sample> {
        let cycles = vec![Cycle::from([self.request.clone()]); plan.conns];
        let (address, time, pids) = (self.address.as_str(), plan.window(), self.pids.as_slice());
        Loop { address, cycles, lead_in: LEAD_IN, time, pids }.run().await.context(self.name)
    }

    /// The body of one answer.
    async fn answer(&self) -> Result<String> {
        let mut connection = Connection::open(&self.address).await?;
        let status = connection.ask(&self.request).await?;
        ensure!(status == 200, "{}: {status} {}", self.name, connection.text());
        Ok(connection.text())
    }

    /// A bench of something else than its title says is worse than none.
    async fn is_limited(&self, limited: bool) -> Result<()> {
        let answer: Value = serde_json::from_str(&self.answer().await?)?;
        let named = answer["policy"].is_string();
        ensure!(named == limited, "{}: the policy is {}", self.name, answer["policy"]);
        Ok(())
    }
}
