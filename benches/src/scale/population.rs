//! The tenants and keys of the population, made over the HTTP API as anybody would make them: each
//! is a replicated, synced and audited write.

mod work;

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::{KINDS, Plan};
use crate::skep::{Limits, Skep};

use work::{What, Work};

/// What was made.
#[derive(Debug)]
pub(super) struct Population {
    tenants: Vec<Made>,
    /// First ones included.
    keys: usize,
}

/// A tenant as its maker was told of it.
#[derive(Debug, Deserialize)]
struct Made {
    id: String,
    api_key: String,
    #[serde(skip)]
    number: usize,
}

impl Population {
    /// Makes the tenants, each with its first key.
    pub(super) async fn make(plan: &Plan, skep: &Skep) -> Result<Population> {
        let (mut tenants, _) = Work::new(What::Tenants, plan.tenants, plan, skep)?.run().await?;
        ensure!(!tenants.is_empty(), "no tenant was made in time");
        // The makers race; by their numbers the kinds alternate again.
        tenants.sort_unstable_by_key(|made| made.number);
        Ok(Population { keys: tenants.len(), tenants })
    }

    /// Makes the other keys of every tenant.
    pub(super) async fn make_keys(&mut self, plan: &Plan, skep: &Skep) -> Result<()> {
        let wanted = self.tenants.len() * plan.keys_per_tenant.saturating_sub(1);
        self.make_more(plan, skep, wanted).await
    }

    /// Makes this many more keys, one of each tenant in turn.
    pub(super) async fn make_more(&mut self, plan: &Plan, skep: &Skep, keys: usize) -> Result<()> {
        let ids = self.tenants.iter().map(|made| made.id.clone()).collect();
        let (_, made) = Work::new(What::Keys(ids), keys, plan, skep)?.run().await?;
        self.keys += made;
        Ok(())
    }

    pub(super) fn tenants(&self) -> usize {
        self.tenants.len()
    }

    pub(super) fn keys(&self) -> usize {
        self.keys
    }

    /// The first keys of the tenants of a kind, oldest first.
    pub(super) fn first_keys(&self, kind: Limits) -> Vec<&str> {
        let of_kind = self.tenants.iter().filter(|made| kind_of(made.number) == kind);
        of_kind.map(|made| made.api_key.as_str()).collect()
    }
}

fn kind_of(number: usize) -> Limits {
    KINDS[number % KINDS.len()]
}
