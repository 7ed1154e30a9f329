//! Jobs of every tenant. Invariants: `counts` never fall; a task gets one result in effect, and
//! its usage is counted in that entry; `open` holds exactly the jobs that are not over; what is
//! reserved of a tenant's money is the price of its documents that wait for a result.

use std::collections::{BTreeMap, BTreeSet};

use protocol::jobs::{Command, Job, Task, TaskState};
use protocol::{Effect, JobId, Outcome, Refusal, Stamp, TenantId};

use super::Machine;
use super::rows::Hasher;
use super::table::Table;

mod changes;
mod life;
mod run;
mod submit;

use changes::Changes;
use submit::Submission;

/// The jobs, by tenant and id.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub(super) jobs: Table<(TenantId, JobId), Job>,
    open: BTreeSet<(TenantId, JobId)>,
    /// Documents without a result, by tenant.
    waiting: BTreeMap<TenantId, u64>,
    /// Not state: what the owner has yet to look at.
    changes: Changes,
}

impl Book {
    /// A tenant's job.
    #[must_use]
    pub fn get(&self, tenant: TenantId, job: JobId) -> Option<&Job> {
        self.jobs.get(&(tenant, job))
    }

    /// A tenant's jobs beyond one, in order of id.
    pub fn of_beyond(&self, tenant: TenantId, after: Option<JobId>) -> impl Iterator<Item = &Job> {
        use std::ops::Bound::{Excluded, Included};
        let from = after.map_or(Included((tenant, JobId(0))), |after| Excluded((tenant, after)));
        let to = Included((tenant, JobId(u128::MAX)));
        self.jobs.range((from, to)).map(|(_, job)| job)
    }

    /// A tenant's jobs before one, in falling order of id.
    pub fn of_before(&self, tenant: TenantId, before: Option<JobId>) -> impl Iterator<Item = &Job> {
        use std::ops::Bound::{Excluded, Included};
        let last = Included((tenant, JobId(u128::MAX)));
        let to = before.map_or(last, |before| Excluded((tenant, before)));
        self.jobs.range((Included((tenant, JobId(0))), to)).rev().map(|(_, job)| job)
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

    /// Documents of a tenant that wait for a result.
    #[must_use]
    pub fn waiting(&self, tenant: TenantId) -> u64 {
        self.waiting.get(&tenant).copied().unwrap_or(0)
    }

    /// The number of the newest change of a job, for [`Self::changed_since`].
    #[must_use]
    pub fn changed(&self) -> u64 {
        self.changes.newest()
    }

    /// Jobs that changed after a change, some of them more than once; `None` when so much changed since
    /// that nobody remembers, and all that are open have to be looked at.
    pub fn changed_since(
        &self,
        change: u64,
    ) -> Option<impl Iterator<Item = (TenantId, JobId)> + '_> {
        self.changes.since(change)
    }

    pub(super) fn remove_tenant(&mut self, tenant: TenantId) {
        self.jobs.remove_range((tenant, JobId(0))..=(tenant, JobId(u128::MAX)));
        self.open.retain(|&(of, _)| of != tenant);
        self.waiting.remove(&tenant);
        self.changes.forget();
    }

    pub(super) fn digest(&self, hasher: &mut Hasher) {
        hasher.table(&self.jobs);
    }

    /// Makes what follows from rows that were loaded.
    pub(super) fn restore(&mut self) {
        let open = self.jobs.iter().filter(|(_, job)| !job.status.is_terminal());
        self.open = open.map(|(&name, _)| name).collect();
        self.waiting.clear();
        self.changes.forget();
        for (tenant, job) in &self.open {
            let Some(job) = self.jobs.get(&(*tenant, *job)) else { continue };
            let documents = documents_waiting(job);
            if documents > 0 {
                *self.waiting.entry(*tenant).or_default() += documents;
            }
        }
    }

    fn insert(&mut self, tenant: TenantId, job: Job) {
        let name = (tenant, job.id);
        *self.waiting.entry(tenant).or_default() += documents_waiting(&job);
        self.open.insert(name);
        self.changes.note(name);
        self.jobs.insert(name, job);
    }

    /// The job to be changed.
    fn get_mut(&mut self, tenant: TenantId, job: JobId) -> Option<&mut Job> {
        let found = self.jobs.get_mut(&(tenant, job));
        if found.is_some() {
            self.changes.note((tenant, job));
        }
        found
    }

    fn close(&mut self, tenant: TenantId, job: JobId) {
        self.open.remove(&(tenant, job));
    }

    fn no_longer_waiting(&mut self, tenant: TenantId, documents: u64) {
        if let Some(waiting) = self.waiting.get_mut(&tenant) {
            *waiting = waiting.saturating_sub(documents);
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
            let submission = Submission { id, life: priority.into(), tasks, payer };
            submit::submit(machine, now, tenant, submission, effects)
        }
        Command::Enqueue { id, wishes, tasks, payer } => {
            let submission = Submission { id, life: submit::life(wishes, now), tasks, payer };
            submit::submit(machine, now, tenant, submission, effects)
        }
        Command::Retry { job, again, payer } => {
            submit::retry(machine, now, tenant, job, again, payer, effects)
        }
        Command::Lease { job, task, worker } => run::lease(machine, now, tenant, job, task, worker),
        Command::Complete { job, task, attempt, result } => {
            // A worker has room for another.
            effects.push(Effect::Dispatch);
            run::complete(machine, now, tenant, (job, task, attempt), result)
        }
        Command::Fail { job, task, attempt, cause } => {
            run::fail(machine, now, tenant, (job, task, attempt), cause)
        }
        Command::Expire { job } => life::expire(machine, now, tenant, job),
        Command::Cancel { job } => life::cancel(machine, now, tenant, job),
        Command::Pause { job } => life::pause(machine, now, tenant, job),
        Command::Resume { job } => life::resume(machine, now, tenant, job, effects),
    }
}

fn find(machine: &Machine, tenant: TenantId, job: JobId) -> Result<&Job, Refusal> {
    machine.tenants.get(tenant).ok_or(Refusal::NoTenant)?;
    machine.jobs.get(tenant, job).ok_or(Refusal::NotFound)
}

fn has_ended(task: &Task) -> bool {
    matches!(task.state, TaskState::Done(_) | TaskState::Failed)
}

fn documents_waiting(job: &Job) -> u64 {
    let waits = job.tasks.iter().filter(|task| !has_ended(task));
    waits.map(|task| u64::from(task.documents)).sum()
}

/// Gives free what was held for documents of a job that now have a result, or never get one.
fn release(machine: &mut Machine, tenant: TenantId, job: JobId, documents: u64) {
    let Some(of) = machine.jobs.get(tenant, job) else { return };
    let (price, over) = (of.price_micros, of.status.is_terminal());
    if over {
        machine.jobs.close(tenant, job);
    }
    machine.jobs.no_longer_waiting(tenant, documents);
    machine.limits.settle(tenant, documents * price);
}

#[cfg(test)]
mod tests;
