//! `/v1/plans`, for operators.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::nodes;
use protocol::peer::Ask;
use protocol::plans::Plan;
use protocol::wire::{List, plans as wire};
use protocol::{Name, Reply};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::App;
use super::auth::{Idempotency, Operator};
use super::error::{Code, Outcome, Problem};
use super::json::Json;
use super::openapi::ProblemResponse;
use super::query::{NoQuery, Segments};
use super::tenants::shape::PutPlan;
use super::tenants::{IfMatch, check_terms, limits, tagged};

type Named = Result<Segments<(Name,)>, Problem>;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, put))
}

/// The plan of a name, for a body that names it; 422 when there is none.
pub async fn find(app: &App, name: &Name) -> Result<Plan, Problem> {
    if let Some(plan) = app.map()?.plans.get(name) {
        return Ok(plan.clone());
    }
    // Made through another node a moment ago, perhaps.
    app.sync_map().await?;
    let found = app.map()?.plans.get(name).cloned();
    found.ok_or_else(|| Problem::invalid("/plan", "there is no plan of this name"))
}

/// The plans, by name
#[utoipa::path(get, path = "/v1/plans", tag = "plans",
    responses((status = 200, description = "All of them", body = List<wire::Plan>)))]
async fn list(State(app): State<App>, _: Operator, _: NoQuery) -> Result<Response, Problem> {
    app.sync_map().await?;
    let rows = app.map()?.plans.values().map(shown).collect();
    Ok(axum::Json(List::new(rows, None)).into_response())
}

/// One plan
#[utoipa::path(get, path = "/v1/plans/{name}", tag = "plans",
    params(("name" = String, Path, description = "The plan")),
    responses((status = 200, description = "The plan", body = wire::Plan),
        (status = 404, response = ProblemResponse)))]
async fn get(
    State(app): State<App>,
    _: Operator,
    path: Named,
    _: NoQuery,
) -> Result<Response, Problem> {
    let Segments((name,)) = path?;
    app.sync_map().await?;
    let plan = app.map()?.plans.get(&name).cloned().ok_or_else(Problem::not_found)?;
    Ok(tagged(axum::Json(shown(&plan)).into_response(), plan.version))
}

/// Make or replace a plan; its tenants are on the new version when this is answered
#[utoipa::path(put, path = "/v1/plans/{name}", tag = "plans",
    params(("name" = String, Path, description = "The plan"),
        ("If-Match" = Option<String>, Header, description = "The version that is to be replaced")),
    request_body = Object,
    responses((status = 200, description = "The plan as it is now", body = wire::Plan)))]
async fn put(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    if_match: IfMatch,
    once: Idempotency,
    body: Json<PutPlan>,
) -> Result<Response, Problem> {
    let Segments((name,)) = path?;
    let plan = Box::new(body.value.named(name));
    check_terms(&app, [plan.limits.max_running, plan.limits.weight].map(|limit| limit.is_some()))?;
    let command = nodes::Command::SetPlan { plan, if_version: if_match.0 };
    let wish = operator.wish(&once, body.marks);
    let written = app.propose_meta(command, &wish, None, StatusCode::OK).await?;
    let Reply::Plan(plan) = written.reply.clone() else {
        return Err(Problem::new(Code::Internal));
    };
    // It is committed: owners that were not reached come to it by themselves.
    adopt(&app, &plan).await.map_err(|problem| problem.outcome(Outcome::Unknown))?;
    Ok(tagged(written.respond(StatusCode::OK, &shown(&plan)), plan.version))
}

/// Every shard puts its tenants on the plan, and calls back what nodes knew of them. Should this break
/// off, the owners of the shards come to it by themselves.
async fn adopt(app: &App, plan: &Plan) -> Result<(), Problem> {
    let map = app.map()?;
    let shards: Vec<_> = map.shards().map(|(shard, _)| shard).collect();
    let adopted = shards.into_iter().map(|shard| {
        let command = protocol::Command::Plan(Box::new(plan.clone()));
        app.ask_group(shard, Ask::propose(Box::new(command)))
    });
    for adopted in futures::future::join_all(adopted).await {
        adopted?.written()?;
    }
    Ok(())
}

fn shown(plan: &Plan) -> wire::Plan {
    wire::Plan {
        name: plan.name.to_string(),
        limits: limits(&plan.limits),
        unit_price_micros: plan.price_micros,
        cached_price_micros: plan.cached_price_micros(),
        features: plan.features.iter().map(Name::to_string).collect(),
        trial_days: plan.trial_days,
        models: plan.models.as_ref().map(|models| models.iter().map(Name::to_string).collect()),
        default_model: plan.default_model.as_ref().map(Name::to_string),
        version: plan.version,
    }
}
