//! Limits by name, and what is asked of them.

use serde::{Deserialize, Serialize};

use crate::jobs::Worker;
use crate::{KeyId, TenantId};

/// A limit by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Policy {
    /// Requests of the tenant: a bucket of `burst` that gains `rate` a second.
    Rate,
    /// Requests of one key: a bucket of `key_burst` that gains `key_rate` a second.
    KeyRate,
    /// Requests in a minute.
    PerMinute,
    /// Requests in a calendar day of the tenant's zone.
    PerDay,
    /// Units (documents) in a calendar month of the tenant's zone.
    PerMonth,
    /// Requests that run at the same time.
    Concurrency,
    /// Money in a calendar month of the tenant's zone.
    Budget,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 7] = [
        Self::Rate,
        Self::KeyRate,
        Self::PerMinute,
        Self::PerDay,
        Self::PerMonth,
        Self::Concurrency,
        Self::Budget,
    ];

    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::KeyRate => "key_rate",
            Self::PerMinute => "per_minute",
            Self::PerDay => "per_day",
            Self::PerMonth => "per_month",
            Self::Concurrency => "concurrency",
            Self::Budget => "budget",
        }
    }

    /// The policy of a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// What requests are counted by, where they are counted and not a bucket's.
    #[must_use]
    pub fn span(self) -> Option<Span> {
        match self {
            Self::PerMinute => Some(Span::Minute),
            Self::PerDay => Some(Span::Day),
            Self::Rate | Self::KeyRate | Self::PerMonth | Self::Concurrency | Self::Budget => None,
        }
    }
}

/// A stretch of the tenant's calendar that requests are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    Minute,
    Day,
}

impl Span {
    /// Its length in milliseconds.
    #[must_use]
    pub fn ms(self) -> u64 {
        match self {
            Self::Minute => 60_000,
            Self::Day => 86_400_000,
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies(u16);

impl Policies {
    /// Those that count requests and are refilled with time.
    #[must_use]
    pub fn of_requests() -> Self {
        [Policy::Rate, Policy::KeyRate, Policy::PerMinute, Policy::PerDay].into_iter().collect()
    }

    /// Whether the policy is in the set.
    #[must_use]
    pub fn has(self, policy: Policy) -> bool {
        self.0 & (1 << policy as u16) != 0
    }

    /// The policies in the set.
    pub fn iter(self) -> impl Iterator<Item = Policy> {
        Policy::ALL.into_iter().filter(move |&policy| self.has(policy))
    }
}

impl FromIterator<Policy> for Policies {
    fn from_iter<I: IntoIterator<Item = Policy>>(policies: I) -> Self {
        Self(policies.into_iter().fold(0, |set, policy| set | (1 << policy as u16)))
    }
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    Tenant,
    Key,
}

impl Scope {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Key => "key",
        }
    }
}

/// A request that runs, for the limit of those that run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot {
    /// The node that runs it.
    pub worker: Worker,
    /// Counts the requests of that node.
    pub number: u64,
}

/// Who pays for a piece of work, and which of its requests it is. An operator's work names no key:
/// it spends nothing and is not metered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payer {
    pub key: Option<KeyId>,
    /// Held until it is released, its node is lost, or its time is over.
    pub slot: Option<Slot>,
}

/// Slabs that one command gives back, at most.
pub const RETURNED_MAX: usize = 256;

/// What a node has left of a slab that it gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    pub tenant: TenantId,
    pub key: KeyId,
    /// Of the ask that brought the slab; when another ask was heard since, nothing is changed.
    pub number: u64,
    pub left: u64,
}

/// What is asked of a tenant's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Spends units of one policy, or of `rate`, `key_rate`, `per_minute` and `per_day` together.
    Check { key: KeyId, units: u64, policy: Option<Policy> },
    /// A node wants requests to spend by itself. It has `left` of what it was given before, and goes on
    /// spending it unless it is `ended`: then it gives that back. A request for a slab with a number not
    /// above the last one is refused.
    Slab { key: KeyId, worker: Worker, number: u64, left: u64, ended: bool, want: u64 },
    /// The request runs no longer.
    Release { slot: Slot },
}
