use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::keys::Scopes;
use protocol::limits::{Policy, Scope};
use protocol::owner::Epoch;
use protocol::peer::{Admission, Caller, LeaseId, Slab, View};
use protocol::plans::{Overrides, Shipped};
use protocol::tenants::{Status, Tenant};
use protocol::{KeyId, Name, NodeId, Time};

use super::lease::NODE_LEASE;
use super::terms::tests::state;
use super::*;
use crate::leases::{Leases, Renewal};

const GROUP: GroupId = GroupId(3);

fn worker(node: u64) -> Worker {
    Worker { node: NodeId(node), incarnation: 1 }
}

fn view(tenant: u128, ends_ms: Option<u64>) -> View {
    let tenant = Tenant {
        id: TenantId(tenant),
        name: Name::parse("acme").unwrap(),
        plan: Shipped::Enterprise.plan(),
        overrides: Overrides::default(),
        domain: None,
        time_zone: None,
        model: None,
        region: None,
        suspended: false,
        created_at: Time(0),
        updated_at: Time(0),
        trial_ends_at: None,
        version: 1,
    };
    let caller = Caller {
        tenant,
        status: Status::Active,
        key: KeyId(1),
        key_name: "first".to_owned(),
        key_prefix: "sk_live_…abcd".to_owned(),
        scopes: Scopes::all(),
    };
    View { caller, admission: Admission::Slabs, limits: Vec::new(), ends_ms }
}

fn lease(asked_us: u64) -> Arc<GroupLease> {
    let lease = Arc::new(GroupLease::new(GROUP));
    lease.extend(LeaseId { epoch: Epoch(1), number: 1 }, Some(NodeId(1)), asked_us);
    lease
}

fn slab(granted: u64) -> Slab {
    Slab { granted, voided: false, room: 0, tight: None, denied: None, window_ms: None }
}

fn pass(tenant: u128, lease: &Arc<GroupLease>) -> Arc<Pass> {
    pass_of(Digest([tenant as u8; 32]), tenant, lease)
}

fn pass_of(digest: Digest, tenant: u128, lease: &Arc<GroupLease>) -> Arc<Pass> {
    let (view, lease) = (view(tenant, None), Arc::clone(lease));
    let terms = Arc::new(Terms::of(&view.limits));
    Arc::new(Pass::new(view, terms, digest, lease, clock::boot_us()))
}

fn receive(pass: &Pass, slab: &Slab, asked_us: u64) {
    pass.receive(slab, 1, asked_us, asked_us);
}

#[test]
fn what_is_in_a_slab_is_spent_once_by_however_many() {
    let pass = pass(1, &lease(clock::boot_us()));
    receive(&pass, &slab(10_000), clock::boot_us());
    let spent: u64 = std::thread::scope(|scope| {
        let spenders: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..6_000).filter(|_| pass.spend(1).is_some()).count() as u64))
            .collect();
        spenders.into_iter().map(|spender| spender.join().unwrap()).sum()
    });
    assert_eq!((spent, pass.left()), (10_000, 0));
}

#[test]
fn nothing_is_admitted_by_a_lease_that_is_over() {
    let over = clock::boot_us() - NODE_LEASE.as_micros() as u64;
    let pass = pass(1, &lease(over));
    receive(&pass, &slab(5), clock::boot_us());
    assert!(pass.spend(1).is_none());
    // Prolonged, the rest of the slab counts again: the owner has kept its room.
    pass.lease.extend(LeaseId { epoch: Epoch(1), number: 1 }, None, clock::boot_us());
    assert!(pass.spend(1).is_some());
    pass.kill();
    assert!(pass.spend(1).is_none());
}

#[test]
fn a_window_that_is_over_voids_its_slab() {
    let pass = pass(1, &lease(clock::boot_us()));
    let windowed = Slab { window_ms: Some(1_000), ..slab(5) };
    receive(&pass, &windowed, clock::boot_us() - 950_001);
    assert!(pass.spend(1).is_none());
    receive(&pass, &windowed, clock::boot_us());
    assert!(pass.spend(1).is_some());
}

#[test]
fn the_end_of_a_window_is_asked_for_ahead_until_it_is_near_and_then_waited_for() {
    let pass = pass(1, &lease(clock::boot_us()));
    let asked_us = clock::boot_us();
    let windowed = |ms: u64| Slab { window_ms: Some(ms), ..slab(100) };
    receive(&pass, &windowed(1_000), asked_us);
    assert_eq!(pass.window_over_in(asked_us + 960_000), Some(Duration::from_millis(40)));
    assert_eq!(pass.window_over_in(asked_us + 940_000), None, "the slab is good");
    assert_eq!(pass.window_over_in(asked_us + 1_000_000), None, "the window is over");
    assert!(pass.spend(1).is_some() && !pass.is_ending());
    receive(&pass, &windowed(1_000), clock::boot_us() - 860_000);
    assert!(pass.spend(1).is_some() && pass.is_ending());
    receive(&pass, &windowed(49), clock::boot_us() - 30_000);
    assert!(pass.spend(1).is_some() && !pass.is_ending());
    receive(&pass, &slab(100), clock::boot_us());
    assert!(pass.spend(1).is_some() && !pass.is_ending());
}

#[test]
fn a_view_that_was_called_back_on_its_way_is_not_taken_in() {
    let grants = Grants::new(worker(1));
    let lease = lease(clock::boot_us());
    let fence = grants.inner.table.fence();
    grants.recalled(GROUP, Recall { tenant: Some(TenantId(9)) });
    assert!(grants.inner.table.insert(fence, pass(1, &lease)).is_none());
    let fence = grants.inner.table.fence();
    let first = grants.inner.table.insert(fence, pass(1, &lease)).unwrap();
    // Of two that were fetched at once, the first serves both.
    let second = grants.inner.table.insert(fence, pass(1, &lease)).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(grants.held(), 1);
}

#[test]
fn digests_that_agree_in_the_bytes_of_the_table_are_not_mistaken() {
    let grants = Grants::new(worker(1));
    let lease = lease(clock::boot_us());
    let (one, mut other) = ([7; 32], [7; 32]);
    other[8] = 8;
    let first = pass_of(Digest(one), 1, &lease);
    let table = &grants.inner.table;
    assert!(table.insert(table.fence(), Arc::clone(&first)).is_some());
    assert!(table.get(&Digest(other)).is_none());
    let second = table.insert(table.fence(), pass_of(Digest(other), 2, &lease)).unwrap();
    assert!(Arc::ptr_eq(&second, &table.get(&Digest(other)).unwrap()));
    // It made room, and what it holds will be given back.
    assert!(first.is_dead() && table.get(&Digest(one)).is_none());
    assert_eq!(table.take_evicted().len(), 1);
}

#[test]
fn passes_share_the_terms_of_their_limits_up_to_a_bound() {
    let grants = Grants::new(worker(1));
    let share = |limit: u64| {
        grants.inner.table.share(Terms::of(&[state(Policy::PerDay, Scope::Tenant, limit)]))
    };
    let first = share(0);
    assert!(Arc::ptr_eq(&first, &share(0)));
    (1..10_000).for_each(|number| drop(share(number)));
    assert!(Arc::ptr_eq(&first, &share(0)), "what is used is kept");
}

#[tokio::test]
async fn only_what_is_called_back_is_dropped() {
    let grants = Grants::new(worker(1));
    let lease = lease(clock::boot_us());
    let passes: Vec<_> = (1..=3).map(|tenant| pass(tenant, &lease)).collect();
    for pass in &passes {
        assert!(grants.inner.table.insert(grants.inner.table.fence(), Arc::clone(pass)).is_some());
    }
    grants.recalled(GroupId(4), Recall { tenant: None });
    assert_eq!(grants.held(), 3);
    grants.recalled(GROUP, Recall { tenant: Some(TenantId(2)) });
    let dead: Vec<_> = passes.iter().map(|pass| pass.is_dead()).collect();
    assert_eq!(dead, [false, true, false]);
    grants.recalled(GROUP, Recall { tenant: None });
    assert_eq!(grants.held(), 0);
}

/// An ownership that began when nobody had led for so long.
fn opened(alone_for: Duration, grants: Grants) -> Leases {
    Leases::new(GROUP, Epoch(7), alone_for, grants)
}

/// An ownership that is older than any lease of its predecessor.
fn settled(grants: Grants) -> Leases {
    opened(OWNER_LEASE, grants)
}

#[tokio::test]
async fn a_new_owner_waits_until_leases_of_the_last_one_are_over() {
    const ELECTED_AFTER: Duration = Duration::from_millis(1_600);
    for alone_for in [Duration::ZERO, ELECTED_AFTER] {
        let leases = opened(alone_for, Grants::new(worker(1)));
        let left = OWNER_LEASE - alone_for;
        let begun = Instant::now();
        assert!(leases.lapsed(&[worker(2)].into()).is_empty(), "it may have one of before");
        leases.recall(None).await;
        let took = begun.elapsed();
        assert!(took >= left && took < left + Duration::from_millis(500), "{took:?} of {left:?}");
        assert_eq!(leases.lapsed(&[worker(2)].into()), [worker(2)]);
    }
}

#[tokio::test]
async fn a_recall_waits_for_the_lease_of_a_node_that_does_not_answer_and_ends_it() {
    let leases = settled(Grants::new(worker(1)));
    let [here, gone] = [worker(1), worker(2)].map(|worker| (worker, leases.open(worker)));
    for (worker, id) in [here, gone] {
        assert!(leases.note(worker, id, TenantId(5)));
    }
    let begun = Instant::now();
    leases.recall(Some(TenantId(6))).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "nobody held it");
    assert_eq!(leases.renew(gone.0, gone.1), Renewal::Renewed);
    let begun = Instant::now();
    leases.recall(Some(TenantId(5))).await;
    let took = begun.elapsed();
    assert!(took > OWNER_LEASE / 2 && took <= OWNER_LEASE + Duration::from_millis(500), "{took:?}");
    assert_eq!(leases.renew(gone.0, gone.1), Renewal::Gone);
    // Not before: until then it may spend what it holds. Both leases are over.
    let holders = [here.0, gone.0].into();
    assert_eq!(leases.lapsed(&holders), [here.0, gone.0]);
}

#[tokio::test]
async fn a_lease_of_another_ownership_or_number_is_none() {
    let leases = settled(Grants::new(worker(1)));
    let id = leases.open(worker(1));
    assert!(leases.holds(worker(1), id));
    assert!(!leases.holds(worker(2), id));
    assert!(!leases.holds(worker(1), LeaseId { epoch: Epoch(6), ..id }));
    let newer = leases.open(worker(1));
    assert!(!leases.holds(worker(1), id) && leases.holds(worker(1), newer));
    leases.close(worker(1), newer);
    assert!(!leases.holds(worker(1), newer));
}
