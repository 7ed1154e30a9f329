//! Which task is next. The queue follows the jobs of a shard by what changed, knows which of them may
//! run, and takes tasks by [`Shares`] between tenants and by priority within one.
//!
//! Within a tenant the most urgent job is next, and of those the one that has waited longest; but
//! every [`AGED`]th task is of the job that has waited longest, whatever its priority. So urgent work
//! is begun at once, and no job waits for ever.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use protocol::jobs::{Job, Priority, Status, Task, TaskState, Worker};
use protocol::peer::Waiting;
use protocol::tenants::{self, Tenant};
use protocol::{JobId, TenantId, Time};
use raft::machine::Machine;

use super::Key;
use super::shares::Shares;

/// One task of so many is for the job that has waited longest.
const AGED: u32 = 8;

type Name = (TenantId, JobId);

/// Tasks of a shard that wait, in the order in which they are taken.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The newest change that was followed.
    seen: Option<u64>,
    places: BTreeMap<Name, Place>,
    lanes: BTreeMap<TenantId, Lane>,
    /// Jobs that have something to run from a time on.
    later: BTreeSet<(Time, Name)>,
    deadlines: BTreeSet<(Time, Name)>,
    leased: BTreeMap<Key, (u32, Worker)>,
    /// Taken, and not yet said to be leased or not.
    taken: BTreeSet<Key>,
    shares: Shares,
}

/// Where a job is in the queue.
#[derive(Debug, Default)]
struct Place {
    ready: Option<(Priority, Time)>,
    later: Option<Time>,
    deadline: Option<Time>,
    leased: Vec<u32>,
    /// Tasks that may run, and their documents.
    free: (usize, u64),
}

/// Jobs of one tenant that have a task which may run.
#[derive(Debug, Default)]
struct Lane {
    urgent: BTreeSet<(Reverse<Priority>, Time, JobId)>,
    old: BTreeSet<(Time, JobId)>,
    /// Tasks that run.
    leased: usize,
    /// Tasks that may run, and their documents.
    free: (usize, u64),
    /// Tasks that were taken.
    count: u32,
}

/// What is looked at to take a task.
#[derive(Clone, Copy)]
struct Look<'a> {
    view: &'a Machine,
    now: Time,
}

impl Queue {
    /// Brings the queue up to the state. Costs as much as changed.
    pub(super) fn follow(&mut self, view: &Machine, now: Time) {
        let changed = self.seen.and_then(|seen| view.jobs.changed_since(seen));
        if let Some(changed) = changed {
            for name in changed.collect::<BTreeSet<_>>() {
                self.place(name, view, now);
            }
        } else {
            let taken = std::mem::take(&mut self.taken);
            let shares = std::mem::take(&mut self.shares);
            *self = Self { taken, shares, ..Self::default() };
            for (tenant, job) in view.jobs.open() {
                self.place((tenant, job.id), view, now);
            }
        }
        self.seen = Some(view.jobs.changed());
        while let Some(&(at, name)) = self.later.first().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, name));
            self.place(name, view, now);
        }
    }

    /// Takes up to `most` tasks that may run now, the next ones first. Whoever takes one says with
    /// [`Self::settled`] when the state tells what became of it.
    pub(super) fn take(&mut self, most: usize, view: &Machine, now: Time) -> Vec<Key> {
        let Self { lanes, taken, shares, .. } = self;
        let tenant = |id| view.tenants.get(id);
        let weight = |id| tenant(id).map_or(1, Tenant::weight);
        for (&id, _) in lanes.iter().filter(|(_, lane)| !lane.old.is_empty()) {
            shares.join(id, weight(id));
        }
        let look = Look { view, now };
        let mut tasks = Vec::new();
        while tasks.len() < most {
            let next = shares.next(weight, |id| lanes.get_mut(&id)?.next(tenant(id)?, look, taken));
            let Some(key) = next else { break };
            taken.insert(key);
            tasks.push(key);
        }
        tasks
    }

    /// The lease of a task that was taken is in the state, or will not be.
    pub(super) fn settled(&mut self, key: Key) {
        self.taken.remove(&key);
    }

    /// Tasks that are leased, with attempt and worker, but for those that are being leased again.
    pub(super) fn leased(&self) -> impl Iterator<Item = (Key, u32, Worker)> + '_ {
        let settled = self.leased.iter().filter(|(key, _)| !self.taken.contains(key));
        settled.map(|(&key, &(attempt, worker))| (key, attempt, worker))
    }

    /// Takes a task that is leased, to lease it again.
    pub(super) fn retake(&mut self, key: Key) {
        self.taken.insert(key);
    }

    /// Whether a task is leased as far as is known.
    pub(super) fn is_leased(&self, key: &Key) -> bool {
        self.leased.contains_key(key)
    }

    /// Jobs whose deadline has passed.
    pub(super) fn expired(&self, now: Time) -> impl Iterator<Item = Name> + '_ {
        self.deadlines.iter().take_while(move |(at, _)| *at <= now).map(|&(_, name)| name)
    }

    /// What could be taken now, as nearly as can be told without a look at each task.
    pub(super) fn waiting(&self, view: &Machine, now: Time) -> Waiting {
        let mut waiting = Waiting::default();
        for (&id, lane) in &self.lanes {
            let Some(tenant) = view.tenants.get(id) else { continue };
            let tasks = lane.takes(tenant, now, &self.taken);
            if tasks > 0 {
                let (all, documents) = lane.free;
                waiting.tasks += tasks as u32;
                waiting.documents += documents * tasks as u64 / all.max(1) as u64;
                waiting.weight += tenant.weight();
            }
        }
        waiting
    }

    /// Tasks of a tenant that run.
    pub(super) fn running(&self, tenant: TenantId) -> usize {
        self.lanes.get(&tenant).map_or(0, |lane| lane.leased)
    }

    /// Tasks of a tenant that may run now, and their documents; those that are taken are among them until
    /// the state has their leases.
    pub(super) fn ready(&self, tenant: TenantId) -> (usize, u64) {
        self.lanes.get(&tenant).map_or((0, 0), |lane| lane.free)
    }

    /// Puts a job where it belongs now.
    fn place(&mut self, name: Name, view: &Machine, now: Time) {
        self.displace(name);
        let job = view.jobs.get(name.0, name.1).filter(|job| !job.status.is_terminal());
        let Some(job) = job else { return };
        let mut place = Place { deadline: job.life.deadline, ..Place::default() };
        for (number, task) in (0..).zip(&job.tasks) {
            if let TaskState::Leased(worker) = task.state {
                self.leased.insert((name.0, name.1, number), (task.attempt, worker));
                place.leased.push(number);
            }
        }
        if !place.leased.is_empty() {
            self.lanes.entry(name.0).or_default().leased += place.leased.len();
        }
        place.free = free(job, now);
        if place.free.0 > 0 {
            let (priority, since) = (job.priority(), job.ready_at());
            let lane = self.lanes.entry(name.0).or_default();
            lane.urgent.insert((Reverse(priority), since, name.1));
            lane.old.insert((since, name.1));
            lane.free.0 += place.free.0;
            lane.free.1 += place.free.1;
            place.ready = Some((priority, since));
        }
        if let Some(at) = starts(job).filter(|at| *at > now).min() {
            self.later.insert((at, name));
            place.later = Some(at);
        }
        if let Some(at) = place.deadline {
            self.deadlines.insert((at, name));
        }
        self.places.insert(name, place);
    }

    fn displace(&mut self, name: Name) {
        let Some(place) = self.places.remove(&name) else { return };
        if let Some(at) = place.later {
            self.later.remove(&(at, name));
        }
        if let Some(at) = place.deadline {
            self.deadlines.remove(&(at, name));
        }
        for &number in &place.leased {
            self.leased.remove(&(name.0, name.1, number));
        }
        let Some(lane) = self.lanes.get_mut(&name.0) else { return };
        lane.leased -= place.leased.len();
        lane.free.0 -= place.free.0;
        lane.free.1 -= place.free.1;
        if let Some((priority, since)) = place.ready {
            lane.urgent.remove(&(Reverse(priority), since, name.1));
            lane.old.remove(&(since, name.1));
        }
        if lane.old.is_empty() && lane.leased == 0 {
            self.lanes.remove(&name.0);
        }
    }
}

impl Lane {
    /// Tasks that the tenant may have beside those that run.
    fn room(&self, tenant: &Tenant, now: Time, taken: &BTreeSet<Key>) -> usize {
        use tenants::Status::{Active, Trial};
        if !matches!(tenant.status(now), Active | Trial) {
            return 0;
        }
        let Some(most) = tenant.limits().max_running else { return usize::MAX };
        let running = self.leased + taken_of(tenant.id, taken);
        usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(running)
    }

    /// Tasks that could be taken now.
    fn takes(&self, tenant: &Tenant, now: Time, taken: &BTreeSet<Key>) -> usize {
        let free = self.free.0.saturating_sub(taken_of(tenant.id, taken));
        free.min(self.room(tenant, now, taken))
    }

    /// The tenant's next task and its documents.
    fn next(
        &mut self,
        tenant: &Tenant,
        look: Look<'_>,
        taken: &BTreeSet<Key>,
    ) -> Option<(Key, u32)> {
        if self.room(tenant, look.now, taken) == 0 {
            return None;
        }
        let urgent = self.urgent.iter().map(|&(_, _, job)| job);
        let found = if self.count % AGED == AGED - 1 {
            free_task(tenant.id, self.old.iter().map(|&(_, job)| job), look, taken)
        } else {
            free_task(tenant.id, urgent, look, taken)
        };
        self.count = self.count.wrapping_add(u32::from(found.is_some()));
        found
    }
}

fn taken_of(tenant: TenantId, taken: &BTreeSet<Key>) -> usize {
    let all = (tenant, JobId(0), 0)..=(tenant, JobId(u128::MAX), u32::MAX);
    taken.range(all).count()
}

/// The first task that may run, of the first of these jobs that has one.
fn free_task(
    tenant: TenantId,
    jobs: impl Iterator<Item = JobId>,
    look: Look<'_>,
    taken: &BTreeSet<Key>,
) -> Option<(Key, u32)> {
    for id in jobs {
        let Some(job) = look.view.jobs.get(tenant, id) else { continue };
        if job.life.deadline.is_some_and(|deadline| deadline <= look.now) {
            continue;
        }
        for (number, task) in (0..).zip(&job.tasks) {
            let key = (tenant, id, number);
            let free = runs_from(job, number, task).is_some_and(|at| at <= look.now);
            if free && !taken.contains(&key) {
                return Some((key, task.documents));
            }
        }
    }
    None
}

/// When each task that waits may run.
fn starts(job: &Job) -> impl Iterator<Item = Time> + '_ {
    (0..).zip(&job.tasks).filter_map(|(number, task)| runs_from(job, number, task))
}

/// Tasks of a job that may run now, and their documents.
fn free(job: &Job, now: Time) -> (usize, u64) {
    let may_run =
        |(number, task): &(u32, &Task)| runs_from(job, *number, task).is_some_and(|at| at <= now);
    let free = (0..).zip(&job.tasks).filter(may_run);
    free.fold((0, 0), |(tasks, documents), (_, task)| {
        (tasks + 1, documents + u64::from(task.documents))
    })
}

/// When a task may run; `None` for one that does not wait for that.
fn runs_from(job: &Job, number: u32, task: &Task) -> Option<Time> {
    if task.state != TaskState::Queued || !matches!(job.status, Status::Queued | Status::Running) {
        return None;
    }
    let setback = job.life.setbacks.get(&number);
    let ready_at = job.ready_at();
    Some(setback.map_or(ready_at, |setback| setback.not_before.max(ready_at)))
}

#[cfg(test)]
mod tests;
