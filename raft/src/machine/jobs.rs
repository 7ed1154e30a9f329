//! Jobs of every tenant. Invariants: `counts` never fall; a task gets one result in effect, and
//! its usage is counted in that entry; `open` holds exactly the jobs that are not over.

use std::collections::{BTreeMap, BTreeSet};

use protocol::command::What;
use protocol::jobs::{
    Assignment, Command, Counts, JOB_DOCUMENTS_MAX, Job, Priority, Status, TASK_ATTEMPTS_MAX, Task,
    TaskResult, TaskSpec, TaskState, Worker,
};
use protocol::limits::Payer;
use protocol::tenants::Tenant;
use protocol::usage::Usage;
use protocol::{Effect, JobId, Outcome, Refusal, Reply, Stamp, TenantId};

use super::Machine;
use super::limits::{self, Charge};
use super::rows::Hasher;
use super::table::Table;

/// The jobs, by tenant and id.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub(super) jobs: Table<(TenantId, JobId), Job>,
    open: BTreeSet<(TenantId, JobId)>,
    /// Documents without a result, by tenant.
    waiting: BTreeMap<TenantId, u64>,
}

impl Book {
    /// A tenant's job.
    #[must_use]
    pub fn get(&self, tenant: TenantId, job: JobId) -> Option<&Job> {
        self.jobs.get(&(tenant, job))
    }

    /// A tenant's jobs in order of id.
    pub fn of(&self, tenant: TenantId) -> impl DoubleEndedIterator<Item = &Job> {
        let all = (tenant, JobId(0))..=(tenant, JobId(u128::MAX));
        self.jobs.range(all).map(|(_, job)| job)
    }

    /// Jobs of all tenants beyond one, in order.
    pub fn beyond(
        &self,
        after: Option<(TenantId, JobId)>,
    ) -> impl Iterator<Item = (TenantId, &Job)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.jobs.range((from, Unbounded)).map(|((tenant, _), job)| (*tenant, job))
    }

    /// Jobs that are not over, with their tenants.
    pub fn open(&self) -> impl Iterator<Item = (TenantId, &Job)> {
        self.open.iter().filter_map(|key| self.jobs.get(key).map(|job| (key.0, job)))
    }

    /// Documents of all tenants that wait for a result.
    #[must_use]
    pub fn documents_waiting(&self) -> u64 {
        self.waiting.values().sum()
    }

    pub(super) fn remove_tenant(&mut self, tenant: TenantId) {
        self.jobs.remove_range((tenant, JobId(0))..=(tenant, JobId(u128::MAX)));
        self.open.retain(|&(of, _)| of != tenant);
        self.waiting.remove(&tenant);
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        hasher.table(&self.jobs);
    }

    /// Makes what follows from rows that were loaded.
    pub(super) fn restore(&mut self) {
        let open = self.jobs.iter().filter(|(_, job)| !job.status.is_terminal());
        self.open = open.map(|(&name, _)| name).collect();
        self.waiting.clear();
        for ((tenant, _), job) in self.jobs.iter() {
            let waits = job.tasks.iter().filter(|task| !has_ended(task));
            let documents: u64 = waits.map(|task| u64::from(task.documents)).sum();
            if documents > 0 {
                *self.waiting.entry(*tenant).or_default() += documents;
            }
        }
    }

    fn close(&mut self, tenant: TenantId, job: JobId) {
        self.open.remove(&(tenant, job));
    }

    fn no_longer_waiting(&mut self, tenant: TenantId, documents: u32) {
        if let Some(waiting) = self.waiting.get_mut(&tenant) {
            *waiting = waiting.saturating_sub(u64::from(documents));
        }
    }
}

pub(super) fn apply(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    command: Command,
    effects: &mut Vec<Effect>,
) -> Outcome {
    match command {
        Command::Submit { id, priority, tasks, payer } => {
            let submission = Submission { id, priority, tasks, payer };
            let reply = submit(machine, now, tenant, submission, effects)?;
            effects.push(Effect::Dispatch);
            Ok(reply)
        }
        Command::Lease { job, task, worker } => lease(machine, now, tenant, job, task, worker),
        Command::Complete { job, task, attempt, result } => {
            complete(machine, now, tenant, job, task, attempt, result)
        }
    }
}

struct Submission {
    id: JobId,
    priority: Priority,
    tasks: Vec<TaskSpec>,
    payer: Payer,
}

fn submit(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    submission: Submission,
    effects: &mut Vec<Effect>,
) -> Outcome {
    let Submission { id, priority, tasks, payer } = submission;
    let row = machine.tenants.admitted(tenant, now.time)?;
    if machine.jobs.get(tenant, id).is_some() {
        return Err(Refusal::Exists);
    }
    let total: u32 = tasks.iter().map(|task| task.documents).sum();
    check_size(&machine.jobs, row, u64::from(total))?;
    let metered = payer.key.is_some();
    let price_micros = if metered { row.plan.unit_price_micros() } else { 0 };
    if metered {
        let units = u64::from(total);
        let micros = units * price_micros;
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
    let job = Job {
        id,
        priority,
        status: Status::Queued,
        price_micros,
        metered,
        created_at: now.time,
        updated_at: now.time,
        counts: Counts { total, ..Counts::default() },
        tasks: tasks.into_iter().map(queued).collect(),
    };
    machine.jobs.jobs.insert((tenant, id), job.clone());
    machine.jobs.open.insert((tenant, id));
    *machine.jobs.waiting.entry(tenant).or_default() += u64::from(total);
    Ok(Reply::Job(Box::new(job)))
}

fn check_size(book: &Book, tenant: &Tenant, documents: u64) -> Result<(), Refusal> {
    let limits = tenant.limits();
    let own = limits.max_documents.unwrap_or(u64::MAX);
    let limit = own.min(u64::from(JOB_DOCUMENTS_MAX));
    if documents > limit {
        return Err(Refusal::TooMany { what: What::Documents, got: documents, limit });
    }
    let waiting = book.waiting.get(&tenant.id).copied().unwrap_or(0);
    if let Some(limit) = limits.max_backlog.filter(|&limit| waiting + documents > limit) {
        return Err(Refusal::BacklogFull { waiting, limit });
    }
    Ok(())
}

fn lease(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    id: JobId,
    number: u32,
    worker: Worker,
) -> Outcome {
    machine.tenants.admitted(tenant, now.time)?;
    let job = machine.jobs.jobs.get_mut(&(tenant, id)).ok_or(Refusal::NotFound)?;
    if job.status.is_terminal() {
        return Err(Refusal::JobEnded(job.status));
    }
    let task = job.tasks.get_mut(number as usize).ok_or(Refusal::NotFound)?;
    if has_ended(task) {
        return Err(Refusal::TaskDone);
    }
    if task.attempt >= TASK_ATTEMPTS_MAX {
        task.state = TaskState::Failed;
        job.counts.failed += task.documents;
        job.updated_at = now.time;
        let documents = task.documents;
        settle(job);
        let (status, counts, reserved) = (job.status, job.counts, job.price_micros);
        machine.limits.settle(tenant, u64::from(documents) * reserved);
        machine.jobs.no_longer_waiting(tenant, documents);
        if status.is_terminal() {
            machine.jobs.close(tenant, id);
        }
        return Ok(Reply::Completed { status, counts });
    }
    task.attempt += 1;
    task.state = TaskState::Leased(worker);
    job.status = Status::Running;
    job.updated_at = now.time;
    Ok(Reply::Leased(Assignment {
        tenant,
        job: id,
        task: number,
        attempt: task.attempt,
        input: task.input,
        documents: task.documents,
    }))
}

fn complete(
    machine: &mut Machine,
    now: Stamp,
    tenant: TenantId,
    id: JobId,
    number: u32,
    attempt: u32,
    result: TaskResult,
) -> Outcome {
    let job = machine.jobs.jobs.get_mut(&(tenant, id)).ok_or(Refusal::NotFound)?;
    let task = job.tasks.get_mut(number as usize).ok_or(Refusal::NotFound)?;
    if has_ended(task) {
        return Err(Refusal::TaskDone);
    }
    if attempt != task.attempt {
        return Err(Refusal::StaleAttempt { got: attempt, newest: task.attempt });
    }
    if result.done + result.failed != task.documents {
        let got = u64::from(result.done + result.failed);
        let limit = u64::from(task.documents);
        return Err(Refusal::TooMany { what: What::Documents, got, limit });
    }
    task.state = TaskState::Done(result);
    job.counts.done += result.done;
    job.counts.failed += result.failed;
    job.counts.cached += result.cached;
    job.updated_at = now.time;
    let documents = task.documents;
    settle(job);
    let (status, counts, price, metered) = (job.status, job.counts, job.price_micros, job.metered);
    if status.is_terminal() {
        machine.jobs.close(tenant, id);
    }
    machine.jobs.no_longer_waiting(tenant, documents);
    machine.limits.settle(tenant, u64::from(documents) * price);
    if !metered {
        return Ok(Reply::Completed { status, counts });
    }
    let used = Usage {
        documents: u64::from(result.done),
        cached: u64::from(result.cached),
        tokens: result.tokens,
        cost_micros: u64::from(result.done) * price,
        ..Usage::default()
    };
    machine.usage.add(tenant, now, &used);
    Ok(Reply::Completed { status, counts })
}

fn has_ended(task: &Task) -> bool {
    matches!(task.state, TaskState::Done(_) | TaskState::Failed)
}

/// Ends the job when every task has ended.
fn settle(job: &mut Job) {
    if !job.tasks.iter().all(has_ended) {
        return;
    }
    let broken = job.tasks.iter().any(|task| matches!(task.state, TaskState::Failed));
    job.status = if broken { Status::Failed } else { Status::Completed };
}
