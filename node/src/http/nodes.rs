//! `/admin/v1/nodes`, `/admin/v1/plan` and hand-overs: what operators do with nodes.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::nodes::{self, Command, Map};
use protocol::wire::cluster as wire;
use protocol::{GroupId, NodeId};
use raft::members::Sight as _;
use raft::placement;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::{App, refused};
use super::auth::{Idempotency, Operator};
use super::error::{Code, Problem};
use super::json::{Empty, FromShape, Json, Object};
use super::once::Wish;
use super::openapi::ProblemResponse;
use super::query::{NoQuery, Segments};

type Named = Result<Segments<(NodeId,)>, Problem>;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(drain))
        .routes(routes!(undrain))
        .routes(routes!(remove))
        .routes(routes!(restart))
        .routes(routes!(transfer))
        .routes(routes!(plan))
        .routes(routes!(rebalance))
}

/// Nodes that answer this one and are not about to stop.
pub(super) fn up(app: &App, map: &Map) -> BTreeSet<NodeId> {
    let outlook = app.system.outlook();
    map.nodes.keys().copied().filter(|&node| outlook.is_up(node)).collect()
}

/// Let a node lead nothing and give it nothing new; its replicas stay
#[utoipa::path(post, path = "/admin/v1/nodes/{id}/drain", tag = "cluster",
    params(("id" = String, Path, description = "The node")),
    responses((status = 202, description = "Under way; done when its state is drained",
            body = wire::NodeChange),
        (status = 404, response = ProblemResponse), (status = 409, response = ProblemResponse)))]
async fn drain(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let wish = operator.wish(&once, body.marks);
    set_state(&app, path?, nodes::State::Draining, &wish).await
}

/// Take a drain back
#[utoipa::path(post, path = "/admin/v1/nodes/{id}/undrain", tag = "cluster",
    params(("id" = String, Path, description = "The node")),
    responses((status = 202, description = "It leads and takes tasks again", body = wire::NodeChange),
        (status = 404, response = ProblemResponse), (status = 409, response = ProblemResponse)))]
async fn undrain(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let wish = operator.wish(&once, body.marks);
    set_state(&app, path?, nodes::State::Active, &wish).await
}

/// Move everything away from a node, then take it out of the cluster
#[utoipa::path(post, path = "/admin/v1/nodes/{id}/remove", tag = "cluster",
    params(("id" = String, Path, description = "The node")),
    responses((status = 202, description = "Under way; done when the node is not listed any more",
            body = wire::NodeChange),
        (status = 404, response = ProblemResponse),
        (status = 409, response = ProblemResponse)))]
async fn remove(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let Segments((node,)) = path?;
    app.sync_map().await?;
    let map = app.map()?;
    // One that is gone already, or going, is the answer's of the first call, or not found.
    let new = map.nodes.get(&node).is_some_and(|at| at.state != nodes::State::Removing);
    if new {
        placement::removable(&map, &up(&app, &map), node).map_err(refused)?;
    }
    let wish = operator.wish(&once, body.marks);
    set_state(&app, Segments((node,)), nodes::State::Removing, &wish).await
}

async fn set_state(
    app: &App,
    Segments((node,)): Segments<(NodeId,)>,
    state: nodes::State,
    wish: &Wish,
) -> Result<Response, Problem> {
    let command = Command::SetState { node, state };
    let written = app.propose_meta(command, wish, None, StatusCode::ACCEPTED).await?;
    let protocol::Reply::Node(now) = &written.reply else {
        return Err(Problem::new(Code::Internal));
    };
    let body = wire::NodeChange { id: node.to_string(), state: now.state.name().to_owned() };
    Ok(written.respond(StatusCode::ACCEPTED, &body))
}

/// Stop in order and start again with the same command; asked of the node itself
#[utoipa::path(post, path = "/admin/v1/nodes/{id}/restart", tag = "cluster",
    params(("id" = String, Path, description = "The node that is asked")),
    responses((status = 202, description = "It begins; done when its incarnation is a higher one",
            body = wire::Restart),
        (status = 404, response = ProblemResponse),
        (status = 409, response = ProblemResponse)))]
async fn restart(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let Segments((node,)) = path?;
    let map = app.map()?;
    let asked = map.nodes.get(&node).ok_or_else(Problem::not_found)?;
    if node != app.system.host.node() {
        let detail = format!("{node} must be asked itself, at {}", asked.registration.http);
        return Err(Problem::new(Code::Conflict).detail(detail));
    }
    let wish = operator.wish(&once, body.marks);
    // Nothing of it is replicated but that it was asked for.
    let written = app.propose_meta(Command::Mark, &wish, None, StatusCode::ACCEPTED).await?;
    if written.replayed.is_none() {
        app.life.restart();
    }
    let incarnation = app.system.host.peers().identity().start.incarnation;
    let answer = wire::Restart { id: node.to_string(), incarnation };
    Ok(written.respond(StatusCode::ACCEPTED, &answer))
}

/// Body of `POST /admin/v1/shards/{id}/transfer`.
#[derive(Debug)]
struct To {
    to: NodeId,
}

impl FromShape for To {
    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        Some(Self { to: object.required("to", |to| to.parsed(NodeId::parse))? })
    }
}

/// Let another node lead a shard, until it is drained or loads are evened out by rebalance
#[utoipa::path(post, path = "/admin/v1/shards/{id}/transfer", tag = "cluster", request_body = Object,
    params(("id" = u32, Path, description = "The shard; 0 is the meta group")),
    responses((status = 202, description = "Under way", body = wire::Transfer),
        (status = 404, response = ProblemResponse),
        (status = 409, response = ProblemResponse)))]
async fn transfer(
    State(app): State<App>,
    operator: Operator,
    path: Result<Segments<(GroupId,)>, Problem>,
    _: NoQuery,
    once: Idempotency,
    body: Json<To>,
) -> Result<Response, Problem> {
    let Segments((group,)) = path?;
    let node = body.value.to;
    let command = Command::Pin { group, node };
    let wish = operator.wish(&once, body.marks);
    let written = app.propose_meta(command, &wish, None, StatusCode::ACCEPTED).await?;
    let answer = wire::Transfer { shard: group.0, to: node.to_string() };
    Ok(written.respond(StatusCode::ACCEPTED, &answer))
}

/// What rebalance would do
#[utoipa::path(get, path = "/admin/v1/plan", tag = "cluster",
    responses((status = 200, description = "The changes, in order", body = wire::Plan)))]
async fn plan(State(app): State<App>, _: Operator, _: NoQuery) -> Result<Response, Problem> {
    app.sync_map().await?;
    Ok(axum::Json(forecast(&app)?).into_response())
}

/// Forget which nodes operators wanted to lead, and even out
#[utoipa::path(post, path = "/admin/v1/rebalance", tag = "cluster",
    responses((status = 202, description = "Under way: these changes, in order", body = wire::Plan)))]
async fn rebalance(
    State(app): State<App>,
    operator: Operator,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    app.sync_map().await?;
    let answer = forecast(&app)?;
    let wish = operator.wish(&once, body.marks);
    let written = app.propose_meta(Command::Unpin, &wish, None, StatusCode::ACCEPTED).await?;
    Ok(written.respond(StatusCode::ACCEPTED, &answer))
}

fn forecast(app: &App) -> Result<wire::Plan, Problem> {
    let mut map = (*app.map()?).clone();
    map.groups.values_mut().for_each(|placement| placement.pinned = false);
    let up = up(app, &map);
    let changes = placement::forecast(&map, &up);
    Ok(wire::Plan { changes: changes.iter().filter_map(|change| planned(&map, change)).collect() })
}

fn planned(map: &Map, change: &Command) -> Option<wire::PlannedChange> {
    let told = |shard: Option<GroupId>, change: &str, node: NodeId| wire::PlannedChange {
        shard: shard.map(|shard| shard.0),
        change: change.to_owned(),
        node: node.to_string(),
    };
    if let Command::AddReplica { group, node } = change {
        return Some(told(Some(*group), "add_replica", *node));
    }
    if let Command::RemoveReplica { group, replica } = change {
        let node = map.groups.get(group)?.replicas.get(replica)?;
        return Some(told(Some(*group), "remove_replica", *node));
    }
    if let Command::Prefer { group, node } = change {
        return Some(told(Some(*group), "lead", *node));
    }
    if let Command::RemoveNode { node } = change {
        return Some(told(None, "remove_node", *node));
    }
    None
}

#[cfg(test)]
mod tests {
    use protocol::Refusal;

    use super::*;

    #[test]
    fn a_broken_quorum_is_a_conflict_that_names_the_group() {
        let refusal = Refusal::BreaksQuorum { group: GroupId(3), left: 1, needed: 2 };
        let text = refusal.to_string();
        assert_eq!(text, "group 3 would be left with 1 of 2 voters that it needs");
        assert_eq!(refused(refusal).code().meaning().status, StatusCode::CONFLICT);
    }
}
