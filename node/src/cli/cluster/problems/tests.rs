use serde_json::{Value, json};

use super::*;

/// Three nodes with two groups, as a healthy cluster shows them.
fn healthy() -> Value {
    let node = |id: &str| {
        json!({"id": id, "state": "up", "version": "1.0.0", "http": "", "peer": "", "lag": 0,
            "damaged": 0, "heard_ms": 50, "clock_ahead_ms": 2, "certificate_term_s": 86400,
            "certificate_expires_at": "2026-11-22T00:00:00.000Z"})
    };
    let shard = |id: u32| {
        let replica = |node: &str| json!({"node": node, "role": "voter", "lag": 0});
        json!({"id": id, "leader": "n1", "voters_wanted": 3,
            "replicas": [replica("n1"), replica("n2"), replica("n3")]})
    };
    json!({"cluster_id": "clu_1", "leader": "n1", "told_by": "n1",
        "told_at": "2026-11-21T08:00:00.000Z",
        "nodes": [node("n1"), node("n2"), node("n3")], "shards": [shard(0), shard(1)]})
}

/// What is told of a healthy cluster in which these places have other values.
fn check(changes: &[(&str, Value)], expected: &[&str]) {
    let mut view = healthy();
    for (pointer, value) in changes {
        *view.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value.clone();
    }
    let told = problems(&serde_json::from_value(view).unwrap()).into_iter().map(|found| {
        let grade = if found.grade == Grade::Fail { "fail" } else { "warn" };
        format!("{grade} {}: {}", found.about.name(), found.detail)
    });
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn a_healthy_cluster_has_no_problems() {
    check(&[], &[]);
}

#[test]
fn one_node_down_leaves_bare_majorities() {
    check(
        &[("/nodes/2/state", "down".into()), ("/nodes/2/heard_ms", 90_000.into())],
        &[
            "fail nodes: n3 is down, was heard of 1.5 min ago",
            "warn quorum: the loss of one more node stops group 0, 1",
        ],
    );
}

#[test]
fn two_of_three_down_are_no_quorum() {
    check(
        &[
            ("/nodes/1/state", "down".into()),
            ("/nodes/1/heard_ms", Value::Null),
            ("/nodes/2/state", "lost".into()),
            ("/shards/1/leader", Value::Null),
        ],
        &[
            "fail nodes: n2 is down, was not heard of yet",
            "fail nodes: n3 is lost, was heard of 50 ms ago",
            "fail quorum: no quorum in group 0, 1",
            "fail leaders: nobody leads group 1",
        ],
    );
}

#[test]
fn a_learner_is_a_voter_that_lacks_and_its_lag_is_told() {
    check(
        &[
            ("/shards/1/replicas/2/role", "learner".into()),
            ("/nodes/2/lag", 1_001.into()),
            ("/nodes/1/damaged", 2.into()),
        ],
        &[
            "warn voters: 2 of 3 voters in group 1",
            "warn lag: a replica on n3 misses 1001 entries, 1000 are usual",
            "warn damage: n2 found 2 logs and states damaged when it started",
        ],
    );
}

#[test]
fn certificates_and_checkpoints_are_told_before_they_hurt() {
    check(
        &[
            ("/nodes/0/certificate_expires_at", "2026-11-21T13:59:59.000Z".into()),
            ("/nodes/1/certificate_expires_at", "2026-11-21T08:00:00.000Z".into()),
        ],
        &[
            "fail certificates: the certificate of n2 has ended",
            "warn certificates: the certificate of n1 ends in 6.0 h",
        ],
    );
    let mut view = healthy();
    view["nodes"][0]["checkpoint_overdue_s"] = 300.into();
    let found = problems(&serde_json::from_value(view).unwrap());
    assert_eq!(found[0].detail, "a checkpoint of n1 is overdue, 5.0 min old");
}

#[test]
fn the_odd_clock_is_the_wrong_one_whoever_is_asked() {
    let ahead = "the clock of n2 is 2.0 min ahead of the others";
    check(&[("/nodes/1/clock_ahead_ms", 120_000.into())], &[&format!("fail clocks: {ahead}")]);
    // The one that is ahead was asked: to it the others are behind.
    check(
        &[
            ("/nodes/0/clock_ahead_ms", (-120_000).into()),
            ("/nodes/1/clock_ahead_ms", 0.into()),
            ("/nodes/2/clock_ahead_ms", (-120_001).into()),
        ],
        &[&format!("fail clocks: {ahead}")],
    );
    check(
        &[("/nodes/2/clock_ahead_ms", (-1_500).into())],
        &["warn clocks: the clock of n3 is 1.5 s behind the others"],
    );
}

#[test]
fn two_versions_are_an_upgrade_under_way() {
    check(
        &[("/nodes/1/version", "1.1.0".into())],
        &["warn versions: 1.0.0 on n1, n3; 1.1.0 on n2"],
    );
}
