//! Whose turn it is: deficit round robin between tenants, by weight, with documents as the cost.
//!
//! In a round a tenant gains a document of credit for each unit of its weight. Who is in credit is in
//! turn, and a task that is larger than the credit is paid in the rounds after; so many rounds pass at
//! once as bring somebody into credit. Who comes anew has its turn at once, so a tenant with one task
//! does not wait for those with thousands; and it leaves only when it is in credit, so nobody gains by
//! coming and going.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};

use protocol::TenantId;

/// Tenants that have work, or that have yet to pay for some.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// The next one first.
    turns: VecDeque<TenantId>,
    /// Documents that may be taken, or that were taken in advance.
    credit: BTreeMap<TenantId, i64>,
}

impl Shares {
    /// A tenant has work.
    pub(super) fn join(&mut self, tenant: TenantId, weight: u64) {
        if let Entry::Vacant(entry) = self.credit.entry(tenant) {
            entry.insert(gain(weight));
            self.turns.push_front(tenant);
        }
    }

    /// The next task, of the tenant in turn; `find` says what a tenant has and how many documents it
    /// is. `None` when nobody has any.
    pub(super) fn next<T>(
        &mut self,
        weight: impl Fn(TenantId) -> u64,
        mut find: impl FnMut(TenantId) -> Option<(T, u32)>,
    ) -> Option<T> {
        while !self.turns.is_empty() {
            let in_credit = |tenant: &TenantId| self.credit.get(tenant).is_none_or(|&of| of > 0);
            let Some(at) = self.turns.iter().position(in_credit) else {
                self.pass_rounds(&weight);
                continue;
            };
            let Some(tenant) = self.turns.remove(at) else { continue };
            if let Some((task, documents)) = find(tenant) {
                *self.credit.entry(tenant).or_default() -= i64::from(documents);
                self.turns.push_back(tenant);
                return Some(task);
            }
            self.credit.remove(&tenant);
        }
        None
    }

    /// As many rounds as bring somebody into credit.
    fn pass_rounds(&mut self, weight: impl Fn(TenantId) -> u64) {
        let gains: Vec<(TenantId, i64)> =
            self.turns.iter().map(|&tenant| (tenant, gain(weight(tenant)))).collect();
        let credit = |tenant| self.credit.get(tenant).copied().unwrap_or(0);
        let rounds = gains.iter().map(|(tenant, gain)| 1 - credit(tenant) / gain).min();
        for (tenant, gain) in gains {
            *self.credit.entry(tenant).or_default() += gain * rounds.unwrap_or(1);
        }
    }
}

/// Documents that a tenant gains in a round.
fn gain(weight: u64) -> i64 {
    i64::try_from(weight.max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tenants with tasks of one size each and a weight; what they were given.
    struct Bench {
        shares: Shares,
        weights: Vec<u64>,
        documents: Vec<u32>,
        taken: Vec<u64>,
    }

    impl Bench {
        fn new(tenants: &[(u64, u32)]) -> Self {
            let weights: Vec<u64> = tenants.iter().map(|&(weight, _)| weight).collect();
            let documents = tenants.iter().map(|&(_, documents)| documents).collect();
            let taken = vec![0; weights.len()];
            Self { shares: Shares::default(), weights, documents, taken }
        }

        /// One task, where those have work for whom `works` holds.
        fn turn(&mut self, works: impl Fn(usize) -> bool) -> Option<usize> {
            for tenant in (0..self.weights.len()).filter(|&tenant| works(tenant)) {
                self.shares.join(TenantId(tenant as u128), self.weights[tenant]);
            }
            let (weights, documents) = (&self.weights, &self.documents);
            let next = self.shares.next(
                |tenant| weights[tenant.0 as usize],
                |tenant| {
                    let tenant = tenant.0 as usize;
                    works(tenant).then_some((tenant, documents[tenant]))
                },
            )?;
            self.taken[next] += u64::from(documents[next]);
            Some(next)
        }
    }

    #[test]
    fn under_saturation_shares_are_as_weights() {
        for sizes in [[16, 16], [256, 256], [16, 256], [256, 16]] {
            let mut bench = Bench::new(&[(1, sizes[0]), (4, sizes[1])]);
            for _ in 0..4_000 {
                bench.turn(|_| true);
            }
            let ratio = bench.taken[1] as f64 / bench.taken[0] as f64;
            assert!((3.8..4.2).contains(&ratio), "{sizes:?}: {ratio}");
        }
    }

    #[test]
    fn who_comes_anew_is_next_and_gains_nothing_by_coming_and_going() {
        let mut bench = Bench::new(&[(1, 64), (1, 64)]);
        for round in 0..50 {
            for _ in 0..10 {
                assert_eq!(bench.turn(|tenant| tenant == 0), Some(0));
            }
            assert_eq!(bench.turn(|_| true), Some(1), "round {round}");
        }
        // One task at a time, the next as soon as that is taken: no more than half.
        let before = bench.taken.clone();
        for _ in 0..1_000 {
            bench.turn(|_| true);
        }
        let gained = bench.taken[1] - before[1];
        assert!((499 * 64..=501 * 64).contains(&gained), "{gained}");
        assert_eq!(bench.turn(|_| false), None);
    }

    proptest! {
        #[test]
        fn no_tenant_with_work_waits_longer_than_its_last_task_costs_the_others(
            tenants in proptest::collection::vec((1..8u64, 1..=256u32), 2..12),
            idle in proptest::collection::vec(any::<bool>(), 200),
        ) {
            let mut bench = Bench::new(&tenants);
            // While the first pays for a task, the others gain by their weights; and each may begin a task
            // with the last of its credit, and may have come anew with some.
            let paid = i64::from(tenants[0].1) / gain(tenants[0].0) + 2;
            let others = tenants.iter().skip(1);
            let bound: i64 = others.map(|&(weight, documents)| {
                gain(weight) * (paid + 1) + 2 * i64::from(documents)
            }).sum();
            let mut since = 0;
            for step in 0..2_000 {
                // The first always has work; the others come and go.
                let works = |tenant: usize| tenant == 0 || idle[(step / 7 + tenant * 13) % 200];
                let next = bench.turn(works).unwrap();
                prop_assert!(works(next));
                since = if next == 0 { 0 } else { since + i64::from(tenants[next].1) };
                prop_assert!(since <= bound, "{since} > {bound}");
            }
        }

        #[test]
        fn shares_of_saturated_tenants_are_within_a_task_of_their_weights(
            tenants in proptest::collection::vec((1..8u64, 1..=256u32), 2..8),
        ) {
            let mut bench = Bench::new(&tenants);
            for _ in 0..6_000 {
                bench.turn(|_| true);
            }
            let per_weight: Vec<f64> = bench.taken.iter().zip(&tenants)
                .map(|(&taken, &(weight, _))| taken as f64 / weight as f64).collect();
            let (least, most) = per_weight.iter().fold((f64::MAX, 0.0f64), |(least, most), &each| {
                (least.min(each), most.max(each))
            });
            prop_assert!(most - least <= 256.0 + 2.0, "{per_weight:?}");
        }
    }
}
