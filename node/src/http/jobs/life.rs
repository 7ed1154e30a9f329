//! What can be asked of a job after it was submitted, and how long its tenant's tasks wait.

use actors::documents;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::jobs::{Again, Command, Job, TaskResult, TaskSpec, TaskState};
use protocol::peer::{Answer, Ask};
use protocol::versions::Wire;
use protocol::wire::jobs as wire;
use protocol::{GroupId, JobId, Reply, TenantId};

use super::{Named, shown, submitted, told, unstored};
use crate::http::app::App;
use crate::http::auth::{Caller, Idempotency, JOBS_READ, JOBS_WRITE};
use crate::http::error::{Code, Problem};
use crate::http::json::{Empty, Json};
use crate::http::once::Wish;
use crate::http::openapi::ProblemResponse;
use crate::http::query::{NoQuery, Segments};

/// End a job for ever; what has no result yet gets none and is not billed
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs",
    params(("id" = String, Path, description = "The job")),
    responses((status = 200, description = "It is cancelled", body = wire::Job),
        (status = 404, response = ProblemResponse), (status = 409, response = ProblemResponse)))]
pub(super) async fn cancel(
    State(app): State<App>,
    caller: Caller<JOBS_WRITE>,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let wish = caller.wish(&once, body.marks);
    change(&app, caller.tenant, path, |job| Command::Cancel { job }, &wish).await
}

/// Begin nothing more of a job until it is resumed
#[utoipa::path(post, path = "/v1/jobs/{id}/pause", tag = "jobs",
    params(("id" = String, Path, description = "The job")),
    responses((status = 200, description = "It is paused", body = wire::Job),
        (status = 404, response = ProblemResponse), (status = 409, response = ProblemResponse)))]
pub(super) async fn pause(
    State(app): State<App>,
    caller: Caller<JOBS_WRITE>,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let wish = caller.wish(&once, body.marks);
    change(&app, caller.tenant, path, |job| Command::Pause { job }, &wish).await
}

/// Go on with a paused job
#[utoipa::path(post, path = "/v1/jobs/{id}/resume", tag = "jobs",
    params(("id" = String, Path, description = "The job")),
    responses((status = 200, description = "It goes on", body = wire::Job),
        (status = 404, response = ProblemResponse), (status = 409, response = ProblemResponse)))]
pub(super) async fn resume(
    State(app): State<App>,
    caller: Caller<JOBS_WRITE>,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let wish = caller.wish(&once, body.marks);
    change(&app, caller.tenant, path, |job| Command::Resume { job }, &wish).await
}

async fn change(
    app: &App,
    tenant: TenantId,
    path: Named,
    command: impl FnOnce(JobId) -> Command,
    wish: &Wish,
) -> Result<Response, Problem> {
    let Segments((job,)) = path?;
    app.check_spoken(Wire::JOB_LIFE)?;
    let command = protocol::Command::Job(tenant, command(job));
    let written = app.propose(tenant, command, wish, None, StatusCode::OK).await?.written()?;
    let Reply::Job(job) = written.reply.clone() else { return Err(Problem::new(Code::Internal)) };
    let body = shown(&job, written.group);
    Ok(written.respond(StatusCode::OK, &body))
}

/// Do the failed part of a job again, as a job of its own
#[utoipa::path(post, path = "/v1/jobs/{id}/retry", tag = "jobs",
    params(("id" = String, Path, description = "The job, which has ended")),
    responses((status = 202, description = "The new job; it spends no units",
        body = wire::Submitted),
        (status = 404, response = ProblemResponse), (status = 409, response = ProblemResponse)))]
pub(super) async fn retry(
    State(app): State<App>,
    caller: Caller<JOBS_WRITE>,
    path: Named,
    _: NoQuery,
    once: Idempotency,
    body: Json<Empty>,
) -> Result<Response, Problem> {
    let wish = caller.wish(&once, body.marks);
    let Segments((of,)) = path?;
    app.check_spoken(Wire::JOB_LIFE)?;
    let (job, group) = told(&app, caller.tenant, Ask::Job(caller.tenant, of)).await?;
    // One that may not be retried is refused by its owner, who has the last word and the first answer.
    let tasks = failed_part(&app, group, caller.tenant, &job).await?;
    let (payer, _held) = caller.payer(&app);
    let again = Again { id: JobId(uuid::Uuid::now_v7().as_u128()), tasks };
    let command = protocol::Command::Job(caller.tenant, Command::Retry { job: of, again, payer });
    let asked = app.propose(caller.tenant, command, &wish, None, StatusCode::ACCEPTED).await?;
    submitted(asked.written()?)
}

/// The documents of a job that ended without a result, as tasks.
async fn failed_part(
    app: &App,
    group: GroupId,
    tenant: TenantId,
    job: &Job,
) -> Result<Vec<TaskSpec>, Problem> {
    let mut part = Vec::new();
    for task in job.tasks.iter().filter(|_| job.status.is_terminal()) {
        match task.state {
            TaskState::Failed => {
                part.push(TaskSpec { input: task.input, documents: task.documents });
            }
            TaskState::Done(result) if result.failed > 0 => {
                let whole = TaskSpec { input: task.input, documents: task.documents };
                part.push(failed_of(app, group, tenant, whole, result).await?);
            }
            TaskState::Done(_) | TaskState::Queued | TaskState::Leased(_) => {}
        }
    }
    Ok(part)
}

/// The documents of a task that failed one by one.
async fn failed_of(
    app: &App,
    group: GroupId,
    tenant: TenantId,
    whole: TaskSpec,
    result: TaskResult,
) -> Result<TaskSpec, Problem> {
    let blobs = &app.system.blobs;
    let get = async |blob| blobs.get(group, tenant, blob).await.map_err(|error| unstored(&error));
    let (input, output) = (get(whole.input).await?, get(result.output).await?);
    let mut left = documents::read(&input).map_err(unread)?;
    let lines = output.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let records = lines.map(serde_json::from_slice::<wire::Record>);
    let records: Vec<wire::Record> = records.collect::<Result<_, _>>().map_err(unread)?;
    let mut failed = records.iter().map(|record| record.status == "failed");
    left.retain(|_| failed.next().unwrap_or(false));
    let input = blobs.put(group, tenant, documents::lines(&left)).await;
    let input = input.map_err(|error| unstored(&error))?;
    Ok(TaskSpec { input, documents: left.len() as u32 })
}

/// A blob that is whole and yet not what was written is a defect.
fn unread(_: impl std::error::Error) -> Problem {
    Problem::new(Code::Internal)
}

/// What waits of the tenant's jobs, and for how long tasks wait
#[utoipa::path(get, path = "/v1/queue", tag = "jobs",
    responses((status = 200, description = "As the owner of the tenant's shard sees it",
        body = wire::Queue)))]
pub(super) async fn queue(
    State(app): State<App>,
    caller: Caller<JOBS_READ>,
    _: NoQuery,
) -> Result<Response, Problem> {
    app.check_spoken(Wire::JOB_LIFE)?;
    app.ask(caller.tenant, Ask::Queue(caller.tenant)).await?.render(|answer, group| {
        let Answer::Queue(queue) = answer else { return None };
        Some(wire::Queue {
            documents_waiting: queue.documents,
            tasks_waiting: queue.tasks,
            tasks_running: queue.running,
            weight: queue.weight,
            max_running: queue.max_running,
            max_backlog: queue.max_backlog,
            wait_p50_ms: queue.wait_p50_ms,
            wait_p95_ms: queue.wait_p95_ms,
            shard: group.0,
        })
    })
}
