//! How long tasks waited for a worker. A histogram by plan is exported; tenants are told their own,
//! since a metric with a tenant in its labels grows without bound.

use std::collections::{BTreeMap, VecDeque};

use protocol::TenantId;

use crate::figures::figures;

/// Tasks of a tenant that are remembered.
const KEPT: usize = 128;
/// Tenants that are remembered.
const TENANTS_MAX: usize = 1024;

/// The newest waits of each tenant, since this node owns the shard.
#[derive(Debug, Default)]
pub(super) struct Waits {
    of: BTreeMap<TenantId, Newest>,
    /// Counts the tasks of all.
    noted: u64,
}

/// The waits of one tenant, and when it had the last.
#[derive(Debug, Default)]
struct Newest {
    waits: VecDeque<u64>,
    at: u64,
}

impl Waits {
    /// A task of a tenant on this plan was leased for the first time.
    pub(super) fn note(&mut self, tenant: TenantId, plan: &str, wait_ms: u64) {
        figures().task_wait_seconds.with_label_values(&[plan]).observe(wait_ms as f64 / 1000.0);
        if self.of.len() >= TENANTS_MAX && !self.of.contains_key(&tenant) {
            let quiet =
                self.of.iter().min_by_key(|(_, newest)| newest.at).map(|(&tenant, _)| tenant);
            quiet.map(|tenant| self.of.remove(&tenant));
        }
        self.noted += 1;
        let Newest { waits, at } = self.of.entry(tenant).or_default();
        *at = self.noted;
        if waits.len() == KEPT {
            waits.pop_front();
        }
        waits.push_back(wait_ms);
    }

    /// The wait that a share of a tenant's tasks did not exceed, in hundredths.
    pub(super) fn percentile(&self, tenant: TenantId, hundredths: usize) -> Option<u64> {
        let mut waits: Vec<u64> = self.of.get(&tenant)?.waits.iter().copied().collect();
        waits.sort_unstable();
        let rank = (waits.len() * hundredths).div_ceil(100).max(1);
        waits.get(rank - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_newest_tasks_of_one_tenant() {
        let mut waits = Waits::default();
        let (one, other) = (TenantId(1), TenantId(2));
        assert_eq!(waits.percentile(one, 50), None);
        waits.note(other, "trial", 5_000);
        for wait in 1..=100 {
            waits.note(one, "trial", wait);
        }
        assert_eq!((waits.percentile(one, 50), waits.percentile(one, 95)), (Some(50), Some(95)));
        for _ in 0..KEPT {
            waits.note(one, "trial", 7);
        }
        assert_eq!(waits.percentile(one, 95), Some(7));
        assert_eq!(waits.percentile(other, 95), Some(5_000));
        for tenant in 0..2 * TENANTS_MAX as u128 {
            waits.note(TenantId(tenant), "trial", 1);
        }
        assert_eq!(waits.of.len(), TENANTS_MAX);
        let kept = 2 * TENANTS_MAX as u128 - 1;
        waits.note(TenantId(TENANTS_MAX as u128), "trial", 1);
        waits.note(TenantId(0), "trial", 1);
        assert!(waits.percentile(TenantId(TENANTS_MAX as u128), 50).is_some(), "heard of lately");
        assert!(waits.percentile(TenantId(TENANTS_MAX as u128 + 1), 50).is_none(), "quiet longest");
        assert!(waits.percentile(TenantId(kept), 50).is_some());
    }
}
