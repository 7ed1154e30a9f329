//! Making things over many connections, for a bounded time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use serde_json::json;
use tokio::time::Instant;

use super::{Made, kind_of};
use crate::cpu;
use crate::load::{Connection, request_for};
use crate::sample::{Medians, Seen};
use crate::scale::Plan;
use crate::skep::Skep;
use crate::table::line;

const CREATED: u16 = 201;
const KEY: &str = r#"{"name":"another"}"#;

/// What there is to make.
#[derive(Debug)]
pub(super) enum What {
    Tenants,
    /// Keys of these tenants in turn.
    Keys(Vec<String>),
}

/// The work, and who does it.
#[derive(Debug)]
pub(super) struct Work {
    what: What,
    wanted: usize,
    next: AtomicUsize,
    until: Instant,
    admin_key: String,
    /// A maker for each, on a connection of its own.
    addresses: Vec<String>,
    pids: Vec<u32>,
}

impl Work {
    pub(super) fn new(what: What, wanted: usize, plan: &Plan, skep: &Skep) -> Result<Work> {
        let alive = skep.alive();
        ensure!(!alive.is_empty(), "no node lives");
        Ok(Work {
            what,
            wanted,
            next: AtomicUsize::new(0),
            until: Instant::now() + Duration::from_secs(plan.make_within_s),
            admin_key: skep.admin_key()?,
            addresses: (0..plan.makers).map(|i| skep.address(alive[i % alive.len()])).collect(),
            pids: skep.pids(),
        })
    }

    /// Makes all of it, or as much as there is time for; gives the tenants and how many were made.
    pub(super) async fn run(self) -> Result<(Vec<Made>, usize)> {
        let work = Arc::new(self);
        let cpu_before = cpu::used_ms(&work.pids)?;
        let begin = Instant::now();
        let makers = work.addresses.iter().cloned().map(|address| {
            let work = Arc::clone(&work);
            tokio::spawn(async move { work.make(&address).await })
        });
        let (mut seen, mut tenants) = (Seen::default(), Vec::new());
        for made in try_join_all(makers.collect::<Vec<_>>()).await? {
            let (by_one, of_one) = made?;
            seen.add(by_one);
            tenants.extend(of_one);
        }
        let mut sample = seen.sample(begin.elapsed());
        sample.cpu_ms = cpu::used_ms(&work.pids)? - cpu_before;
        let made = sample.ops as usize;
        work.tell(made, &Medians::of(&[sample]));
        Ok((tenants, made))
    }

    async fn make(&self, address: &str) -> Result<(Seen, Vec<Made>)> {
        let mut connection = Connection::open(address).await?;
        let (mut seen, mut tenants) = (Seen::default(), Vec::new());
        while let Some(number) = self.take() {
            let since = Instant::now();
            let status = connection.ask(&self.request(number, address)).await?;
            seen.success(since.elapsed());
            ensure!(status == CREATED, "{number}: {status} {}", connection.text());
            if matches!(self.what, What::Tenants) {
                let made: Made = serde_json::from_slice(connection.body()).context("a tenant")?;
                tenants.push(Made { number, ..made });
            }
        }
        Ok((seen, tenants))
    }

    fn take(&self) -> Option<usize> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.wanted && Instant::now() < self.until).then_some(number)
    }

    /// Without an Idempotency-Key: with one, every answer would be kept for a day.
    fn request(&self, number: usize, address: &str) -> Vec<u8> {
        let key = Some(self.admin_key.as_str());
        match &self.what {
            What::Tenants => {
                let name = format!("tenant {number}");
                let overrides = kind_of(number).overrides();
                let body = json!({"name": name, "plan": "enterprise", "overrides": overrides});
                let body = body.to_string();
                request_for("POST /v1/tenants", address, key, None, Some(&body))
            }
            What::Keys(tenants) => {
                let tenant = tenants[number % tenants.len()].as_str();
                request_for("POST /v1/keys", address, key, Some(tenant), Some(KEY))
            }
        }
    }

    fn tell(&self, made: usize, figures: &Medians) {
        let what = match self.what {
            What::Tenants => "tenants with a key each",
            What::Keys(_) => "more keys",
        };
        let Medians { per_second, p50_ms, p99_ms, cpu_ms_per_op, .. } = figures;
        line(&format!(
            "{made} {what} made: {per_second:.0} a second over {} connections, p50 {p50_ms:.1} ms, \
             p99 {p99_ms:.1} ms, {cpu_ms_per_op:.3} CPU-ms each over all nodes",
            self.addresses.len()
        ));
        if made < self.wanted {
            line(&format!("WARNING: {} were wanted, and the time was over", self.wanted));
        }
    }
}
