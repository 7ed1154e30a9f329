//! How long a node is away: killed, started at once with the same command, and ready again. Its log is
//! replayed from the beginning.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use super::{ASKED, VICTIM};
use crate::limits::{BODY, LINE};
use crate::load::{Connection, request};
use crate::skep::Skep;
use crate::table::Table;

/// A log of a million entries is read in this time, or something is wrong.
const READY_WITHIN: Duration = Duration::from_secs(600);
const HEAD: [&str; 5] =
    ["s from start to ready, holding", "one of three", "all three", "and answering", "log MiB"];

/// Restarts of one node and of all.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    rows: Vec<Vec<String>>,
}

impl Restarts {
    /// Restarts one node, then all.
    pub(super) async fn measure(
        &mut self,
        holding: &'static str,
        skep: &mut Skep,
        key: &str,
    ) -> Result<()> {
        let one = one(skep).await?;
        let (all, answering) = all(skep, key).await?;
        let times = [one, all, answering].map(|s| format!("{s:.2}"));
        let log = format!("{:.0}", skep.log_bytes(VICTIM)? as f64 / f64::from(1 << 20));
        let row = [holding.to_owned()].into_iter().chain(times).chain([log]);
        self.rows.push(row.collect());
        Ok(())
    }

    pub(super) fn tell(&self) {
        let mut table = Table::new(&HEAD);
        self.rows.iter().for_each(|row| table.row(row.clone()));
        table.print();
    }
}

async fn one(skep: &mut Skep) -> Result<f64> {
    skep.kill(VICTIM).await?;
    let begin = Instant::now();
    skep.start_again(VICTIM)?;
    skep.wait_ready(VICTIM, READY_WITHIN).await?;
    let took = begin.elapsed().as_secs_f64();
    skep.wait_spread().await?;
    Ok(took)
}

/// Until all are ready, and until a check of this key was answered.
async fn all(skep: &mut Skep, key: &str) -> Result<(f64, f64)> {
    skep.kill_all().await?;
    let begin = Instant::now();
    for i in 0..skep.nodes() {
        skep.start_again(i)?;
    }
    for i in 0..skep.nodes() {
        skep.wait_ready(i, READY_WITHIN).await?;
    }
    let ready = begin.elapsed().as_secs_f64();
    let address = skep.address(ASKED);
    let mut connection = Connection::open(&address).await?;
    let status = connection.ask(&request(LINE, &address, Some(key), Some(BODY))).await?;
    ensure!(status == 200, "ready, and yet {status} {}", connection.text());
    let answering = begin.elapsed().as_secs_f64();
    skep.wait_spread().await?;
    Ok((ready, answering))
}
