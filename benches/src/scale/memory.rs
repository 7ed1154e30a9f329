//! Resident memory of the nodes, and what of it a tenant and a key take. Every node holds all of them
//! here, for three nodes hold three replicas.
//!
//! Resident is not live: the allocator keeps what was freed, and what a request needed for a moment
//! stays part of it. So the sizes are differences between nodes that were just started again, which
//! have allocated little but what they hold; how much more nodes take that did the work is told too.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::population::Population;
use crate::skep::Skep;
use crate::table::{Table, line};

/// A node has settled when its memory changed by less than this share ...
const STEADY: f64 = 0.005;
/// ... from one look to the next.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// What the nodes took at the moments that matter.
#[derive(Debug, Default)]
pub(super) struct Memory {
    moments: Vec<Moment>,
}

#[derive(Debug)]
struct Moment {
    after: String,
    /// All nodes were just started again.
    fresh: bool,
    tenants: usize,
    keys: usize,
    /// KiB, by node.
    resident: Vec<u64>,
}

impl Moment {
    fn mean_bytes(&self) -> f64 {
        self.resident.iter().sum::<u64>() as f64 * 1024.0 / self.resident.len() as f64
    }
}

impl Memory {
    /// Looks at nodes that have done something, once they have settled.
    pub(super) async fn look(
        &mut self,
        after: &str,
        skep: &Skep,
        population: Option<&Population>,
    ) -> Result<()> {
        self.push(after.to_owned(), false, skep, population).await
    }

    /// Looks at nodes that were just started again.
    pub(super) async fn look_fresh(
        &mut self,
        with: &str,
        skep: &Skep,
        population: Option<&Population>,
    ) -> Result<()> {
        self.push(format!("a restart with {with}"), true, skep, population).await
    }

    async fn push(
        &mut self,
        after: String,
        fresh: bool,
        skep: &Skep,
        population: Option<&Population>,
    ) -> Result<()> {
        let resident = settled(skep).await?;
        let (tenants, keys) = population.map_or((0, 0), |all| (all.tenants(), all.keys()));
        self.moments.push(Moment { after, fresh, tenants, keys, resident });
        Ok(())
    }

    /// All moments, and sizes out of the three fresh ones: nothing, tenants, keys.
    pub(super) fn tell(&self) {
        let head = ["resident MiB after", "tenants", "keys", "node 1", "node 2", "node 3"];
        let mut table = Table::new(&head);
        for Moment { after, tenants, keys, resident, .. } in &self.moments {
            let mib = resident.iter().map(|kib| format!("{:.0}", *kib as f64 / 1024.0));
            let head = [after.clone(), tenants.to_string(), keys.to_string()];
            table.row(head.into_iter().chain(mib).collect());
        }
        table.print();
        let fresh: Vec<&Moment> = self.moments.iter().filter(|moment| moment.fresh).collect();
        let [nothing, tenants, keys] = fresh.as_slice() else { return };
        let key = grown(tenants, keys) / (keys.keys - tenants.keys) as f64;
        let tenant = grown(nothing, tenants) / tenants.tenants as f64;
        let both = grown(nothing, keys) / keys.keys as f64;
        line(&format!(
            "bytes a node, between restarts: {tenant:.0} a tenant with its first key, {key:.0} a \
             further key; {both:.0} a key with its share of a tenant"
        ));
    }
}

fn grown(from: &Moment, to: &Moment) -> f64 {
    to.mean_bytes() - from.mean_bytes()
}

async fn settled(skep: &Skep) -> Result<Vec<u64>> {
    let deadline = Instant::now() + SETTLES_WITHIN;
    let mut last = resident(skep)?;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = resident(skep)?;
        let moved = |(last, now): (&u64, &u64)| last.abs_diff(*now) as f64 > *last as f64 * STEADY;
        if !last.iter().zip(&now).any(moved) || Instant::now() >= deadline {
            return Ok(now);
        }
        last = now;
    }
}

fn resident(skep: &Skep) -> Result<Vec<u64>> {
    skep.pids().into_iter().map(resident_kib).collect()
}

fn resident_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status =
        std::fs::read_to_string(&path).with_context(|| format!("{path}: has it ended?"))?;
    vm_rss(&status).with_context(|| format!("{path} has no VmRSS"))
}

fn vm_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::vm_rss;

    #[test]
    fn resident_memory_is_read_in_kib() {
        assert_eq!(vm_rss("Name:\tskep\nVmHWM:\t  9 kB\nVmRSS:\t   1234 kB\n"), Some(1234));
        assert_eq!(vm_rss("Name:\tskep\n"), None);
    }
}
