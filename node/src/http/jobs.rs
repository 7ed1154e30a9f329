//! `/v1/jobs`: documents scored later, by all nodes.

use actors::blobs::BlobError;
use actors::documents;
use actors::jobs::task_documents;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use protocol::jobs::{Blob, Command, JOB_DOCUMENTS_MAX, Job, Priority, TaskSpec, TaskState};
use protocol::peer::{Answer, Ask};
use protocol::wire::{List, jobs as wire};
use protocol::{GroupId, JobId, Reply, TenantId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::App;
use super::auth::{Caller, Idempotency, JOBS_READ, JOBS_WRITE};
use super::error::{Code, Outcome, Problem};
use super::json::{FromShape, Json, Object};
use super::openapi::ProblemResponse;
use super::query::{NoQuery, Order, Page, Query, Segments};
use super::scan::{self, Document};

const LIST: &str = "/v1/jobs";
const NDJSON: &str = "application/x-ndjson";
const SKEP_COMPLETE: HeaderName = HeaderName::from_static("skep-complete");
/// Task inputs that are stored at a time.
const BLOBS_AT_ONCE: usize = 4;

type Named = Result<Segments<(JobId,)>, Problem>;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(submit, list)).routes(routes!(get)).routes(routes!(results))
}

/// Body of `POST /v1/jobs`.
#[derive(Debug)]
struct Submit {
    documents: Vec<Document>,
    priority: Priority,
}

impl FromShape for Submit {
    const BODY_BYTES_MAX: usize = scan::BODY_BYTES_MAX;

    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let kind = object.required("type", |kind| kind.one_of(&[("scan", ())]));
        let documents = object.required("documents", |documents| {
            documents
                .excess_is_413()
                .list(1..=JOB_DOCUMENTS_MAX as usize, |document| Document::read(document, false))
        });
        if let Some(documents) = &documents {
            scan::note_repeated(object, "documents", documents);
        }
        let all = [Priority::Low, Priority::Normal, Priority::High, Priority::Urgent];
        let words = all.map(|priority| (priority.name(), priority));
        let priority = object.optional("priority", |priority| priority.one_of(&words));
        for name in ["inputs", "deadline_s", "run_at", "callback_url", "model", "options"] {
            object.lacking(name, "is not part of this build");
        }
        kind?;
        Some(Self { documents: documents?, priority: priority.unwrap_or_default() })
    }
}

/// Submit documents
#[utoipa::path(post, path = LIST, tag = "jobs",
    request_body = Object,
    responses((status = 202, description = "Accepted; it survives the loss of any node",
        body = wire::Submitted)))]
async fn submit(
    State(app): State<App>,
    caller: Caller<JOBS_WRITE>,
    _: NoQuery,
    once: Idempotency,
    body: Json<Submit>,
) -> Result<Response, Problem> {
    let wish = caller.wish(&once, body.marks);
    let Submit { documents, priority } = body.value;
    caller.check_size(documents.len(), body.marks.bytes)?;
    if wish.key.is_none() {
        caller.check_dry(&app)?;
    }
    let tasks = store(&app, &caller, documents, priority).await?;
    let (payer, _held) = caller.payer(&app);
    let id = JobId(uuid::Uuid::now_v7().as_u128());
    let command = Command::Submit { id, priority, tasks, payer };
    let command = protocol::Command::Job(caller.tenant, command);
    let told = app.propose(caller.tenant, command, &wish, None, StatusCode::ACCEPTED).await?;
    let written = told.written()?;
    let Reply::Job(job) = written.reply.clone() else { return Err(Problem::new(Code::Internal)) };
    let body = wire::Submitted {
        id: job.id.to_string(),
        status: job.status.name().to_owned(),
        status_url: format!("{LIST}/{}", job.id),
        documents: job.counts.total,
        tasks: job.tasks.len() as u32,
    };
    let location = HeaderValue::from_str(&body.status_url);
    let mut response = written.respond(StatusCode::ACCEPTED, &body);
    if let Ok(location) = location {
        response.headers_mut().insert(axum::http::header::LOCATION, location);
    }
    Ok(response)
}

/// Cuts the documents into tasks and stores each as a blob: content never enters the log, and the
/// job is acknowledged only when a quorum has it.
async fn store(
    app: &App,
    caller: &Caller<JOBS_WRITE>,
    documents: Vec<Document>,
    priority: Priority,
) -> Result<Vec<TaskSpec>, Problem> {
    let group = app.map()?.shard_of(caller.tenant);
    let size = task_documents(documents.len(), priority, app.system.workers.pace());
    let to_line =
        |document: Document| documents::Document { id: document.id, content: document.content };
    let lines: Vec<documents::Document> = documents.into_iter().map(to_line).collect();
    let inputs: Vec<(u32, Bytes)> =
        lines.chunks(size).map(|chunk| (chunk.len() as u32, documents::lines(chunk))).collect();
    drop(lines);
    let puts = inputs.into_iter().map(|(documents, content)| async move {
        let input = app.system.blobs.put(group, caller.tenant, content).await?;
        Ok::<_, BlobError>(TaskSpec { input, documents })
    });
    let mut stored = futures::stream::iter(puts).buffered(BLOBS_AT_ONCE);
    let mut tasks = Vec::new();
    while let Some(task) = stored.next().await {
        tasks.push(task.map_err(|error| unstored(&error))?);
    }
    Ok(tasks)
}

fn unstored(error: &BlobError) -> Problem {
    let code = match error {
        BlobError::TooLarge { .. } => Code::TooLarge,
        BlobError::NoQuorum { .. } => Code::NoQuorum,
        BlobError::Missing(_) => Code::NoQuorum,
        BlobError::NoMap => Code::NotReady,
        BlobError::Disk(_) => Code::DiskFull,
    };
    // No entry was proposed.
    Problem::new(code).detail(error.to_string()).outcome(Outcome::NotApplied)
}

/// Jobs of the tenant
#[utoipa::path(get, path = LIST, tag = "jobs",
    params(("limit" = Option<u32>, Query, description = "1..=1000"),
        ("cursor" = Option<String>, Query, description = "From `next_cursor`"),
        ("order" = Option<String>, Query, description = "asc or desc")),
    responses((status = 200, description = "A page", body = List<wire::Job>)))]
async fn list(
    State(app): State<App>,
    caller: Caller<JOBS_READ>,
    Query(page): Query<Page>,
) -> Result<Response, Problem> {
    let scope = caller.tenant.to_string();
    let cursors = app.cursors()?;
    let after = page.after(&cursors, &scope, LIST)?;
    let after = after.and_then(|bytes| bytes.try_into().ok()).map(u128::from_be_bytes);
    let ask = Ask::Jobs {
        tenant: caller.tenant,
        after: after.map(JobId),
        limit: page.limit as u32 + 1,
        ascending: page.order == Order::Ascending,
    };
    app.ask(caller.tenant, ask).await?.render(|answer, group| {
        let Answer::Jobs(mut jobs) = answer else { return None };
        let more = jobs.len() > page.limit;
        jobs.truncate(page.limit);
        let next = jobs
            .last()
            .filter(|_| more)
            .map(|job| page.next(&cursors, &scope, LIST, &job.id.0.to_be_bytes()));
        Some(List::new(jobs.iter().map(|job| shown(job, group)).collect(), next))
    })
}

/// One job
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The job")),
    responses((status = 200, description = "The job", body = wire::Job),
        (status = 404, response = ProblemResponse)))]
async fn get(
    State(app): State<App>,
    caller: Caller<JOBS_READ>,
    path: Named,
    _: NoQuery,
) -> Result<Response, Problem> {
    let Segments((job,)) = path?;
    let told = app.ask(caller.tenant, Ask::Job(caller.tenant, job)).await?;
    told.render(|answer, group| {
        let Answer::Job(job) = answer else { return None };
        Some(shown(&job, group))
    })
}

/// Results of a job, in the order of its documents
#[utoipa::path(get, path = "/v1/jobs/{id}/results", tag = "jobs",
    params(("id" = String, Path, description = "The job"),
        ("limit" = Option<u32>, Query, description = "1..=1000, of the list form"),
        ("cursor" = Option<String>, Query, description = "From `next_cursor`"),
        ("order" = Option<String>, Query, description = "asc")),
    responses((status = 200, body = List<wire::Record>,
        description = "A page; with Accept: application/x-ndjson all, one record per line")))]
async fn results(
    State(app): State<App>,
    caller: Caller<JOBS_READ>,
    path: Named,
    Query(page): Query<Page>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Segments((id,)) = path?;
    let told = app.ask(caller.tenant, Ask::Job(caller.tenant, id)).await?;
    let group = told.group;
    if let Answer::Refused(refusal) = told.answer {
        return Err(super::app::refused(refusal));
    }
    let Answer::Job(job) = told.answer else { return Err(Problem::new(Code::Internal)) };
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
#[derive(Debug, Clone, Copy)]
enum Ended {
    Done(Blob),
    Failed { input: Blob, attempt: u32 },
}

/// Tasks that have ended, with the numbers of their first document and of the one after their last.
fn ended(job: &Job) -> impl Iterator<Item = (u32, u32, Ended)> {
    let mut first = 0;
    job.tasks.iter().filter_map(move |task| {
        let at = first;
        first += task.documents;
        let ended = match task.state {
            TaskState::Done(result) => Ended::Done(result.output),
            TaskState::Failed => Ended::Failed { input: task.input, attempt: task.attempt },
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
    let (input, attempt) = match ended {
        Ended::Done(output) => return app.system.blobs.get(group, tenant, output).await,
        Ended::Failed { input, attempt } => (input, attempt),
    };
    let content = app.system.blobs.get(group, tenant, input).await?;
    let documents = documents::read(&content).map_err(std::io::Error::other)?;
    let identity = app.system.slots.identity();
    let failed = |document: &documents::Document| {
        let why = format!("no result after {attempt} attempts");
        documents::record(document, Err(why), attempt, identity)
    };
    Ok(documents::lines(&documents.iter().map(failed).collect::<Vec<_>>()))
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

fn shown(job: &Job, group: GroupId) -> wire::Job {
    let protocol::jobs::Counts { total, done, failed, cached } = job.counts;
    wire::Job {
        id: job.id.to_string(),
        kind: "scan".to_owned(),
        status: job.status.name().to_owned(),
        progress: job.progress(),
        counts: wire::Counts { total, done, failed, cached },
        priority: job.priority.name().to_owned(),
        shard: group.0,
        created_at: job.created_at.to_string(),
        updated_at: job.updated_at.to_string(),
    }
}
