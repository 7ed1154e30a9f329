//! `/v1/models`: models that operators bring, their versions, and which of them serves.

use actors::models::{Key, NotWarm};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::models::{BUILT_IN, Canary, Command, Model, ModelId, PER_MILLE, Target, Version};
use protocol::tenants::Tenant;
use protocol::wire::{List, models as wire};
use protocol::{Name, Reply, nodes};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::{App, Written};
use super::auth::{Idempotency, Operator};
use super::error::{Code, Mistake, Outcome, Problem};
use super::json::{Empty, FromShape, Json, Object};
use super::once::Wish;
use super::openapi::ProblemResponse;
use super::query::{FromSegment, NoQuery, Segments};
use super::tenants::{IfMatch, tagged};

mod upload;

type Named = Result<Segments<(Name,)>, Problem>;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get))
        .routes(routes!(upload::upload))
        .routes(routes!(set_alias))
        .routes(routes!(roll_back))
        .routes(routes!(remove))
}

impl FromSegment for u32 {
    fn from_segment(segment: &str) -> Option<Self> {
        let plain = !segment.starts_with(['+', '0']);
        segment.parse().ok().filter(|_| plain)
    }
}

/// The model of a name; 422 at `pointer` when there is none. The built-in one is `None`.
pub async fn find(app: &App, name: &Name, pointer: &str) -> Result<Option<Model>, Problem> {
    if name.as_str() == BUILT_IN {
        return Ok(None);
    }
    if let Some(model) = app.map()?.models.models.get(name) {
        return Ok(Some(model.clone()));
    }
    // Made through another node a moment ago, perhaps.
    app.sync_map().await?;
    let found = app.map()?.models.models.get(name).cloned();
    let none = || Problem::invalid(pointer, "there is no model of this name");
    found.map(Some).ok_or_else(none)
}

/// The model that a request of a tenant gets: the one that it names, else the tenant's, else the plan's;
/// `None` is the built-in one. An operator who acts for a tenant is no tenant.
pub async fn chosen(
    app: &App,
    tenant: Option<&Tenant>,
    named: Option<&Name>,
) -> Result<Option<ModelId>, Problem> {
    let default = || tenant.and_then(Tenant::default_model);
    let Some(name) = named.or_else(default) else { return Ok(None) };
    let Some(model) = find(app, name, "/model").await? else { return Ok(None) };
    if tenant.is_some_and(|tenant| !tenant.may_use(name)) {
        let detail = format!("the plan does not include model {name}");
        return Err(Problem::new(Code::PlanLimit).detail(detail));
    }
    if model.target.is_none() {
        return Err(Problem::invalid("/model", "no version of the model was chosen yet"));
    }
    Ok(Some(model.id))
}

/// Body of `POST /v1/models`.
#[derive(Debug)]
struct Create {
    name: Name,
}

impl FromShape for Create {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let name = object.required("name", |name| name.parsed(Name::parse));
        Some(Self { name: name? })
    }
}

/// Make a model, without a version yet
#[utoipa::path(post, path = "/v1/models", tag = "models",
    request_body = Object,
    responses((status = 201, description = "The model", body = wire::Model),
        (status = 409, response = ProblemResponse)))]
async fn create(
    State(app): State<App>,
    operator: Operator,
    _: NoQuery,
    once: Idempotency,
    body: Json<Create>,
) -> Result<Response, Problem> {
    let wish = operator.wish(&once, body.marks);
    let name = body.value.name;
    let command = Command::Create { name: name.clone() };
    let (written, model) = change(&app, command, &wish, StatusCode::CREATED).await?;
    let revision = model.revision;
    Ok(tagged(written.respond(StatusCode::CREATED, &shown(&name, &model)), revision))
}

/// The models, by name
#[utoipa::path(get, path = "/v1/models", tag = "models",
    responses((status = 200, description = "All of them but the built-in one",
        body = List<wire::Model>)))]
async fn list(State(app): State<App>, _: Operator, _: NoQuery) -> Result<Response, Problem> {
    app.sync_map().await?;
    let map = app.map()?;
    let rows = map.models.models.iter().map(|(name, model)| shown(name, model)).collect();
    Ok(axum::Json(List::new(rows, None)).into_response())
}

/// One model
#[utoipa::path(get, path = "/v1/models/{name}", tag = "models",
    params(("name" = String, Path, description = "The model")),
    responses((status = 200, description = "The model", body = wire::Model),
        (status = 404, response = ProblemResponse)))]
async fn get(
    State(app): State<App>,
    _: Operator,
    path: Named,
    _: NoQuery,
) -> Result<Response, Problem> {
    let Segments((name,)) = path?;
    let model = known(&app, &name).await?;
    Ok(tagged(axum::Json(shown(&name, &model)).into_response(), model.revision))
}

/// The model of a path.
async fn known(app: &App, name: &Name) -> Result<Model, Problem> {
    app.sync_map().await?;
    app.map()?.models.models.get(name).cloned().ok_or_else(Problem::not_found)
}

/// Body of `PUT /v1/models/{name}/alias`.
#[derive(Debug)]
struct Alias {
    target: Target,
}

impl FromShape for Alias {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let version = object.required("version", |version| version.integer(1..=u32::MAX));
        let canary = object.nullable("canary", |canary| {
            canary.object(|canary| {
                let version = canary.required("version", |version| version.integer(1..=u32::MAX));
                let share = 1..=PER_MILLE as u16 - 1;
                let per_mille = canary.required("per_mille", |share_of| share_of.integer(share));
                Some(Canary { version: version?, per_mille: per_mille? })
            })
        });
        Some(Self { target: Target { version: version?, canary: canary.flatten() } })
    }
}

/// Let a version serve, when it is warm on every node that lives
#[utoipa::path(put, path = "/v1/models/{name}/alias", tag = "models",
    params(("name" = String, Path, description = "The model"),
        ("If-Match" = Option<String>, Header, description = "The revision that is to be changed")),
    request_body = Object,
    responses((status = 200, description = "The model; the version serves", body = wire::Model),
        (status = 404, response = ProblemResponse), (status = 503, response = ProblemResponse)))]
async fn set_alias(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    if_match: IfMatch,
    once: Idempotency,
    body: Json<Alias>,
) -> Result<Response, Problem> {
    let Segments((name,)) = path?;
    let wish = operator.wish(&once, body.marks);
    let target = body.value.target;
    let model = known(&app, &name).await?;
    let pointers = ["/version", "/canary/version"];
    let missing = target.versions().zip(pointers).filter(|(number, _)| !has(&model, *number));
    let mistakes: Vec<Mistake> = missing
        .map(|(number, pointer)| Mistake {
            pointer: pointer.to_owned(),
            detail: format!("there is no version {number}"),
        })
        .collect();
    if !mistakes.is_empty() {
        return Err(Problem::validation(mistakes));
    }
    serve(&app, name, &model, target, if_match.0, &wish).await
}

/// Let the versions serve that served before
#[utoipa::path(post, path = "/v1/models/{name}/rollback", tag = "models",
    params(("name" = String, Path, description = "The model")),
    responses((status = 200, description = "The model; its earlier versions serve",
            body = wire::Model),
        (status = 404, response = ProblemResponse), (status = 409, response = ProblemResponse),
        (status = 503, response = ProblemResponse)))]
async fn roll_back(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let Segments((name,)) = path?;
    let wish = operator.wish(&once, body.marks);
    let model = known(&app, &name).await?;
    let Some(previous) = model.previous else {
        return Err(Problem::new(Code::Conflict).detail("nothing served before"));
    };
    // A repetition must not go back from what the first call went back to.
    let from = once.key().is_none().then_some(model.revision);
    serve(&app, name, &model, previous, from, &wish).await
}

/// Warms the versions everywhere, then commits that they serve: no request meets a cold one.
async fn serve(
    app: &App,
    name: Name,
    model: &Model,
    target: Target,
    if_revision: Option<u64>,
    wish: &Wish,
) -> Result<Response, Problem> {
    let keys: Vec<Key> = target.versions().map(|number| (model.id, number)).collect();
    app.system.models.warm_everywhere(&keys).await.map_err(|error| not_warm(&error))?;
    let command = Command::SetTarget { name: name.clone(), target, if_revision };
    let (written, model) = change(app, command, wish, StatusCode::OK).await?;
    let revision = model.revision;
    Ok(tagged(written.respond(StatusCode::OK, &shown(&name, &model)), revision))
}

fn not_warm(error: &NotWarm) -> Problem {
    Problem::new(Code::NotReady).detail(error.to_string()).outcome(Outcome::NotApplied)
}

/// Remove a version that does not serve
#[utoipa::path(delete, path = "/v1/models/{name}/versions/{version}", tag = "models",
    params(("name" = String, Path, description = "The model"),
        ("version" = u32, Path, description = "The number of the version")),
    responses((status = 200, description = "It is gone", body = wire::VersionDeleted),
        (status = 404, response = ProblemResponse), (status = 409, response = ProblemResponse)))]
async fn remove(
    State(app): State<App>,
    operator: Operator,
    path: Result<Segments<(Name, u32)>, Problem>,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let Segments((name, version)) = path?;
    let wish = operator.wish(&once, body.marks);
    let command = Command::RemoveVersion { name, version };
    let (written, _) = change(&app, command, &wish, StatusCode::OK).await?;
    Ok(written.respond(StatusCode::OK, &wire::VersionDeleted { version, deleted: true }))
}

async fn change(
    app: &App,
    command: Command,
    wish: &Wish,
    status: StatusCode,
) -> Result<(Written, Model), Problem> {
    let command = nodes::Command::Model(command);
    let written = app.propose_meta(command, wish, None, status).await?;
    let Reply::Model(model) = written.reply.clone() else {
        return Err(Problem::new(Code::Internal));
    };
    Ok((written, *model))
}

fn has(model: &Model, version: u32) -> bool {
    model.versions.contains_key(&version)
}

fn shown(name: &Name, model: &Model) -> wire::Model {
    wire::Model {
        name: name.to_string(),
        versions: model
            .versions
            .iter()
            .map(|(&number, version)| version_shown(number, version))
            .collect(),
        alias: model.target.map(alias_shown),
        previous: model.previous.map(alias_shown),
        revision: model.revision,
        created_at: model.created_at.to_string(),
    }
}

fn version_shown(number: u32, version: &Version) -> wire::Version {
    wire::Version {
        version: number,
        sha256: version.artefact.sha256.to_string(),
        bytes: version.artefact.bytes,
        task: version.task.name().to_owned(),
        precision: version.precision.to_string(),
        batch_dependent: version.batch_dependent,
        labels: version.labels.iter().map(Name::to_string).collect(),
        added_at: version.added_at.to_string(),
    }
}

fn alias_shown(target: Target) -> wire::Alias {
    let canary =
        target.canary.map(|Canary { version, per_mille }| wire::Canary { version, per_mille });
    wire::Alias { version: target.version, canary }
}
