use std::collections::BTreeMap;

use openraft::vote::leader_id_std::CommittedLeaderId;
use proptest::prelude::*;
use protocol::keys::{NewKey, Scopes};
use protocol::nodes::{Command as Asked, LifeId, Registration, Secrets};
use protocol::owner::{Epoch, OpenOwner};
use protocol::plans::{Overrides, Shipped};
use protocol::versions::Wire;
use protocol::{
    BackupId, ClusterId, Command, Digest, Entry, GroupId, Name, NodeId, Proposal, Stamp, TenantId,
    Time, keys, tenants,
};
use tempfile::TempDir;

use super::file::{Header, Pen};
use super::*;
use crate::checkpoint::{Checkpoint, Row};
use crate::machine::{Change, Machine, Stored};
use crate::types::LogId;
use crate::wal::Wal;

const LABEL: Label = Label { cluster: ClusterId(1), backup: BackupId(2), group: GroupId(3) };
const TERM: u64 = 7;

fn proposal(machine: &mut Machine, index: u64, command: Command) {
    let proposal = Proposal::new(Stamp::at(Time(index * 1_000)), command);
    let epoch = machine.owner.map_or_else(Epoch::default, |owner| owner.epoch);
    let changes = machine.apply(index, TERM, Entry { epoch, proposals: vec![proposal] });
    assert!(changes.applied[0].outcome.is_ok(), "{changes:?}");
}

fn state_of(group: GroupId, tenants: u64) -> (Machine, u64) {
    let mut machine = Machine::new(group);
    let open = OpenOwner { node: NodeId(1), incarnation: 1, term: TERM };
    proposal(&mut machine, 1, Command::OpenOwner(open));
    for tenant in 0..tenants {
        let mut digest = [9; 32];
        digest[..8].copy_from_slice(&tenant.to_be_bytes());
        let key = NewKey {
            name: Name::parse("a key").unwrap(),
            digest: Digest(digest),
            prefix: "sk_live_…".to_owned(),
            scopes: Scopes::all(),
            overrides: keys::KeyOverrides::default(),
            expires_at: None,
        };
        let command = tenants::Command::Create(Box::new(tenants::NewTenant {
            name: Name::parse(&format!("tenant-{tenant}")).unwrap(),
            plan: Shipped::Enterprise.plan(),
            overrides: Overrides::default(),
            domain: None,
            time_zone: None,
            region: None,
            key,
        }));
        let id = TenantId(u128::from(tenant) + 1);
        proposal(&mut machine, tenant + 2, Command::Tenant(id, command));
    }
    (machine, tenants + 1)
}

fn applied(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(TERM), index)
}

fn rows_of(machine: &mut Machine) -> Vec<Row> {
    let mut rows = BTreeMap::new();
    loop {
        let taken = machine.take(100);
        if taken.is_empty() {
            return rows.into_iter().collect();
        }
        for Stored { table, change: Change { key, value } } in taken {
            let name = [&[table], key.as_slice()].concat();
            rows.insert(name.into(), value.unwrap().into());
        }
    }
}

/// The file of a state, in parts of a few rows.
fn file_of(label: Label, machine: &mut Machine, index: u64) -> (Vec<u8>, Written) {
    machine.change_all();
    let scalars = machine.freeze();
    let rows = rows_of(machine);
    let mut pen = Pen::default();
    let head = Header { label, applied: applied(index), scalars };
    let mut file = pen.begin(&head).unwrap().to_vec();
    for part in rows.chunks(5) {
        file.extend_from_slice(&pen.part(&part.to_vec()).unwrap());
    }
    let (end, written) = pen.end();
    file.extend_from_slice(&end);
    (file, written)
}

fn read_in(label: Label, file: &[u8], piece: usize) -> Result<State, FileError> {
    let mut reading = Reading::new(label);
    for piece in file.chunks(piece.max(1)) {
        reading.take(piece)?;
    }
    reading.finish()
}

#[test]
fn what_was_written_is_read_back_however_it_comes_in_pieces() {
    let (mut machine, index) = state_of(LABEL.group, 60);
    let (file, written) = file_of(LABEL, &mut machine, index);
    assert_eq!(written.bytes, file.len() as u64);
    for piece in [1, 7, 4_096, file.len()] {
        let summary = read_in(LABEL, &file, piece).unwrap().summary();
        assert_eq!((summary.index, summary.term), (index, TERM));
        assert_eq!((summary.digest, summary.sha256), (machine.digest(), written.sha256));
        assert_eq!(summary.bytes, written.bytes);
    }
}

#[test]
fn every_byte_that_is_flipped_and_every_end_that_is_cut_off_is_refused() {
    let (mut machine, index) = state_of(LABEL.group, 4);
    let (file, _) = file_of(LABEL, &mut machine, index);
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(read_in(LABEL, &damaged, 4_096).is_err(), "byte {at}");
        assert!(read_in(LABEL, &file[..at], 4_096).is_err(), "length {at}");
    }
    let longer = [file.as_slice(), &[0]].concat();
    assert!(read_in(LABEL, &longer, 4_096).is_err());
}

#[test]
fn the_file_of_another_group_backup_cluster_or_format_is_refused() {
    let (mut machine, index) = state_of(LABEL.group, 4);
    let others = [
        Label { cluster: ClusterId(9), ..LABEL },
        Label { backup: BackupId(9), ..LABEL },
        Label { group: GroupId(9), ..LABEL },
    ];
    for other in others {
        let (file, _) = file_of(other, &mut machine, index);
        assert_eq!(read_in(LABEL, &file, 100).unwrap_err(), FileError::Foreign(other));
    }
    let (mut file, _) = file_of(LABEL, &mut machine, index);
    file[8] = 2;
    assert_eq!(read_in(LABEL, &file, 100).unwrap_err(), FileError::Newer { got: 2 });
    assert_eq!(read_in(LABEL, b"PK\x03\x04 a zip", 3).unwrap_err(), FileError::Unknown);
}

proptest! {
    #[test]
    fn nonsense_after_a_good_beginning_never_panics(
        keep in 0..3_000_usize,
        noise in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let (mut machine, index) = state_of(LABEL.group, 3);
        let (mut file, _) = file_of(LABEL, &mut machine, index);
        let whole = file.clone();
        file.truncate(keep);
        file.extend_from_slice(&noise);
        let read = read_in(LABEL, &file, 64);
        prop_assert_eq!(read.is_ok(), file == whole);
    }
}

fn registration() -> Registration {
    Registration {
        incarnation: 1,
        life: LifeId(3),
        pin: Digest([4; 32]),
        http: String::new(),
        peer: String::new(),
        version: "0.0.0".to_owned(),
        labels: BTreeMap::new(),
        weight: 1,
        key: [0; 32],
        wire: Wire::OURS,
    }
}

fn bootstrapped() -> (Machine, u64) {
    let (mut machine, index) = state_of(GroupId::META, 0);
    let secrets = Secrets { pepper: [5; 32], cookie: [6; 32] };
    let (cluster, registration) = (LABEL.cluster, registration());
    let begin = Asked::Bootstrap { cluster, secrets, registration };
    proposal(&mut machine, index + 1, Command::Node(begin));
    let init = Asked::Init { key: Digest([8; 32]) };
    proposal(&mut machine, index + 2, Command::Node(init));
    let token = Asked::IssueToken { token: Digest([1; 32]), expires_at: Time(u64::MAX) };
    proposal(&mut machine, index + 3, Command::Node(token));
    (machine, index + 3)
}

#[tokio::test]
async fn a_state_that_is_seated_is_the_state_that_was_written_with_a_voter_of_its_own() {
    let dir = TempDir::new().unwrap();
    let (mut meta, at) = bootstrapped();
    let old = meta.nodes.map().unwrap().clone();
    let rebirth = Rebirth::after(&old, ClusterId(77), [7; 32], registration(), Time(5));
    let (mut shard, index) = state_of(LABEL.group, 30);
    {
        let seats = Seats::make(dir.path()).unwrap();
        let (file, _) = file_of(LABEL, &mut shard, index);
        let digest = seats.seat(read_in(LABEL, &file, 100).unwrap(), &rebirth).await.unwrap();
        assert_eq!(digest, shard.digest());
        let label = Label { group: GroupId::META, ..LABEL };
        let (file, _) = file_of(label, &mut meta, at);
        seats.seat(read_in(label, &file, 100).unwrap(), &rebirth).await.unwrap();
    }
    let (wal, found) = Wal::open(dir.path()).unwrap();
    let replica = rebirth.replica(LABEL.group).unwrap();
    assert_eq!(found.groups[&LABEL.group.0], replica.0);
    let log = wal.group(LABEL.group.0);
    assert_eq!(log.purged().map(|at| (at.term, at.index)), Some((TERM, index)));
    let checkpoints = crate::node::checkpoints(dir.path());
    let open = |group| Checkpoint::open(&checkpoints, group, rebirth.replica(group).unwrap());
    let loaded = open(LABEL.group).unwrap().1.unwrap();
    assert_eq!(loaded.head.applied, applied(index));
    let voters: Vec<u64> = loaded.head.membership.membership().voter_ids().collect();
    assert_eq!(voters, [replica.0]);

    let meta = open(GroupId::META).unwrap().1.unwrap();
    let map = meta.machine.nodes.map().unwrap();
    assert_eq!((map.cluster, map.secrets.pepper), (ClusterId(77), [5; 32]));
    assert_eq!(map.operators, old.operators);
    assert!(map.tokens.is_empty() && map.secrets.cookie == [7; 32]);
    // No id of the old life is given again.
    assert_eq!(map.nodes.keys().copied().collect::<Vec<_>>(), [NodeId(old.next_node)]);
    assert!(map.groups.values().all(|at| at.replicas.keys().all(|id| id.0 >= old.next_replica)));
    assert_eq!(map.next_replica, old.next_replica + old.groups.len() as u64);
}
