use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::owner::{Epoch, OpenOwner};
use protocol::plans::{Override, Overrides, Shipped};
use protocol::{Applied, Digest, Entry, GroupId, Name, NodeId, Proposal, Time, keys, tenants};

use super::*;

const TENANT: TenantId = TenantId(7);
const KEY: KeyId = KeyId(1);
const NODES: u64 = 3;

/// A group with one tenant and one key, and three nodes that hold slabs of them.
struct World {
    machine: Machine,
    index: u64,
    steady: u64,
    /// Real time; service time stands still while nobody owns the group.
    real: u64,
    number: u64,
    held: BTreeMap<u64, u64>,
    /// The ask that brought what a node holds.
    slabs: BTreeMap<u64, u64>,
    /// Moments of admission in real milliseconds.
    admitted: Vec<u64>,
}

fn limit(limit: u64) -> Override {
    Override::Limit(limit)
}

fn worker(node: u64) -> Worker {
    Worker { node: NodeId(node), incarnation: 1 }
}

impl World {
    fn new(overrides: Overrides) -> Self {
        let mut world = Self {
            machine: Machine::new(GroupId(1)),
            index: 0,
            steady: 0,
            real: 0,
            number: 0,
            held: BTreeMap::new(),
            slabs: BTreeMap::new(),
            admitted: Vec::new(),
        };
        world.open();
        let name = Name::parse("acme").unwrap();
        let key = keys::NewKey {
            name: name.clone(),
            digest: Digest([1; 32]),
            prefix: "sk_live_…abcd".to_owned(),
            scopes: keys::Scopes::all(),
            overrides: keys::KeyOverrides::default(),
            expires_at: None,
        };
        let (domain, region) = (None, None);
        let plan = Shipped::Enterprise.plan();
        let time_zone = None;
        let new = tenants::NewTenant { name, plan, overrides, domain, time_zone, region, key };
        let create = tenants::Command::Create(Box::new(new));
        world.apply(protocol::Command::Tenant(TENANT, create)).outcome.unwrap();
        world
    }

    fn stamp(&self) -> Stamp {
        let time = Time(1_795_219_200_000 + self.real);
        Stamp { time, steady: Steady(self.steady), ..Stamp::default() }
    }

    fn entry(&mut self, epoch: Epoch, command: protocol::Command) -> Applied {
        self.index += 1;
        let proposals = vec![Proposal::new(self.stamp(), command)];
        let mut changes = self.machine.apply(self.index, 1, Entry { epoch, proposals });
        changes.applied.remove(0)
    }

    fn open(&mut self) {
        let open = OpenOwner { node: NodeId(1), incarnation: 1, term: 1 };
        self.entry(Epoch::default(), protocol::Command::OpenOwner(open)).outcome.unwrap();
    }

    fn apply(&mut self, command: protocol::Command) -> Applied {
        let epoch = self.machine.epoch();
        self.entry(epoch, command)
    }

    fn limits(&mut self, command: Command) -> Outcome {
        self.apply(protocol::Command::Limits(TENANT, command)).outcome
    }

    fn check(&mut self, units: u64, policy: Option<Policy>) -> Outcome {
        let outcome = self.limits(Command::Check { key: KEY, units, policy });
        if outcome.is_ok() {
            self.admitted.extend(std::iter::repeat_n(self.real, units as usize));
        }
        outcome
    }

    fn ask(&mut self, node: u64, want: u64, ended: bool) -> Command {
        self.number += 1;
        let left = self.held.get(&node).copied().unwrap_or(0);
        if ended {
            self.held.remove(&node);
        }
        Command::Slab { key: KEY, worker: worker(node), number: self.number, left, ended, want }
    }

    fn slab(&mut self, node: u64, want: u64) -> protocol::peer::Slab {
        let command = self.ask(node, want, false);
        self.granted(node, command)
    }

    fn granted(&mut self, node: u64, command: Command) -> protocol::peer::Slab {
        self.slabs.insert(node, self.number);
        let Ok(Reply::Slab(slab)) = self.limits(command) else { panic!("no slab") };
        let held = self.held.entry(node).or_default();
        *held = if slab.voided { 0 } else { *held } + slab.granted;
        slab
    }

    fn spend(&mut self, node: u64, wanted: u64) {
        let held = self.held.entry(node).or_default();
        let spent = wanted.min(*held);
        *held -= spent;
        self.admitted.extend(std::iter::repeat_n(self.real, spent as usize));
    }

    fn give_back(&mut self, node: u64) {
        let left = self.held.remove(&node).unwrap_or(0);
        let number = self.slabs.get(&node).copied().unwrap_or(0);
        let slab = Returned { tenant: TENANT, key: KEY, number, left };
        let command = protocol::Command::Return { worker: worker(node), slabs: vec![slab] };
        self.apply(command).outcome.unwrap();
    }

    fn later(&mut self, ms: u64) {
        self.real += ms;
        self.steady += ms;
    }

    /// For every interval: admitted is at most `burst + rate * time`.
    fn assert_rate(&self, rate: u64, burst: u64) {
        for (i, from) in self.admitted.iter().enumerate() {
            for (j, to) in self.admitted.iter().enumerate().skip(i) {
                let admitted = (j - i + 1) as u64;
                let allowed = burst + (to - from) * rate / 1000;
                assert!(admitted <= allowed, "{admitted} in {from}..={to} ms, not {allowed}");
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Later(u64),
    Spend(u64, u64),
    Check(u64),
    /// Of a node; whether what it has left is ended; how many more it wants.
    Slab(u64, bool, u64),
    /// The answer does not arrive.
    LostSlab(u64, bool, u64),
    /// An ask of before arrives now.
    LateAsk(usize),
    Return(u64),
    Lapse(u64),
    /// The owner dies; nobody serves for a while.
    Failover(u64),
}

fn slab() -> impl Strategy<Value = (u64, bool, u64)> {
    (1..=NODES, any::<bool>(), 1..60u64)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..120u64).prop_map(Step::Later),
        6 => (1..=NODES, 1..30u64).prop_map(|(node, n)| Step::Spend(node, n)),
        2 => (1..4u64).prop_map(Step::Check),
        4 => slab().prop_map(|(node, ended, n)| Step::Slab(node, ended, n)),
        1 => slab().prop_map(|(node, ended, n)| Step::LostSlab(node, ended, n)),
        1 => (0..40usize).prop_map(Step::LateAsk),
        1 => (1..=NODES).prop_map(Step::Return),
        1 => (1..=NODES).prop_map(Step::Lapse),
        1 => (0..3_000u64).prop_map(Step::Failover),
    ]
}

fn run(world: &mut World, steps: Vec<Step>) {
    let mut asks = Vec::new();
    for step in steps {
        match step {
            Step::Later(ms) => world.later(ms),
            Step::Spend(node, wanted) => world.spend(node, wanted),
            Step::Check(units) => drop(world.check(units, None)),
            Step::Slab(node, ended, want) => {
                let ask = world.ask(node, want, ended);
                asks.push(ask);
                let _ = world.granted(node, ask);
            }
            Step::LostSlab(node, ended, want) => {
                let ask = world.ask(node, want, ended);
                asks.push(ask);
                let _ = world.limits(ask);
            }
            Step::LateAsk(nth) => {
                if let Some(ask) = asks.get(nth) {
                    let _ = world.limits(*ask);
                }
            }
            Step::Return(node) => world.give_back(node),
            Step::Lapse(node) => {
                // A node loses what it holds before its owner may say so.
                world.held.remove(&node);
                world
                    .apply(protocol::Command::Lapse { worker: worker(node), running: vec![] })
                    .outcome
                    .unwrap();
            }
            Step::Failover(ms) => {
                world.real += ms;
                world.open();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_history_admits_more_than_burst_and_rate_times_time(
        steps in proptest::collection::vec(step(), 1..120),
        rate in 1..400u64,
        burst in 1..120u64,
    ) {
        let overrides = Overrides {
            rate: limit(rate),
            burst: limit(burst),
            key_rate: Override::Unlimited,
            ..Overrides::default()
        };
        let mut world = World::new(overrides);
        run(&mut world, steps);
        world.assert_rate(rate, burst);
    }

    #[test]
    fn a_quota_is_never_exceeded(
        steps in proptest::collection::vec(step(), 1..120),
        quota in 1..200u64,
    ) {
        let overrides = Overrides {
            rate: Override::Unlimited,
            key_rate: Override::Unlimited,
            per_day: limit(quota),
            ..Overrides::default()
        };
        let mut world = World::new(overrides);
        run(&mut world, steps);
        prop_assert!(world.admitted.len() as u64 <= quota);
    }
}

#[test]
fn a_minute_begins_anew_and_slabs_of_the_last_one_are_void() {
    let overrides = Overrides {
        rate: Override::Unlimited,
        key_rate: Override::Unlimited,
        per_minute: limit(30),
        ..Overrides::default()
    };
    let mut world = World::new(overrides);
    let slab = world.slab(1, 100);
    assert_eq!((slab.granted, slab.room, slab.window_ms), (10, 20, Some(60_000)));
    assert!(world.check(21, None).is_err());
    world.check(20, None).unwrap();
    let Err(Refusal::Quota { used, retry_after_ms, .. }) = world.check(1, None) else { panic!() };
    // Ten of them are only lent, and may come back.
    assert_eq!((used, retry_after_ms), (30, 3_000));
    world.later(60_000);
    let slab = world.slab(1, 3);
    assert!(slab.voided && slab.granted == 3, "{slab:?}");
    assert_eq!(world.held[&1], 3);
    world.check(27, None).unwrap();
    assert!(world.check(1, None).is_err());
}

#[test]
fn what_is_left_of_a_minute_is_good_for_the_day() {
    let overrides = Overrides {
        rate: limit(0),
        burst: limit(100),
        key_rate: Override::Unlimited,
        per_minute: limit(90),
        per_day: limit(100),
        ..Overrides::default()
    };
    let mut world = World::new(overrides);
    assert_eq!(world.slab(1, 30).granted, 30);
    world.spend(1, 5);
    world.later(60_000);
    let ended = world.ask(1, 1, true);
    let slab = world.granted(1, ended);
    assert_eq!((slab.granted, slab.room), (1, 89));
    let view = world.machine.limits_view(TENANT, Some(KEY), world.stamp()).unwrap();
    let left: Vec<_> = view.states.iter().map(|state| (state.policy, state.remaining)).collect();
    assert_eq!(left, [(Policy::Rate, 94), (Policy::PerMinute, 89), (Policy::PerDay, 94)]);
}

#[test]
fn all_policies_are_spent_or_none() {
    let overrides = Overrides {
        rate: limit(10),
        burst: limit(10),
        key_rate: limit(1),
        key_burst: limit(2),
        per_day: limit(100),
        ..Overrides::default()
    };
    let mut world = World::new(overrides);
    assert!(world.check(3, None).is_err());
    world.check(2, None).unwrap();
    assert!(matches!(
        world.check(1, None),
        Err(Refusal::Rate { policy: Policy::KeyRate, retry_after_ms: 1_000, .. })
    ));
    let view = world.machine.limits_view(TENANT, Some(KEY), world.stamp()).unwrap();
    let left: Vec<_> = view.states.iter().map(|state| (state.policy, state.remaining)).collect();
    assert_eq!(left, [(Policy::Rate, 8), (Policy::PerDay, 98), (Policy::KeyRate, 0)]);
    // One policy by name spends nothing of the others.
    world.check(5, Some(Policy::Rate)).unwrap();
    assert!(world.check(4, Some(Policy::Rate)).is_err());
    world.later(1_000);
    world.check(1, None).unwrap();
}

#[test]
fn a_shadowed_policy_counts_and_never_refuses() {
    let overrides = Overrides {
        rate: limit(1),
        burst: limit(1),
        shadow: Some([Policy::Rate, Policy::KeyRate].into_iter().collect()),
        ..Overrides::default()
    };
    let mut world = World::new(overrides);
    for _ in 0..5 {
        world.check(1, None).unwrap();
    }
    assert_eq!(world.slab(1, 50).granted, 50);
}

#[test]
fn only_the_ask_that_brought_a_slab_can_give_it_back() {
    let overrides = Overrides { rate: limit(0), burst: limit(100), ..Overrides::default() };
    let mut world = World::new(overrides);
    let first = world.slab(1, 30).granted;
    let before = world.slabs[&1];
    let second = world.slab(1, 30).granted;
    let held = first + second;
    let back = |world: &mut World, number: u64, left: u64| {
        let slab = Returned { tenant: TENANT, key: KEY, number, left };
        let command = protocol::Command::Return { worker: worker(1), slabs: vec![slab] };
        world.apply(command).outcome.unwrap();
    };
    // Late, from before the second ask: what it says is included in that.
    back(&mut world, before, first);
    assert_eq!(world.check(100 - held + 1, None).unwrap_err(), held_by_others(100 - held));
    let newest = world.slabs[&1];
    back(&mut world, newest, held);
    back(&mut world, newest, held);
    world.check(100, None).unwrap();
    assert!(world.check(1, None).is_err());
}

fn held_by_others(remaining: u64) -> Refusal {
    Refusal::Rate { policy: Policy::Rate, limit: 0, remaining, retry_after_ms: 3_600_000 }
}

#[test]
fn a_day_whose_rest_is_only_lent_is_asked_for_again_soon() {
    let overrides = Overrides {
        rate: Override::Unlimited,
        key_rate: Override::Unlimited,
        per_day: limit(300),
        ..Overrides::default()
    };
    let mut world = World::new(overrides);
    let lent = world.slab(1, 100).granted;
    world.check(300 - lent, None).unwrap();
    let wait = |refused: Refusal| {
        let Refusal::Quota { retry_after_ms, .. } = refused else { panic!("{refused}") };
        retry_after_ms
    };
    assert_eq!(wait(world.check(1, None).unwrap_err()), 3_000);
    world.give_back(1);
    world.check(lent, None).unwrap();
    assert!(wait(world.check(1, None).unwrap_err()) > 3_000);
}

#[test]
fn what_takes_no_units_is_not_refused_for_a_month_that_is_used_up() {
    let overrides = Overrides { per_month: limit(10), ..Overrides::default() };
    let mut world = World::new(overrides);
    world.check(10, Some(Policy::PerMonth)).unwrap();
    assert!(world.check(1, Some(Policy::PerMonth)).is_err());
    world.check(1, None).unwrap();
}

#[test]
fn requests_that_run_hold_their_slots_until_they_are_released_or_their_node_is_lost() {
    let overrides = Overrides { concurrency: limit(2), ..Overrides::default() };
    let mut world = World::new(overrides);
    let scan = |number| {
        let slot = Some(Slot { worker: worker(2), number });
        let payer = protocol::limits::Payer { key: Some(KEY), slot };
        let scan = protocol::usage::Command::Scan {
            documents: 1,
            cached: Default::default(),
            tokens: 1,
            payer,
        };
        protocol::Command::Usage(TENANT, scan)
    };
    for number in 1..=2 {
        world.apply(scan(number)).outcome.unwrap();
    }
    let full = Err(Refusal::Concurrency { limit: 2, running: 2 });
    assert_eq!(world.apply(scan(3)).outcome, full);
    world.limits(Command::Release { slot: Slot { worker: worker(2), number: 1 } }).unwrap();
    world.apply(scan(3)).outcome.unwrap();
    assert_eq!(world.apply(scan(4)).outcome, full);
    world.apply(protocol::Command::Lapse { worker: worker(2), running: vec![] }).outcome.unwrap();
    world.apply(scan(5)).outcome.unwrap();
    world.apply(scan(6)).outcome.unwrap();
    world.later(SLOT_MS_MAX);
    world.apply(scan(7)).outcome.unwrap();
}

#[test]
fn money_is_never_spent_beyond_the_budget() {
    // Enterprise: a fifth of a cent for a document.
    let overrides = Overrides { budget: limit(1), ..Overrides::default() };
    let mut world = World::new(overrides);
    let payer = protocol::limits::Payer { key: Some(KEY), slot: None };
    let scan = |documents| {
        let scan = protocol::usage::Command::Scan {
            documents,
            cached: Default::default(),
            tokens: 1,
            payer,
        };
        protocol::Command::Usage(TENANT, scan)
    };
    world.apply(scan(3)).outcome.unwrap();
    assert!(matches!(world.apply(scan(3)).outcome, Err(Refusal::Budget { used: 6_000, .. })));
    world.apply(scan(2)).outcome.unwrap();
    assert!(matches!(world.apply(scan(1)).outcome, Err(Refusal::Budget { .. })));
}

#[test]
fn ledgers_that_say_nothing_are_forgotten() {
    let overrides = Overrides { rate: limit(100), burst: limit(10), ..Overrides::default() };
    let mut world = World::new(overrides);
    world.check(5, None).unwrap();
    assert_eq!(world.machine.limits.ledgers.len(), 2);
    world.later(10_000);
    // The sweep runs after the command has made its own rows; a command without any does not.
    for _ in 0..3 {
        let slot = Slot { worker: worker(9), number: 9 };
        world.limits(Command::Release { slot }).unwrap();
    }
    assert_eq!(world.machine.limits.ledgers.len(), 0);
}
