//! What a coordinator answers from the state, and the changes that it is asked for.

use protocol::audit::Note;
use protocol::idempotency::Once;
use protocol::jobs::{self, Cause, Command, Counts, Job, TaskResult, TaskState};
use protocol::peer::{Answer, Ask, Filter, QueueView};
use protocol::versions::Wire;
use protocol::{JobId, Refusal, Reply, TenantId};
use raft::machine::Machine;
use tracing::info;

use crate::ask::{Answered, AskError};
use crate::figures::figures;
use crate::shard::Owned;
use crate::tenants::bounded;

/// Jobs that are looked at for one page of those that a filter holds for: whoever wants more goes on
/// where this ended.
const LOOKED_AT_MAX: usize = 10_000;

/// A task of a tenant's job, and the number of an attempt.
type Attempt = (TenantId, JobId, u32, u32);

pub(super) async fn answer(owned: &Owned, ask: Ask) -> Answered {
    match ask {
        Ask::Propose { command, once, note } => {
            propose(owned, &command, once.as_ref(), note.as_deref()).await
        }
        Ask::Finished { tenant, job, task, attempt, result } => {
            finish(owned, (tenant, job, task, attempt), result).await
        }
        Ask::Failed { tenant, job, task, attempt, cause } => {
            fail(owned, (tenant, job, task, attempt), cause).await
        }
        Ask::Job(tenant, job) => {
            let view = owned.group.read().await.map_err(AskError::from)?;
            let missing = Answer::Refused(Refusal::NotFound);
            Ok(view.jobs.get(tenant, job).map_or(missing, |job| Answer::Job(Box::new(job.clone()))))
        }
        Ask::Follow(tenant, job, told) => {
            let view = owned.group.read().await.map_err(AskError::from)?;
            let missing = Answer::Refused(Refusal::NotFound);
            let follow = |job: &Job| Answer::Followed(Box::new(job.follow(told)));
            Ok(view.jobs.get(tenant, job).map_or(missing, follow))
        }
        Ask::Jobs { tenant, after, limit, ascending } => {
            let view = owned.group.read().await.map_err(AskError::from)?;
            // A list shows no tasks, and an envelope has a bound.
            let rows = beyond(&view, tenant, after, ascending).take(bounded(limit));
            Ok(Answer::Jobs(rows.map(Job::without_tasks).collect()))
        }
        Ask::FindJobs { tenant, after, limit, ascending, filter } => {
            let view = owned.group.read().await.map_err(AskError::from)?;
            let jobs = beyond(&view, tenant, after, ascending);
            Ok(find(jobs, bounded(limit), &filter))
        }
        Ask::Lease { .. }
        | Ask::Close { .. }
        | Ask::View { .. }
        | Ask::Slab { .. }
        | Ask::Tenant(_)
        | Ask::Tenants { .. }
        | Ask::Key(..)
        | Ask::Keys { .. }
        | Ask::Usage { .. }
        | Ask::Audit(_)
        | Ask::Limits { .. }
        | Ask::Queue(_)
        | Ask::Running { .. }
        | Ask::Take { .. } => Ok(Answer::Refused(Refusal::NotFound)),
    }
}

/// Counts the job, if this was what cancelled it.
async fn propose(
    owned: &Owned,
    command: &protocol::Command,
    once: Option<&Once>,
    note: Option<&Note>,
) -> Answered {
    let cancelled = if let protocol::Command::Job(tenant, Command::Cancel { job }) = command {
        Some((*tenant, *job))
    } else {
        None
    };
    // Cancelled again it is as it was.
    let cancelled = cancelled.filter(|&(tenant, job)| {
        let view = owned.group.view();
        view.jobs.get(tenant, job).is_some_and(|job| !job.status.is_terminal())
    });
    let answered = owned.propose_once(command, once, note).await;
    if let (Some((tenant, _)), Ok(Answer::Applied(applied))) = (cancelled, &answered)
        && let Ok(Reply::Job(job)) = &applied.outcome
    {
        note_end(owned, tenant, job.id, job.status, job.counts);
    }
    answered
}

fn beyond(
    view: &Machine,
    tenant: TenantId,
    after: Option<JobId>,
    ascending: bool,
) -> impl Iterator<Item = &Job> {
    let (forth, back) = if ascending {
        (Some(view.jobs.of_beyond(tenant, after)), None)
    } else {
        (None, Some(view.jobs.of_before(tenant, after)))
    };
    forth.into_iter().flatten().chain(back.into_iter().flatten())
}

/// A page of the jobs that are wanted.
fn find<'a>(jobs: impl Iterator<Item = &'a Job>, limit: usize, filter: &Filter) -> Answer {
    let (mut found, mut last) = (Vec::new(), None);
    for (looked_at, job) in jobs.enumerate() {
        if found.len() == limit || looked_at == LOOKED_AT_MAX {
            return Answer::Found { jobs: found, next: last };
        }
        last = Some(job.id);
        if filter.wants(job) {
            found.push(job.without_tasks());
        }
    }
    Answer::Found { jobs: found, next: None }
}

/// What waits of a tenant's jobs; `known` is what the coordinator alone knows.
pub(super) async fn queue(owned: &Owned, tenant: TenantId, known: QueueView) -> Answered {
    let view = owned.group.read().await.map_err(AskError::from)?;
    let Some(row) = view.tenants.get(tenant) else {
        return Ok(Answer::Refused(Refusal::NoTenant));
    };
    let limits = row.limits();
    Ok(Answer::Queue(QueueView {
        documents: view.jobs.waiting(tenant),
        weight: row.weight(),
        max_running: limits.max_running,
        max_backlog: limits.max_backlog,
        ..known
    }))
}

/// Those of the tasks whose results nobody waits for any more.
pub(super) fn unwanted(view: &Machine, tasks: &[Attempt]) -> Vec<Attempt> {
    let is_wanted = |&&(tenant, job, number, attempt): &&Attempt| {
        let job = view.jobs.get(tenant, job).filter(|job| !job.status.is_terminal());
        let task = job.and_then(|job| job.tasks.get(number as usize));
        task.is_some_and(|task| {
            task.attempt == attempt && matches!(task.state, TaskState::Leased(_))
        })
    };
    tasks.iter().filter(|task| !is_wanted(task)).copied().collect()
}

async fn finish(
    owned: &Owned,
    (tenant, job, task, attempt): Attempt,
    result: TaskResult,
) -> Answered {
    let command = Command::Complete { job, task, attempt, result };
    let answered = owned.propose(protocol::Command::Job(tenant, command)).await;
    note_end_of(owned, tenant, job, &answered);
    answered
}

/// An attempt brought no result.
pub(super) async fn fail(
    owned: &Owned,
    (tenant, job, task, attempt): Attempt,
    cause: Cause,
) -> Answered {
    if !owned.is_spoken(Wire::JOB_LIFE) {
        // The lease runs out, as it did before there was a word for it.
        return Ok(Answer::Noted);
    }
    figures().task_failures.with_label_values(&[cause.fault.name()]).inc();
    info!(%job, task, attempt, %cause, "attempt failed");
    let command = Command::Fail { job, task, attempt, cause };
    let answered = owned.propose(protocol::Command::Job(tenant, command)).await;
    note_end_of(owned, tenant, job, &answered);
    answered
}

/// Counts a job whose last task this was.
pub(super) fn note_end_of(owned: &Owned, tenant: TenantId, job: JobId, answered: &Answered) {
    if let Ok(Answer::Applied(applied)) = answered
        && let Ok(Reply::Completed { status, counts }) = &applied.outcome
    {
        note_end(owned, tenant, job, *status, *counts);
    }
}

fn note_end(owned: &Owned, tenant: TenantId, job: JobId, status: jobs::Status, counts: Counts) {
    if !status.is_terminal() {
        return;
    }
    figures().jobs_completed.with_label_values(&[status.name()]).inc();
    let began = owned.group.view().jobs.get(tenant, job).map(|job| job.created_at);
    let took_ms = began.map_or(0, |began| owned.clock.now().ms_since(began));
    figures().job_seconds.observe(took_ms as f64 / 1000.0);
    info!(%job, status = status.name(), done = counts.done, failed = counts.failed, "job ended");
}
