//! The queue over a machine: who is next, and that it follows what changes.

use proptest::prelude::*;
use protocol::jobs::{
    Blob, Cause, Command, Fault, TASK_ATTEMPTS_MAX, TaskResult, TaskSpec, Wishes,
};
use protocol::keys::{KeyOverrides, NewKey, Scopes};
use protocol::limits::Payer;
use protocol::owner::{Epoch, OpenOwner};
use protocol::plans::{Override, Overrides, Shipped};
use protocol::{Digest, Entry, GroupId, Name, NodeId, Proposal, Reply, Stamp};

use super::*;

const WORKER: Worker = Worker { node: NodeId(1), incarnation: 1 };

struct Bench {
    machine: Machine,
    queue: Queue,
    index: u64,
    now: Time,
}

impl Bench {
    fn new() -> Self {
        let (machine, queue) = (Machine::new(GroupId(1)), Queue::default());
        let mut bench = Self { machine, queue, index: 0, now: Time(1_000_000) };
        let open = OpenOwner { node: NodeId(1), incarnation: 1, term: 1 };
        bench.apply(Epoch::default(), protocol::Command::OpenOwner(open));
        bench
    }

    fn apply(&mut self, epoch: Epoch, command: protocol::Command) -> Option<Reply> {
        self.index += 1;
        let proposals = vec![Proposal::new(Stamp::at(self.now), command)];
        let mut changes = self.machine.apply(self.index, 1, Entry { epoch, proposals });
        changes.applied.pop()?.outcome.ok()
    }

    fn change(&mut self, tenant: u128, command: Command) -> Option<Reply> {
        let epoch = self.machine.epoch();
        self.apply(epoch, protocol::Command::Job(TenantId(tenant), command))
    }

    fn tenant(&mut self, id: u128, weight: u64, max_running: Override) {
        let name = Name::parse("acme").unwrap();
        let key = NewKey {
            name: name.clone(),
            digest: Digest([id as u8; 32]),
            prefix: String::new(),
            scopes: Scopes::all(),
            overrides: KeyOverrides::default(),
            expires_at: None,
        };
        let overrides = Overrides {
            weight: Override::Limit(weight),
            max_running,
            max_backlog: Override::Unlimited,
            ..Overrides::default()
        };
        let (plan, domain, time_zone, region) = (Shipped::Enterprise.plan(), None, None, None);
        let new = tenants::NewTenant { name, plan, overrides, domain, time_zone, region, key };
        let create = tenants::Command::Create(Box::new(new));
        let epoch = self.machine.epoch();
        self.apply(epoch, protocol::Command::Tenant(TenantId(id), create)).unwrap();
    }

    fn submit(&mut self, tenant: u128, job: u128, tasks: &[u32], wishes: Wishes) {
        let input = Blob { sha256: Digest([1; 32]), bytes: 1 };
        let tasks = tasks.iter().map(|&documents| TaskSpec { input, documents }).collect();
        let (id, payer) = (JobId(job), Payer::default());
        self.change(tenant, Command::Enqueue { id, wishes, tasks, payer }).unwrap();
    }

    /// Takes tasks and leases them, as jobs and numbers.
    fn lease(&mut self, most: usize) -> Vec<(u128, u32)> {
        self.queue.follow(&self.machine, self.now);
        let keys = self.queue.take(most, &self.machine, self.now);
        for &(tenant, job, task) in &keys {
            let leased = self.change(tenant.0, Command::Lease { job, task, worker: WORKER });
            assert!(matches!(leased, Some(Reply::Leased(_))), "{leased:?}");
            self.queue.settled((tenant, job, task));
        }
        self.queue.follow(&self.machine, self.now);
        keys.iter().map(|&(_, job, task)| (job.0, task)).collect()
    }

    fn waiting(&mut self) -> Waiting {
        self.queue.follow(&self.machine, self.now);
        self.queue.waiting(&self.machine, self.now)
    }

    fn complete(&mut self, tenant: u128, job: u128, task: u32) {
        let of = self.machine.jobs.get(TenantId(tenant), JobId(job)).unwrap();
        let Task { attempt, documents, .. } = of.tasks[task as usize];
        let output = Blob { sha256: Digest([2; 32]), bytes: 1 };
        let result = TaskResult { output, done: documents, failed: 0, cached: 0, tokens: 1 };
        self.change(tenant, Command::Complete { job: JobId(job), task, attempt, result }).unwrap();
    }
}

fn of(priority: Priority) -> Wishes {
    Wishes { priority, ..Wishes::default() }
}

#[test]
fn the_most_urgent_and_then_the_oldest_is_next_and_each_task_once() {
    let mut bench = Bench::new();
    bench.tenant(1, 1, Override::Plan);
    for (job, priority) in
        [(1, Priority::Low), (2, Priority::Normal), (3, Priority::Normal), (4, Priority::Urgent)]
    {
        bench.now.0 += 1;
        bench.submit(1, job, &[16, 16], of(priority));
    }
    bench.queue.follow(&bench.machine, bench.now);
    let first = bench.queue.take(3, &bench.machine, bench.now);
    let jobs: Vec<_> = first.iter().map(|&(_, job, task)| (job.0, task)).collect();
    assert_eq!(jobs, [(4, 0), (4, 1), (2, 0)]);
    // Not leased: they are there again.
    first.into_iter().for_each(|key| bench.queue.settled(key));
    assert_eq!(bench.lease(3), [(4, 0), (4, 1), (2, 0)]);
    assert_eq!(
        bench.lease(9),
        [(2, 1), (1, 0), (3, 0), (3, 1), (1, 1)],
        "the eighth is the oldest"
    );
    assert_eq!(bench.lease(9), []);
}

#[test]
fn what_is_paused_early_set_back_or_over_is_not_next() {
    let mut bench = Bench::new();
    bench.tenant(1, 1, Override::Plan);
    let run_at = Some(Time(bench.now.0 + 1_000));
    bench.submit(1, 1, &[16], Wishes { run_at, ..Wishes::default() });
    bench.submit(1, 2, &[16], Wishes::default());
    bench.change(1, Command::Pause { job: JobId(2) }).unwrap();
    let deadline_ms = Some(5_000);
    bench.submit(1, 3, &[16, 16], Wishes { deadline_ms, ..Wishes::default() });
    assert_eq!(bench.lease(1), [(3, 0)]);
    let cause = Cause::new(Fault::TaskFailed, "no");
    bench.change(1, Command::Fail { job: JobId(3), task: 0, attempt: 1, cause }).unwrap();
    assert_eq!(bench.lease(9), [(3, 1)], "the other waits for its time");
    bench.now.0 += 500;
    assert_eq!(bench.lease(9), [(3, 0)]);
    bench.now.0 += 500;
    assert_eq!(bench.lease(9), [(1, 0)]);
    bench.change(1, Command::Resume { job: JobId(2) }).unwrap();
    assert_eq!(bench.lease(9), [(2, 0)]);
    assert_eq!(bench.queue.expired(bench.now).count(), 0);
    bench.now.0 += 4_000;
    bench.queue.follow(&bench.machine, bench.now);
    assert_eq!(bench.queue.expired(bench.now).collect::<Vec<_>>(), [(TenantId(1), JobId(3))]);
    bench.change(1, Command::Expire { job: JobId(3) }).unwrap();
    bench.change(1, Command::Cancel { job: JobId(1) }).unwrap();
    bench.queue.follow(&bench.machine, bench.now);
    assert_eq!(bench.queue.expired(bench.now).count(), 0);
    let leased: Vec<_> = bench.queue.leased().map(|(key, attempt, _)| (key.1.0, attempt)).collect();
    assert_eq!(leased, [(2, 1)]);
}

#[test]
fn no_more_of_a_tenant_runs_than_it_may() {
    let mut bench = Bench::new();
    bench.tenant(1, 1, Override::Limit(2));
    bench.tenant(2, 1, Override::Plan);
    bench.submit(1, 1, &[16; 5], Wishes::default());
    bench.submit(2, 2, &[16; 2], Wishes::default());
    let waiting = |tasks, documents, weight| Waiting { tasks, documents, weight };
    assert_eq!(bench.waiting(), waiting(4, 64, 2));
    let taken = bench.lease(9);
    assert_eq!(bench.waiting(), Waiting::default());
    assert_eq!(taken.iter().filter(|(job, _)| *job == 1).count(), 2);
    assert_eq!((taken.len(), bench.queue.running(TenantId(1))), (4, 2));
    assert_eq!(bench.queue.ready(TenantId(1)), (3, 48));
    bench.complete(1, 1, 0);
    assert_eq!(bench.waiting(), waiting(1, 16, 1));
    assert_eq!(bench.lease(9), [(1, 2)]);
    bench.complete(1, 1, 1);
    bench.queue.follow(&bench.machine, bench.now);
    bench.queue.take(1, &bench.machine, bench.now);
    assert_eq!(bench.waiting(), Waiting::default(), "what is taken waits no more");
}

#[test]
fn one_task_is_next_beside_a_hundred_thousand() {
    let mut bench = Bench::new();
    bench.tenant(1, 1, Override::Plan);
    bench.tenant(2, 1, Override::Plan);
    for job in 0..2_500 {
        bench.submit(1, job, &[16; 40], Wishes::default());
    }
    bench.lease(100);
    for round in 0..60 {
        let job = 100_000 + round;
        bench.submit(2, job, &[16], Wishes::default());
        let ahead = (0..9).take_while(|_| bench.lease(1) != [(job, 0)]).count();
        assert_eq!(ahead, 0, "round {round}");
        bench.lease(20);
    }
}

#[test]
fn under_saturation_tenants_have_their_weights() {
    let mut bench = Bench::new();
    bench.tenant(1, 1, Override::Plan);
    bench.tenant(2, 4, Override::Plan);
    for job in 0..100 {
        bench.submit(1, job, &[16; 40], Wishes::default());
        bench.submit(2, 1_000 + job, &[64; 10], Wishes::default());
    }
    let (mut one, mut four) = (0, 0);
    for _ in 0..400 {
        for (job, _) in bench.lease(2) {
            if job < 1_000 { one += 16 } else { four += 64 }
        }
    }
    let ratio = f64::from(four) / f64::from(one);
    assert!((3.8..=4.2).contains(&ratio), "{four}:{one}");
}

proptest! {
    /// However much urgent work comes, a job of the lowest priority is begun when eight times the tasks
    /// were taken that waited longer.
    #[test]
    fn nothing_waits_for_ever_at_the_lowest_priority(
        older in 0..20usize,
        arrivals in proptest::collection::vec(0..4usize, 400),
    ) {
        let mut bench = Bench::new();
        bench.tenant(1, 1, Override::Plan);
        for job in 0..older {
            bench.now.0 += 1;
            bench.submit(1, job as u128, &[16], of(Priority::Normal));
        }
        bench.now.0 += 1;
        bench.submit(1, 500, &[16], of(Priority::Low));
        let mut begun = None;
        for (turn, &arrived) in arrivals.iter().enumerate() {
            for job in 0..arrived.max(1) {
                bench.now.0 += 1;
                bench.submit(1, (1_000 + 10 * turn + job) as u128, &[16], of(Priority::Urgent));
            }
            let taken = bench.lease(1);
            prop_assert_eq!(taken.len(), 1);
            if taken[0].0 == 500 {
                begun = Some(turn);
                break;
            }
        }
        let bound = AGED as usize * (older + 1);
        prop_assert!(begun.is_some_and(|turn| turn < bound), "{:?} of {}", begun, bound);
    }

    /// A queue that follows changes is one that looked at everything.
    #[test]
    fn a_queue_that_follows_is_as_one_that_is_new(
        steps in proptest::collection::vec((0..9u8, 1..3u128, 1..6u128, 0..3u32, 0..900u64), 1..150),
    ) {
        let mut bench = Bench::new();
        bench.tenant(1, 1, Override::Limit(3));
        bench.tenant(2, 3, Override::Plan);
        for (verb, tenant, job, task, ms) in steps {
            bench.now.0 += ms;
            let id = JobId(job);
            match verb {
                0 => {
                    let run_at = Some(Time(bench.now.0 + 2 * ms));
                    let (deadline_ms, attempts_max) = (Some(8_000), TASK_ATTEMPTS_MAX);
                    let priority = [Priority::Low, Priority::High][task as usize % 2];
                    let wishes =
                        Wishes { priority, run_at, deadline_ms, attempts_max, model: None };
                    if bench.machine.jobs.get(TenantId(tenant), id).is_none() {
                        bench.submit(tenant, job, &[16, 8, 200], wishes);
                    }
                }
                1 => drop(bench.change(tenant, Command::Pause { job: id })),
                2 => drop(bench.change(tenant, Command::Resume { job: id })),
                3 => drop(bench.change(tenant, Command::Cancel { job: id })),
                4 => drop(bench.change(tenant, Command::Expire { job: id })),
                5 => {
                    let cause = Cause::new(Fault::TaskFailed, "no");
                    drop(bench.change(tenant, Command::Fail { job: id, task, attempt: 1, cause }));
                }
                6 => drop(bench.change(tenant, Command::Lease { job: id, task, worker: WORKER })),
                _ => drop(bench.lease(task as usize)),
            }
            bench.queue.follow(&bench.machine, bench.now);
            let mut new = Queue::default();
            new.follow(&bench.machine, bench.now);
            prop_assert_eq!(sketch(&bench.queue), sketch(&new));
        }
    }
}

/// What a queue knows, but for turns.
fn sketch(queue: &Queue) -> String {
    let Queue { places, lanes, later, deadlines, leased, .. } = queue;
    let lanes: Vec<_> =
        lanes.iter().map(|(tenant, lane)| (tenant, &lane.urgent, &lane.old, lane.leased)).collect();
    format!("{places:?} {lanes:?} {later:?} {deadlines:?} {leased:?}")
}
