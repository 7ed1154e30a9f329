//! Replicated writes. A proposal here meters one scan: one row of one group changes, on three
//! replicas, each synced to disk.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::cpu;
use crate::etcd::{self, Etcd};
use crate::load::{closed_loop, request};
use crate::replicas::Replicas;
use crate::sample::{HEAD, Medians, Sample};
use crate::skep::{Limits, Skep, Tenant};
use crate::table::{Table, line, preamble};

/// Before the first round, at the largest number of writers.
const WARM_UP: Duration = Duration::from_millis(500);
const RAFT: &str = "skep, group of three";
const HTTP: &str = "skep over HTTP";
const ETCD: &str = "etcd, three members";
const ANALYZE: &str = r#"{"texts":["The harvest was good and the barn is full."]}"#;

/// How much to measure.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Seconds per cell
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Writers, each a closed loop
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 512])]
    writers: Vec<usize>,
    /// Rounds, contestants in turn; medians are told
    #[arg(long, default_value_t = 2)]
    rounds: usize,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { secs: 3.0, writers: vec![1, 64, 512], rounds: 2 }
    }
}

/// Everybody who takes part.
struct Contest {
    replicas: Replicas,
    skep: Skep,
    tenant: Tenant,
    etcd: Option<Etcd>,
}

pub(crate) async fn run(plan: &Plan) -> Result<()> {
    preamble("proposals: replicated, synced writes; three processes each");
    let mut contest = Contest::start().await?;
    contest.tell().await?;
    let time = Duration::from_secs_f64(plan.secs);
    contest.round(plan.writers.iter().copied().max().unwrap_or(1), WARM_UP).await?;

    let mut table = Table::new(&[&["contestant", "writers"], HEAD.as_slice()].concat());
    let mut ratios = Vec::new();
    for &writers in &plan.writers {
        let mut rounds: Vec<Vec<(&str, Sample)>> = Vec::new();
        for _ in 0..plan.rounds {
            rounds.push(contest.round(writers, time).await?);
        }
        let medians = medians(&rounds);
        for (name, medians) in &medians {
            let head = [(*name).to_owned(), writers.to_string()];
            table.row([head.as_slice(), medians.cells().as_slice()].concat());
        }
        if let Some((_, etcd)) = medians.iter().find(|(name, _)| *name == ETCD) {
            for (name, ours) in medians.iter().filter(|(name, _)| *name != ETCD) {
                ratios.push(format!("{writers} writers: {name}: {} of etcd", ours.ratio(etcd)));
            }
        }
        rounds.iter().flatten().for_each(|(name, sample)| complain(writers, name, sample));
    }
    table.print();
    ratios.iter().for_each(|ratio| line(ratio));
    contest.stop().await
}

fn medians<'a>(rounds: &[Vec<(&'a str, Sample)>]) -> Vec<(&'a str, Medians)> {
    let names = rounds.first().into_iter().flatten().map(|(name, _)| *name);
    let of = |wanted| {
        let samples = rounds.iter().flatten().filter(move |(name, _)| *name == wanted);
        Medians::of(&samples.map(|(_, sample)| sample.clone()).collect::<Vec<_>>())
    };
    names.map(|name| (name, of(name))).collect()
}

fn complain(writers: usize, name: &str, sample: &Sample) {
    if let Some(complaint) = sample.complaint() {
        line(&format!("{writers} writers: {name}: {complaint}"));
    }
}

impl Contest {
    async fn start() -> Result<Contest> {
        let replicas = Replicas::start().await?;
        let skep = Skep::start().await?;
        let tenant = skep.tenant("bench", Limits::None).await?;
        let etcd = match etcd::find() {
            Some(program) => Some(Etcd::start(&program).await?),
            None => None,
        };
        Ok(Contest { replicas, skep, tenant, etcd })
    }

    async fn tell(&self) -> Result<()> {
        line(&format!(
            "{RAFT}: metering of one scan, proposed by tasks inside the leader's process"
        ));
        line(&format!("{HTTP}: POST /v1/analyze of one short text at the leader of the shard:"));
        line("    authentication, one proposal (the metering) and inference");
        cpu::settle(RAFT, &self.replicas.pids()).await?;
        cpu::settle(HTTP, &self.skep.pids()).await?;
        let Some(etcd) = &self.etcd else {
            line("SKIPPED etcd: not installed (apt-get install etcd-server)");
            return Ok(());
        };
        line(&format!("{ETCD}: put of 256 bytes over HTTP at its leader's gateway"));
        line("    so not like for like: etcd's writers come over HTTP and JSON, and it keeps");
        line("    versions in bbolt; skep's sit beside the leader, and its state is in memory");
        cpu::settle(ETCD, &etcd.pids()).await
    }

    /// Each contestant once.
    async fn round(
        &mut self,
        writers: usize,
        time: Duration,
    ) -> Result<Vec<(&'static str, Sample)>> {
        let mut samples = vec![(RAFT, self.replicas.measure(writers, time).await?)];
        if let Some(etcd) = &self.etcd {
            samples.push((ETCD, etcd.measure(writers, time).await?));
        }
        samples.push((HTTP, self.analyze(writers, time).await?));
        Ok(samples)
    }

    async fn analyze(&self, connections: usize, time: Duration) -> Result<Sample> {
        let address = self.skep.address(self.tenant.leader);
        let analyze = request("POST /v1/analyze", &address, Some(&self.tenant.key), Some(ANALYZE));
        let requests = vec![analyze; connections];
        closed_loop(&address, requests, time, &self.skep.pids()).await.context(HTTP)
    }

    async fn stop(self) -> Result<()> {
        if self.skep.leader(&self.tenant.shard).await? != self.tenant.leader {
            line("WARNING: the shard of skep over HTTP changed its leader meanwhile");
        }
        if let Some(etcd) = self.etcd {
            if !etcd.still_leads().await {
                line("WARNING: etcd changed its leader meanwhile");
            }
            etcd.stop().await?;
        }
        self.replicas.stop().await?;
        self.skep.stop().await
    }
}
