//! Tasks: leased, then done, or failed and leased again until they are dead letters.

use protocol::command::What;
use protocol::jobs::{
    Assignment, Cause, Job, Setback, Status, Task, TaskResult, TaskState, Worker, backoff_ms,
};
use protocol::usage::Usage;
use protocol::{JobId, Outcome, Refusal, Reply, Stamp, TenantId};

use super::{find, has_ended, release};
use crate::machine::Machine;

/// A job, the number of a task, and that of an attempt.
type Attempt = (JobId, u32, u32);

pub(super) fn lease(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    id: JobId,
    number: u32,
    worker: Worker,
) -> Outcome {
    let shares_cache = machine.tenants.admitted(tenant, now.time)?.plan.shares_cache();
    let job = find(machine, tenant, id)?;
    if job.status.is_terminal() || job.status == Status::Paused {
        return Err(Refusal::JobEnded(job.status));
    }
    check_deadline(job, now)?;
    if has_ended(task_of(job, number)?) {
        return Err(Refusal::TaskDone);
    }
    let attempts_max = job.life.wishes.attempts_max;
    let job = machine.jobs.get_mut(tenant, id).ok_or(Refusal::NotFound)?;
    let task = job.tasks.get_mut(number as usize).ok_or(Refusal::NotFound)?;
    job.updated_at = now.time;
    if task.attempt >= attempts_max {
        return Ok(bury(machine, tenant, id, number));
    }
    task.attempt += 1;
    task.state = TaskState::Leased(worker);
    let model = job.life.wishes.model;
    job.status = Status::Running;
    let (attempt, input, documents) = (task.attempt, task.input, task.documents);
    job.tell();
    Ok(Reply::Leased(Assignment {
        tenant,
        job: id,
        task: number,
        attempt,
        input,
        documents,
        shares_cache,
        model,
    }))
}

pub(super) fn complete(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    (id, number, attempt): Attempt,
    result: TaskResult,
) -> Outcome {
    let job = find(machine, tenant, id)?;
    let task = attempted(job, number, attempt)?;
    check_deadline(job, now)?;
    if result.done + result.failed != task.documents {
        let got = u64::from(result.done + result.failed);
        let limit = u64::from(task.documents);
        return Err(Refusal::TooMany { what: What::Documents, got, limit });
    }
    let documents = u64::from(task.documents);
    let (prices, metered) = ((job.price_micros, job.cached_price_micros), job.metered);
    let job = machine.jobs.get_mut(tenant, id).ok_or(Refusal::NotFound)?;
    if let Some(task) = job.tasks.get_mut(number as usize) {
        task.state = TaskState::Done(result);
    }
    job.counts.done += result.done;
    job.counts.failed += result.failed;
    let cached = result.cached.min(result.done);
    job.counts.cached += cached;
    job.updated_at = now.time;
    job.life.setbacks.remove(&number);
    settle(job);
    let (status, counts) = (job.status, job.counts);
    release(machine, tenant, id, documents);
    if metered {
        let used = Usage {
            documents: u64::from(result.done),
            cached: u64::from(cached),
            tokens: result.tokens,
            cost_micros: u64::from(result.done - cached) * prices.0 + u64::from(cached) * prices.1,
            ..Usage::default()
        };
        machine.usage.add(tenant, now, &used);
    }
    Ok(Reply::Completed { status, counts })
}

/// The attempt brought no result: the task waits before the next, or it had its last.
pub(super) fn fail(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    (id, number, attempt): Attempt,
    cause: Cause,
) -> Outcome {
    let job = find(machine, tenant, id)?;
    let task = attempted(job, number, attempt)?;
    if !matches!(task.state, TaskState::Leased(_)) {
        return Err(Refusal::StaleAttempt { got: attempt, newest: task.attempt + 1 });
    }
    let was_last = attempt >= job.life.wishes.attempts_max;
    let job = machine.jobs.get_mut(tenant, id).ok_or(Refusal::NotFound)?;
    job.updated_at = now.time;
    job.life.cause = Some(cause.clone());
    if was_last {
        return Ok(bury(machine, tenant, id, number));
    }
    let not_before = now.time.plus_ms(backoff_ms(id, number, attempt));
    if let Some(task) = job.tasks.get_mut(number as usize) {
        task.state = TaskState::Queued;
    }
    job.life.setbacks.insert(number, Setback { not_before, cause });
    let (status, counts) = (job.status, job.counts);
    Ok(Reply::SetBack { not_before: Some(not_before), status, counts })
}

/// Makes a task a dead letter.
fn bury(machine: &mut Machine, tenant: TenantId, id: JobId, number: u32) -> Reply {
    let Some(job) = machine.jobs.get_mut(tenant, id) else { return Reply::Done };
    let mut documents = 0;
    if let Some(task) = job.tasks.get_mut(number as usize) {
        task.state = TaskState::Failed;
        documents = task.documents;
    }
    job.counts.failed += documents;
    job.life.setbacks.remove(&number);
    settle(job);
    let (status, counts) = (job.status, job.counts);
    release(machine, tenant, id, u64::from(documents));
    Reply::Completed { status, counts }
}

fn task_of(job: &Job, number: u32) -> Result<&Task, Refusal> {
    job.tasks.get(number as usize).ok_or(Refusal::NotFound)
}

/// The task, if the attempt is its newest and nothing is decided.
fn attempted(job: &Job, number: u32, attempt: u32) -> Result<&Task, Refusal> {
    let task = task_of(job, number)?;
    if has_ended(task) {
        return Err(Refusal::TaskDone);
    }
    if job.status.is_terminal() {
        return Err(Refusal::JobEnded(job.status));
    }
    if attempt != task.attempt {
        return Err(Refusal::StaleAttempt { got: attempt, newest: task.attempt });
    }
    Ok(task)
}

fn check_deadline(job: &Job, now: Stamp) -> Result<(), Refusal> {
    let passed = job.life.deadline.is_some_and(|deadline| now.time >= deadline);
    if passed { Err(Refusal::Expired) } else { Ok(()) }
}

/// Ends the job when every task has ended, and tells its followers how it stands.
pub(super) fn settle(job: &mut Job) {
    if !job.tasks.iter().all(has_ended) {
        return job.tell();
    }
    let broken = job.tasks.iter().any(|task| matches!(task.state, TaskState::Failed));
    job.status = if broken { Status::Failed } else { Status::Completed };
    if !broken {
        // What failed on the way was made good.
        job.life.cause = None;
    }
    job.tell();
}
