//! `/v1/tenants`, for operators.

use axum::extract::State;
use axum::http::header::ETAG;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::audit::Call;
use protocol::keys::{ApiKey, KeyOverrides, NewKey, RANDOM_BYTES, Scopes};
use protocol::peer::{Answer, Ask};
use protocol::plans::{Limits, Override, Overrides};
use protocol::tenants::{Change, Command, NewTenant, Status, Tenant};
use protocol::versions::Wire;
use protocol::wire::{List, tenants as wire};
use protocol::{GroupId, Name, Reply, TenantId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::{App, Told, Untold};
use super::auth::{Idempotency, Operator};
use super::error::{Code, Problem};
use super::headers;
use super::json::{Empty, Json, Marks};
use super::models;
use super::once::Wish;
use super::openapi::ProblemResponse;
use super::plans;
use super::query::{NoQuery, Order, Page, Query, Segments};

const LIST: &str = "/v1/tenants";
pub mod shape;

use shape::{Create, SetPlan, Update};

type Named = Result<Segments<(TenantId,)>, Problem>;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get, update, delete))
        .routes(routes!(suspend))
        .routes(routes!(resume))
        .routes(routes!(set_plan))
}

/// Make a tenant and its first key
#[utoipa::path(post, path = LIST, tag = "tenants",
    request_body = Object,
    responses((status = 201, description = "The tenant, with its key", body = wire::NewTenant)))]
async fn create(
    State(app): State<App>,
    operator: Operator,
    _: NoQuery,
    once: Idempotency,
    body: Json<Create>,
) -> Result<Response, Problem> {
    let wish = operator.wish(&once, body.marks);
    let tenant = new_tenant_id(&app, &wish)?;
    let api_key = ApiKey::new(tenant, rand::random::<[u8; RANDOM_BYTES]>());
    let Create { name, plan, overrides, domain, time_zone, region } = body.value;
    check_overrides(&app, &overrides)?;
    let plan = plans::find(&app, &plan).await?;
    let first = Name::parse("default").map_err(|_| Problem::new(Code::Internal))?;
    let key = NewKey {
        name: first,
        digest: app.digest("key", &[api_key.text().as_bytes()])?,
        prefix: api_key.prefix(),
        scopes: Scopes::all(),
        overrides: KeyOverrides::default(),
        expires_at: None,
    };
    let new = NewTenant { name, plan, overrides, domain, time_zone, region, key };
    let command = protocol::Command::Tenant(tenant, Command::Create(Box::new(new)));
    let secret = Some(api_key.text());
    let told = app.propose(tenant, command, &wish, secret, StatusCode::CREATED).await?;
    let written = told.written()?;
    let Reply::TenantCreated(tenant, key) = written.reply.clone() else {
        return Err(Problem::new(Code::Internal));
    };
    let api_key = match &written.replayed {
        Some(Some(sealed)) => app.unseal(&wish, sealed)?,
        Some(None) | None => api_key.text().to_owned(),
    };
    let status = tenant.status(tenant.created_at);
    let body = wire::NewTenant {
        tenant: shown(&tenant, status, written.group),
        api_key,
        key_id: key.id.0,
        key_prefix: key.prefix.clone(),
    };
    Ok(written.respond(StatusCode::CREATED, &body))
}

/// What limits say that were added later is for clusters of which every node can read it.
pub fn check_terms(app: &App, said: [bool; 2]) -> Result<(), Problem> {
    if said.contains(&true) { app.check_spoken(Wire::JOB_LIFE) } else { Ok(()) }
}

fn check_overrides(app: &App, overrides: &Overrides) -> Result<(), Problem> {
    let said = [overrides.max_running, overrides.weight].map(|over| over != Override::Plan);
    check_terms(app, said)
}

/// A new id. With an Idempotency-Key its random half follows from the key, so that a repeated call
/// reaches the shard where the first answer is kept.
fn new_tenant_id(app: &App, wish: &Wish) -> Result<TenantId, Problem> {
    let id = uuid::Uuid::now_v7().as_u128();
    let Some(key) = &wish.key else { return Ok(TenantId(id)) };
    const RANDOM: u128 = 0x3fff_ffff_ffff_ffff;
    let digest = app.digest("tenant", &[key.as_bytes()])?.0;
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Ok(TenantId(id & !RANDOM | u128::from_be_bytes(bytes) & RANDOM))
}

/// Tenants, in the order they were made
#[utoipa::path(get, path = LIST, tag = "tenants",
    params(("limit" = Option<u32>, Query, description = "1..=1000"),
        ("cursor" = Option<String>, Query, description = "From `next_cursor`"),
        ("order" = Option<String>, Query, description = "asc or desc")),
    responses((status = 200, description = "A page", body = List<wire::Tenant>)))]
async fn list(
    State(app): State<App>,
    _: Operator,
    Query(page): Query<Page>,
) -> Result<Response, Problem> {
    let cursors = app.cursors()?;
    let after = page.after(&cursors, "operator", LIST)?;
    let after = after.and_then(|bytes| bytes.try_into().ok()).map(u128::from_be_bytes);
    let mut rows: Vec<(Tenant, Status, GroupId)> = Vec::new();
    let map = app.map()?;
    let limit = page.limit as u32 + 1;
    let ascending = page.order == Order::Ascending;
    for (group, _) in map.shards() {
        let ask = Ask::Tenants { after: after.map(TenantId), limit, ascending };
        let told = app.ask_group(group, ask).await?;
        let Answer::Tenants(tenants) = told.answer else {
            return Err(Problem::new(Code::Internal));
        };
        rows.extend(tenants.into_iter().map(|(tenant, status)| (tenant, status, group)));
    }
    rows.sort_by_key(|(tenant, ..)| tenant.id);
    if !ascending {
        rows.reverse();
    }
    let more = rows.len() > page.limit;
    rows.truncate(page.limit);
    let next = rows
        .last()
        .filter(|_| more)
        .map(|(tenant, ..)| page.next(&cursors, "operator", LIST, &tenant.id.0.to_be_bytes()));
    let data = rows.iter().map(|(tenant, status, group)| shown(tenant, *status, *group)).collect();
    Ok(axum::Json(List::new(data, next)).into_response())
}

/// One tenant
#[utoipa::path(get, path = "/v1/tenants/{id}", tag = "tenants",
    params(("id" = String, Path, description = "The tenant")),
    responses((status = 200, description = "The tenant", body = wire::Tenant),
        (status = 404, response = ProblemResponse)))]
async fn get(
    State(app): State<App>,
    _: Operator,
    path: Named,
    _: NoQuery,
) -> Result<Response, Problem> {
    let Segments((tenant,)) = path?;
    let told = app.ask(tenant, Ask::Tenant(tenant)).await?;
    let mut version = 0;
    let response = told.render(|answer, group| {
        let Answer::Tenant(tenant, status) = answer else { return None };
        version = tenant.version;
        Some(shown(&tenant, status, group))
    })?;
    Ok(tagged(response, version))
}

/// With the version as `ETag`, for `If-Match`.
pub fn tagged(mut response: Response, version: u64) -> Response {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// Change a tenant
#[utoipa::path(patch, path = "/v1/tenants/{id}", tag = "tenants",
    params(("id" = String, Path, description = "The tenant"),
        ("If-Match" = Option<String>, Header, description = "The version that is to be changed")),
    request_body = Object,
    responses((status = 200, description = "The tenant as it is now", body = wire::Tenant)))]
async fn update(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    if_match: IfMatch,
    once: Idempotency,
    body: Json<Update>,
) -> Result<Response, Problem> {
    let wish = operator.wish(&once, body.marks);
    let Update { name, domain, time_zone, region, model } = body.value;
    if let Change::Set(Some(model)) = &model {
        models::find(&app, model, "/model").await?;
    }
    let if_version = if_match.0;
    let command = Command::Update { name, domain, time_zone, region, model, if_version };
    change(&app, path, command, &wish).await
}

/// Put a tenant on a plan
#[utoipa::path(put, path = "/v1/tenants/{id}/plan", tag = "tenants",
    params(("id" = String, Path, description = "The tenant")),
    request_body = Object,
    responses((status = 200, description = "The tenant as it is now", body = wire::Tenant)))]
async fn set_plan(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<SetPlan>,
) -> Result<Response, Problem> {
    let wish = operator.wish(&once, body.marks);
    let SetPlan { plan, overrides } = body.value;
    check_overrides(&app, &overrides.unwrap_or_default())?;
    let plan = Box::new(plans::find(&app, &plan).await?);
    change(&app, path, Command::SetPlan { plan, overrides }, &wish).await
}

/// Refuse a tenant's keys until it is resumed
#[utoipa::path(post, path = "/v1/tenants/{id}/suspend", tag = "tenants",
    params(("id" = String, Path, description = "The tenant")),
    responses((status = 200, description = "The tenant as it is now", body = wire::Tenant)))]
async fn suspend(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let wish = operator.wish(&once, body.marks);
    change(&app, path, Command::Suspend, &wish).await
}

/// Let a suspended tenant work again
#[utoipa::path(post, path = "/v1/tenants/{id}/resume", tag = "tenants",
    params(("id" = String, Path, description = "The tenant")),
    responses((status = 200, description = "The tenant as it is now", body = wire::Tenant)))]
async fn resume(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let wish = operator.wish(&once, body.marks);
    change(&app, path, Command::Resume, &wish).await
}

async fn change(
    app: &App,
    path: Named,
    command: Command,
    wish: &Wish,
) -> Result<Response, Problem> {
    let Segments((tenant,)) = path?;
    let command = protocol::Command::Tenant(tenant, command);
    let written = app.propose(tenant, command, wish, None, StatusCode::OK).await?.written()?;
    let Reply::Tenant(tenant) = written.reply.clone() else {
        return Err(Problem::new(Code::Internal));
    };
    let status = tenant.status(tenant.updated_at);
    let body = shown(&tenant, status, written.group);
    Ok(tagged(written.respond(StatusCode::OK, &body), tenant.version))
}

/// Delete a tenant with its keys and jobs
#[utoipa::path(delete, path = "/v1/tenants/{id}", tag = "tenants",
    params(("id" = String, Path, description = "The tenant")),
    responses((status = 200, description = "It is gone", body = wire::Deleted)))]
async fn delete(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    once: Idempotency,
) -> Result<Response, Problem> {
    let wish = operator.wish(&once, Marks::of_nothing());
    let Segments((tenant,)) = path?;
    let command = protocol::Command::Tenant(tenant, Command::Delete);
    let told = app.propose(tenant, command, &wish, None, StatusCode::OK).await;
    let written = told.and_then(Told::written).map_err(Problem::untold)?;
    let repeated = written.replayed.is_some();
    let body = wire::Deleted { id: tenant.to_string(), deleted: true };
    let mut response = written.respond(StatusCode::OK, &body);
    // The tenant's own audit is gone with it: the first time, this is told before it is answered.
    if let Some(auditor) = app.edge.auditor.as_ref().filter(|_| !repeated) {
        let (note, code) = (wish.note().clone(), "ok".to_owned());
        auditor.tell(TenantId::CLUSTER, Call { note, code, replayed: false, count: 1 }).await;
        response.extensions_mut().remove::<Untold>();
    }
    Ok(response)
}

/// `If-Match: "<version>"`.
#[derive(Debug)]
pub struct IfMatch(pub Option<u64>);

impl<S: Sync> axum::extract::FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &S,
    ) -> Result<Self, Problem> {
        let name = axum::http::header::IF_MATCH;
        let Some(text) = headers::single(&parts.headers, &name)? else { return Ok(Self(None)) };
        if text == "*" {
            return Ok(Self(None));
        }
        let version = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let version = version.and_then(|version| version.parse().ok());
        version.map(|version| Self(Some(version))).ok_or_else(|| {
            headers::mistake(&name, "must be the entity tag of a version, like \"3\"")
        })
    }
}

/// A tenant as the API shows it.
pub fn shown(tenant: &Tenant, status: Status, group: GroupId) -> wire::Tenant {
    wire::Tenant {
        id: tenant.id.to_string(),
        name: tenant.name.to_string(),
        plan: tenant.plan.name().to_owned(),
        status: status.name().to_owned(),
        limits: limits(&tenant.limits()),
        domain: tenant.domain.as_ref().map(Name::to_string),
        time_zone: tenant.time_zone.as_ref().map(Name::to_string),
        model: tenant.model.as_ref().map(Name::to_string),
        region: tenant.region.as_ref().map(Name::to_string),
        trial_ends_at: tenant.trial_ends_at.map(|at| at.to_string()),
        created_at: tenant.created_at.to_string(),
        updated_at: tenant.updated_at.to_string(),
        version: tenant.version,
        shard: group.0,
    }
}

/// Limits as the API shows them.
pub fn limits(limits: &Limits) -> wire::Limits {
    let Limits { rate, burst, key_rate, key_burst, per_minute, per_day, per_month, .. } = *limits;
    let Limits { concurrency, budget, max_documents, max_bytes, max_backlog, .. } = *limits;
    let Limits { max_running, weight, shadow, .. } = *limits;
    wire::Limits {
        rate,
        burst,
        key_rate,
        key_burst,
        per_minute,
        per_day,
        per_month,
        concurrency,
        budget,
        max_documents,
        max_bytes,
        max_backlog,
        max_running,
        weight,
        shadow: shadow.iter().map(|policy| policy.name().to_owned()).collect(),
    }
}
