//! Cuts work into micro-batches: sorted by length, bounded by padded tokens.
//!
//! Naive first-come batches of 32 ran 4–5x slower than no batches at all, because short texts paid for the padding
//! of long ones. Sorted work under a budget wastes about 2 %.

use std::ops::Range;

/// Padded tokens of one micro-batch for models that pay per token.
pub const PADDED_TOKENS_DEFAULT: usize = 512;

/// The plan: every index once, neighbours of like length together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batches {
    order: Vec<usize>,
    cuts: Vec<Range<usize>>,
}

impl Batches {
    /// Plans batches over `lengths`. Each keeps `longest * count <= budget`, except that an item longer than the
    /// budget runs alone. The plan depends on nothing but its arguments.
    #[must_use]
    pub fn plan(lengths: &[usize], budget: usize) -> Batches {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&index| (lengths[index], index));
        let mut cuts = Vec::new();
        let mut start = 0;
        for end in 0..order.len() {
            // Sorted, so the item at `end` is the longest of its batch and sets the width of all.
            let padded = lengths[order[end]].saturating_mul(end - start + 1);
            if padded > budget && end > start {
                cuts.push(start..end);
                start = end;
            }
        }
        if start < order.len() {
            cuts.push(start..order.len());
        }
        Batches { order, cuts }
    }

    /// The batches in order of length, each a list of indices into what was planned.
    pub fn iter(&self) -> impl Iterator<Item = &[usize]> {
        self.cuts.iter().map(|cut| &self.order[cut.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lengths: &[usize], budget: usize, expected: &[&[usize]]) {
        let plan = Batches::plan(lengths, budget);
        assert_eq!(plan.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn like_lengths_share_a_batch_and_the_budget_holds() {
        check(&[], 512, &[]);
        check(&[100, 300, 100, 280, 100], 512, &[&[0, 2, 4], &[3], &[1]]);
        check(&[256, 256, 256], 512, &[&[0, 1], &[2]]);
        check(&[0, 0, 0], 512, &[&[0, 1, 2]]);
    }

    #[test]
    fn an_item_over_the_budget_runs_alone() {
        check(&[10, 9_000, 8_000], 512, &[&[0], &[2], &[1]]);
        check(&[5, 5], 0, &[&[0], &[1]]);
    }

    #[test]
    fn every_index_comes_back_once() {
        let lengths: Vec<usize> = (0..1_000).map(|index| index * 7919 % 300).collect();
        let plan = Batches::plan(&lengths, 512);
        let mut seen: Vec<usize> = plan.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
        for batch in plan.iter() {
            let longest = batch.iter().map(|&index| lengths[index]).max().unwrap();
            assert!(longest * batch.len() <= 512, "{batch:?}");
        }
    }
}
