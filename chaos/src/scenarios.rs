//! The faults, one file each.

pub(crate) mod concurrency;
pub(crate) mod crash_all;
pub(crate) mod crash_one;
pub(crate) mod events;
pub(crate) mod fair;
pub(crate) mod fsync_order;
pub(crate) mod grow;
pub(crate) mod job_owner;
pub(crate) mod month;
pub(crate) mod move_kills;
pub(crate) mod once;
pub(crate) mod rate;
pub(crate) mod revoke;
pub(crate) mod rolling;
pub(crate) mod uneven;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use client::tenants::{NewTenant, unlimited};
use client::{Client, Credential};

use crate::history::Tally;
use crate::live::Live;
use crate::report::Report;
use crate::workloads::Working;
use crate::{audit, checks};

/// What all scenarios of a run share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) report: Report,
    pub(crate) keep: bool,
}

/// Fails when a client waited too long.
fn hold(longest: Duration, most: Duration) -> Result<()> {
    ensure!(longest <= most, "a client waited {longest:?}, {most:?} are allowed");
    Ok(())
}

/// Short beside everything that is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// Looks until the writers have come so far; an error if they have not within `within`.
async fn written(
    what: &str,
    within: Duration,
    working: &Working,
    mut enough: impl FnMut() -> bool,
) -> Result<()> {
    let began = Instant::now();
    while !enough() {
        ensure!(began.elapsed() < within, "{what} did not happen within {within:?}");
        if working.ensure_writing().is_err() {
            // Resting gives the writer's own words.
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// A tenant that a scenario made for itself.
pub(crate) struct Guest {
    pub(crate) id: String,
    pub(crate) key: String,
}

impl Guest {
    /// Makes a tenant without limits but for these.
    pub(crate) async fn hire(live: &Live, name: &str, limits: &[(&str, u64)]) -> Result<Guest> {
        let mut overrides = unlimited();
        overrides.extend(limits.iter().map(|&(limit, most)| (limit.to_owned(), Some(most))));
        let wanted = NewTenant {
            name: name.to_owned(),
            plan: Some("enterprise".to_owned()),
            overrides: Some(overrides),
        };
        let made = live.cluster.admin()?.create_tenant(&wanted, &client::fresh_key()).await?.body;
        let key = made.api_key.context("a new tenant came without a key")?;
        Ok(Guest { id: made.id, key })
    }

    /// A patient client of all nodes with the tenant's key.
    pub(crate) fn client(&self, live: &Live) -> Result<Client> {
        Ok(Client::new(live.cluster.urls(), Credential::key(&self.key))?)
    }

    /// The node that owns the tenant's shard, as a node that lives says.
    pub(crate) async fn owner(&self, live: &Live) -> Result<usize> {
        let usage = self.client(live)?.usage().await?;
        let name = usage.meta.owner.context("an answer without Skep-Owner")?;
        live.cluster.index_of(&name).context("an owner that is no node")
    }

    /// When all is over: usage is what the clients were told, and the audit says so and nothing else.
    pub(crate) async fn settle(&self, live: &Live, tally: &Tally, seed: u64) -> Result<String> {
        let usage = checks::usage(&self.client(live)?, tally).await?;
        let audit = audit::verified(live, self, &tally.requests, seed).await?;
        Ok(format!("{usage}; {audit}"))
    }
}
