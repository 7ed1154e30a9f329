use proptest::prelude::*;

use super::*;
use crate::command::{Command, Entry, Proposal};
use crate::id::{Digest, JobId, KeyId, NodeId, TenantId};
use crate::jobs::{
    self, Again, Blob, Cause, Fault, Priority, TaskResult, TaskSpec, Wishes, Worker,
};
use crate::keys::{KeyOverrides, NewKey, Scopes};
use crate::limits::{Payer, Returned, Slot};
use crate::models::ModelId;
use crate::nodes::{self, LifeId, Registration};
use crate::owner::{Epoch, OpenOwner};
use crate::plans::{Overrides, Shipped};
use crate::versions::Wire;
use crate::{Name, Stamp, Time, tenants, usage};

fn entry(command: Command) -> Entry {
    let proposal = Proposal::new(Stamp::at(Time(1_795_219_200_123)), command);
    Entry { epoch: Epoch(7), proposals: vec![proposal] }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_entry_of_encoded_proposals_is_the_entry() {
    for count in [0, 1, 2, 300] {
        let one = entry(Command::Marker).proposals.remove(0);
        assert_eq!(one.encode().unwrap().as_ref(), encode_part(&one).unwrap());
        let whole = Entry { epoch: Epoch(u64::MAX), proposals: vec![one; count] };
        let parts: Vec<_> = whole.proposals.iter().map(|one| one.encode().unwrap()).collect();
        assert_eq!(Entry::encode(whole.epoch, &parts), encode(&whole));
    }
}

/// Bytes that released nodes have on disk. A line here is never changed, only added.
#[test]
fn golden_bytes_stay() {
    let tenant = TenantId(0x0190_0000_0000_7000_8000_0000_0000_0001);
    let digest = Digest([0xab; 32]);
    let blob = Blob { sha256: digest, bytes: 300 };
    let result = TaskResult { output: blob, done: 63, failed: 0, cached: 0, tokens: 1000 };
    let key = NewKey {
        name: Name::parse("first").unwrap(),
        digest,
        prefix: "sk_live_…abcd".to_owned(),
        scopes: Scopes::all(),
        overrides: KeyOverrides::default(),
        expires_at: None,
    };
    let registration = Registration {
        incarnation: 2,
        life: LifeId(3),
        pin: Digest([4; 32]),
        http: "http://127.0.0.1:7700".to_owned(),
        peer: "127.0.0.1:7800".to_owned(),
        version: "0.0.0".to_owned(),
        wire: Wire { min: 1, max: 2 },
        labels: [(Name::parse("zone").unwrap(), "a".to_owned())].into(),
        weight: 2,
        key: [0; 32],
    };
    let create = tenants::Command::Create(Box::new(tenants::NewTenant {
        name: Name::parse("acme").unwrap(),
        plan: Shipped::Starter.plan(),
        overrides: Overrides::default(),
        domain: None,
        time_zone: None,
        region: None,
        key,
    }));
    let worker = Worker { node: NodeId(3), incarnation: 4 };
    let slot = Some(Slot { worker, number: 5 });
    let payer = Payer { key: Some(KeyId(1)), slot };
    let returned = Returned { tenant, key: KeyId(1), number: 6, left: 7 };
    let of_job = |command| Command::Job(tenant, command);
    let wishes = Wishes {
        priority: Priority::Urgent,
        run_at: Some(Time(1_795_219_260_000)),
        deadline_ms: Some(60_000),
        attempts_max: 3,
        model: Some(ModelId(2)),
    };
    let tasks = vec![TaskSpec { input: blob, documents: 63 }];
    let cause = Cause::new(Fault::TaskFailed, "no blob");
    let commands = [
        Command::OpenOwner(OpenOwner { node: NodeId(1), incarnation: 2, term: 3 }),
        Command::Marker,
        Command::Tenant(tenant, create),
        Command::Usage(
            tenant,
            usage::Command::Scan {
                documents: 2,
                cached: [true].into_iter().collect(),
                tokens: 40,
                payer,
            },
        ),
        Command::Job(tenant, jobs::Command::Lease { job: JobId(9), task: 1, worker }),
        Command::Job(
            tenant,
            jobs::Command::Complete { job: JobId(9), task: 1, attempt: 2, result },
        ),
        Command::Node(nodes::Command::Join { token: digest, registration }),
        Command::Return { worker, slabs: vec![returned] },
        of_job(jobs::Command::Enqueue { id: JobId(9), wishes, tasks: tasks.clone(), payer }),
        of_job(jobs::Command::Fail { job: JobId(9), task: 1, attempt: 2, cause }),
        of_job(jobs::Command::Expire { job: JobId(9) }),
        of_job(jobs::Command::Cancel { job: JobId(9) }),
        of_job(jobs::Command::Pause { job: JobId(9) }),
        of_job(jobs::Command::Resume { job: JobId(9) }),
        of_job(jobs::Command::Retry {
            job: JobId(9),
            again: Again { id: JobId(10), tasks },
            payer,
        }),
    ];
    let written: Vec<String> =
        commands.into_iter().map(|command| hex(&encode(&entry(command)).unwrap())).collect();
    let golden: Vec<&str> = include_str!("golden.txt").lines().collect();
    assert_eq!(written, golden);
    for line in golden {
        let bytes: Vec<u8> = (0..line.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&line[i..i + 2], 16).unwrap())
            .collect();
        let read: Entry = decode(&bytes).unwrap();
        assert_eq!(hex(&encode(&read).unwrap()), line);
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let frame = encode(&entry(Command::Marker)).unwrap();
    for bit in 0..frame.len() * 8 {
        let mut damaged = frame.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode::<Entry>(&damaged).is_err(), "bit {bit}");
    }
    for len in 0..frame.len() {
        assert!(decode::<Entry>(&frame[..len]).is_err(), "length {len}");
    }
}

#[test]
fn a_newer_frame_is_told_from_a_damaged_one() {
    let mut newer = encode(&entry(Command::Marker)).unwrap();
    newer[0] = VERSION + 1;
    assert_eq!(understand(&newer), Err(CodecError::Checksum), "a bit that flipped");
    let sum = checksum(&newer);
    newer[1..5].copy_from_slice(&sum.to_le_bytes());
    let got = VERSION + 1;
    assert_eq!(understand(&newer), Err(CodecError::Version { got }));
    assert_eq!(decode::<Entry>(&newer), Err(CodecError::Version { got }));
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    // A vector of 2^60 elements, with a good checksum.
    let mut frame = vec![VERSION, 0, 0, 0, 0, 0xfd];
    frame.extend_from_slice(&(1u64 << 60).to_le_bytes());
    let sum = checksum(&frame);
    frame[1..5].copy_from_slice(&sum.to_le_bytes());
    assert!(matches!(decode::<Vec<u64>>(&frame), Err(CodecError::Shape(_))));
}

proptest! {
    #[test]
    fn nonsense_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut frame = bytes;
        if frame.len() >= 5 {
            frame[0] = VERSION;
            let sum = checksum(&frame);
            frame[1..5].copy_from_slice(&sum.to_le_bytes());
        }
        let _: Result<Entry, _> = decode(&frame);
    }
}
