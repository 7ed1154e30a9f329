//! New jobs: what they take of the tenant's limits, and the failed part of a job as a new one.

use protocol::command::What;
use protocol::jobs::{
    Again, Counts, JOB_DOCUMENTS_MAX, Job, Life, Status, Task, TaskSpec, TaskState, Wishes,
};
use protocol::limits::Payer;
use protocol::tenants::Tenant;
use protocol::usage::Usage;
use protocol::{Effect, JobId, Outcome, Refusal, Reply, Stamp, TenantId};

use super::{Book, find};
use crate::machine::Machine;
use crate::machine::limits::{self, Charge};

pub(super) struct Submission {
    pub(super) id: JobId,
    pub(super) life: Life,
    pub(super) tasks: Vec<TaskSpec>,
    pub(super) payer: Payer,
}

/// The life that begins with these wishes.
pub(super) fn life(wishes: Wishes, now: Stamp) -> Life {
    let ready_at = wishes.run_at.map_or(now.time, |run_at| run_at.max(now.time));
    let deadline = wishes.deadline_ms.map(|ms| ready_at.plus_ms(ms));
    Life { wishes, deadline, ..Life::default() }
}

pub(super) fn submit(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    submission: Submission,
    effects: &mut Vec<Effect>,
) -> Outcome {
    let row = machine.tenants.admitted(tenant, now.time)?;
    let total = documents(&submission.tasks);
    check_size(&machine.jobs, row, total)?;
    admit(machine, now, tenant, submission, total, effects)
}

/// The failed part of a job, as a job of its own: what ended stays as it ended. It spends a request and
/// no units, since those of its documents were spent by the first submission and brought nothing.
pub(super) fn retry(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    of: JobId,
    again: Again,
    payer: Payer,
    effects: &mut Vec<Effect>,
) -> Outcome {
    let row = machine.tenants.admitted(tenant, now.time)?;
    let job = find(machine, tenant, of)?;
    if !matches!(job.status, Status::Failed | Status::Completed) {
        return Err(Refusal::JobEnded(job.status));
    }
    if let Some(job) = job.life.retried_as {
        return Err(Refusal::Retried { job });
    }
    let (total, failed) = (documents(&again.tasks), u64::from(job.counts.failed));
    if total == 0 || total != failed {
        return Err(Refusal::NothingFailed);
    }
    check_backlog(&machine.jobs, row, total)?;
    let wishes = Wishes { run_at: None, ..job.life.wishes };
    let life = Life { retry_of: Some(of), ..life(wishes, now) };
    let Again { id, tasks } = again;
    let submission = Submission { id, life, tasks, payer };
    let reply = admit(machine, now, tenant, submission, 0, effects)?;
    if let Some(job) = machine.jobs.get_mut(tenant, of) {
        job.life.retried_as = Some(id);
    }
    Ok(reply)
}

/// Charges a job, reserves what it may cost, and queues its tasks.
fn admit(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    submission: Submission,
    units: u64,
    effects: &mut Vec<Effect>,
) -> Outcome {
    let Submission { id, life, tasks, payer } = submission;
    let row = machine.tenants.admitted(tenant, now.time)?;
    if machine.jobs.get(tenant, id).is_some() {
        return Err(Refusal::Exists);
    }
    let total = documents(&tasks);
    let metered = payer.key.is_some();
    let price_micros = if metered { row.plan.unit_price_micros() } else { 0 };
    let cached_price_micros = if metered { row.plan.cached_price_micros() } else { 0 };
    if metered {
        let micros = total * price_micros;
        let Payer { key, slot } = payer;
        let charge = Charge { key, requests: 1, units, micros, slot, only: None };
        limits::charge(machine, tenant, now, &charge, effects)?;
        machine.limits.reserve(tenant, micros);
        machine.usage.add(tenant, now, &Usage { calls: 1, units, ..Usage::default() });
    }
    let queued = |spec: TaskSpec| Task {
        input: spec.input,
        documents: spec.documents,
        attempt: 0,
        state: TaskState::Queued,
    };
    let mut job = Job {
        id,
        life,
        status: Status::Queued,
        price_micros,
        cached_price_micros,
        metered,
        created_at: now.time,
        updated_at: now.time,
        counts: Counts { total: total as u32, ..Counts::default() },
        tasks: tasks.into_iter().map(queued).collect(),
        events: Vec::new(),
    };
    job.tell();
    machine.jobs.insert(tenant, job.clone());
    effects.push(Effect::Dispatch);
    Ok(Reply::Job(Box::new(job)))
}

fn documents(tasks: &[TaskSpec]) -> u64 {
    tasks.iter().map(|task| u64::from(task.documents)).sum()
}

fn check_size(book: &Book, tenant: &Tenant, documents: u64) -> Result<(), Refusal> {
    let own = tenant.limits().max_documents.unwrap_or(u64::MAX);
    let limit = own.min(u64::from(JOB_DOCUMENTS_MAX));
    if documents > limit {
        return Err(Refusal::TooMany { what: What::Documents, got: documents, limit });
    }
    check_backlog(book, tenant, documents)
}

fn check_backlog(book: &Book, tenant: &Tenant, documents: u64) -> Result<(), Refusal> {
    let waiting = book.waiting(tenant.id);
    let limit = tenant.limits().max_backlog;
    if let Some(limit) = limit.filter(|&limit| waiting + documents > limit) {
        return Err(Refusal::BacklogFull { waiting, limit });
    }
    Ok(())
}
