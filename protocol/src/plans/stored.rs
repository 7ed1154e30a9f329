//! Limits in bytes. Those that say nothing of what was added later have the bytes that they had
//! before it was.

use serde::{Deserialize, Serialize};

use super::Override;
use crate::limits::Policies;

/// An optional value that was given company later. Alone it has the bytes of an `Option`.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Grown<T, M> {
    Nothing,
    Just(T),
    With(Option<T>, M),
}

impl<T, M: Default + PartialEq> Grown<T, M> {
    fn of(value: Option<T>, more: M) -> Self {
        match value {
            value if more != M::default() => Self::With(value, more),
            Some(value) => Self::Just(value),
            None => Self::Nothing,
        }
    }

    fn parts(self) -> (Option<T>, M) {
        match self {
            Self::Nothing => (None, M::default()),
            Self::Just(value) => (Some(value), M::default()),
            Self::With(value, more) => (value, more),
        }
    }
}

/// What was added to both.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Shares<T> {
    max_running: T,
    weight: T,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Overrides {
    rate: Override,
    burst: Override,
    key_rate: Override,
    key_burst: Override,
    per_minute: Override,
    per_day: Override,
    per_month: Override,
    concurrency: Override,
    budget: Override,
    max_documents: Override,
    max_bytes: Override,
    max_backlog: Override,
    shadow: Grown<Policies, Shares<Override>>,
}

impl From<super::Overrides> for Overrides {
    fn from(of: super::Overrides) -> Self {
        let shares = Shares { max_running: of.max_running, weight: of.weight };
        Self {
            rate: of.rate,
            burst: of.burst,
            key_rate: of.key_rate,
            key_burst: of.key_burst,
            per_minute: of.per_minute,
            per_day: of.per_day,
            per_month: of.per_month,
            concurrency: of.concurrency,
            budget: of.budget,
            max_documents: of.max_documents,
            max_bytes: of.max_bytes,
            max_backlog: of.max_backlog,
            shadow: Grown::of(of.shadow, shares),
        }
    }
}

impl From<Overrides> for super::Overrides {
    fn from(of: Overrides) -> Self {
        let (shadow, Shares { max_running, weight }) = of.shadow.parts();
        Self {
            rate: of.rate,
            burst: of.burst,
            key_rate: of.key_rate,
            key_burst: of.key_burst,
            per_minute: of.per_minute,
            per_day: of.per_day,
            per_month: of.per_month,
            concurrency: of.concurrency,
            budget: of.budget,
            max_documents: of.max_documents,
            max_bytes: of.max_bytes,
            max_backlog: of.max_backlog,
            max_running,
            weight,
            shadow,
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Limits {
    rate: Option<u64>,
    burst: Option<u64>,
    key_rate: Option<u64>,
    key_burst: Option<u64>,
    per_minute: Option<u64>,
    per_day: Option<u64>,
    per_month: Option<u64>,
    concurrency: Option<u64>,
    budget: Option<u64>,
    max_documents: Option<u64>,
    max_bytes: Option<u64>,
    max_backlog: Grown<u64, Shares<Option<u64>>>,
    shadow: Policies,
}

impl From<super::Limits> for Limits {
    fn from(of: super::Limits) -> Self {
        let shares = Shares { max_running: of.max_running, weight: of.weight };
        Self {
            rate: of.rate,
            burst: of.burst,
            key_rate: of.key_rate,
            key_burst: of.key_burst,
            per_minute: of.per_minute,
            per_day: of.per_day,
            per_month: of.per_month,
            concurrency: of.concurrency,
            budget: of.budget,
            max_documents: of.max_documents,
            max_bytes: of.max_bytes,
            max_backlog: Grown::of(of.max_backlog, shares),
            shadow: of.shadow,
        }
    }
}

impl From<Limits> for super::Limits {
    fn from(of: Limits) -> Self {
        let (max_backlog, Shares { max_running, weight }) = of.max_backlog.parts();
        Self {
            rate: of.rate,
            burst: of.burst,
            key_rate: of.key_rate,
            key_burst: of.key_burst,
            per_minute: of.per_minute,
            per_day: of.per_day,
            per_month: of.per_month,
            concurrency: of.concurrency,
            budget: of.budget,
            max_documents: of.max_documents,
            max_bytes: of.max_bytes,
            max_backlog,
            max_running,
            weight,
            shadow: of.shadow,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::codec;
    use crate::limits::Policy;
    use crate::plans::{self, Override, Shipped};

    /// Twelve limits, then the policies in shadow mode.
    type Before<T, S> = ([T; 12], S);

    #[test]
    fn limits_without_additions_keep_their_bytes_and_others_are_read_as_written() {
        let mut limits = Shipped::Professional.plan().limits;
        limits.shadow = [Policy::Rate].into_iter().collect();
        let bytes = codec::encode(&limits).unwrap();
        let (before, shadow): Before<Option<u64>, u16> = codec::decode(&bytes).unwrap();
        assert_eq!(
            (before[0], before[7], before[11], shadow),
            (Some(100), None, Some(1_000_000), 1)
        );
        for max_backlog in [None, Some(7)] {
            let limits = plans::Limits { max_backlog, weight: Some(4), ..limits };
            assert_eq!(codec::decode(&codec::encode(&limits).unwrap()), Ok(limits));
        }
    }

    #[test]
    fn overrides_without_additions_keep_their_bytes_and_others_are_read_as_written() {
        let mut overrides = plans::Overrides { rate: Override::Limit(3), ..Default::default() };
        for shadow in [None, Some([Policy::Rate].into_iter().collect())] {
            overrides.shadow = shadow;
            let bytes = codec::encode(&overrides).unwrap();
            let (before, tail): Before<Override, Option<u16>> = codec::decode(&bytes).unwrap();
            assert_eq!((before[0], tail), (Override::Limit(3), shadow.map(|_| 1)));
            let more = Override::Unlimited;
            let overrides = plans::Overrides { max_running: more, ..overrides };
            assert_eq!(codec::decode(&codec::encode(&overrides).unwrap()), Ok(overrides));
        }
    }
}
