//! Scripts of the life of jobs, and what follows from rows held against what was kept up to date.

use proptest::prelude::*;
use protocol::jobs::{
    Again, Blob, Cause, Command, Counts, Fault, Priority, Status, TaskResult, TaskSpec, Wishes,
    Worker,
};
use protocol::keys::{KeyOverrides, NewKey, Scopes};
use protocol::limits::Payer;
use protocol::plans::{Overrides, Shipped};
use protocol::usage::Period;
use protocol::{Digest, GroupId, KeyId, Name, NodeId, Reply, Time, tenants};

use super::*;

const ACME: TenantId = TenantId(1);
const START: u64 = 1_795_219_200_000;
const PAYER: Payer = Payer { key: Some(KeyId(1)), slot: None };

struct Script {
    machine: Machine,
    at: u64,
}

impl Script {
    /// A tenant that pays a cent for each document.
    fn new() -> Self {
        let mut script = Self { machine: Machine::new(GroupId(1)), at: START };
        let name = Name::parse("acme").unwrap();
        let key = NewKey {
            name: name.clone(),
            digest: Digest([0; 32]),
            prefix: String::new(),
            scopes: Scopes::all(),
            overrides: KeyOverrides::default(),
            expires_at: None,
        };
        let (domain, time_zone, region) = (None, None, None);
        let (plan, overrides) = (Shipped::Starter.plan(), Overrides::default());
        let new = tenants::NewTenant { name, plan, overrides, domain, time_zone, region, key };
        let create = tenants::Command::Create(Box::new(new));
        script.change(protocol::Command::Tenant(ACME, create)).unwrap();
        script
    }

    fn change(&mut self, command: protocol::Command) -> Outcome {
        let now = Stamp::at(Time(self.at));
        self.machine.time = now.time;
        self.machine.change(1, now, command, &mut Vec::new())
    }

    fn ask(&mut self, command: Command) -> String {
        match self.change(protocol::Command::Job(ACME, command)) {
            Ok(Reply::Job(job)) => format!("{} {}", job.id.0, job.status.name()),
            Ok(Reply::Leased(task)) => format!("task {} attempt {}", task.task, task.attempt),
            Ok(Reply::Completed { status, counts }) => told(status, counts),
            Ok(Reply::SetBack { not_before: Some(at), status, counts }) => {
                let waits = at.0 - self.at;
                assert!((250..=60_000).contains(&waits), "{waits}");
                format!("again, {}", told(status, counts))
            }
            Ok(other) => format!("{other:?}"),
            Err(refusal) => refusal.to_string(),
        }
    }

    fn check(&mut self, asked: &[(Command, &str)]) {
        for (command, said) in asked {
            assert_eq!(self.ask(command.clone()), *said, "{command:?}");
        }
    }

    /// Money spent, money reserved, units, calls, documents waiting.
    fn bill(&self) -> (u64, u64, u64, u64, u64) {
        let tenant = self.machine.tenants.get(ACME).unwrap();
        let now = Stamp::at(Time(self.at));
        let usage = self.machine.usage.report(tenant, Period::CurrentMonth, now).usage;
        let reserved = self.machine.limits.reserved(ACME);
        let waiting = self.machine.jobs.waiting(ACME);
        (usage.cost_micros / 10_000, reserved / 10_000, usage.units, usage.calls, waiting)
    }
}

fn told(status: Status, counts: Counts) -> String {
    format!("{} {}/{}/{}", status.name(), counts.done, counts.failed, counts.total)
}

fn specs(tasks: &[u32]) -> Vec<TaskSpec> {
    let input = Blob { sha256: Digest([9; 32]), bytes: 100 };
    tasks.iter().map(|&documents| TaskSpec { input, documents }).collect()
}

fn submit(id: u128, tasks: &[u32]) -> Command {
    let (priority, payer) = (Priority::Normal, PAYER);
    Command::Submit { id: JobId(id), priority, tasks: specs(tasks), payer }
}

fn enqueue(id: u128, tasks: &[u32], wishes: Wishes) -> Command {
    Command::Enqueue { id: JobId(id), wishes, tasks: specs(tasks), payer: PAYER }
}

fn lease(id: u128, task: u32) -> Command {
    let worker = Worker { node: NodeId(2), incarnation: 1 };
    Command::Lease { job: JobId(id), task, worker }
}

fn complete(id: u128, task: u32, attempt: u32, done: u32, failed: u32) -> Command {
    let output = Blob { sha256: Digest([8; 32]), bytes: 1 };
    let result = TaskResult { output, done, failed, cached: 0, tokens: 1 };
    Command::Complete { job: JobId(id), task, attempt, result }
}

fn fail(id: u128, task: u32, attempt: u32) -> Command {
    let cause = Cause::new(Fault::TaskFailed, "no blob");
    Command::Fail { job: JobId(id), task, attempt, cause }
}

fn retry(id: u128, new: u128, tasks: &[u32]) -> Command {
    let again = Again { id: JobId(new), tasks: specs(tasks) };
    Command::Retry { job: JobId(id), again, payer: PAYER }
}

fn cancel(id: u128) -> Command {
    Command::Cancel { job: JobId(id) }
}

fn pause(id: u128) -> Command {
    Command::Pause { job: JobId(id) }
}

fn resume(id: u128) -> Command {
    Command::Resume { job: JobId(id) }
}

fn expire(id: u128) -> Command {
    Command::Expire { job: JobId(id) }
}

#[test]
fn a_cached_document_costs_its_own_price_and_all_that_was_reserved_is_given_free() {
    let mut script = Script::new();
    script.check(&[(submit(1, &[30]), "1 queued"), (lease(1, 0), "task 0 attempt 1")]);
    assert_eq!(script.bill(), (0, 30, 30, 1, 30));
    let output = Blob { sha256: Digest([8; 32]), bytes: 1 };
    // More cannot be cached than has a result.
    let result = TaskResult { output, done: 20, failed: 10, cached: 25, tokens: 1 };
    let complete = Command::Complete { job: JobId(1), task: 0, attempt: 1, result };
    script.check(&[(complete, "completed 20/10/30")]);
    assert_eq!(script.bill(), (2, 0, 30, 1, 0), "twenty at a tenth of a cent");
    assert_eq!(script.machine.jobs.get(ACME, JobId(1)).unwrap().counts.cached, 20);
}

/// The events of a job: name, status, done and failed.
fn events(script: &Script, id: u128) -> Vec<String> {
    let events = &script.machine.jobs.get(ACME, JobId(id)).unwrap().events;
    let before = std::iter::once(None).chain(events.iter().map(Some));
    let told = |(event, before): (&protocol::jobs::Event, Option<&protocol::jobs::Event>)| {
        let name = event.kind(before).name();
        format!("{name} {} {}/{}", event.status.name(), event.done, event.failed)
    };
    events.iter().zip(before).map(told).collect()
}

#[test]
fn each_change_that_can_be_seen_is_an_event_and_the_end_is_the_last() {
    let mut script = Script::new();
    script.check(&[
        (submit(1, &[2, 2, 2]), "1 queued"),
        (lease(1, 0), "task 0 attempt 1"),
        (lease(1, 1), "task 1 attempt 1"),
        (complete(1, 0, 1, 2, 0), "running 2/0/6"),
        (pause(1), "1 paused"),
        (complete(1, 1, 1, 1, 1), "paused 3/1/6"),
        (resume(1), "1 running"),
        (lease(1, 2), "task 2 attempt 1"),
        (complete(1, 2, 1, 2, 0), "completed 5/1/6"),
        (cancel(1), "the job is completed"),
    ]);
    let wanted = [
        "status queued 0/0",
        "status running 0/0",
        "progress running 2/0",
        "status paused 2/0",
        "progress paused 3/1",
        "status running 3/1",
        "done completed 5/1",
    ];
    assert_eq!(events(&script, 1), wanted);
}

#[test]
fn a_job_that_is_held_up_again_and_again_has_a_bounded_number_of_events() {
    let mut script = Script::new();
    script.ask(submit(1, &[1]));
    for _ in 0..protocol::jobs::HOLDS_MAX {
        script.ask(pause(1));
        script.ask(resume(1));
    }
    assert_eq!(events(&script, 1).len(), protocol::jobs::HOLDS_MAX + 1);
    script.check(&[(cancel(1), "1 cancelled"), (cancel(1), "1 cancelled")]);
    let told = events(&script, 1);
    assert_eq!((told.len(), told.last().unwrap().as_str()), (102, "done cancelled 0/0"));
}

#[test]
fn what_is_cancelled_stays_so_and_only_what_ran_is_billed() {
    let mut script = Script::new();
    script.check(&[(submit(7, &[2, 3, 4]), "7 queued"), (lease(7, 0), "task 0 attempt 1")]);
    script.check(&[(complete(7, 0, 1, 2, 0), "running 2/0/9"), (lease(7, 1), "task 1 attempt 1")]);
    assert_eq!(script.bill(), (2, 7, 9, 1, 7));
    script.check(&[
        (cancel(7), "7 cancelled"),
        (cancel(7), "7 cancelled"),
        (complete(7, 1, 1, 3, 0), "the job is cancelled"),
        (fail(7, 1, 1), "the job is cancelled"),
        (lease(7, 2), "the job is cancelled"),
        (pause(7), "the job is cancelled"),
        (resume(7), "the job is cancelled"),
        (retry(7, 8, &[7]), "the job is cancelled"),
        (cancel(9), "not found"),
    ]);
    assert_eq!(script.bill(), (2, 0, 9, 1, 0));
    assert_eq!(script.machine.jobs.open().count(), 0);
    script.check(&[(submit(8, &[1]), "8 queued"), (lease(8, 0), "task 0 attempt 1")]);
    script.check(&[
        (complete(8, 0, 1, 1, 0), "completed 1/0/1"),
        (cancel(8), "the job is completed"),
    ]);
}

#[test]
fn a_paused_job_begins_nothing_and_ends_what_runs() {
    let mut script = Script::new();
    script.check(&[
        (submit(7, &[2, 3]), "7 queued"),
        (pause(7), "7 paused"),
        (pause(7), "the job is paused"),
        (lease(7, 0), "the job is paused"),
        (resume(7), "7 queued"),
        (resume(7), "the job is queued"),
        (lease(7, 0), "task 0 attempt 1"),
        (pause(7), "7 paused"),
        (complete(7, 0, 1, 2, 0), "paused 2/0/5"),
        (lease(7, 1), "the job is paused"),
        (resume(7), "7 running"),
        (lease(7, 1), "task 1 attempt 1"),
        (pause(7), "7 paused"),
        (complete(7, 1, 1, 3, 0), "completed 5/0/5"),
        (resume(7), "the job is completed"),
    ]);
    assert_eq!(script.bill(), (5, 0, 5, 1, 0));
}

#[test]
fn a_task_is_tried_again_until_it_is_a_dead_letter_and_its_job_tells_why() {
    let mut script = Script::new();
    let wishes = Wishes { attempts_max: 2, ..Wishes::default() };
    script.check(&[
        (enqueue(7, &[2, 3], wishes), "7 queued"),
        (lease(7, 0), "task 0 attempt 1"),
        (fail(7, 0, 2), "attempt 2 of the task is stale, the newest is 1"),
        (fail(7, 0, 1), "again, running 0/0/5"),
        (fail(7, 0, 1), "attempt 1 of the task is stale, the newest is 2"),
    ]);
    let job = script.machine.jobs.get(ACME, JobId(7)).unwrap();
    assert_eq!(job.life.setbacks.keys().collect::<Vec<_>>(), [&0]);
    script.check(&[
        (lease(7, 0), "task 0 attempt 2"),
        (fail(7, 0, 2), "running 0/2/5"),
        (lease(7, 1), "task 1 attempt 1"),
        (complete(7, 1, 1, 3, 0), "failed 3/2/5"),
    ]);
    let job = script.machine.jobs.get(ACME, JobId(7)).unwrap();
    assert_eq!(job.life.cause.as_ref().unwrap().to_string(), "task_failed: no blob");
    assert!(job.life.setbacks.is_empty());
    assert_eq!(script.bill(), (3, 0, 5, 1, 0));
}

#[test]
fn what_failed_and_was_made_good_leaves_no_cause() {
    let mut script = Script::new();
    script.check(&[
        (submit(7, &[2]), "7 queued"),
        (lease(7, 0), "task 0 attempt 1"),
        (fail(7, 0, 1), "again, running 0/0/2"),
        (lease(7, 0), "task 0 attempt 2"),
        (complete(7, 0, 2, 2, 0), "completed 2/0/2"),
    ]);
    let job = script.machine.jobs.get(ACME, JobId(7)).unwrap();
    assert_eq!(job.life, Priority::Normal.into());
}

#[test]
fn the_failed_part_is_retried_once_and_spends_no_units() {
    let mut script = Script::new();
    let wishes = Wishes { attempts_max: 1, priority: Priority::High, ..Wishes::default() };
    script.check(&[
        (enqueue(7, &[2, 3], wishes), "7 queued"),
        (retry(7, 8, &[2]), "the job is queued"),
        (lease(7, 0), "task 0 attempt 1"),
        (fail(7, 0, 1), "running 0/2/5"),
        (lease(7, 1), "task 1 attempt 1"),
        (complete(7, 1, 1, 2, 1), "failed 2/3/5"),
        (retry(7, 8, &[]), "nothing of the job has failed"),
        (retry(7, 8, &[2]), "nothing of the job has failed"),
        (retry(7, 8, &[2, 1]), "8 queued"),
        (retry(7, 9, &[2, 1]), "job_0000000000000000000008 does the failed part of the job again"),
    ]);
    assert_eq!(script.bill(), (2, 3, 5, 2, 3));
    let job = script.machine.jobs.get(ACME, JobId(8)).unwrap();
    assert_eq!((job.life.wishes, job.life.retry_of), (wishes, Some(JobId(7))));
    script.check(&[
        (lease(8, 0), "task 0 attempt 1"),
        (complete(8, 0, 1, 2, 0), "running 2/0/3"),
        (lease(8, 1), "task 1 attempt 1"),
        (complete(8, 1, 1, 1, 0), "completed 3/0/3"),
        (retry(8, 9, &[1]), "nothing of the job has failed"),
    ]);
    assert_eq!(script.bill(), (5, 0, 5, 2, 0));
}

#[test]
fn what_is_past_its_deadline_is_neither_run_nor_billed() {
    let mut script = Script::new();
    let run_at = Some(Time(START + 5_000));
    let wishes = Wishes { deadline_ms: Some(1_000), run_at, ..Wishes::default() };
    script.check(&[
        (enqueue(7, &[2, 3, 4], wishes), "7 queued"),
        (lease(7, 0), "task 0 attempt 1"),
        (complete(7, 0, 1, 2, 0), "running 2/0/9"),
        (lease(7, 1), "task 1 attempt 1"),
    ]);
    script.at = START + 5_999;
    script.check(&[(expire(7), "Done"), (lease(7, 2), "task 2 attempt 1")]);
    script.at = START + 6_000;
    script.check(&[
        (lease(7, 2), "the deadline of the job has passed"),
        (complete(7, 1, 1, 3, 0), "the deadline of the job has passed"),
        (expire(7), "failed 2/7/9"),
        (expire(7), "the job is failed"),
        (complete(7, 1, 1, 3, 0), "the task already has a result"),
    ]);
    assert_eq!(script.bill(), (2, 0, 9, 1, 0));
    let cause = script.machine.jobs.get(ACME, JobId(7)).unwrap().life.cause.clone().unwrap();
    assert_eq!(cause.fault, Fault::DeadlineExceeded);
    script.check(&[(retry(7, 8, &[3, 4]), "8 queued")]);
    let again = script.machine.jobs.get(ACME, JobId(8)).unwrap();
    assert_eq!(again.life.deadline, Some(Time(START + 7_000)), "anew, and not at the first time");
}

fn step() -> impl Strategy<Value = (u8, u128, u32, u32)> {
    (0..12u8, 1..6u128, 0..3u32, 1..4u32)
}

proptest! {
    /// What is kept up to date with each command is what a replica makes of the rows alone.
    #[test]
    fn what_follows_from_rows_is_what_was_kept(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut script = Script::new();
        let mut known: BTreeMap<JobId, Job> = BTreeMap::new();
        for (verb, id, task, attempt) in steps {
            script.at += 700;
            let wishes = Wishes { attempts_max: 3, deadline_ms: Some(9_000), ..Wishes::default() };
            let seen = script.machine.jobs.changed();
            let money = script.bill().1;
            let outcome = script.change(protocol::Command::Job(ACME, match verb {
                0 => submit(id, &[2, 3, 4]),
                1 => enqueue(id, &[2, 3], wishes),
                2 | 3 => lease(id, task),
                4 | 5 => complete(id, task, attempt, task + 2, 0),
                6 => complete(id, task, attempt, 1, task + 1),
                7 => fail(id, task, attempt),
                8 => cancel(id),
                9 => pause(id),
                10 => resume(id),
                _ => expire(id),
            }));
            if outcome.is_err() {
                prop_assert_eq!(script.machine.jobs.changed(), seen, "a refusal left a trace");
                prop_assert_eq!(script.bill().1, money);
            }
            let changed = script.machine.jobs.changed_since(seen).unwrap();
            let changed: BTreeSet<JobId> = changed.map(|(_, job)| job).collect();
            let book = &script.machine.jobs;
            for job in book.of_beyond(ACME, None) {
                prop_assert!(known.get(&job.id) == Some(job) || changed.contains(&job.id));
                if let Some(before) = known.get(&job.id) {
                    prop_assert!(before.counts.done <= job.counts.done);
                    prop_assert!(before.counts.failed <= job.counts.failed);
                    prop_assert!(!before.status.is_terminal() || before.status == job.status);
                }
                known.insert(job.id, job.clone());
            }
            let mut restored = book.clone();
            restored.restore();
            prop_assert_eq!(&restored.open, &book.open);
            prop_assert_eq!(restored.waiting(ACME), book.waiting(ACME));
            prop_assert_eq!(script.bill().1, book.waiting(ACME), "reserved for what waits");
        }
    }
}
