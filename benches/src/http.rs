//! The warm front door: authentication, routing and rendering, with nothing to replicate.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::bare::Bare;
use crate::cpu;
use crate::load::{Connection, closed_loop, request};
use crate::sample::{HEAD, Medians, Sample};
use crate::skep::{Limits, Skep, Tenant};
use crate::table::{Table, line, preamble};

/// Before the first round, so that caches and connections between nodes are warm.
const WARM_UP: Duration = Duration::from_millis(500);
const LINE: &str = "GET /v1/me";

/// How much to measure.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Seconds per cell
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Connections, each a closed loop
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    conns: Vec<usize>,
    /// Rounds, contestants in turn; medians are told
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { secs: 3.0, conns: vec![1, 16, 64], rounds: 3 }
    }
}

/// Somebody who answers `GET /v1/me`.
struct Contestant {
    name: &'static str,
    address: String,
    request: Vec<u8>,
    pids: Vec<u32>,
}

pub(crate) async fn run(plan: &Plan) -> Result<()> {
    preamble("http: warm GET /v1/me at node 1 of three beside bare axum");
    let skep = Skep::start().await?;
    let here = skep.tenant_led(Limits::None, |leader| leader == 0).await?;
    let elsewhere = skep.tenant_led(Limits::None, |leader| leader != 0).await?;
    let body = me(&skep, &here).await?;
    let bare = Bare::start(&body).await?;
    line(&format!("the body has {} bytes; bare axum answers the same ones", body.len()));
    line("CPU of skep is that of its three processes; the load runs on the same cores");
    cpu::settle("skep", &skep.pids()).await?;

    let of_skep = |name, tenant: &Tenant| {
        let address = skep.address(0);
        let request = request(LINE, &address, Some(&tenant.key), None);
        Contestant { name, address, request, pids: skep.pids() }
    };
    let contestants = [
        Contestant {
            name: "bare axum",
            address: bare.address.clone(),
            request: request(LINE, &bare.address, None, None),
            pids: bare.pids(),
        },
        of_skep("skep, led by the asked node", &here),
        of_skep("skep, led by another node", &elsewhere),
    ];
    measure(plan, &contestants).await?;
    for tenant in [&here, &elsewhere] {
        skep.warn_if_moved(tenant).await?;
    }
    skep.stop().await
}

async fn measure(plan: &Plan, contestants: &[Contestant]) -> Result<()> {
    let time = Duration::from_secs_f64(plan.secs);
    for contestant in contestants {
        let connections = plan.conns.iter().copied().max().unwrap_or(1);
        contestant.ask(connections, WARM_UP).await?;
    }
    let mut table = Table::new(&[&["contestant", "connections"], HEAD.as_slice()].concat());
    let mut ratios = Vec::new();
    for &connections in &plan.conns {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); contestants.len()];
        for _ in 0..plan.rounds {
            for (contestant, samples) in contestants.iter().zip(&mut samples) {
                let sample = contestant.ask(connections, time).await?;
                if let Some(complaint) = sample.complaint() {
                    line(&format!("{connections} connections: {}: {complaint}", contestant.name));
                }
                samples.push(sample);
            }
        }
        let medians: Vec<Medians> = samples.iter().map(|rounds| Medians::of(rounds)).collect();
        for (contestant, medians) in contestants.iter().zip(&medians) {
            let head = [contestant.name.to_owned(), connections.to_string()];
            table.row([head.as_slice(), medians.cells().as_slice()].concat());
        }
        for (contestant, ours) in contestants.iter().zip(&medians).skip(1) {
            let (name, ratio) = (contestant.name, ours.ratio(&medians[0]));
            let more = (ours.cpu_ms_per_op - medians[0].cpu_ms_per_op) * 1000.0;
            ratios.push(format!(
                "{connections} connections: {name}: {ratio} of bare axum; \
                 {more:.1} CPU-microseconds more a request"
            ));
        }
    }
    table.print();
    ratios.iter().for_each(|ratio| line(ratio));
    Ok(())
}

impl Contestant {
    async fn ask(&self, connections: usize, time: Duration) -> Result<Sample> {
        let requests = vec![self.request.clone(); connections];
        closed_loop(&self.address, requests, time, &self.pids).await.context(self.name)
    }
}

async fn me(skep: &Skep, tenant: &Tenant) -> Result<String> {
    let address = skep.address(0);
    let mut connection = Connection::open(&address).await?;
    let status = connection.ask(&request(LINE, &address, Some(&tenant.key), None)).await?;
    ensure!(status == 200, "{status} {}", connection.text());
    Ok(connection.text())
}
