//! `/admin/v1`: the cluster, for operators.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::nodes::{self, JoinToken, TOKEN_TTL_MAX_S};
use protocol::wire::cluster as wire;
use protocol::{Command, GroupId, Reply, keys};
use raft::node::token_digest;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::{App, refused, unanswered};
use super::auth::{Idempotency, Operator, Unrepeatable};
use super::error::{Code, Problem};
use super::json::{Empty, FromShape, Json, Object};
use super::openapi::ProblemResponse;
use super::query::{FromQuery, FromSegment, NoQuery, Parameters, Query, Segments};

mod view;

/// How long a node waits for the marker that it is asked about.
const MARKER_TIMEOUT: Duration = Duration::from_secs(5);

type Named = Result<Segments<(GroupId,)>, Problem>;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(cluster))
        .routes(routes!(init))
        .routes(routes!(issue_token))
        .routes(routes!(digest, mark))
}

impl FromSegment for GroupId {
    fn from_segment(segment: &str) -> Option<Self> {
        let canonical = segment == "0" || !segment.starts_with('0');
        let digits = segment.bytes().all(|byte| byte.is_ascii_digit());
        (canonical && digits).then(|| segment.parse().ok().map(Self)).flatten()
    }
}

/// The cluster as this node sees it
#[utoipa::path(get, path = "/admin/v1/cluster", tag = "cluster",
    responses((status = 200, description = "Nodes and shards", body = wire::Cluster)))]
async fn cluster(State(app): State<App>, _: Operator, _: NoQuery) -> Result<Response, Problem> {
    let map = app.map()?;
    let view = view::Look::new(&app, &map).cluster();
    Ok(axum::Json(view).into_response())
}

/// Make the first operator key, once, from loopback
#[utoipa::path(post, path = "/admin/v1/init", tag = "cluster",
    responses((status = 201, description = "The key, shown once", body = wire::Initialised),
        (status = 409, response = ProblemResponse)))]
async fn init(
    State(app): State<App>,
    peer: Option<axum::Extension<ConnectInfo<SocketAddr>>>,
    _: NoQuery,
    _: Unrepeatable,
    _: Json<Empty>,
) -> Result<Response, Problem> {
    let local = peer.is_some_and(|axum::Extension(ConnectInfo(peer))| peer.ip().is_loopback());
    if !local {
        return Err(Problem::unauthenticated());
    }
    let api_key = keys::admin_key(rand::random());
    let key = app.digest("operator", &[api_key.as_bytes()])?;
    let applied = app.system.host.propose_meta(nodes::Command::Init { key }).await;
    let applied = applied.map_err(|error| unanswered(&error.into()))?;
    applied.outcome.map_err(refused)?;
    Ok((StatusCode::CREATED, axum::Json(wire::Initialised { api_key })).into_response())
}

/// Body of `POST /admin/v1/join-tokens`.
#[derive(Debug)]
struct IssueToken {
    ttl_s: u64,
}

impl FromShape for IssueToken {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let ttl_s = object.optional("ttl_s", |ttl| ttl.integer(1..=TOKEN_TTL_MAX_S));
        Some(Self { ttl_s: ttl_s.unwrap_or(TOKEN_TTL_MAX_S) })
    }
}

/// Let one more node join
#[utoipa::path(post, path = "/admin/v1/join-tokens", tag = "cluster", request_body = Object,
    responses((status = 201, description = "The token, shown once", body = wire::JoinToken)))]
async fn issue_token(
    State(app): State<App>,
    operator: Operator,
    _: NoQuery,
    once: Idempotency,
    body: Json<IssueToken>,
) -> Result<Response, Problem> {
    let authority = app.system.host.peers().trust().authority().digest();
    let token = JoinToken::new(&rand::random(), authority);
    let expires_at = actors::clock::wall().plus_ms(body.value.ttl_s * 1000);
    let command = nodes::Command::IssueToken { token: token_digest(&token.secret), expires_at };
    let token = token.to_string();
    let wish = operator.wish(&once, body.marks);
    let written = app.propose_meta(command, &wish, Some(&token), StatusCode::CREATED).await?;
    let Reply::Token(expires_at) = written.reply else {
        return Err(Problem::new(Code::Internal));
    };
    let token = match &written.replayed {
        Some(Some(sealed)) => app.unseal(&wish, sealed)?,
        Some(None) | None => token,
    };
    let map = app.map()?;
    let here = map.nodes.get(&app.system.host.node());
    let peer = here.map_or("PEER_ADDR", |node| &node.registration.peer);
    let join =
        format!("skep serve --data DIR --http ADDR --peer ADDR --join {peer} --token-file FILE");
    let answer = wire::JoinToken { token, expires_at: expires_at.to_string(), join };
    Ok(written.respond(StatusCode::CREATED, &answer))
}

/// Query of the digest.
#[derive(Debug)]
struct At(Option<u64>);

impl FromQuery for At {
    fn from_query(parameters: &mut Parameters<'_>) -> Option<Self> {
        Some(Self(parameters.integer("at", 0..=u64::MAX)))
    }
}

/// Digest of this node's replica of a shard
#[utoipa::path(get, path = "/admin/v1/shards/{id}/digest", tag = "cluster",
    params(("id" = u32, Path, description = "The shard; 0 is the meta group"),
        ("at" = Option<u64>, Query, description = "A marker")),
    responses((status = 200, description = "The digest", body = wire::ShardDigest),
        (status = 404, response = ProblemResponse)))]
async fn digest(
    State(app): State<App>,
    _: Operator,
    path: Named,
    Query(At(at)): Query<At>,
) -> Result<Response, Problem> {
    let Segments((shard,)) = path?;
    let group = app.system.host.group(shard).ok_or_else(Problem::not_found)?;
    let (applied, digest) = match at {
        Some(index) => {
            group.wait_applied(index, MARKER_TIMEOUT).await;
            (index, group.view().marked(index).ok_or_else(Problem::not_found)?)
        }
        None => {
            let view = group.view();
            (group.applied(), view.digest())
        }
    };
    let sha256 = digest.to_string();
    Ok(axum::Json(wire::ShardDigest { shard: shard.0, applied, sha256 }).into_response())
}

/// Commit a marker, at which every replica takes its digest
#[utoipa::path(post, path = "/admin/v1/shards/{id}/digest", tag = "cluster",
    params(("id" = u32, Path, description = "The shard; 0 is the meta group")),
    responses((status = 201, description = "The marker", body = wire::Marker),
        (status = 404, response = ProblemResponse)))]
async fn mark(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let Segments((shard,)) = path?;
    if !app.map()?.groups.contains_key(&shard) {
        return Err(Problem::not_found());
    }
    let wish = operator.wish(&once, body.marks);
    let written = if shard.is_meta() {
        app.propose_meta(nodes::Command::Mark, &wish, None, StatusCode::CREATED).await?
    } else {
        app.propose_to(shard, Command::Marker, &wish, None, None).await?.written()?
    };
    let marker = wire::Marker { shard: shard.0, applied: written.index };
    Ok(written.respond(StatusCode::CREATED, &marker))
}
