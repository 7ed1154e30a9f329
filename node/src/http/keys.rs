//! `/v1/keys` and `/v1/me`, in our form and in that of the published client.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::keys::{ApiKey, Command, Key, KeyOverrides, NewKey, RANDOM_BYTES, Scope, Scopes};
use protocol::peer::{Answer, Ask};
use protocol::usage::{Period, Report};
use protocol::wire::{List, keys as wire, tenants as tenants_wire};
use protocol::{KeyId, Name, Refusal, Reply, Time};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::App;
use super::auth::{ANY, Caller, Idempotency, KEYS_READ, KEYS_WRITE, USAGE_READ};
use super::error::{Code, Problem};
use super::json::{Empty, FromShape, Json, Marks, Object};
use super::limits;
use super::once::Wish;
use super::openapi::ProblemResponse;
use super::query::{FromQuery, NoQuery, Order, Page, Parameters, Query, Segments};
use super::tenants;
use super::tenants::shape::one_override;

const LIST: &str = "/v1/keys";
/// An old key works beside its successor for a day at most.
const OVERLAP_S_MAX: u64 = 86_400;
/// Limits that an override of one key cannot set.
const OF_THE_TENANT: [&str; 10] = [
    "rate",
    "burst",
    "per_month",
    "concurrency",
    "budget",
    "max_documents",
    "max_bytes",
    "max_backlog",
    "max_running",
    "weight",
];

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(me))
        .routes(routes!(create, list))
        .routes(routes!(create_named))
        .routes(routes!(list_bare))
        .routes(routes!(usage))
        .routes(routes!(get, revoke))
        .routes(routes!(rotate))
}

/// Body of `POST /v1/keys`.
#[derive(Debug)]
struct Create {
    name: Name,
    scopes: Option<Scopes>,
    overrides: KeyOverrides,
    expires_at: Option<Time>,
}

impl FromShape for Create {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let name = object.required("name", |name| name.parsed(Name::parse));
        let words = Scope::ALL.map(|scope| (scope.name(), scope));
        let scopes = object.optional("scopes", |scopes| {
            scopes.list(1..=Scope::ALL.len(), |scope| scope.one_of(&words))
        });
        let expires_at = object.optional("expires_at", |at| at.parsed(future));
        object.lacking("ip_allow", "address lists are not part of this build");
        let overrides = object.optional("overrides", |over| over.object(key_overrides));
        let scopes = scopes.map(|scopes| scopes.into_iter().collect());
        let overrides = overrides.unwrap_or_default();
        Some(Self { name: name?, scopes, overrides, expires_at })
    }
}

/// A time to come, in RFC 3339.
fn future(text: &str) -> Result<Time, &'static str> {
    let at: jiff::Timestamp =
        text.parse().map_err(|_| "must be a time like 2027-01-31T12:00:00Z")?;
    let at = u64::try_from(at.as_millisecond()).map_or_else(|_| Time::default(), Time);
    if at > actors::clock::wall() { Ok(at) } else { Err("must be in the future") }
}

fn key_overrides(object: &mut Object<'_, '_>) -> Option<KeyOverrides> {
    let mut limit = |name: &str| one_override(object, name);
    let overrides = KeyOverrides {
        rate: limit("key_rate"),
        burst: limit("key_burst"),
        per_minute: limit("per_minute"),
        per_day: limit("per_day"),
    };
    for name in OF_THE_TENANT {
        object.lacking(name, "is a limit of the tenant, not of one key");
    }
    Some(overrides)
}

/// Body of `POST /v1/keys/{id}/rotate`.
#[derive(Debug)]
struct Rotate {
    overlap_s: u64,
}

impl FromShape for Rotate {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let overlap_s = object.optional("overlap_s", |s| s.integer(0..=OVERLAP_S_MAX));
        Some(Self { overlap_s: overlap_s.unwrap_or(0) })
    }
}

/// Query of `POST /v1/keys/create`.
#[derive(Debug)]
struct Named(Name);

impl FromQuery for Named {
    fn from_query(parameters: &mut Parameters<'_>) -> Option<Self> {
        parameters.required("name", Name::parse).map(Self)
    }
}

/// Who am I, what may I, what is left
#[utoipa::path(get, path = "/v1/me", tag = "keys",
    responses((status = 200, description = "Tenant, key and limits", body = tenants_wire::Me)))]
async fn me(State(app): State<App>, caller: Caller<ANY>, _: NoQuery) -> Result<Response, Problem> {
    let tenant = caller.tenant;
    let Some(key) = caller.key else {
        return Err(Problem::malformed("an operator is not a tenant's key; use /v1/tenants"));
    };
    let told = app.ask(tenant, Ask::Limits { tenant, key: Some(key.key) }).await?;
    told.render(|answer, group| {
        let Answer::Limits(view) = answer else { return None };
        Some(tenants_wire::Me {
            scopes: scope_names(key.scopes),
            plan: key.tenant.plan.name().to_owned(),
            tenant: tenants::shown(&key.tenant, key.status, group),
            key: tenants_wire::MyKey {
                key_id: key.key.0,
                name: key.key_name.clone(),
                key_prefix: key.key_prefix.clone(),
                scopes: scope_names(key.scopes),
            },
            limits: view.states.iter().map(limits::left).collect(),
        })
    })
}

/// Make a key
#[utoipa::path(post, path = LIST, tag = "keys",
    request_body = Object,
    responses((status = 201, description = "The key, shown once", body = wire::NewKey)))]
async fn create(
    State(app): State<App>,
    caller: Caller<KEYS_WRITE>,
    _: NoQuery,
    once: Idempotency,
    body: Json<Create>,
) -> Result<Response, Problem> {
    make(&app, &caller, &once, body.marks, body.value, StatusCode::CREATED).await
}

/// Make a key, as the published client asks for it
#[utoipa::path(post, path = "/v1/keys/create", tag = "keys",
    params(("name" = String, Query, description = "Name of the key")),
    responses((status = 200, description = "The key, shown once", body = wire::NewKey)))]
async fn create_named(
    State(app): State<App>,
    caller: Caller<KEYS_WRITE>,
    Query(Named(name)): Query<Named>,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let wanted =
        Create { name, scopes: None, overrides: KeyOverrides::default(), expires_at: None };
    make(&app, &caller, &once, body.marks, wanted, StatusCode::OK).await
}

async fn make(
    app: &App,
    caller: &Caller<KEYS_WRITE>,
    once: &Idempotency,
    body: Marks,
    wanted: Create,
    status: StatusCode,
) -> Result<Response, Problem> {
    let Create { name, scopes, overrides, expires_at } = wanted;
    let wish = caller.wish(once, body);
    let scopes = scopes.unwrap_or_else(|| caller.scopes());
    if !caller.scopes().covers(scopes) {
        return Err(super::app::refused(Refusal::ScopesExceeded));
    }
    let api_key = ApiKey::new(caller.tenant, rand::random::<[u8; RANDOM_BYTES]>());
    let digest = app.digest("key", &[api_key.text().as_bytes()])?;
    let prefix = api_key.prefix();
    let new = NewKey { name, digest, prefix, scopes, overrides, expires_at };
    let command = Command::Create(new);
    secret(app, caller, &wish, command, &api_key, status).await
}

/// Replace a key by a new one
#[utoipa::path(post, path = "/v1/keys/{id}/rotate", tag = "keys",
    params(("id" = u32, Path, description = "The key that is replaced")),
    request_body = Object,
    responses((status = 201, description = "The new key, shown once", body = wire::NewKey),
        (status = 404, response = ProblemResponse)))]
async fn rotate(
    State(app): State<App>,
    caller: Caller<KEYS_WRITE>,
    path: Result<Segments<(KeyId,)>, Problem>,
    _: NoQuery,
    once: Idempotency,
    body: Json<Rotate>,
) -> Result<Response, Problem> {
    let wish = caller.wish(&once, body.marks);
    let Segments((key,)) = path?;
    let api_key = ApiKey::new(caller.tenant, rand::random::<[u8; RANDOM_BYTES]>());
    let command = Command::Rotate {
        key,
        digest: app.digest("key", &[api_key.text().as_bytes()])?,
        prefix: api_key.prefix(),
        overlap_ms: body.value.overlap_s * 1000,
        within: caller.scopes(),
    };
    secret(&app, &caller, &wish, command, &api_key, StatusCode::CREATED).await
}

/// Makes a key and shows it, or again the one that this call made before.
async fn secret(
    app: &App,
    caller: &Caller<KEYS_WRITE>,
    wish: &Wish,
    command: Command,
    api_key: &ApiKey,
    status: StatusCode,
) -> Result<Response, Problem> {
    let command = protocol::Command::Key(caller.tenant, command);
    let told = app.propose(caller.tenant, command, wish, Some(api_key.text()), status).await?;
    let written = told.written()?;
    let Reply::Key(key) = written.reply.clone() else {
        return Err(Problem::new(Code::Internal));
    };
    if written.replayed.is_some() && !caller.scopes().covers(key.scopes) {
        return Err(super::app::refused(Refusal::ScopesExceeded));
    }
    let api_key = match &written.replayed {
        Some(Some(sealed)) => app.unseal(wish, sealed)?,
        Some(None) | None => api_key.text().to_owned(),
    };
    Ok(written.respond(status, &wire::NewKey { api_key, key: shown(&key) }))
}

/// Keys of the tenant
#[utoipa::path(get, path = LIST, tag = "keys",
    params(("limit" = Option<u32>, Query, description = "1..=1000"),
        ("cursor" = Option<String>, Query, description = "From `next_cursor`"),
        ("order" = Option<String>, Query, description = "asc or desc")),
    responses((status = 200, description = "A page", body = List<wire::Key>)))]
async fn list(
    State(app): State<App>,
    caller: Caller<KEYS_READ>,
    Query(page): Query<Page>,
) -> Result<Response, Problem> {
    let scope = caller.tenant.to_string();
    let cursors = app.cursors()?;
    let after = page.after(&cursors, &scope, LIST)?;
    let after = after.and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let tenant = caller.tenant;
    let ascending = page.order == Order::Ascending;
    // A tenant has at most a thousand keys, so the other order is read whole and turned.
    let (asked, limit) = if ascending { (after, page.limit + 1) } else { (None, 1000) };
    let ask = Ask::Keys { tenant, after: asked.map(KeyId), limit: limit as u32 };
    app.ask(tenant, ask).await?.render(|answer, _| {
        let Answer::Keys(mut keys) = answer else { return None };
        if !ascending {
            keys.reverse();
            keys.retain(|key| after.is_none_or(|after| key.id.0 < after));
        }
        let more = keys.len() > page.limit;
        keys.truncate(page.limit);
        let next = keys
            .last()
            .filter(|_| more)
            .map(|key| page.next(&cursors, &scope, LIST, &key.id.0.to_be_bytes()));
        Some(List::new(keys.iter().map(shown).collect(), next))
    })
}

/// Keys of the tenant, as the published client reads them
#[utoipa::path(get, path = "/v1/keys/me", tag = "keys",
    responses((status = 200, description = "All keys", body = Vec<wire::Key>)))]
async fn list_bare(
    State(app): State<App>,
    caller: Caller<KEYS_READ>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let ask = Ask::Keys { tenant: caller.tenant, after: None, limit: 1000 };
    app.ask(caller.tenant, ask).await?.render(|answer, _| {
        let Answer::Keys(keys) = answer else { return None };
        Some(keys.iter().map(shown).collect::<Vec<_>>())
    })
}

/// Usage of the current month, as the published client reads it
#[utoipa::path(get, path = "/v1/keys/usage", tag = "keys",
    responses((status = 200, description = "Usage", body = wire::KeyUsage)))]
async fn usage(
    State(app): State<App>,
    caller: Caller<USAGE_READ>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let ask = Ask::Usage { tenant: caller.tenant, period: Period::CurrentMonth };
    app.ask(caller.tenant, ask).await?.render(|answer, _| {
        let Answer::Usage(Report { usage, remaining, .. }) = answer else { return None };
        Some(wire::KeyUsage {
            total_calls: usage.calls,
            documents_scanned: usage.documents,
            tokens_used: usage.tokens,
            cost_dollars: usage.cost_micros as f64 / 1e6,
            quota_remaining: remaining,
        })
    })
}

/// One key
#[utoipa::path(get, path = "/v1/keys/{id}", tag = "keys",
    params(("id" = u32, Path, description = "The key")),
    responses((status = 200, description = "The key", body = wire::Key),
        (status = 404, response = ProblemResponse)))]
async fn get(
    State(app): State<App>,
    caller: Caller<KEYS_READ>,
    path: Result<Segments<(KeyId,)>, Problem>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let Segments((key,)) = path?;
    app.ask(caller.tenant, Ask::Key(caller.tenant, key)).await?.render(|answer, _| {
        let Answer::Key(key) = answer else { return None };
        Some(shown(&key))
    })
}

/// Revoke a key
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys",
    params(("id" = u32, Path, description = "The key")),
    responses((status = 200, description = "No node accepts it any more", body = wire::Deleted),
        (status = 404, response = ProblemResponse)))]
async fn revoke(
    State(app): State<App>,
    caller: Caller<KEYS_WRITE>,
    path: Result<Segments<(KeyId,)>, Problem>,
    _: NoQuery,
    once: Idempotency,
) -> Result<Response, Problem> {
    let wish = caller.wish(&once, Marks::of_nothing());
    let Segments((key,)) = path?;
    let command = protocol::Command::Key(caller.tenant, Command::Revoke(key));
    let told = app.propose(caller.tenant, command, &wish, None, StatusCode::OK).await?;
    let written = told.written()?;
    Ok(written.respond(StatusCode::OK, &wire::Deleted { key_id: key.0, deleted: true }))
}

fn shown(key: &Key) -> wire::Key {
    wire::Key {
        key_id: key.id.0,
        name: key.name.to_string(),
        key_prefix: key.prefix.clone(),
        scopes: scope_names(key.scopes),
        created_at: key.created_at.to_string(),
        expires_at: key.expires_at.map(|at| at.to_string()),
    }
}

fn scope_names(scopes: Scopes) -> Vec<String> {
    scopes.iter().map(|scope| scope.name().to_owned()).collect()
}
