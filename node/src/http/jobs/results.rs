//! Results of jobs: what is committed of them, as pages or as a stream of lines.

use actors::blobs::BlobError;
use actors::cache::Scored;
use actors::documents;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use protocol::jobs::{Blob, Job, TaskState};
use protocol::peer::Ask;
use protocol::wire::{List, jobs as wire};
use protocol::{GroupId, TenantId};

use super::{Named, told, unstored};
use crate::http::app::App;
use crate::http::auth::{Caller, JOBS_READ};
use crate::http::error::{Code, Problem};
use crate::http::query::{Order, Page, Query, Segments};

const NDJSON: &str = "application/x-ndjson";
const SKEP_COMPLETE: HeaderName = HeaderName::from_static("skep-complete");

/// Results of a job, in the order of its documents
#[utoipa::path(get, path = "/v1/jobs/{id}/results", tag = "jobs",
    params(("id" = String, Path, description = "The job"),
        ("limit" = Option<u32>, Query, description = "1..=1000, of the list form"),
        ("cursor" = Option<String>, Query, description = "From `next_cursor`"),
        ("order" = Option<String>, Query, description = "asc")),
    responses((status = 200, body = List<wire::Record>,
        description = "A page; with Accept: application/x-ndjson all, one record per line")))]
pub(super) async fn results(
    State(app): State<App>,
    caller: Caller<JOBS_READ>,
    path: Named,
    Query(page): Query<Page>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Segments((id,)) = path?;
    let (job, group) = told(&app, caller.tenant, Ask::Job(caller.tenant, id)).await?;
    let complete = if job.status.is_terminal() { "true" } else { "false" };
    let mut response = if wants_lines(&headers) {
        lines(app, &caller, group, &job)
    } else {
        records(&app, &caller, group, &job, &page).await?
    };
    response.headers_mut().insert(SKEP_COMPLETE, HeaderValue::from_static(complete));
    Ok(response)
}

fn wants_lines(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|one| {
        one.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case(NDJSON))
    })
}

/// Everything that is committed, streamed blob by blob. A blob that cannot be had breaks the stream
/// off, so that nobody takes a part for the whole.
fn lines(app: App, caller: &Caller<JOBS_READ>, group: GroupId, job: &Job) -> Response {
    let tenant = caller.tenant;
    let ended: Vec<Ended> = ended(job).map(|(_, _, ended)| ended).collect();
    let blobs = futures::stream::iter(ended).then(move |ended| {
        let app = app.clone();
        async move { load(&app, group, tenant, ended).await }
    });
    let headers = [(CONTENT_TYPE, HeaderValue::from_static(NDJSON))];
    (headers, Body::from_stream(blobs)).into_response()
}

/// A task that has ended: with a result, or with nothing but its input.
#[derive(Debug, Clone)]
enum Ended {
    Done(Blob),
    Failed { input: Blob, attempt: u32, why: String },
}

/// Tasks that have ended, with the numbers of their first document and of the one after their last.
fn ended(job: &Job) -> impl Iterator<Item = (u32, u32, Ended)> {
    let mut first = 0;
    job.tasks.iter().filter_map(move |task| {
        let at = first;
        first += task.documents;
        let ended = match task.state {
            TaskState::Done(result) => Ended::Done(result.output),
            TaskState::Failed => {
                let (input, attempt) = (task.input, task.attempt);
                let told = job.life.cause.as_ref().map(ToString::to_string);
                let why = told.unwrap_or_else(|| format!("no result after {attempt} attempts"));
                Ended::Failed { input, attempt, why }
            }
            TaskState::Queued | TaskState::Leased(_) => return None,
        };
        Some((at, first, ended))
    })
}

/// The records of a task, one per line.
async fn load(
    app: &App,
    group: GroupId,
    tenant: TenantId,
    ended: Ended,
) -> Result<Bytes, BlobError> {
    let (input, attempt, why) = match ended {
        Ended::Done(output) => return app.system.blobs.get(group, tenant, output).await,
        Ended::Failed { input, attempt, why } => (input, attempt, why),
    };
    let content = app.system.blobs.get(group, tenant, input).await?;
    let documents = documents::read(&content).map_err(std::io::Error::other)?;
    let maker = app.system.slots.maker();
    let failed = |document: &documents::Document| {
        let sha256 = actors::blobs::sha256(document.content.as_bytes());
        let scored = Scored { sha256, result: Err(why.clone()), cached: false };
        maker.record(document.id.clone(), scored, attempt)
    };
    Ok(documents::lines(documents.iter().map(failed)))
}

/// A page of records. The cursor is the number of the last document shown.
async fn records(
    app: &App,
    caller: &Caller<JOBS_READ>,
    group: GroupId,
    job: &Job,
    page: &Page,
) -> Result<Response, Problem> {
    if page.order == Order::Descending {
        return Err(Problem::malformed("results are in the order of the documents"));
    }
    let scope = format!("{} {}", caller.tenant, job.id);
    let route = "/v1/jobs/{id}/results";
    let cursors = app.cursors()?;
    let after = page.after(&cursors, &scope, route)?;
    let from =
        after.and_then(|bytes| bytes.try_into().ok()).map_or(0, |at| u32::from_be_bytes(at) + 1);
    let mut rows: Vec<(u32, wire::Record)> = Vec::new();
    for (first, end, ended) in ended(job) {
        if rows.len() > page.limit {
            break;
        }
        if end <= from {
            continue;
        }
        let content = load(app, group, caller.tenant, ended).await;
        let content = content.map_err(|error| unstored(&error))?;
        let lines = content.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        for (offset, line) in lines.enumerate() {
            let number = first + offset as u32;
            if number >= from {
                let record = serde_json::from_slice(line);
                rows.push((number, record.map_err(|_| Problem::new(Code::Internal))?));
            }
        }
    }
    let more = rows.len() > page.limit;
    rows.truncate(page.limit);
    let next = rows
        .last()
        .filter(|_| more)
        .map(|(number, _)| page.next(&cursors, &scope, route, &number.to_be_bytes()));
    let data = rows.into_iter().map(|(_, record)| record).collect();
    Ok(axum::Json(List::new(data, next)).into_response())
}
