//! Plans and limits as data.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::limits::Policies;
use crate::{Name, Time};

mod stored;

/// Plans that there can be.
pub const PLANS_MAX: usize = 200;
/// Features that one plan can have.
pub const FEATURES_MAX: usize = 64;
/// The feature of plans whose tenants share cached results.
pub const SHARED_CACHE: &str = "shared_cache";
/// What a shipped plan asks for a cached document: a tenth of the price of another.
const CACHED_SHARE: u64 = 10;
/// Models that one plan can name.
pub const PLAN_MODELS_MAX: usize = 64;
/// The largest weight of a tenant.
pub const WEIGHT_MAX: u64 = 100;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The plans that a cluster begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shipped {
    Trial,
    Starter,
    Professional,
    Enterprise,
}

/// A plan: what its tenants may, have and pay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub name: Name,
    /// Counts changes from 1; the entity tag.
    pub version: u64,
    pub limits: Limits,
    /// Price of one unit in millionths of a US dollar.
    pub price_micros: u64,
    /// Price of one that is answered from the cache; no more than the other counts.
    pub cached_price_micros: u64,
    pub features: BTreeSet<Name>,
    /// Days after which a tenant that was made on this plan is refused.
    pub trial_days: Option<u32>,
    /// Models that its tenants may name beside the built-in one; `None` is every one.
    pub models: Option<BTreeSet<Name>>,
    /// What a request without a model gets; `None` is the built-in one.
    pub default_model: Option<Name>,
}

impl Plan {
    /// The name in the API.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Price of one unit in millionths of a US dollar.
    #[must_use]
    pub fn unit_price_micros(&self) -> u64 {
        self.price_micros
    }

    /// Price of a unit that is answered from the cache, in millionths of a US dollar. Never above the
    /// other, so that what is reserved for a job is enough for it.
    #[must_use]
    pub fn cached_price_micros(&self) -> u64 {
        self.cached_price_micros.min(self.price_micros)
    }

    /// Whether its tenants share results with all others that do: each may learn that another has the
    /// same document.
    #[must_use]
    pub fn shares_cache(&self) -> bool {
        self.features.iter().any(|feature| feature.as_str() == SHARED_CACHE)
    }

    /// The share of the nodes' time that its tenants have beside others.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let shipped = || Shipped::ALL.into_iter().find(|shipped| shipped.name() == self.name());
        self.limits.weight.unwrap_or_else(|| shipped().map_or(1, Shipped::weight))
    }

    /// Whether its tenants may name a model.
    #[must_use]
    pub fn may_use(&self, model: &Name) -> bool {
        let listed = self.models.as_ref().is_none_or(|models| models.contains(model));
        listed || self.default_model.as_ref() == Some(model)
    }

    /// When a tenant that was made at `created_at` is refused.
    #[must_use]
    pub fn trial_ends(&self, created_at: Time) -> Option<Time> {
        self.trial_days.map(|days| created_at.plus_ms(u64::from(days) * DAY_MS))
    }
}

impl Shipped {
    /// Every plan, smallest first.
    pub const ALL: [Self; 4] = [Self::Trial, Self::Starter, Self::Professional, Self::Enterprise];

    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Starter => "starter",
            Self::Professional => "professional",
            Self::Enterprise => "enterprise",
        }
    }

    /// Its tenants' share of the nodes' time beside others.
    #[must_use]
    pub fn weight(self) -> u64 {
        match self {
            Self::Trial | Self::Starter => 1,
            Self::Professional => 2,
            Self::Enterprise => 4,
        }
    }

    fn features(self) -> &'static [&'static str] {
        match self {
            Self::Trial => &["basic_extraction"],
            Self::Starter => &["basic_extraction", "api_access"],
            Self::Professional => &["basic_extraction", "api_access", "batch_processing"],
            Self::Enterprise => &[
                "basic_extraction",
                "api_access",
                "batch_processing",
                "advanced_extraction",
                "custom_models",
            ],
        }
    }

    /// The plan as it is shipped.
    #[must_use]
    pub fn plan(self) -> Plan {
        let (per_month, price_micros) = match self {
            Self::Trial => (Some(1_000), 0),
            Self::Starter => (Some(10_000), 10_000),
            Self::Professional => (Some(100_000), 5_000),
            Self::Enterprise => (None, 2_000),
        };
        let limits = Limits {
            rate: Some(100),
            burst: Some(200),
            key_rate: Some(50),
            key_burst: Some(100),
            per_month,
            max_documents: Some(10_000),
            max_backlog: Some(1_000_000),
            ..Limits::default()
        };
        let features = self.features().iter().filter_map(|name| Name::parse(name).ok());
        Plan {
            name: Name::shipped(self.name()),
            version: 1,
            limits,
            price_micros,
            cached_price_micros: price_micros / CACHED_SHARE,
            features: features.collect(),
            trial_days: (self == Self::Trial).then_some(14),
            models: None,
            default_model: None,
        }
    }
}

/// One limit as an override: left to the plan, unlimited, or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Override {
    #[default]
    Plan,
    Unlimited,
    Limit(u64),
}

impl Override {
    /// The limit in force over that of the plan.
    #[must_use]
    pub fn over(self, plan: Option<u64>) -> Option<u64> {
        match self {
            Self::Plan => plan,
            Self::Unlimited => None,
            Self::Limit(limit) => Some(limit),
        }
    }
}

/// What a tenant's limits say beside its plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "stored::Overrides", into = "stored::Overrides")]
pub struct Overrides {
    pub rate: Override,
    pub burst: Override,
    pub key_rate: Override,
    pub key_burst: Override,
    pub per_minute: Override,
    pub per_day: Override,
    pub per_month: Override,
    pub concurrency: Override,
    pub budget: Override,
    pub max_documents: Override,
    pub max_bytes: Override,
    pub max_backlog: Override,
    pub max_running: Override,
    pub weight: Override,
    /// Policies that count and never refuse; `None` leaves them to the plan.
    pub shadow: Option<Policies>,
}

/// The limits in force. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "stored::Limits", into = "stored::Limits")]
pub struct Limits {
    /// Requests per second of the tenant.
    pub rate: Option<u64>,
    pub burst: Option<u64>,
    /// Requests per second of one key.
    pub key_rate: Option<u64>,
    pub key_burst: Option<u64>,
    /// Requests per minute.
    pub per_minute: Option<u64>,
    /// Requests per calendar day.
    pub per_day: Option<u64>,
    /// Units (documents) per calendar month.
    pub per_month: Option<u64>,
    /// Requests that run at the same time.
    pub concurrency: Option<u64>,
    /// Money per calendar month, in cents.
    pub budget: Option<u64>,
    /// Documents in one request.
    pub max_documents: Option<u64>,
    /// Bytes of one request's body.
    pub max_bytes: Option<u64>,
    /// Documents waiting in all of the tenant's jobs.
    pub max_backlog: Option<u64>,
    /// Tasks of the tenant's jobs that run at the same time.
    pub max_running: Option<u64>,
    /// Share of the nodes' time beside other tenants, 1 to [`WEIGHT_MAX`]; `None` is that of a plan of
    /// this name as it is shipped, and 1 of any other.
    pub weight: Option<u64>,
    /// Policies that count and never refuse.
    pub shadow: Policies,
}

impl Overrides {
    /// The limits in force on a plan.
    #[must_use]
    pub fn over(&self, plan: &Plan) -> Limits {
        let limits = plan.limits;
        Limits {
            rate: self.rate.over(limits.rate),
            burst: self.burst.over(limits.burst),
            key_rate: self.key_rate.over(limits.key_rate),
            key_burst: self.key_burst.over(limits.key_burst),
            per_minute: self.per_minute.over(limits.per_minute),
            per_day: self.per_day.over(limits.per_day),
            per_month: self.per_month.over(limits.per_month),
            concurrency: self.concurrency.over(limits.concurrency),
            budget: self.budget.over(limits.budget),
            max_documents: self.max_documents.over(limits.max_documents),
            max_bytes: self.max_bytes.over(limits.max_bytes),
            max_backlog: self.max_backlog.over(limits.max_backlog),
            max_running: self.max_running.over(limits.max_running),
            weight: self.weight.over(limits.weight),
            shadow: self.shadow.unwrap_or(limits.shadow),
        }
    }
}
