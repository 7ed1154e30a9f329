//! Tenants: who pays, on which plan, in which state.

use serde::{Deserialize, Serialize};

use crate::keys::NewKey;
use crate::plans::{Limits, Overrides, Plan};
use crate::{Name, TenantId, Time};

/// A tenant as its shard keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub id: TenantId,
    pub name: Name,
    pub plan: Plan,
    pub overrides: Overrides,
    pub domain: Option<Name>,
    /// IANA name of the zone whose days and months count; UTC without one.
    pub time_zone: Option<Name>,
    pub region: Option<Name>,
    /// What its requests without a model get, before what its plan says. It may name this one
    /// whatever the plan allows.
    pub model: Option<Name>,
    pub suspended: bool,
    pub created_at: Time,
    pub updated_at: Time,
    /// End of the trial; `None` on a paid plan.
    pub trial_ends_at: Option<Time>,
    /// Counts changes from 1; the entity tag.
    pub version: u64,
}

/// What a tenant's keys may do at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Trial,
    Active,
    Suspended,
    /// The trial is over and no plan was bought.
    Expired,
}

impl Tenant {
    /// The state at `now`, which is shard time.
    #[must_use]
    pub fn status(&self, now: Time) -> Status {
        match self.trial_ends_at {
            _ if self.suspended => Status::Suspended,
            Some(end) if now >= end => Status::Expired,
            Some(_) => Status::Trial,
            None => Status::Active,
        }
    }

    /// Its share of the nodes' time beside other tenants.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.overrides.weight.over(None).unwrap_or_else(|| self.plan.weight())
    }

    /// What its requests get that name no model; `None` is the built-in one.
    #[must_use]
    pub fn default_model(&self) -> Option<&Name> {
        self.model.as_ref().or(self.plan.default_model.as_ref())
    }

    /// Whether its requests may name a model.
    #[must_use]
    pub fn may_use(&self, model: &Name) -> bool {
        self.model.as_ref() == Some(model) || self.plan.may_use(model)
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.overrides.over(&self.plan)
    }
}

impl Status {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
        }
    }
}

/// A field of a partial update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change<T> {
    #[default]
    Keep,
    Set(T),
}

impl<T> Change<T> {
    /// Puts the new value in place, if there is one.
    pub fn apply(self, place: &mut T) {
        if let Self::Set(value) = self {
            *place = value;
        }
    }
}

/// A tenant that is to be made, with its first key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTenant {
    pub name: Name,
    pub plan: Plan,
    pub overrides: Overrides,
    pub domain: Option<Name>,
    pub time_zone: Option<Name>,
    pub region: Option<Name>,
    pub key: NewKey,
}

/// What an operator asks of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Makes the tenant and its first key in one step.
    Create(Box<NewTenant>),
    Update {
        name: Change<Name>,
        domain: Change<Option<Name>>,
        time_zone: Change<Option<Name>>,
        region: Change<Option<Name>>,
        model: Change<Option<Name>>,
        if_version: Option<u64>,
    },
    SetPlan {
        plan: Box<Plan>,
        overrides: Option<Overrides>,
    },
    Suspend,
    Resume,
    /// The tenant, its keys and its jobs are gone.
    Delete,
}
