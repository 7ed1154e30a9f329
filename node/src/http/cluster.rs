//! `/admin/v1`: the cluster, for operators.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use actors::remote::{PeerState, PeerTransport as _};
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::nodes::{self, JoinToken, Map, TOKEN_TTL_MAX_S};
use protocol::peer::Ask;
use protocol::wire::cluster as wire;
use protocol::{Command, GroupId, NodeId, Reply, keys};
use raft::Group;
use raft::node::token_digest;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::{App, refused, unanswered};
use super::auth::{Idempotency, Operator, Unrepeatable};
use super::error::{Code, Problem};
use super::json::{Empty, FromShape, Json, Object};
use super::openapi::ProblemResponse;
use super::query::{FromQuery, FromSegment, NoQuery, Parameters, Query, Segments};

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
    let leaders = leaders(&app, &map);
    let view = wire::Cluster {
        cluster_id: map.cluster.to_string(),
        leader: leaders.get(&GroupId::META).map(NodeId::to_string),
        nodes: map.nodes.values().map(|node| node_view(&app, &map, &leaders, node)).collect(),
        shards: map.groups.keys().map(|&group| shard_view(&app, &map, &leaders, group)).collect(),
        moves: moves(&map),
    };
    Ok(axum::Json(view).into_response())
}

type Leaders = BTreeMap<GroupId, NodeId>;

/// As the replicas here know it, and where there is none as the leaders themselves said last.
fn leaders(app: &App, map: &Map) -> Leaders {
    let loads = app.system.workers.loads();
    let said = loads.iter().flat_map(|(&node, load)| load.leads.iter().map(move |&at| (at, node)));
    let mut leaders: Leaders = said.collect();
    for &group in map.groups.keys() {
        let Some(here) = app.system.host.group(group) else { continue };
        match here.leader() {
            Some(leader) => leaders.insert(group, leader),
            None => leaders.remove(&group),
        };
    }
    leaders
}

fn node_view(app: &App, map: &Map, leaders: &Leaders, node: &nodes::Node) -> wire::Node {
    let led = leaders.iter().filter(|(group, leader)| !group.is_meta() && **leader == node.id);
    let loads = app.system.workers.loads();
    let held = map.shards().filter(|(group, _)| map.replica_on(*group, node.id).is_some());
    let labels = node.registration.labels.iter();
    let state = match (is_up(app, node.id), node.state) {
        (false, _) if node.lost => "lost",
        (false, _) => "down",
        (true, nodes::State::Active) => "up",
        (true, state) => state.name(),
    };
    wire::Node {
        id: node.id.to_string(),
        incarnation: node.registration.incarnation,
        state: state.to_owned(),
        http: node.registration.http.clone(),
        peer: node.registration.peer.clone(),
        version: node.registration.version.clone(),
        pressure: loads.get(&node.id).map_or(0, |load| load.documents),
        shards_led: led.count(),
        replicas: held.count(),
        labels: labels.map(|(name, value)| (name.to_string(), value.clone())).collect(),
        weight: node.registration.weight,
    }
}

fn moves(map: &Map) -> Vec<wire::Move> {
    let mut moves = Vec::new();
    for (group, placement) in map.shards() {
        for (replica, node) in &placement.replicas {
            let leaving = placement.leaving.contains(replica);
            if leaving || !placement.voting.contains(replica) {
                moves.push(wire::Move {
                    shard: group.0,
                    node: node.to_string(),
                    replica_id: replica.0,
                    direction: if leaving { "leaving" } else { "joining" }.to_owned(),
                });
            }
        }
    }
    moves
}

fn is_up(app: &App, node: NodeId) -> bool {
    if node == app.system.host.node() {
        return true;
    }
    let states = app.transport.states();
    let states = states.borrow();
    matches!(states.get(&node.0), Some(PeerState::Up { .. }))
}

fn shard_view(app: &App, map: &Map, leaders: &Leaders, id: GroupId) -> wire::Shard {
    let group = app.system.host.group(id);
    let members = group.as_ref().map(Group::members).unwrap_or_default();
    let mut replicas: Vec<wire::Replica> = members
        .iter()
        .map(|member| wire::Replica {
            node: member.node.to_string(),
            replica_id: member.replica.0,
            role: if member.voter { "voter" } else { "learner" }.to_owned(),
            lag: member.lag,
        })
        .collect();
    if replicas.is_empty() {
        // This node has no replica, so it knows only where they should be.
        let placement = &map.groups[&id];
        let votes = |replica| placement.voting.contains(replica);
        replicas.extend(placement.replicas.iter().map(|(replica, node)| wire::Replica {
            node: node.to_string(),
            replica_id: replica.0,
            role: if votes(replica) { "voter" } else { "learner" }.to_owned(),
            lag: None,
        }));
    }
    wire::Shard {
        id: id.0,
        leader: leaders.get(&id).map(NodeId::to_string),
        replicas,
        epoch: group.as_ref().map_or(0, |group| group.view().epoch().0),
        applied: group.as_ref().map_or(0, Group::applied),
    }
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
        let once = app.once(&wish, None)?;
        let ask = Ask::Propose { command: Box::new(Command::Marker), once, note: None };
        app.ask_group(shard, ask).await?.written()?
    };
    let marker = wire::Marker { shard: shard.0, applied: written.index };
    Ok(written.respond(StatusCode::CREATED, &marker))
}
