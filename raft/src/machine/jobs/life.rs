//! Jobs that are ended, held up and let go on by their tenants, or ended by their deadline.

use protocol::jobs::{Cause, Fault, Job, Status, TaskState};
use protocol::{Effect, JobId, Outcome, Refusal, Reply, Stamp, TenantId};

use super::{documents_waiting, find, has_ended, release, run};
use crate::machine::Machine;

/// Ends a job for ever: results that come later are refused, and what has none is given free.
pub(super) fn cancel(machine: &mut Machine, now: Stamp, tenant: TenantId, id: JobId) -> Outcome {
    let job = find(machine, tenant, id)?;
    if job.status == Status::Cancelled {
        return Ok(shown(job));
    }
    if job.status.is_terminal() {
        return Err(Refusal::JobEnded(job.status));
    }
    let documents = documents_waiting(job);
    let job = machine.jobs.get_mut(tenant, id).ok_or(Refusal::NotFound)?;
    job.status = Status::Cancelled;
    job.updated_at = now.time;
    job.life.setbacks.clear();
    job.tell();
    let reply = shown(job);
    release(machine, tenant, id, documents);
    Ok(reply)
}

pub(super) fn pause(machine: &mut Machine, now: Stamp, tenant: TenantId, id: JobId) -> Outcome {
    let job = find(machine, tenant, id)?;
    if !matches!(job.status, Status::Queued | Status::Running) {
        return Err(Refusal::JobEnded(job.status));
    }
    let job = machine.jobs.get_mut(tenant, id).ok_or(Refusal::NotFound)?;
    job.status = Status::Paused;
    job.updated_at = now.time;
    job.tell();
    Ok(shown(job))
}

pub(super) fn resume(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    id: JobId,
    effects: &mut Vec<Effect>,
) -> Outcome {
    let job = find(machine, tenant, id)?;
    if job.status != Status::Paused {
        return Err(Refusal::JobEnded(job.status));
    }
    let job = machine.jobs.get_mut(tenant, id).ok_or(Refusal::NotFound)?;
    let begun = job.tasks.iter().any(|task| task.attempt > 0);
    job.status = if begun { Status::Running } else { Status::Queued };
    job.updated_at = now.time;
    job.tell();
    effects.push(Effect::Dispatch);
    Ok(shown(job))
}

/// Ends a job whose deadline has passed: what has no result is a dead letter.
pub(super) fn expire(machine: &mut Machine, now: Stamp, tenant: TenantId, id: JobId) -> Outcome {
    let job = find(machine, tenant, id)?;
    if job.status.is_terminal() {
        return Err(Refusal::JobEnded(job.status));
    }
    let Some(deadline) = job.life.deadline.filter(|&deadline| now.time >= deadline) else {
        return Ok(Reply::Done);
    };
    let documents = documents_waiting(job);
    let job = machine.jobs.get_mut(tenant, id).ok_or(Refusal::NotFound)?;
    for task in job.tasks.iter_mut().filter(|task| !has_ended(task)) {
        task.state = TaskState::Failed;
        job.counts.failed += task.documents;
    }
    job.updated_at = now.time;
    job.life.setbacks.clear();
    let detail = format!("{documents} documents had no result at {deadline}");
    job.life.cause = Some(Cause::new(Fault::DeadlineExceeded, &detail));
    run::settle(job);
    let (status, counts) = (job.status, job.counts);
    release(machine, tenant, id, documents);
    Ok(Reply::Completed { status, counts })
}

fn shown(job: &Job) -> Reply {
    Reply::Job(Box::new(job.without_tasks()))
}
