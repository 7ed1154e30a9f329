//! A new version: its artefact is read in parts that are stored as they come, proven to be a model that
//! runs, and only then registered.

use actors::blobs::BlobError;
use actors::models::FetchError;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::BytesMut;
use protocol::models::{ARTEFACT_BYTES_MAX, Artefact, Command, PART_BYTES, VERSIONS_MAX, Version};
use protocol::wire::models as wire;
use protocol::{Digest, Time};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::{Named, change, known, version_shown};
use crate::http::app::App;
use crate::http::auth::{Idempotency, Operator};
use crate::http::body::Pieces;
use crate::http::context::Context;
use crate::http::error::{Code, Outcome, Problem};
use crate::http::json::Marks;
use crate::http::openapi::ProblemResponse;
use crate::http::query::{FromQuery, Parameters, Query, Segments};

const MEDIA_TYPE: &str = "application/x-tar";
/// Uploads that a node takes at a time: each is proven in a process with the whole model.
static UPLOADS: Semaphore = Semaphore::const_new(1);

/// `?sha256=`
pub(super) struct Announced {
    sha256: Digest,
}

impl FromQuery for Announced {
    fn from_query(parameters: &mut Parameters<'_>) -> Option<Self> {
        let parse =
            |text: &str| Digest::parse(text).map_err(|_| "must be 64 lower-case hex digits");
        Some(Self { sha256: parameters.required("sha256", parse)? })
    }
}

/// Add a version: a tar of `manifest.json`, `model.onnx` and maybe `tokenizer.json`
#[utoipa::path(post, path = "/v1/models/{name}/versions", tag = "models",
    params(("name" = String, Path, description = "The model"),
        ("sha256" = String, Query, description = "SHA-256 of the body, lower-case hex")),
    request_body(content = Vec<u8>, content_type = MEDIA_TYPE),
    responses((status = 201, description = "The version; it serves when an alias names it",
            body = wire::Version),
        (status = 404, response = ProblemResponse), (status = 409, response = ProblemResponse),
        (status = 413, response = ProblemResponse), (status = 415, response = ProblemResponse),
        (status = 422, response = ProblemResponse)))]
pub(super) async fn upload(
    State(app): State<App>,
    operator: Operator,
    path: Named,
    Query(Announced { sha256 }): Query<Announced>,
    once: Idempotency,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    check_media(&head.headers)?;
    let body = Pieces::begin(&head.headers, body, ARTEFACT_BYTES_MAX as usize)?;
    let Segments((name,)) = path.map_err(Problem::closing)?;
    // Before the body, which may take minutes.
    let model = known(&app, &name).await.map_err(Problem::closing)?;
    if once.key().is_none() {
        check_room(model.versions.len(), model.version_of(sha256)).map_err(Problem::closing)?;
    }
    let Ok(_turn) = UPLOADS.try_acquire() else {
        let detail = "another version is being uploaded through this node";
        return Err(Problem::new(Code::Overloaded).detail(detail).closing());
    };
    let artefact = store(&app, body).await?;
    if artefact.sha256 != sha256 {
        let found = artefact.sha256;
        return Err(Problem::invalid("?sha256", format!("the body has SHA-256 {found}")));
    }
    let (sha256, bytes) = (sha256.0, artefact.bytes);
    if let Some(context) = head.extensions.get::<Context>() {
        // Read once; a second reader would have the same bytes.
        let _ = context.body.set(Digest(sha256));
    }
    let wish = operator.wish(&once, Marks { parsed: Some(sha256), sha256, bytes });
    let version = proven(&app, artefact).await?;
    let command = Command::AddVersion { name, version: Box::new(version) };
    let (written, model) = change(&app, command, &wish, StatusCode::CREATED).await?;
    let number = model.version_of(Digest(sha256)).ok_or_else(|| Problem::new(Code::Internal))?;
    let version = model.versions.get(&number).ok_or_else(|| Problem::new(Code::Internal))?;
    Ok(written.respond(StatusCode::CREATED, &version_shown(number, version)))
}

fn check_media(headers: &HeaderMap) -> Result<(), Problem> {
    let mut given = headers.get_all(CONTENT_TYPE).iter();
    match (given.next().and_then(|given| given.to_str().ok()), given.next()) {
        (Some(media), None) if media.eq_ignore_ascii_case(MEDIA_TYPE) => Ok(()),
        _ => {
            let detail = format!("the body must be {MEDIA_TYPE}, and say so");
            Err(Problem::new(Code::UnsupportedMediaType).detail(detail).closing())
        }
    }
}

fn check_room(versions: usize, same: Option<u32>) -> Result<(), Problem> {
    if let Some(number) = same {
        let detail = format!("version {number} has this content");
        return Err(Problem::new(Code::Conflict).detail(detail));
    }
    if versions >= VERSIONS_MAX {
        return Err(Problem::too_large(VERSIONS_MAX as u64, versions as u64 + 1));
    }
    Ok(())
}

/// Stores the body in parts. What of it is stored when the rest does not come is removed later.
async fn store(app: &App, mut body: Pieces) -> Result<Artefact, Problem> {
    let (mut parts, mut hasher) = (Vec::new(), Sha256::new());
    let (mut buffer, mut bytes) = (BytesMut::new(), 0);
    loop {
        let piece = body.next().await?;
        let last = piece.is_none();
        if let Some(piece) = piece {
            hasher.update(&piece);
            bytes += piece.len() as u64;
            buffer.extend_from_slice(&piece);
        }
        while buffer.len() >= PART_BYTES || last && !buffer.is_empty() {
            let part = buffer.split_to(buffer.len().min(PART_BYTES)).freeze();
            let stored = app.system.models.store_part(part).await;
            parts.push(stored.map_err(|error| unstored(&error).closing())?);
        }
        if last {
            return Ok(Artefact { sha256: Digest(hasher.finalize().into()), bytes, parts });
        }
    }
}

async fn proven(app: &App, artefact: Artefact) -> Result<Version, Problem> {
    let manifest = app.system.models.prove(&artefact).await.map_err(|error| match error {
        FetchError::Bad(why) => Problem::invalid("", why),
        FetchError::Blob(error) => unstored(&error),
        FetchError::Disk(error) => {
            Problem::new(Code::DiskFull).detail(error.to_string()).outcome(Outcome::NotApplied)
        }
    })?;
    Ok(Version {
        artefact,
        task: manifest.task,
        precision: manifest.precision,
        batch_dependent: manifest.batch_dependent,
        labels: manifest.labels,
        added_at: Time(0),
    })
}

fn unstored(error: &BlobError) -> Problem {
    let code = match error {
        BlobError::TooLarge { .. } => Code::TooLarge,
        BlobError::NoQuorum { .. } | BlobError::Missing(_) => Code::NoQuorum,
        BlobError::NoMap => Code::NotReady,
        BlobError::Disk(_) => Code::DiskFull,
    };
    Problem::new(code).detail(error.to_string()).outcome(Outcome::NotApplied)
}
