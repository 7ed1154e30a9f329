//! How often this node, as a leader, changed memberships and handed over, and how that ended.

use std::sync::atomic::{AtomicU64, Ordering};

/// A step of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// A replica begins to copy.
    Add,
    /// It votes.
    Promote,
    /// It votes no more.
    Demote,
    /// It is gone.
    Drop,
    /// Leadership goes to another replica.
    Transfer,
}

impl Move {
    /// Every step, in the order of its number.
    pub const ALL: [Self; 5] = [Self::Add, Self::Promote, Self::Demote, Self::Drop, Self::Transfer];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Promote => "promote",
            Self::Demote => "demote",
            Self::Drop => "drop",
            Self::Transfer => "transfer",
        }
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Begun,
    Finished,
    /// Tried again later, if it is still due.
    Failed,
}

impl Stage {
    /// Every stage, in the order of its number.
    pub const ALL: [Self; 3] = [Self::Begun, Self::Finished, Self::Failed];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Finished => "finished",
            Self::Failed => "failed",
        }
    }
}

/// The counts since the process started. One that is begun and neither finished nor failed is under
/// way, or was given up when it took too long.
#[derive(Debug, Default)]
pub struct Tally([[AtomicU64; Stage::ALL.len()]; Move::ALL.len()]);

impl Tally {
    pub(crate) fn note(&self, step: Move, stage: Stage) {
        self.0[step as usize][stage as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, step: Move, well: bool) {
        self.note(step, if well { Stage::Finished } else { Stage::Failed });
    }

    /// Every count.
    pub fn counts(&self) -> impl Iterator<Item = (Move, Stage, u64)> {
        Move::ALL.into_iter().flat_map(move |step| {
            let count = move |stage| self.0[step as usize][stage as usize].load(Ordering::Relaxed);
            Stage::ALL.into_iter().map(move |stage| (step, stage, count(stage)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_and_stage_has_a_count_of_its_own() {
        let tally = Tally::default();
        tally.note(Move::Drop, Stage::Begun);
        tally.ended(Move::Drop, false);
        tally.ended(Move::Transfer, true);
        let counted = tally.counts().filter(|(.., count)| *count > 0);
        let counted: Vec<_> =
            counted.map(|(step, stage, count)| (step.name(), stage.name(), count)).collect();
        let expected = [("drop", "begun", 1), ("drop", "failed", 1), ("transfer", "finished", 1)];
        assert_eq!(counted, expected);
    }
}
