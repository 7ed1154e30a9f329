//! What answers say of the limits of a key: the same for all keys of one plan, and short enough for each
//! to be read without a lock.

use protocol::limits::{Policy, Scope};
use protocol::peer::LimitState;
use protocol::wire::limits::policy_field;

/// The limits of a key, whatever is left of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// The value of `RateLimit-Policy`.
    pub(super) text: Box<str>,
    /// Name and height of each that is not in shadow.
    pub(super) limits: Vec<(Policy, u64)>,
    scopes: Vec<Scope>,
}

impl Terms {
    /// Those of equal texts are equal: the text names each limit, its height and whose it is.
    pub(super) fn of(states: &[LimitState]) -> Self {
        let counted = || states.iter().filter(|state| !state.shadow);
        Self {
            text: policy_field(states).into(),
            limits: counted().map(|state| (state.policy, state.limit)).collect(),
            scopes: counted().map(|state| state.scope).collect(),
        }
    }

    /// Where a limit stands among them.
    pub(super) fn place(&self, state: &LimitState) -> Option<usize> {
        let is = |(limit, &scope): (&(Policy, u64), &Scope)| {
            *limit == (state.policy, state.limit) && scope == state.scope
        };
        self.limits.iter().zip(&self.scopes).position(is)
    }
}

/// The limit that refuses first, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tight {
    /// Its name.
    pub policy: Policy,
    /// The limit itself, as in [`LimitState`].
    pub limit: u64,
    /// What is left of it here and at its owner.
    pub remaining: u64,
    /// Milliseconds until nothing is used any more, if nothing more is spent.
    pub reset_ms: u64,
}

impl From<&LimitState> for Tight {
    fn from(state: &LimitState) -> Self {
        let LimitState { policy, limit, remaining, reset_ms, .. } = *state;
        Self { policy, limit, remaining, reset_ms }
    }
}

/// Bits of the moment in a [`TightWord`]: microseconds of two thousand years.
const MOMENT_BITS: u32 = 56;

/// Which limit is tight, and the moment at which nothing of it is used any more: in one word, so that
/// nobody sees one slab's limit with the moment of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TightWord(pub(super) u64);

impl TightWord {
    /// Nothing limits.
    pub(super) const NONE: Self = Self(0);

    /// `place` is that in [`Terms::limits`], which are few.
    pub(super) fn new(place: usize, resets_us: u64) -> Self {
        let latest_us = (1 << MOMENT_BITS) - 1;
        Self((place as u64 + 1) << MOMENT_BITS | resets_us.min(latest_us))
    }

    /// Place and moment.
    pub(super) fn read(self) -> Option<(usize, u64)> {
        let place = (self.0 >> MOMENT_BITS).checked_sub(1)?;
        Some((place as usize, self.0 & ((1 << MOMENT_BITS) - 1)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn a_word_holds_a_place_and_a_moment() {
        assert_eq!(TightWord::NONE.read(), None);
        for (place, us) in [(0, 0), (6, 1), (13, (1 << MOMENT_BITS) - 1)] {
            assert_eq!(TightWord::new(place, us).read(), Some((place, us)));
        }
        assert_eq!(TightWord::new(2, u64::MAX).read(), Some((2, (1 << MOMENT_BITS) - 1)));
    }

    pub(in crate::grants) fn state(policy: Policy, scope: Scope, limit: u64) -> LimitState {
        LimitState {
            policy,
            scope,
            limit,
            burst: None,
            window_s: None,
            used: 0,
            reserved: 0,
            remaining: limit,
            reset_ms: 0,
            shadow: false,
        }
    }

    #[test]
    fn a_limit_is_found_by_name_height_and_whose_it_is() {
        let states = [
            state(Policy::PerMinute, Scope::Tenant, 5),
            LimitState { shadow: true, ..state(Policy::PerDay, Scope::Tenant, 9) },
            state(Policy::PerMinute, Scope::Key, 5),
        ];
        let terms = Terms::of(&states);
        assert_eq!(states.each_ref().map(|state| terms.place(state)), [Some(0), None, Some(1)]);
        assert_eq!(terms.limits, [(Policy::PerMinute, 5), (Policy::PerMinute, 5)]);
    }
}
