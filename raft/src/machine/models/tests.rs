use protocol::Digest;
use protocol::jobs::Blob;
use protocol::models::{Artefact, Canary, Task};

use super::*;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn add(content: u8) -> Command {
    let sha256 = Digest([content; 32]);
    let artefact = Artefact { sha256, bytes: 3, parts: vec![Blob { sha256, bytes: 3 }] };
    let version = Version {
        artefact,
        task: Task::Encoder,
        precision: name("fp32"),
        batch_dependent: false,
        labels: Vec::new(),
        added_at: Time(0),
    };
    Command::AddVersion { name: name("embed"), version: Box::new(version) }
}

fn create(text: &str) -> Command {
    Command::Create { name: name(text) }
}

fn target(version: u32, canary: Option<(u32, u16)>) -> Command {
    let canary = canary.map(|(version, per_mille)| Canary { version, per_mille });
    let target = Target { version, canary };
    Command::SetTarget { name: name("embed"), target, if_revision: None }
}

fn remove(version: u32) -> Command {
    Command::RemoveVersion { name: name("embed"), version }
}

fn line(outcome: Outcome) -> String {
    let of = |target: Option<Target>| {
        target.map_or_else(
            || "nothing".to_owned(),
            |target| {
                target.versions().map(|number| number.to_string()).collect::<Vec<_>>().join("+")
            },
        )
    };
    match outcome {
        Ok(Reply::Model(model)) => {
            let versions: Vec<_> = model.versions.keys().map(u32::to_string).collect();
            let (now, before) = (of(model.target), of(model.previous));
            format!("{} [{}] {now}, before {before}", model.id, versions.join(" "))
        }
        Ok(other) => format!("{other:?}"),
        Err(refusal) => refusal.to_string(),
    }
}

fn check(script: &[(Command, &str)]) {
    let mut registry = Registry::default();
    for (command, expected) in script {
        let before = registry.clone();
        let outcome = change(&mut registry, Time(7), command.clone());
        if outcome.is_err() {
            assert_eq!(registry, before, "a refusal leaves no trace");
        }
        assert_eq!(line(outcome), *expected, "{command:?}");
    }
}

#[test]
fn versions_serve_go_back_and_leave() {
    check(&[
        (add(1), "not found"),
        (create("docrisk"), "already exists"),
        (create("embed"), "m1 [] nothing, before nothing"),
        (create("embed"), "already exists"),
        (create("other"), "m2 [] nothing, before nothing"),
        (add(1), "m1 [1] nothing, before nothing"),
        (add(1), "already exists"),
        (add(2), "m1 [1 2] nothing, before nothing"),
        (target(3, None), "not found"),
        (target(1, Some((3, 10))), "not found"),
        (target(1, None), "m1 [1 2] 1, before nothing"),
        (target(1, Some((2, 10))), "m1 [1 2] 1+2, before 1"),
        (remove(2), "version 2 serves"),
        (target(2, None), "m1 [1 2] 2, before 1+2"),
        (target(2, None), "m1 [1 2] 2, before 1+2"),
        (target(1, Some((2, 10))), "m1 [1 2] 1+2, before 2"),
        (target(2, None), "m1 [1 2] 2, before 1+2"),
        (remove(1), "m1 [2] 2, before nothing"),
        (remove(1), "not found"),
        (add(1), "m1 [2 3] 2, before nothing"),
    ]);
}

#[test]
fn a_change_of_another_revision_is_refused() {
    let mut registry = Registry::default();
    for command in [create("embed"), add(1), add(2), target(1, None)] {
        change(&mut registry, Time(1), command).unwrap();
    }
    let at = |revision| Command::SetTarget {
        name: name("embed"),
        target: Target { version: 2, canary: None },
        if_revision: Some(revision),
    };
    assert_eq!(
        change(&mut registry, Time(1), at(3)),
        Err(Refusal::VersionMismatch { wanted: 3, now: 4 })
    );
    assert!(change(&mut registry, Time(1), at(4)).is_ok());
}

#[test]
fn models_and_versions_have_a_bound() {
    let mut registry = Registry::default();
    for number in 0..MODELS_MAX {
        change(&mut registry, Time(1), create(&format!("model {number}"))).unwrap();
    }
    let refused = change(&mut registry, Time(1), create("embed")).unwrap_err();
    assert_eq!(refused.to_string(), "models: 65 is more than 64");
    let mut registry = Registry::default();
    change(&mut registry, Time(1), create("embed")).unwrap();
    for content in 0..VERSIONS_MAX as u8 {
        change(&mut registry, Time(1), add(content)).unwrap();
    }
    let refused = change(&mut registry, Time(1), add(200)).unwrap_err();
    assert_eq!(refused.to_string(), "versions: 33 is more than 32");
}
