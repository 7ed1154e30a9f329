//! `/admin/v1/backups`: backups of the whole cluster, for operators.

use actors::backup::{BackupError, Manifest, Standing, began_ms};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::nodes::Command;
use protocol::wire::{List, backups as wire};
use protocol::{BackupId, Time};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::App;
use super::auth::{Idempotency, Operator};
use super::error::{Code, Outcome, Problem};
use super::json::{Empty, Json};
use super::openapi::ProblemResponse;
use super::query::{FromSegment, NoQuery, Segments};
use crate::identity;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(begin, list)).routes(routes!(one))
}

impl FromSegment for BackupId {
    fn from_segment(segment: &str) -> Option<Self> {
        Self::parse(segment).ok()
    }
}

/// Begin a backup of the whole cluster
#[utoipa::path(post, path = "/admin/v1/backups", tag = "cluster",
    responses((status = 202, description = "Under way; done when its state is complete",
            body = wire::Begun),
        (status = 409, response = ProblemResponse)))]
async fn begin(
    State(app): State<App>,
    operator: Operator,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let wish = operator.wish(&once, body.marks);
    let new = identity::backup_id();
    let running = app.system.backups.running().await.map_err(not_now)?;
    // A call that repeats an earlier one may well meet the backup that it began.
    if let Some(running) = running.filter(|_| once.key().is_none()) {
        return Err(not_now(BackupError::Busy(running)));
    }
    // Nothing of it is replicated but that it was asked for.
    let name = new.to_string();
    let written = app.propose_meta(Command::Mark, &wish, Some(&name), StatusCode::ACCEPTED).await?;
    let wanted = match &written.replayed {
        Some(Some(sealed)) => BackupId::parse(&app.unseal(&wish, sealed)?),
        Some(None) | None => Ok(new),
    };
    let wanted = wanted.map_err(|_| Problem::new(Code::Internal))?;
    begin_once(&app, wanted, written.replayed.is_some()).await.map_err(not_now)?;
    let answer = wire::Begun { id: wanted.to_string(), state: "running".to_owned() };
    Ok(written.respond(StatusCode::ACCEPTED, &answer))
}

/// The earlier call may have come to nothing: another backup was being made, or its node died.
async fn begin_once(app: &App, backup: BackupId, again: bool) -> Result<(), BackupError> {
    if again && app.system.backups.get(backup).await?.is_some() {
        return Ok(());
    }
    app.system.backups.start(backup).await
}

/// The newest backups, newest first
#[utoipa::path(get, path = "/admin/v1/backups", tag = "cluster",
    responses((status = 200, description = "At most a thousand", body = List<wire::Backup>),
        (status = 409, response = ProblemResponse)))]
async fn list(State(app): State<App>, _: Operator, _: NoQuery) -> Result<Response, Problem> {
    let all = app.system.backups.all().await.map_err(not_now)?;
    let shown = all.into_iter().map(|(id, standing)| show(id, standing)).collect();
    Ok(axum::Json(List::new(shown, None)).into_response())
}

/// How a backup stands
#[utoipa::path(get, path = "/admin/v1/backups/{id}", tag = "cluster",
    params(("id" = String, Path, description = "The backup")),
    responses((status = 200, description = "The backup", body = wire::Backup),
        (status = 404, response = ProblemResponse), (status = 409, response = ProblemResponse)))]
async fn one(
    State(app): State<App>,
    _: Operator,
    path: Result<Segments<(BackupId,)>, Problem>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let Segments((id,)) = path?;
    let found = app.system.backups.get(id).await;
    let standing = match found {
        // Where there is no place for backups there is none of this name either.
        Err(BackupError::NoPlace) | Ok(None) => return Err(Problem::not_found()),
        Ok(Some(standing)) => standing,
        Err(error) => return Err(not_now(error)),
    };
    Ok(axum::Json(show(id, standing)).into_response())
}

fn not_now(error: BackupError) -> Problem {
    let code = match &error {
        BackupError::NoPlace | BackupError::Busy(_) => Code::Conflict,
        BackupError::NoLeader => Code::NoLeader,
        // The place does not answer, which is no state of the cluster.
        BackupError::Source(_) => Code::NotReady,
    };
    let problem = Problem::new(code).detail(error.to_string());
    if code == Code::Conflict { problem } else { problem.outcome(Outcome::Unknown) }
}

fn show(id: BackupId, standing: Standing) -> wire::Backup {
    let (state, reason) = match &standing {
        Standing::Running => ("running", None),
        Standing::Complete(_) => ("complete", None),
        Standing::Failed(why) => ("failed", Some(why.clone())),
        Standing::CutOff => ("cut_off", Some("its node died or lost the lead".to_owned())),
        Standing::Damaged(why) => ("damaged", Some(why.clone())),
    };
    let manifest = if let Standing::Complete(manifest) = standing { Some(manifest) } else { None };
    wire::Backup {
        id: id.to_string(),
        state: state.to_owned(),
        started_at: Time(began_ms(id)).to_string(),
        finished_at: manifest.as_ref().map(|manifest| manifest.finished_at.clone()),
        reason,
        node: manifest.as_ref().map(|manifest| manifest.node.to_string()),
        release: manifest.as_ref().map(|manifest| manifest.release.clone()),
        bytes: manifest.as_ref().map(|manifest| manifest.bytes()),
        blobs: manifest.as_ref().map(|manifest| manifest.blobs()),
        groups: manifest.map(|manifest| groups(&manifest)).unwrap_or_default(),
    }
}

fn groups(manifest: &Manifest) -> Vec<wire::BackupGroup> {
    let show = |group: &actors::backup::Group| wire::BackupGroup {
        shard: group.group,
        index: group.index,
        term: group.term,
        digest: group.digest.to_string(),
        rows: group.rows,
        bytes: group.bytes,
        sha256: group.sha256.to_string(),
        blobs: group.blobs.count,
        blob_bytes: group.blobs.bytes,
    };
    manifest.groups.iter().map(show).collect()
}
