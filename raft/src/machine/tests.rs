//! Scripts and transcripts: what is asked, and what the machine says.

use protocol::idempotency::{Claim, KEPT_MS, Once};
use protocol::jobs::{self, Blob, Priority, TASK_ATTEMPTS_MAX, TaskResult, TaskSpec, Worker};
use protocol::keys::{KeyOverrides, NewKey, Scopes};
use protocol::limits::Payer;
use protocol::owner::OpenOwner;
use protocol::plans::{Override, Overrides, Shipped};
use protocol::usage::Period;
use protocol::{
    Command, Digest, Entry, JobId, KeyId, Name, NodeId, Proposal, TenantId, keys, tenants, usage,
};

use super::*;

const ACME: TenantId = TenantId(1);
/// The key that a tenant is made with.
const PAYER: Payer = Payer { key: Some(KeyId(1)), slot: None };
const DAY: u64 = 86_400_000;
/// The middle of a month.
const START: u64 = 1_795_219_200_000;

/// A machine with an owner, and the entries that it was given.
struct Script {
    machine: Machine,
    index: u64,
    at: u64,
    log: Vec<(u64, Entry)>,
}

impl Script {
    fn new() -> Self {
        let mut script =
            Self { machine: Machine::new(GroupId(1)), index: 0, at: START, log: Vec::new() };
        script.open(1);
        script
    }

    fn open(&mut self, term: u64) {
        let open = OpenOwner { node: NodeId(1), incarnation: 1, term };
        let said = self.entry(Epoch::default(), None, Command::OpenOwner(open), term);
        assert!(said.starts_with("opened"), "{said}");
    }

    fn entry(&mut self, epoch: Epoch, once: Option<Once>, command: Command, term: u64) -> String {
        self.index += 1;
        let at = Stamp::at(Time(self.at));
        let proposal = Proposal { once, ..Proposal::new(at, command) };
        let entry = Entry { epoch, proposals: vec![proposal] };
        self.log.push((term, entry.clone()));
        let changes = self.machine.apply(self.index, term, entry);
        say(&changes.applied[0])
    }

    fn ask(&mut self, command: Command) -> String {
        let epoch = self.machine.epoch();
        self.entry(epoch, None, command, 1)
    }

    fn ask_once(&mut self, key: u8, request: u8, command: Command) -> String {
        let epoch = self.machine.epoch();
        let once = Once {
            key: Digest([key; 32]),
            fingerprint: Digest([request; 32]),
            sealed: Some(vec![key]),
        };
        self.entry(epoch, Some(once), command, 1)
    }

    fn later(&mut self, ms: u64) {
        self.at += ms;
    }

    fn usage(&self) -> String {
        let tenant = self.machine.tenants.get(ACME).unwrap();
        let report =
            self.machine.usage.report(tenant, Period::CurrentMonth, Stamp::at(Time(self.at)));
        let usage = report.usage;
        format!(
            "{} calls, {} documents, {} tokens, {} micros, {} units, {:?} left",
            usage.calls,
            usage.documents,
            usage.tokens,
            usage.cost_micros,
            usage.units,
            report.remaining
        )
    }
}

fn say(applied: &Applied) -> String {
    let replayed =
        applied.replayed.as_ref().map_or(String::new(), |sealed| format!("again {sealed:?}: "));
    let said = match &applied.outcome {
        Ok(Reply::Opened(owner)) => format!("opened epoch {}", owner.epoch.0),
        Ok(Reply::Tenant(tenant)) => format!("tenant v{} {}", tenant.version, tenant.plan.name()),
        Ok(Reply::TenantCreated(_, key)) => format!("tenant and key {}", key.id.0),
        Ok(Reply::Key(key)) => format!("key {}", key.id.0),
        Ok(Reply::KeyRevoked(key)) => format!("revoked {}", key.0),
        Ok(Reply::Job(job)) => format!("job of {} tasks", job.tasks.len()),
        Ok(Reply::Leased(task)) => format!("task {} attempt {}", task.task, task.attempt),
        Ok(Reply::Completed { status, counts }) => {
            format!("{} {}/{}/{}", status.name(), counts.done, counts.failed, counts.total)
        }
        Ok(Reply::Scanned(cached)) if cached.count() == 0 => "Scanned".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(refusal) => refusal.to_string(),
    };
    format!("{replayed}{said}")
}

fn new_key(digest: u8) -> NewKey {
    NewKey {
        name: Name::parse("key").unwrap(),
        digest: Digest([digest; 32]),
        prefix: "sk_live_…".to_owned(),
        scopes: Scopes::all(),
        overrides: KeyOverrides::default(),
        expires_at: None,
    }
}

fn create(plan: Shipped) -> Command {
    create_with(plan, Overrides::default())
}

fn create_with(plan: Shipped, overrides: Overrides) -> Command {
    let name = Name::parse("acme").unwrap();
    let key = new_key(0);
    let plan = plan.plan();
    let (domain, time_zone, region) = (None, None, None);
    let new = tenants::NewTenant { name, plan, overrides, domain, time_zone, region, key };
    let command = tenants::Command::Create(Box::new(new));
    Command::Tenant(ACME, command)
}

fn tenant(command: tenants::Command) -> Command {
    Command::Tenant(ACME, command)
}

fn key(digest: u8) -> Command {
    Command::Key(ACME, keys::Command::Create(new_key(digest)))
}

fn revoke(id: u32) -> Command {
    Command::Key(ACME, keys::Command::Revoke(KeyId(id)))
}

fn scan(documents: u32) -> Command {
    Command::Usage(
        ACME,
        usage::Command::Scan {
            documents,
            cached: usage::Cached::default(),
            tokens: 10 * u64::from(documents),
            payer: PAYER,
        },
    )
}

fn blob() -> Blob {
    Blob { sha256: Digest([9; 32]), bytes: 100 }
}

fn submit(job: u128, tasks: &[u32]) -> Command {
    let tasks = tasks.iter().map(|&documents| TaskSpec { input: blob(), documents }).collect();
    let priority = Priority::Normal;
    Command::Job(ACME, jobs::Command::Submit { id: JobId(job), priority, tasks, payer: PAYER })
}

fn lease(job: u128, task: u32, node: u64) -> Command {
    let worker = Worker { node: NodeId(node), incarnation: 1 };
    Command::Job(ACME, jobs::Command::Lease { job: JobId(job), task, worker })
}

fn complete(job: u128, task: u32, attempt: u32, done: u32, failed: u32) -> Command {
    let result =
        TaskResult { output: blob(), done, failed, cached: 0, tokens: 5 * u64::from(done) };
    Command::Job(ACME, jobs::Command::Complete { job: JobId(job), task, attempt, result })
}

/// Runs a script on a tenant of the enterprise plan and compares the transcript.
fn check(asked: Vec<Command>, said: &[&str]) {
    let mut script = Script::new();
    script.ask(create(Shipped::Enterprise));
    let transcript: Vec<String> = asked.into_iter().map(|command| script.ask(command)).collect();
    assert_eq!(transcript, said);
}

#[test]
fn key_ids_are_given_once() {
    check(
        vec![key(1), key(2), revoke(3), revoke(3), key(3), key(3)],
        &["key 2", "key 3", "revoked 3", "not found", "key 4", "already exists"],
    );
}

#[test]
fn a_job_runs_to_its_end() {
    check(
        vec![
            submit(7, &[2, 3]),
            submit(7, &[2]),
            lease(7, 0, 1),
            lease(7, 1, 2),
            complete(7, 1, 1, 2, 1),
            complete(7, 0, 1, 2, 0),
            lease(7, 0, 1),
            complete(7, 0, 1, 2, 0),
        ],
        &[
            "job of 2 tasks",
            "already exists",
            "task 0 attempt 1",
            "task 1 attempt 1",
            "running 2/1/5",
            "completed 4/1/5",
            "the job is completed",
            "the task already has a result",
        ],
    );
}

#[test]
fn the_result_of_a_stale_attempt_is_refused() {
    check(
        vec![
            submit(7, &[2]),
            lease(7, 0, 1),
            lease(7, 0, 2),
            complete(7, 0, 1, 2, 0),
            complete(7, 0, 2, 1, 0),
            complete(7, 0, 2, 2, 0),
        ],
        &[
            "job of 1 tasks",
            "task 0 attempt 1",
            "task 0 attempt 2",
            "attempt 1 of the task is stale, the newest is 2",
            "documents: 1 is more than 2",
            "completed 2/0/2",
        ],
    );
}

#[test]
fn a_task_that_no_attempt_finishes_fails_its_job() {
    let mut script = Script::new();
    script.ask(create(Shipped::Enterprise));
    script.ask(submit(7, &[2, 2]));
    for attempt in 1..=TASK_ATTEMPTS_MAX {
        assert_eq!(script.ask(lease(7, 0, 1)), format!("task 0 attempt {attempt}"));
    }
    assert_eq!(script.ask(lease(7, 0, 1)), "running 0/2/4");
    assert_eq!(script.ask(lease(7, 1, 1)), "task 1 attempt 1");
    assert_eq!(script.ask(complete(7, 1, 1, 2, 0)), "failed 2/2/4");
    assert_eq!(script.machine.jobs.documents_waiting(), 0);
    assert_eq!(script.machine.jobs.open().count(), 0);
}

#[test]
fn usage_counts_each_result_once_and_failed_ones_not() {
    let mut script = Script::new();
    script.ask(create(Shipped::Starter));
    script.ask(scan(3));
    script.ask(submit(7, &[2, 2]));
    assert_eq!(
        script.usage(),
        "2 calls, 3 documents, 30 tokens, 30000 micros, 7 units, Some(9993) left"
    );
    script.ask(lease(7, 0, 1));
    script.ask(complete(7, 0, 1, 1, 1));
    script.ask(complete(7, 0, 1, 2, 0));
    script.ask(lease(7, 0, 1));
    assert_eq!(
        script.usage(),
        "2 calls, 4 documents, 35 tokens, 40000 micros, 7 units, Some(9993) left"
    );
}

#[test]
fn cached_documents_of_a_scan_count_and_cost_their_own_price_also_for_who_asks_again() {
    let mut script = Script::new();
    script.ask(create(Shipped::Starter));
    let cached: usage::Cached = [true, false, true].into_iter().collect();
    let scan =
        usage::Command::Scan { documents: 3, cached: cached.clone(), tokens: 30, payer: PAYER };
    let scan = Command::Usage(ACME, scan);
    let told = format!("{:?}", Reply::Scanned(cached));
    assert_eq!(script.ask_once(1, 1, scan.clone()), told);
    assert_eq!(script.ask_once(1, 1, scan), format!("again Some([1]): {told}"));
    let used = "1 calls, 3 documents, 30 tokens, 12000 micros, 3 units, Some(9997) left";
    assert_eq!(script.usage(), used);
    let months: Vec<u64> = script.machine.usage.months.values().map(|used| used.cached).collect();
    assert_eq!(months, [2]);
}

#[test]
fn units_never_exceed_the_month_and_begin_anew() {
    let mut script = Script::new();
    let overrides = Overrides { per_month: Override::Limit(5), ..Overrides::default() };
    script.ask(create_with(Shipped::Starter, overrides));
    assert_eq!(script.ask(scan(3)), "Scanned");
    assert_eq!(script.ask(scan(3)), "per_month: 3 of 5 are used, 3 more do not fit");
    assert_eq!(script.ask(submit(1, &[2, 1])), "per_month: 3 of 5 are used, 3 more do not fit");
    assert_eq!(script.ask(scan(2)), "Scanned");
    assert_eq!(script.ask(scan(1)), "per_month: 5 of 5 are used, 1 more do not fit");
    script.later(31 * DAY);
    assert_eq!(script.ask(scan(1)), "Scanned");
}

#[test]
fn a_full_backlog_refuses_and_a_result_makes_room() {
    let mut script = Script::new();
    let overrides = Overrides { max_backlog: Override::Limit(3), ..Overrides::default() };
    script.ask(create_with(Shipped::Enterprise, overrides));
    assert_eq!(script.ask(submit(1, &[2])), "job of 1 tasks");
    assert_eq!(script.ask(submit(2, &[2])), "backlog is full: 2 of 3 documents are waiting");
    script.ask(lease(1, 0, 1));
    script.ask(complete(1, 0, 1, 2, 0));
    assert_eq!(script.ask(submit(2, &[2])), "job of 1 tasks");
}

#[test]
fn a_trial_ends_and_a_plan_revives_the_tenant() {
    let mut script = Script::new();
    script.ask(create(Shipped::Trial));
    script.later(14 * 86_400_000 - 1);
    assert_eq!(script.ask(scan(1)), "Scanned");
    script.later(1);
    assert_eq!(script.ask(scan(1)), "the trial has ended");
    let starter =
        tenants::Command::SetPlan { plan: Box::new(Shipped::Starter.plan()), overrides: None };
    assert_eq!(script.ask(tenant(starter)), "tenant v2 starter");
    assert_eq!(script.ask(scan(1)), "Scanned");
    let trial =
        tenants::Command::SetPlan { plan: Box::new(Shipped::Trial.plan()), overrides: None };
    script.ask(tenant(trial));
    assert_eq!(script.ask(scan(1)), "the trial has ended");
}

#[test]
fn a_suspended_tenant_parks_and_resumes() {
    check(
        vec![
            submit(7, &[1]),
            tenant(tenants::Command::Suspend),
            scan(1),
            lease(7, 0, 1),
            tenant(tenants::Command::Resume),
            lease(7, 0, 1),
        ],
        &[
            "job of 1 tasks",
            "tenant v2 enterprise",
            "the tenant is suspended",
            "the tenant is suspended",
            "tenant v3 enterprise",
            "task 0 attempt 1",
        ],
    );
}

#[test]
fn a_deleted_tenant_leaves_nothing() {
    let mut empty = Script::new();
    empty.later(0);
    let mut script = Script::new();
    script.ask(create(Shipped::Starter));
    script.ask(key(1));
    script.ask(submit(7, &[1]));
    script.ask(scan(1));
    assert_eq!(script.ask(tenant(tenants::Command::Delete)), "TenantDeleted");
    assert_eq!(script.ask(tenant(tenants::Command::Delete)), "not found");
    assert_eq!(script.ask(key(1)), "not found");
    assert_eq!(script.machine.digest(), empty.machine.digest());
}

#[test]
fn the_first_outcome_stands_for_a_day() {
    let mut script = Script::new();
    script.ask(create(Shipped::Enterprise));
    assert_eq!(script.ask_once(1, 1, key(1)), "key 2");
    assert_eq!(script.ask_once(1, 1, key(2)), "again Some([1]): key 2");
    assert_eq!(script.ask_once(1, 2, key(2)), "the Idempotency-Key was used with another request");
    assert_eq!(script.ask_once(2, 1, revoke(9)), "not found");
    assert_eq!(script.ask_once(2, 3, key(2)), "key 3");
    script.later(KEPT_MS - 1);
    assert_eq!(script.ask_once(1, 1, key(3)), "again Some([1]): key 2");
    script.later(1);
    assert_eq!(script.ask_once(1, 1, key(3)), "key 4");
}

#[test]
fn an_operators_key_is_for_one_request_until_nothing_came_of_any_call() {
    let mut script = Script::new();
    let (key, other) = (Digest([1; 32]), "the Idempotency-Key was used with another request");
    let of = |request: u8| Claim { key, fingerprint: Digest([request; 32]) };
    let claim = |request| Command::Node(nodes::Asked::Claim(of(request)));
    let release = |request| Command::Node(nodes::Asked::Release(of(request)));
    let said = [
        (claim(1), "Claimed { calls: 1 }"),
        (claim(1), "Claimed { calls: 2 }"),
        (claim(2), other),
        (release(2), "not found"),
        (release(1), "Claimed { calls: 1 }"),
        (claim(2), other),
        (release(1), "Claimed { calls: 0 }"),
        (release(1), "not found"),
        (claim(2), "Claimed { calls: 1 }"),
    ];
    for (command, said) in said {
        assert_eq!(script.ask(command), said);
    }
    // A change of the map is another request, and the other way round.
    let mark = Command::Marker;
    assert_eq!(script.ask_once(1, 3, mark.clone()), other);
    script.later(KEPT_MS);
    assert_eq!(script.ask_once(1, 3, mark), "Marked");
    assert_eq!(script.ask(claim(3)), other);
    assert_eq!(script.ask(release(3)), "not found");
}

#[test]
fn a_command_of_another_ownership_changes_nothing() {
    let mut script = Script::new();
    script.ask(create(Shipped::Enterprise));
    let old = script.machine.epoch();
    script.open(2);
    let before = script.machine.digest();
    assert_eq!(script.entry(old, None, key(1), 2), "made under epoch 1, the owner's is 3");
    assert_eq!(script.machine.digest(), before);
    let stale = OpenOwner { node: NodeId(1), incarnation: 1, term: 1 };
    let said = script.entry(Epoch::default(), None, Command::OpenOwner(stale), 2);
    assert_eq!(said, "made under epoch 1, the owner's is 2");
    assert_eq!(script.ask(key(1)), "key 2");
}

#[test]
fn time_never_runs_back() {
    let mut script = Script::new();
    script.ask(create(Shipped::Enterprise));
    script.at -= DAY;
    script.ask(key(1));
    assert_eq!(script.machine.time, Time(START));
}

#[test]
fn replicas_that_applied_the_same_are_equal_to_the_bit() {
    let mut script = Script::new();
    script.ask(create(Shipped::Starter));
    for job in 0..20u128 {
        script.ask_once(job as u8, 1, submit(job, &[3, 2]));
        script.ask(lease(job, 0, 1 + job as u64 % 3));
        script.ask(complete(job, 0, 1, 2, 1));
        script.ask(scan(1 + job as u32));
        script.later(1000);
    }
    script.ask(Command::Marker);
    let mut replica = Machine::new(GroupId(1));
    for (index, (term, entry)) in script.log.iter().enumerate() {
        replica.apply(index as u64 + 1, *term, entry.clone());
    }
    assert_eq!(replica.digest(), script.machine.digest());
    assert!(replica.marked(script.index).is_some());
    assert_eq!(replica.marked(script.index), script.machine.marked(script.index));
    replica.apply(script.index + 1, 1, Entry { epoch: replica.epoch(), proposals: Vec::new() });
    assert_eq!(replica.digest(), script.machine.digest());
}
