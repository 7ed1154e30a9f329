use std::collections::BTreeMap;

use protocol::versions::Wire;

use super::*;

/// A start of a node: its number, its life, the lives before it, its key.
type Who<'a> = (u64, u128, &'a [u128], u8);

fn registration((incarnation, life, _, pin): Who<'_>) -> Registration {
    Registration {
        incarnation,
        life: LifeId(life),
        pin: Digest([pin; 32]),
        http: String::new(),
        peer: String::new(),
        version: String::new(),
        wire: Wire::OURS,
        labels: BTreeMap::new(),
        weight: 1,
        key: [0; 32],
    }
}

enum Step<'a> {
    Token(u8),
    Join(u8, Who<'a>),
    Register(u64, Who<'a>),
}

/// Plays steps on a cluster of one; tells what each one did to the map's revision.
fn check(steps: &[Step<'_>], expected: &[&str]) {
    let mut book = Book::default();
    let (cluster, secrets) = (ClusterId(1), Secrets { pepper: [0; 32], cookie: [0; 32] });
    let first = registration((1, 10, &[], 1));
    let founded = Command::Bootstrap { cluster, secrets, registration: first };
    apply(&mut book, Time(1), founded).unwrap();
    let told: Vec<String> = steps.iter().map(|step| play(&mut book, step)).collect();
    assert_eq!(told, expected);
}

fn play(book: &mut Book, step: &Step<'_>) -> String {
    let before = book.map().unwrap().revision;
    let command = match *step {
        Step::Token(token) => {
            Command::IssueToken { token: Digest([token; 32]), expires_at: Time(1000) }
        }
        Step::Join(token, who) => {
            Command::Join { token: Digest([token; 32]), registration: registration(who) }
        }
        Step::Register(node, who) => Command::Register {
            node: NodeId(node),
            registration: registration(who),
            before: who.2.iter().copied().map(LifeId).collect(),
        },
    };
    let outcome = apply(book, Time(2), command);
    let moved = book.map().unwrap().revision - before;
    match outcome {
        Ok(Reply::Joined { node, .. }) => format!("{} joined +{moved}", node.id),
        Ok(Reply::Node(node)) => format!("life {} +{moved}", node.registration.life.0),
        Ok(_) => format!("done +{moved}"),
        Err(refusal) => format!("{refusal} +{moved}"),
    }
}

#[test]
fn only_a_restart_of_the_registered_start_takes_its_place() {
    let exists = format!("{} +0", Refusal::Exists);
    let unknown = format!("{} +0", Refusal::NotFound);
    check(
        &[
            Step::Register(1, (2, 20, &[10], 1)),
            Step::Register(1, (2, 20, &[10], 1)),
            // A twin, an old state, one that follows nobody known, another key, another node.
            Step::Register(1, (2, 21, &[10], 1)),
            Step::Register(1, (1, 10, &[], 1)),
            Step::Register(1, (3, 31, &[21], 1)),
            Step::Register(1, (3, 30, &[20], 2)),
            Step::Register(2, (1, 10, &[], 1)),
            Step::Register(1, (9, 90, &[20, 30, 40], 1)),
        ],
        &["life 20 +1", "life 20 +1", &exists, &exists, &exists, &exists, &unknown, "life 90 +1"],
    );
}

#[test]
fn a_token_is_for_one_key_that_has_not_run() {
    let bad = format!("{} +0", Refusal::BadToken);
    check(
        &[
            Step::Join(5, (1, 1, &[], 2)),
            Step::Token(5),
            Step::Join(5, (1, 1, &[], 2)),
            // The answer was lost, and the process began again.
            Step::Join(5, (1, 2, &[], 2)),
            Step::Join(5, (1, 3, &[], 3)),
            Step::Register(2, (2, 4, &[2], 2)),
            Step::Join(5, (1, 5, &[], 2)),
        ],
        &[&bad, "done +1", "n2 joined +1", "n2 joined +1", &bad, "life 4 +1", &bad],
    );
}

fn speaking(who: Who<'_>, min: u16, max: u16) -> Registration {
    Registration { wire: Wire { min, max }, ..registration(who) }
}

#[test]
fn the_wire_is_raised_when_every_node_speaks_it_and_never_lowered() {
    let mut book = Book::default();
    let secrets = Secrets { pepper: [0; 32], cookie: [0; 32] };
    let mut play = |command: Command| match apply(&mut book, Time(2), command) {
        Ok(_) => format!("wire {}", book.map().unwrap().wire),
        Err(refusal) => refusal.to_string(),
    };
    let token = Digest([5; 32]);
    let join = |registration| Command::Join { token, registration };
    let register = |node, registration, life: u128| Command::Register {
        node: NodeId(node),
        registration,
        before: vec![LifeId(life)],
    };
    let first = speaking((1, 10, &[], 1), 1, 1);
    let cluster = ClusterId(1);
    let told = [
        play(Command::Bootstrap { cluster, secrets, registration: first }),
        play(Command::IssueToken { token, expires_at: Time(1000) }),
        // One of a release to come, which speaks no version that is spoken here, keeps its token.
        play(join(speaking((1, 20, &[], 2), 2, 3))),
        play(join(speaking((1, 20, &[], 2), 1, 2))),
        play(Command::RaiseWire { to: 2 }),
        play(register(1, speaking((2, 11, &[], 1), 1, 3), 10)),
        play(Command::RaiseWire { to: 3 }),
        play(Command::RaiseWire { to: 2 }),
        play(Command::RaiseWire { to: 1 }),
        // Back to the release before.
        play(register(1, speaking((3, 12, &[], 1), 1, 1), 11)),
        play(register(1, speaking((3, 12, &[], 1), 2, 3), 11)),
    ];
    let not_raised = |active, to| Refusal::NotRaised { active, to }.to_string();
    assert_eq!(
        told,
        [
            "wire 1".to_owned(),
            "wire 1".to_owned(),
            "the cluster speaks wire version 1, this build 2 to 3".to_owned(),
            "wire 1".to_owned(),
            not_raised(1, 2),
            "wire 1".to_owned(),
            not_raised(1, 3),
            "wire 2".to_owned(),
            not_raised(2, 1),
            "the cluster speaks wire version 2, this build 1 to 1".to_owned(),
            "wire 2".to_owned(),
        ]
    );
    assert_eq!(book.map().unwrap().newer_wire(), None);
}

#[test]
fn what_may_be_raised_is_what_all_speak() {
    let mut book = Book::default();
    let secrets = Secrets { pepper: [0; 32], cookie: [0; 32] };
    let registration = speaking((1, 10, &[], 1), 1, 1);
    let cluster = ClusterId(1);
    apply(&mut book, Time(1), Command::Bootstrap { cluster, secrets, registration }).unwrap();
    assert_eq!(book.map().unwrap().newer_wire(), None);
    let registration = speaking((2, 11, &[], 1), 1, 4);
    let before = vec![LifeId(10)];
    let register = Command::Register { node: NodeId(1), registration, before };
    apply(&mut book, Time(1), register).unwrap();
    assert_eq!(book.map().unwrap().newer_wire(), Some(4));
}
