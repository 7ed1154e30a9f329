//! What many tenants cost: making them, the memory they take, a decision while they are held beside one
//! of an empty cluster, the first touch of one, and a restart.

mod catch_up;
mod cold;
mod decisions;
mod memory;
mod population;
mod restart;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::skep::{Limits, Skep};
use crate::table::preamble;

use decisions::Few;
use memory::Memory;
use population::Population;
use restart::Restarts;

/// Every other tenant is of the other kind.
const KINDS: [Limits; 2] = [Limits::None, Limits::Vast];
/// Killed alone.
const VICTIM: usize = 2;
/// The node that is asked.
const ASKED: usize = 0;

/// How much to make and to measure. The full size is `--tenants 100000 --keys-per-tenant 10`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Plan {
    /// Tenants, every other one with limits
    #[arg(long, default_value_t = 10_000)]
    tenants: usize,
    /// Keys of each tenant, its first one included
    #[arg(long, default_value_t = 10)]
    keys_per_tenant: usize,
    /// Connections over which they are made, divided over the nodes
    #[arg(long, default_value_t = 512)]
    makers: usize,
    /// Seconds after which no more tenants, and then no more keys, are made
    #[arg(long, default_value_t = 600)]
    make_within_s: u64,
    /// Tenants of each kind that checks are spread over, if there are as many
    #[arg(long, default_value_t = 10_000)]
    warm: usize,
    /// Tenants of each kind whose first check is measured
    #[arg(long, default_value_t = 500)]
    cold: usize,
    /// Connections that ask for decisions
    #[arg(long, default_value_t = 16)]
    conns: usize,
    /// Seconds per window of decisions
    #[arg(long, default_value_t = 1.0)]
    secs: f64,
    /// Windows of each contestant, in turn; medians are told
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

impl Plan {
    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.secs)
    }

    /// Tenants of each kind that warm checks are spread over: those whose first touch is measured
    /// are not among them.
    fn spread(&self) -> usize {
        (self.tenants / KINDS.len()).saturating_sub(self.cold).min(self.warm)
    }
}

pub(crate) async fn run(plan: &Plan) -> Result<()> {
    preamble("scale: what many tenants and keys cost three nodes");
    ensure!(plan.spread() >= plan.conns, "too few tenants for --cold and --conns");
    ensure!(plan.keys_per_tenant > 1, "the size of a key is that of a second one");
    let mut skep = Skep::start().await?;
    let few = Few::make(&skep).await?;
    let mut memory = Memory::default();
    let mut restarts = Restarts::default();

    restarts.measure("nothing", &mut skep, few.key()).await?;
    memory.look_fresh("nothing", &skep, None).await?;
    let mut population = Population::make(plan, &skep).await?;
    memory.look("making the tenants", &skep, Some(&population)).await?;
    restarts.measure("the tenants", &mut skep, few.key()).await?;
    memory.look_fresh("the tenants", &skep, Some(&population)).await?;

    population.make_keys(plan, &skep).await?;
    memory.look("making the keys", &skep, Some(&population)).await?;
    let wrong = decisions::run(plan, &skep, &few, &population).await?;
    cold::run(plan, &skep, &population).await?;
    memory.look("decisions", &skep, Some(&population)).await?;
    restarts.measure("tenants and keys", &mut skep, few.key()).await?;
    memory.look_fresh("tenants and keys", &skep, Some(&population)).await?;
    restarts.tell();
    memory.tell();
    catch_up::run(plan, &mut skep, &mut population).await?;
    ensure!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    skep.stop().await
}
