//! `/v1/limits`: spend, see and explain; and the headers that tell what is left.

use std::sync::Arc;

use actors::grants::{Admitted, Pass, Spent, Tight};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::limits::{Command, Policies, Policy};
use protocol::peer::{Answer, Ask, LimitState, LimitsView};
use protocol::wire::{List, limits as wire, tenants as tenants_wire};
use protocol::{Reply, Time};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::{App, refused, unanswered};
use super::auth::{self, Caller, Idempotency, WORK};
use super::error::{Code, Problem};
use super::json::{FromShape, Json, Object};
use super::query::NoQuery;

/// What limits there are (draft-ietf-httpapi-ratelimit-headers-10, section 3).
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What is left of the limit that refuses first (section 4).
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The same as GitHub and those after it tell it: the limit, what is left of it, and when it is whole
/// again, in seconds since 1970.
const OLDER: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// Units of one check.
const UNITS_MAX: u64 = 1_000_000;
/// Passes that are got anew when their owner calls them back under a request.
const AGAIN_MAX: u32 = 4;
/// Routes that spend, with what one unit of them is.
const SPENDING: [(&str, bool); 4] =
    [("/v1/limits/check", false), ("/v1/scan", true), ("/v1/analyze", true), ("/v1/jobs", true)];

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(check)).routes(routes!(list)).routes(routes!(explain))
}

/// Body of `POST /v1/limits/check`.
#[derive(Debug)]
struct Check {
    units: u64,
    policy: Option<Policy>,
}

impl FromShape for Check {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let units = object.optional("units", |units| units.integer(1..=UNITS_MAX));
        let words =
            [Policy::Rate, Policy::KeyRate, Policy::PerMinute, Policy::PerDay, Policy::PerMonth];
        let words = words.map(|policy| (policy.name(), policy));
        let policy = object.optional("policy", |policy| policy.one_of(&words));
        Some(Self { units: units.unwrap_or(1), policy })
    }
}

/// Body of `POST /v1/limits/explain`.
#[derive(Debug)]
struct Explain {
    route: &'static str,
    counts_units: bool,
    units: u64,
}

impl FromShape for Explain {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let words = SPENDING.map(|(route, counts)| (route, (route, counts)));
        let route = object.required("route", |route| route.one_of(&words));
        let units = object.optional("units", |units| units.integer(1..=UNITS_MAX));
        let (route, counts_units) = route?;
        Some(Self { route, counts_units, units: units.unwrap_or(1) })
    }
}

/// Spend units, or hear why not
#[utoipa::path(post, path = "/v1/limits/check", tag = "limits",
    request_body = Object,
    responses((status = 200, description = "They were spent", body = wire::Checked)))]
async fn check(
    State(app): State<App>,
    caller: Caller<WORK>,
    _: NoQuery,
    headers: HeaderMap,
    once: Idempotency,
    body: Json<Check>,
) -> Result<Response, Problem> {
    let Check { units, policy } = body.value;
    let Some(pass) = caller.key.clone() else { return Err(no_key()) };
    possible(&pass, units, policy)?;
    if once.key().is_none() && policy.is_none() {
        return warm(&app, pass, units, &headers).await;
    }
    let wish = caller.wish(&once, body.marks);
    let command = Command::Check { key: pass.key, units, policy };
    let command = protocol::Command::Limits(caller.tenant, command);
    let told = app.propose(caller.tenant, command, &wish, None, StatusCode::OK).await?;
    let written = told.written()?;
    let Reply::Limits(view) = written.reply.clone() else {
        return Err(Problem::new(Code::Internal));
    };
    let body = checked(&view, policy);
    let mut response = written.respond(StatusCode::OK, &body);
    announce(response.headers_mut(), &view);
    Ok(response)
}

/// Out of what this node holds, else by the owner.
async fn warm(
    app: &App,
    mut pass: Arc<Pass>,
    units: u64,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    for _ in 0..AGAIN_MAX {
        match app.system.grants.spend(&pass, units).await {
            Spent::Here(admitted) => return Ok(here(&pass, &admitted)),
            Spent::Owner(view) => {
                let mut response = axum::Json(checked(&view, None)).into_response();
                announce(response.headers_mut(), &view);
                return Ok(response);
            }
            Spent::Refused(refusal) => return Err(refused(*refusal)),
            Spent::Unanswered(error) => return Err(unanswered(&error)),
            Spent::Over => pass = auth::again(app, headers).await?,
        }
    }
    Err(Problem::new(Code::Overloaded))
}

fn here(pass: &Pass, admitted: &Admitted) -> Response {
    let body = said(admitted.tight, None);
    let mut response = axum::Json(body).into_response();
    if let Some(tight) = &admitted.tight {
        Tightest::from(*tight).insert(response.headers_mut(), pass.policies());
    }
    if let Some(owner) = admitted.owner {
        let served = super::headers::Served { owner: Some(owner.to_string()), index: None };
        response.extensions_mut().insert(served);
    }
    response
}

fn checked(view: &LimitsView, policy: Option<Policy>) -> wire::Checked {
    let policies =
        policy.map_or_else(Policies::of_requests, |policy| [policy].into_iter().collect());
    said(view.tightest(policies).map(Tight::from), policy)
}

fn said(tight: Option<Tight>, policy: Option<Policy>) -> wire::Checked {
    wire::Checked {
        allowed: true,
        policy: tight.map(|state| state.policy).or(policy).map(|policy| policy.name().to_owned()),
        limit: tight.map(|state| state.limit),
        remaining: tight.map(|state| state.remaining),
        reset_s: tight.map_or(0, |tight| reset_s(tight.reset_ms)),
    }
}

fn no_key() -> Problem {
    Problem::malformed("an operator has no limits to spend; use a key of the tenant")
}

/// 422 for units that no waiting would bring.
fn possible(pass: &Pass, units: u64, policy: Option<Policy>) -> Result<(), Problem> {
    let concerned = |state: &&LimitState| {
        let asked = match policy {
            Some(policy) => state.policy == policy,
            None => Policies::of_requests().has(state.policy),
        };
        asked && !state.shadow
    };
    for state in pass.limits().iter().filter(concerned) {
        if units > most(state) {
            let detail = format!("{} never has room for more than {}", state.policy, most(state));
            return Err(Problem::invalid("/units", detail));
        }
    }
    Ok(())
}

/// The limits and what is left
#[utoipa::path(get, path = "/v1/limits", tag = "limits",
    responses((status = 200, description = "Every limit in force", body = List<wire::Limit>)))]
async fn list(
    State(app): State<App>,
    caller: Caller<WORK>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let key = caller.key.as_ref().map(|pass| pass.key);
    let told = app.ask(caller.tenant, Ask::Limits { tenant: caller.tenant, key }).await?;
    told.render(|answer, _| {
        let Answer::Limits(view) = answer else { return None };
        let rows = view.states.iter().map(|state| shown(state, view.at)).collect();
        Some(List::new(rows, None))
    })
}

/// Which limits a request would meet, and what they would say
#[utoipa::path(post, path = "/v1/limits/explain", tag = "limits",
    request_body = Object,
    responses((status = 200, description = "Every rule, and why", body = wire::Explained)))]
async fn explain(
    State(app): State<App>,
    caller: Caller<WORK>,
    _: NoQuery,
    _: Idempotency,
    body: Json<Explain>,
) -> Result<Response, Problem> {
    let Explain { route, counts_units, units } = body.value;
    let key = caller.key.as_ref().map(|pass| pass.key);
    let price = caller.key.as_ref().map_or(0, |pass| pass.tenant.plan.unit_price_micros());
    let told = app.ask(caller.tenant, Ask::Limits { tenant: caller.tenant, key }).await?;
    told.render(|answer, _| {
        let Answer::Limits(view) = answer else { return None };
        let takes = |policy| match policy {
            Policy::Rate | Policy::KeyRate | Policy::PerMinute | Policy::PerDay => {
                if counts_units {
                    1
                } else {
                    units
                }
            }
            Policy::Concurrency => u64::from(counts_units),
            Policy::PerMonth if counts_units => units,
            Policy::Budget if counts_units => (units * price).div_ceil(10_000),
            Policy::PerMonth | Policy::Budget => 0,
        };
        let states = view.states.iter().filter(|state| takes(state.policy) > 0);
        let rules: Vec<_> = states.map(|state| rule(state, takes(state.policy), view.at)).collect();
        let allowed = rules.iter().all(|rule| rule.allows);
        Some(wire::Explained { route: route.to_owned(), units, allowed, rules })
    })
}

fn rule(state: &LimitState, takes: u64, at: Time) -> wire::Rule {
    let has_room = takes <= state.remaining;
    let room = format!("{} of {} are left and {takes} are taken", state.remaining, most(state));
    let why = match (has_room, state.shadow) {
        (true, _) => room,
        (false, true) => format!("{room}; it is in shadow mode and refuses nothing"),
        (false, false) => room,
    };
    wire::Rule { limit: shown(state, at), takes, allows: has_room || state.shadow, why }
}

fn most(state: &LimitState) -> u64 {
    state.burst.unwrap_or(state.limit)
}

fn shown(state: &LimitState, at: Time) -> wire::Limit {
    wire::Limit {
        policy: state.policy.name().to_owned(),
        scope: state.scope.name().to_owned(),
        limit: state.limit,
        burst: state.burst,
        window_s: state.window_s,
        used: state.used,
        reserved: state.reserved,
        remaining: state.remaining,
        reset_at: at.plus_ms(state.reset_ms.min(NEVER_MS)).to_string(),
        shadow: state.shadow,
    }
}

/// A rate of nothing never refills; a time in a thousand years says so, and is a number that every
/// client can read.
const NEVER_MS: u64 = 1_000 * 365 * 86_400_000;

/// Seconds until nothing is used any more, as answers have them.
pub fn reset_s(reset_ms: u64) -> u64 {
    reset_ms.min(NEVER_MS).div_ceil(1000)
}

/// A limit as `/v1/me` shows it.
pub fn left(state: &LimitState) -> tenants_wire::LimitState {
    tenants_wire::LimitState {
        policy: state.policy.name().to_owned(),
        scope: state.scope.name().to_owned(),
        limit: Some(state.limit),
        remaining: Some(state.remaining),
    }
}

/// Writes the headers of a counted request.
pub fn announce(headers: &mut HeaderMap, view: &LimitsView) {
    let Some(tight) = view.tightest(Policy::ALL.into_iter().collect()) else { return };
    Tightest::from(Tight::from(tight)).insert(headers, &wire::policy_field(&view.states));
}

/// The limit that refuses first, as headers tell it.
#[derive(Debug, Clone, Copy)]
pub struct Tightest<'a> {
    /// Its name, e.g. `per_month`.
    pub policy: &'a str,
    /// The limit itself.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Seconds until it is whole again.
    pub reset_s: u64,
}

impl From<Tight> for Tightest<'_> {
    fn from(tight: Tight) -> Self {
        let Tight { policy, limit, remaining, reset_ms } = tight;
        Self { policy: policy.name(), limit, remaining, reset_s: reset_s(reset_ms) }
    }
}

impl Tightest<'_> {
    /// Writes the headers.
    pub fn insert(&self, headers: &mut HeaderMap, policies: &str) {
        let Self { policy, limit, remaining, reset_s } = *self;
        let state = format!("\"{policy}\";r={remaining};t={reset_s}");
        // Names and numbers: neither can fail to be a header.
        if let (Ok(policies), Ok(state)) =
            (HeaderValue::from_str(policies), HeaderValue::from_str(&state))
        {
            headers.insert(RATELIMIT_POLICY, policies);
            headers.insert(RATELIMIT, state);
        }
        let reset_at = actors::clock::wall().0 / 1000 + reset_s;
        for (name, value) in OLDER.into_iter().zip([limit, remaining, reset_at]) {
            headers.insert(name, HeaderValue::from(value));
        }
    }
}
