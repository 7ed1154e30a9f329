//! `/v1/jobs`: documents scored later, by all nodes.

use actors::blobs::BlobError;
use actors::documents;
use actors::jobs::{Load, task_documents};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use protocol::jobs::{
    Command, JOB_DOCUMENTS_MAX, Job, Priority, Status, TASK_ATTEMPTS_MAX, TaskSpec, Wishes,
};
use protocol::peer::{Answer, Ask, Filter};
use protocol::versions::Wire;
use protocol::wire::{List, jobs as wire};
use protocol::{GroupId, JobId, Name, Reply, TenantId, Time};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::{self, App, Written};
use super::auth::{Caller, Idempotency, JOBS_READ, JOBS_WRITE};
use super::error::{Code, Limited, Outcome, Problem};
use super::json::{FromShape, Json, Object};
use super::models;
use super::openapi::ProblemResponse;
use super::query::{FromQuery, NoQuery, Order, Page, Parameters, Query, Segments};
use super::scan::{self, Document};

mod events;
mod life;
mod results;

const LIST: &str = "/v1/jobs";
/// A job whose time is further away than a year is a mistake.
const AHEAD_MS_MAX: u64 = 366 * 86_400_000;
/// Characters of an error that is looked for.
const ERROR_CHARACTERS_MAX: usize = 200;
/// Task inputs that are stored at a time.
const BLOBS_AT_ONCE: usize = 4;

pub use events::Streams;

type Named = Result<Segments<(JobId,)>, Problem>;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(submit, list))
        .routes(routes!(get))
        .routes(routes!(results::results))
        .routes(routes!(events::events))
        .routes(routes!(life::cancel))
        .routes(routes!(life::pause))
        .routes(routes!(life::resume))
        .routes(routes!(life::retry))
        .routes(routes!(life::queue))
}

/// Body of `POST /v1/jobs`.
#[derive(Debug)]
struct Submit {
    documents: Vec<Document>,
    wishes: Wishes,
    model: Option<Name>,
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
        let words = priorities();
        let priority = object.optional("priority", |priority| priority.one_of(&words));
        let deadline_s = object.optional("deadline_s", |s| s.integer(1..=AHEAD_MS_MAX / 1000));
        let run_at = object.optional("run_at", |at| at.parsed(ahead));
        let attempts_max = object.optional("options", |options| options.object(attempts_max));
        let model = object.optional("model", |model| model.parsed(Name::parse));
        for name in ["inputs", "callback_url"] {
            object.lacking(name, "is not part of this build");
        }
        kind?;
        let wishes = Wishes {
            priority: priority.unwrap_or_default(),
            run_at,
            deadline_ms: deadline_s.map(|s| s * 1000),
            attempts_max: attempts_max.unwrap_or(TASK_ATTEMPTS_MAX),
            model: None,
        };
        Some(Self { documents: documents?, wishes, model })
    }
}

fn priorities() -> [(&'static str, Priority); 4] {
    let all = [Priority::Low, Priority::Normal, Priority::High, Priority::Urgent];
    all.map(|priority| (priority.name(), priority))
}

fn attempts_max(object: &mut Object<'_, '_>) -> Option<u32> {
    let max = object.optional("max_attempts", |max| max.integer(1..=TASK_ATTEMPTS_MAX));
    Some(max.unwrap_or(TASK_ATTEMPTS_MAX))
}

/// A time within a year. One that has passed means at once.
fn ahead(text: &str) -> Result<Time, &'static str> {
    let at = time(text)?;
    let ahead = at.ms_since(actors::clock::wall());
    if ahead <= AHEAD_MS_MAX { Ok(at) } else { Err("must be within a year") }
}

fn time(text: &str) -> Result<Time, &'static str> {
    let at: jiff::Timestamp =
        text.parse().map_err(|_| "must be a time like 2027-01-31T12:00:00Z")?;
    Ok(u64::try_from(at.as_millisecond()).map_or_else(|_| Time::default(), Time))
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
    let Submit { documents, wishes, model } = body.value;
    caller.check_size(documents.len(), body.marks.bytes)?;
    let tenant = caller.key.as_ref().map(|pass| &pass.tenant);
    let model = models::chosen(&app, tenant, model.as_ref()).await?;
    let wishes = Wishes { model, ..wishes };
    if wish.key.is_none() {
        caller.check_dry(&app)?;
    }
    if !wishes.is_plain() {
        app.check_spoken(Wire::JOB_LIFE)?;
    }
    let count = documents.len() as u64;
    let tasks = store(&app, &caller, documents, wishes.priority).await?;
    let (payer, _held) = caller.payer(&app);
    let id = JobId(uuid::Uuid::now_v7().as_u128());
    let command = if wishes.is_plain() {
        Command::Submit { id, priority: wishes.priority, tasks, payer }
    } else {
        Command::Enqueue { id, wishes, tasks, payer }
    };
    let command = protocol::Command::Job(caller.tenant, command);
    let told = app.propose(caller.tenant, command, &wish, None, StatusCode::ACCEPTED).await?;
    let written =
        told.written().map_err(|full| full.limit(|limit| foretell(&app, limit, count)))?;
    submitted(written)
}

/// When there may be room for documents that a full backlog has none for, as if the cluster had
/// nothing else to do; nobody knows what others will submit.
fn foretell(app: &App, limited: &mut Limited, documents: u64) {
    const WAIT_MS: std::ops::RangeInclusive<f64> = 1_000.0..=3_600_000.0;
    if limited.policy != "max_backlog" {
        return;
    }
    let per_s: f64 = app.system.workers.loads().values().map(Load::documents_per_s).sum();
    let waiting = limited.limit.saturating_sub(limited.remaining);
    let over = (waiting + documents).saturating_sub(limited.limit);
    let wait_ms = |documents: u64| {
        let ms = documents as f64 * 1000.0 / per_s.max(0.001);
        ms.clamp(*WAIT_MS.start(), *WAIT_MS.end()) as u64
    };
    limited.retry_after_ms = wait_ms(over);
    limited.reset_s = wait_ms(waiting.max(over)).div_ceil(1000);
}

/// The answer to a submission, or to a retry.
fn submitted(written: Written) -> Result<Response, Problem> {
    let Reply::Job(job) = written.reply.clone() else { return Err(Problem::new(Code::Internal)) };
    let body = wire::Submitted {
        id: job.id.to_string(),
        status: job.status.name().to_owned(),
        status_url: format!("{LIST}/{}", job.id),
        documents: job.counts.total,
        tasks: job.tasks.len() as u32,
        retry_of: job.life.retry_of.map(|of| of.to_string()),
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

/// `?status=&priority=&type=&since=&until=&error=` beside those of every list.
struct Wanted {
    page: Page,
    filter: Filter,
}

impl FromQuery for Wanted {
    fn from_query(parameters: &mut Parameters<'_>) -> Option<Self> {
        let page = Page::read(parameters);
        let statuses = parameters.parsed("status", |text| {
            let known = |word: &str| Status::ALL.into_iter().find(|status| status.name() == word);
            let statuses: Option<Vec<Status>> = text.split(',').map(known).collect();
            statuses.ok_or("must be statuses of jobs, separated by commas")
        });
        let priority = parameters.one_of("priority", &priorities());
        // There is one type, so it says nothing.
        parameters.one_of("type", &[("scan", ())]);
        let since = parameters.parsed("since", time);
        let until = parameters.parsed("until", time);
        let error = parameters.parsed("error", |text| match text.chars().count() {
            1..=ERROR_CHARACTERS_MAX => Ok(text.to_owned()),
            _ => Err(format!("must be 1 to {ERROR_CHARACTERS_MAX} characters")),
        });
        let statuses = statuses.unwrap_or_default();
        Some(Self { page, filter: Filter { statuses, priority, since, until, error } })
    }
}

/// Jobs of the tenant
#[utoipa::path(get, path = LIST, tag = "jobs",
    params(("limit" = Option<u32>, Query, description = "1..=1000"),
        ("cursor" = Option<String>, Query, description = "From `next_cursor`"),
        ("order" = Option<String>, Query, description = "asc or desc"),
        ("status" = Option<String>, Query, description = "Statuses, separated by commas"),
        ("priority" = Option<String>, Query, description = "low, normal, high or urgent"),
        ("type" = Option<String>, Query, description = "scan"),
        ("since" = Option<String>, Query, description = "Submitted then or later"),
        ("until" = Option<String>, Query, description = "Submitted before"),
        ("error" = Option<String>, Query, description = "Text in what is told of the failure")),
    responses((status = 200, body = List<wire::Job>,
        description = "A page. A filter that holds for few of many jobs may fill it in part, or not \
            at all: `next_cursor` goes on")))]
async fn list(
    State(app): State<App>,
    caller: Caller<JOBS_READ>,
    Query(Wanted { page, filter }): Query<Wanted>,
) -> Result<Response, Problem> {
    let scope = caller.tenant.to_string();
    let cursors = app.cursors()?;
    let after = page.after(&cursors, &scope, LIST)?;
    let after = after.and_then(|bytes| bytes.try_into().ok()).map(u128::from_be_bytes).map(JobId);
    let (tenant, ascending) = (caller.tenant, page.order == Order::Ascending);
    let ask = if filter == Filter::default() {
        Ask::Jobs { tenant, after, limit: page.limit as u32 + 1, ascending }
    } else {
        app.check_spoken(Wire::JOB_LIFE)?;
        let (limit, filter) = (page.limit as u32, Box::new(filter));
        Ask::FindJobs { tenant, after, limit, ascending, filter }
    };
    app.ask(tenant, ask).await?.render(|answer, group| {
        let (jobs, last) = if let Answer::Found { jobs, next } = answer {
            (jobs, next)
        } else if let Answer::Jobs(mut jobs) = answer {
            let more = jobs.len() > page.limit;
            jobs.truncate(page.limit);
            let last = jobs.last().filter(|_| more).map(|job| job.id);
            (jobs, last)
        } else {
            return None;
        };
        let next = last.map(|job| page.next(&cursors, &scope, LIST, &job.0.to_be_bytes()));
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

/// A job as its owner tells it.
async fn told(app: &App, tenant: TenantId, ask: Ask) -> Result<(Job, GroupId), Problem> {
    let told = app.ask(tenant, ask).await?;
    if let Answer::Refused(refusal) = told.answer {
        return Err(app::refused(refusal));
    }
    let Answer::Job(job) = told.answer else { return Err(Problem::new(Code::Internal)) };
    Ok((*job, told.group))
}

fn shown(job: &Job, group: GroupId) -> wire::Job {
    let protocol::jobs::Counts { total, done, failed, cached } = job.counts;
    let life = &job.life;
    let failure = life.cause.as_ref().map(|cause| wire::Failure {
        code: cause.fault.name().to_owned(),
        detail: cause.detail.clone(),
    });
    wire::Job {
        id: job.id.to_string(),
        kind: "scan".to_owned(),
        status: job.status.name().to_owned(),
        progress: job.progress(),
        counts: wire::Counts { total, done, failed, cached },
        priority: job.priority().name().to_owned(),
        run_at: life.wishes.run_at.map(|at| at.to_string()),
        deadline: life.deadline.map(|at| at.to_string()),
        max_attempts: life.wishes.attempts_max,
        error: failure,
        retry_of: life.retry_of.map(|of| of.to_string()),
        retried_as: life.retried_as.map(|job| job.to_string()),
        shard: group.0,
        created_at: job.created_at.to_string(),
        updated_at: job.updated_at.to_string(),
    }
}
