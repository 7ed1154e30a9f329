//! What requests about tenants and plans look like.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use actors::calendar;
use protocol::Name;
use protocol::limits::{Policies, Policy};
use protocol::plans::{
    FEATURES_MAX, Limits, Override, Overrides, PLAN_MODELS_MAX, Plan, Shipped, WEIGHT_MAX,
};
use protocol::tenants::Change;

use crate::http::json::{FromShape, Item, Object};

/// A limit of nothing is a suspension; of more than this, a mistake.
const LIMIT_MAX: u64 = 1_000_000_000_000;
/// A document that costs more than a thousand dollars is a mistake.
const PRICE_MICROS_MAX: u64 = 1_000_000_000;
const TRIAL_DAYS_MAX: u32 = 3_650;
/// Limits that are part of the contract and not of this build.
const LACKING: [&str; 1] = ["retention_days"];
const LACKING_WHY: &str = "this limit is not part of this build; null is accepted";

/// Body of `POST /v1/tenants`.
#[derive(Debug)]
pub(super) struct Create {
    pub(super) name: Name,
    pub(super) plan: Name,
    pub(super) overrides: Overrides,
    pub(super) domain: Option<Name>,
    pub(super) time_zone: Option<Name>,
    pub(super) region: Option<Name>,
}

impl FromShape for Create {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let name = object.required("name", |name| name.parsed(Name::parse));
        let plan = object.optional("plan", |plan| plan.parsed(Name::parse));
        let overrides = object.optional("overrides", |over| over.object(overrides));
        let domain = object.optional("domain", |domain| domain.parsed(Name::parse));
        let time_zone = object.optional("time_zone", zone);
        let region = object.optional("region", |region| region.parsed(Name::parse));
        let plan = plan.unwrap_or_else(|| Shipped::Trial.plan().name);
        let overrides = overrides.unwrap_or_default();
        Some(Self { name: name?, plan, overrides, domain, time_zone, region })
    }
}

fn zone(item: Item<'_, '_>) -> Option<Name> {
    item.parsed(|text| {
        let name = Name::parse(text).map_err(|error| error.to_string())?;
        let known = calendar::is_zone(&name);
        known.then_some(name).ok_or_else(|| "must be a time zone like Europe/Berlin".to_owned())
    })
}

/// A limit that replaces the plan's: `null` lifts it.
pub fn one_override(object: &mut Object<'_, '_>, name: &str) -> Override {
    override_within(object, name, 0..=LIMIT_MAX)
}

fn override_within(
    object: &mut Object<'_, '_>,
    name: &str,
    range: RangeInclusive<u64>,
) -> Override {
    match object.nullable(name, |limit| limit.integer(range)) {
        None => Override::Plan,
        Some(None) => Override::Unlimited,
        Some(Some(limit)) => Override::Limit(limit),
    }
}

fn overrides(object: &mut Object<'_, '_>) -> Option<Overrides> {
    let mut limit = |name: &str| one_override(object, name);
    let overrides = Overrides {
        rate: limit("rate"),
        burst: limit("burst"),
        key_rate: limit("key_rate"),
        key_burst: limit("key_burst"),
        per_minute: limit("per_minute"),
        per_day: limit("per_day"),
        per_month: limit("per_month"),
        concurrency: limit("concurrency"),
        budget: limit("budget"),
        max_documents: limit("max_documents"),
        max_bytes: limit("max_bytes"),
        max_backlog: limit("max_backlog"),
        // Nothing would ever run of a tenant that may run none.
        max_running: override_within(object, "max_running", 1..=LIMIT_MAX),
        weight: override_within(object, "weight", 1..=WEIGHT_MAX),
        shadow: None,
    };
    let shadow = object.nullable("shadow", policies).flatten();
    for name in LACKING {
        object.lacking(name, LACKING_WHY);
    }
    Some(Overrides { shadow, ..overrides })
}

fn policies(item: Item<'_, '_>) -> Option<Policies> {
    let words = Policy::ALL.map(|policy| (policy.name(), policy));
    let listed = item.list(0..=Policy::ALL.len(), |policy| policy.one_of(&words))?;
    Some(listed.into_iter().collect())
}

/// Body of `PATCH /v1/tenants/{id}`.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) name: Change<Name>,
    pub(super) domain: Change<Option<Name>>,
    pub(super) time_zone: Change<Option<Name>>,
    pub(super) region: Change<Option<Name>>,
    pub(super) model: Change<Option<Name>>,
}

impl FromShape for Update {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let name = object.optional("name", |name| name.parsed(Name::parse));
        let domain = object.nullable("domain", |domain| domain.parsed(Name::parse));
        let time_zone = object.nullable("time_zone", zone);
        let region = object.nullable("region", |region| region.parsed(Name::parse));
        let model = object.nullable("model", |model| model.parsed(Name::parse));
        let change = |set: Option<Option<Name>>| set.map_or(Change::Keep, Change::Set);
        Some(Self {
            name: name.map_or(Change::Keep, Change::Set),
            domain: change(domain),
            time_zone: change(time_zone),
            region: change(region),
            model: change(model),
        })
    }
}

/// Body of `PUT /v1/tenants/{id}/plan`.
#[derive(Debug)]
pub(super) struct SetPlan {
    pub(super) plan: Name,
    pub(super) overrides: Option<Overrides>,
}

impl FromShape for SetPlan {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let plan = object.required("plan", |plan| plan.parsed(Name::parse));
        let overrides = object.optional("overrides", |over| over.object(overrides));
        Some(Self { plan: plan?, overrides })
    }
}

/// Body of `PUT /v1/plans/{name}`: what is absent is unlimited, free, or not there.
#[derive(Debug)]
pub struct PutPlan {
    limits: Limits,
    price_micros: u64,
    cached_price_micros: u64,
    features: BTreeSet<Name>,
    trial_days: Option<u32>,
    models: Option<BTreeSet<Name>>,
    default_model: Option<Name>,
}

impl PutPlan {
    /// The plan of a name; its version is for the cluster to say.
    pub fn named(self, name: Name) -> Plan {
        let Self {
            limits,
            price_micros,
            cached_price_micros,
            features,
            trial_days,
            models,
            default_model,
        } = self;
        let version = 0;
        Plan {
            name,
            version,
            limits,
            price_micros,
            cached_price_micros,
            features,
            trial_days,
            models,
            default_model,
        }
    }
}

impl FromShape for PutPlan {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let terms = overrides(object)?;
        let price =
            object.optional("unit_price_micros", |price| price.integer(0..=PRICE_MICROS_MAX));
        let price = price.unwrap_or(0);
        let cached = object.optional("cached_price_micros", |cached| cached.integer(0..=price));
        let features = object.optional("features", |features| {
            features.list(0..=FEATURES_MAX, |feature| feature.parsed(Name::parse))
        });
        let trial_days =
            object.nullable("trial_days", |days| days.integer(0..=TRIAL_DAYS_MAX)).flatten();
        let models = object.nullable("models", |models| {
            models.list(0..=PLAN_MODELS_MAX, |model| model.parsed(Name::parse))
        });
        let default_model = object.nullable("default_model", |model| model.parsed(Name::parse));
        let nothing = Plan { limits: Limits::default(), ..Shipped::Enterprise.plan() };
        Some(Self {
            limits: terms.over(&nothing),
            price_micros: price,
            // One price for all, unless another is named.
            cached_price_micros: cached.unwrap_or(price),
            features: features.unwrap_or_default().into_iter().collect(),
            trial_days,
            models: models.flatten().map(|models| models.into_iter().collect()),
            default_model: default_model.flatten(),
        })
    }
}
