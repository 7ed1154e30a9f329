use std::panic::{AssertUnwindSafe, catch_unwind};

use openraft::vote::leader_id_std::CommittedLeaderId;
use protocol::keys::{NewKey, Scopes};
use protocol::owner::{Epoch, OpenOwner};
use protocol::plans::{Overrides, Shipped};
use protocol::{
    Command, Digest, Entry, Name, NodeId, Proposal, Stamp, TenantId, Time, keys, tenants,
};
use tempfile::TempDir;

use super::staging::{Arrivals, StagingError};
use super::stream::Outgoing;
use super::*;

const GROUP: GroupId = GroupId(3);
const REPLICA: ReplicaId = ReplicaId(4);

struct World {
    machine: Machine,
    index: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self { machine: Machine::new(GROUP), index: 0 };
        let open = OpenOwner { node: NodeId(1), incarnation: 1, term: 1 };
        world.apply(Command::OpenOwner(open));
        world
    }

    fn apply(&mut self, command: Command) {
        self.index += 1;
        let proposal = Proposal::new(Stamp::at(Time(self.index * 1_000)), command);
        let epoch = self.machine.owner.map_or_else(Epoch::default, |owner| owner.epoch);
        let entry = Entry { epoch, proposals: vec![proposal] };
        let changes = self.machine.apply(self.index, 1, entry);
        assert!(changes.applied[0].outcome.is_ok(), "{changes:?}");
    }

    fn create(&mut self, tenant: u128) {
        let command = tenants::Command::Create(Box::new(tenants::NewTenant {
            name: Name::parse(&format!("tenant-{tenant}")).unwrap(),
            plan: Shipped::Enterprise.plan(),
            overrides: Overrides::default(),
            domain: None,
            time_zone: None,
            region: None,
            key: key(tenant, 0),
        }));
        self.apply(Command::Tenant(TenantId(tenant), command));
    }

    fn add_key(&mut self, tenant: u128, number: u8) {
        let command = keys::Command::Create(key(tenant, number));
        self.apply(Command::Key(TenantId(tenant), command));
    }

    fn delete(&mut self, tenant: u128) {
        self.apply(Command::Tenant(TenantId(tenant), tenants::Command::Delete));
    }

    fn head(&mut self) -> Head {
        let applied = LogId::new(CommittedLeaderId::new(1), self.index);
        let scalars = self.machine.freeze();
        Head::new(GROUP, REPLICA, applied, StoredMembership::default(), scalars)
    }

    fn write(&mut self, to: &Checkpoint) -> u64 {
        let head = self.head();
        to.write(head, false, || self.machine.take(100)).unwrap()
    }
}

fn key(tenant: u128, number: u8) -> NewKey {
    let mut digest = [number; 32];
    digest[..16].copy_from_slice(&tenant.to_be_bytes());
    NewKey {
        name: Name::parse("a key").unwrap(),
        digest: Digest(digest),
        prefix: "sk_live_…".to_owned(),
        scopes: Scopes::all(),
        overrides: keys::KeyOverrides::default(),
        expires_at: None,
    }
}

fn open(dir: &TempDir) -> (Checkpoint, Option<Loaded>) {
    Checkpoint::open(dir.path(), GROUP, REPLICA).unwrap()
}

fn loaded(dir: &TempDir) -> Loaded {
    open(dir).1.unwrap()
}

#[test]
fn what_was_frozen_is_read_back_whatever_happened_while_it_was_written() {
    let dir = TempDir::new().unwrap();
    let (checkpoint, none) = open(&dir);
    assert!(none.is_none() && checkpoint.head().is_none());
    let mut world = World::new();
    for round in 0..5_u8 {
        for tenant in 0..40 {
            if round == 0 || tenant % 5 == 0 {
                world.create(u128::from(round) << 64 | tenant);
            }
            world.add_key(tenant, round + 1);
        }
        let frozen = world.machine.digest();
        let head = world.head();
        let mut slices = 0_u128;
        let taken = checkpoint.write(head, false, || {
            let taken = world.machine.take(7);
            // Apply goes on between two slices, with rows that are taken and rows that are not.
            slices += 1;
            world.add_key(slices % 40, 100 + round);
            if slices.is_multiple_of(3) && slices < 40 {
                world.create(u128::from(round) << 80 | slices << 70);
            }
            taken
        });
        assert!(taken.unwrap() > 0);
        assert_eq!(loaded(&dir).machine.digest(), frozen, "round {round}");
        for number in 0..slices {
            let of = &world.machine.keys;
            let tenant = TenantId(number % 40);
            let added = of.after(tenant, None).find(|key| key.digest.0[31] == 100 + round);
            let Some(id) = added.map(|key| key.id) else { continue };
            world.apply(Command::Key(tenant, keys::Command::Revoke(id)));
        }
    }
    world.delete(0);
    world.write(&checkpoint);
    assert_eq!(loaded(&dir).machine.digest(), world.machine.digest());
}

#[test]
fn the_first_checkpoint_has_its_name_when_it_is_whole() {
    let dir = TempDir::new().unwrap();
    let (checkpoint, _) = open(&dir);
    let mut world = World::new();
    world.create(1);
    let head = world.head();
    let file = dir.path().join(format!("{}.redb", GROUP.0));
    let written = checkpoint.write(head, false, || {
        assert!(!file.exists(), "whoever starts now would read it");
        world.machine.take(100)
    });
    assert!(written.unwrap() > 0 && file.exists());
    assert_eq!(loaded(&dir).head.applied.index, world.index);
}

#[test]
fn a_checkpoint_costs_what_changed() {
    let dir = TempDir::new().unwrap();
    let (checkpoint, _) = open(&dir);
    let mut world = World::new();
    for tenant in 0..2_000 {
        world.create(tenant);
    }
    let first = world.write(&checkpoint);
    for tenant in (0..2_000).step_by(100) {
        world.add_key(tenant, 1);
    }
    let second = world.write(&checkpoint);
    assert!(second * 50 <= first, "{second} of {first} bytes");
    // Nothing but the head.
    assert_eq!(world.write(&checkpoint), 0);
}

#[test]
fn the_state_of_another_replica_is_none() {
    let dir = TempDir::new().unwrap();
    let mut world = World::new();
    world.write(&open(&dir).0);
    let (checkpoint, other) = Checkpoint::open(dir.path(), GROUP, ReplicaId(5)).unwrap();
    assert!(other.is_none() && checkpoint.head().is_none());
    assert!(open(&dir).1.is_none(), "the file is gone");
}

#[test]
fn a_damaged_file_is_refused_or_says_what_it_said() {
    let dir = TempDir::new().unwrap();
    let mut world = World::new();
    for tenant in 0..60 {
        world.create(tenant);
    }
    world.write(&open(&dir).0);
    let file = dir.path().join("3.redb");
    let whole = std::fs::read(&file).unwrap();
    let digest = world.machine.digest();
    let mut refused = 0;
    let used: Vec<usize> = (0..whole.len()).filter(|&offset| whole[offset] != 0).collect();
    for (number, &offset) in used.iter().step_by(used.len() / 400).enumerate() {
        let mut damaged = whole.clone();
        damaged[offset] ^= 1 << (number % 8);
        std::fs::write(&file, &damaged).unwrap();
        // redb may panic on what it finds; a start takes that for damage.
        let opened =
            catch_unwind(AssertUnwindSafe(|| Checkpoint::open(dir.path(), GROUP, REPLICA)));
        match opened {
            Ok(Ok((_, Some(loaded)))) => assert_eq!(loaded.machine.digest(), digest, "at {offset}"),
            Ok(Ok((_, None))) => panic!("the state is lost unseen at {offset}"),
            Ok(Err(CheckpointError::Damaged { .. })) | Err(_) => refused += 1,
            Ok(Err(other)) => panic!("{other}"),
        }
    }
    // Much of what is not zero is free space with old rows in it.
    assert!(refused > 50, "{refused}");
    for length in [0, 1, 100, 4_096, whole.len() / 2] {
        std::fs::write(&file, &whole[..length]).unwrap();
        let opened =
            catch_unwind(AssertUnwindSafe(|| Checkpoint::open(dir.path(), GROUP, REPLICA)));
        assert!(!matches!(opened, Ok(Ok((_, Some(_))))), "{length} bytes are no state");
    }
}

#[test]
fn a_state_arrives_in_parts_and_goes_on_where_it_was_cut_off() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (checkpoint, _) = open(&from);
    let mut world = World::new();
    for tenant in 0..200 {
        world.create(tenant);
    }
    world.write(&checkpoint);
    let sent = world.machine.digest();
    let reader = checkpoint.reader().unwrap().unwrap();
    // What is written meanwhile does not show in what is read.
    world.create(1_000);
    world.write(&checkpoint);
    let arrivals = Arrivals::open(to.path()).unwrap();
    let head = reader.head().clone();
    let applied = head.applied;
    let mut after = arrivals.begin(GROUP, head.clone()).unwrap();
    let mut parts = 0;
    loop {
        let rows = reader.rows(&after, 4_096).unwrap();
        let Some((last, _)) = rows.last().cloned() else { break };
        arrivals.take(GROUP, applied, &after, &rows).unwrap();
        let twice = arrivals.take(GROUP, applied, &after, &rows);
        assert!(matches!(twice, Err(StagingError::OutOfOrder)));
        after = last;
        parts += 1;
        // Another sender, or the same one after a while, hears how far it is.
        assert_eq!(arrivals.begin(GROUP, head.clone()).unwrap(), after);
    }
    assert!(parts > 5, "{parts}");
    let (head, staged) = arrivals.finish(GROUP, applied, ReplicaId(9)).unwrap();
    let (receiver, _) = Checkpoint::open(to.path(), GROUP, ReplicaId(9)).unwrap();
    let loaded = staged.load(&receiver).unwrap();
    assert_eq!((loaded.machine.digest(), head.replica), (sent, ReplicaId(9)));
    receiver.replace(staged.path(), loaded.head).unwrap();
    drop(staged);
    let (_, again) = Checkpoint::open(to.path(), GROUP, ReplicaId(9)).unwrap();
    assert_eq!(again.unwrap().machine.digest(), sent);
}

#[test]
fn what_is_kept_for_one_peer_is_not_sent_to_another_that_needs_more() {
    let dir = TempDir::new().unwrap();
    let (checkpoint, _) = open(&dir);
    let mut world = World::new();
    world.create(1);
    world.write(&checkpoint);
    let outgoing = Outgoing::new(checkpoint.clone(), Arc::default());
    let least = || outgoing.current().unwrap().unwrap().meta.last_log_id;
    let first = least();
    let kept = outgoing.reader(first).unwrap();
    assert_eq!(outgoing.reader(first).unwrap().head().applied, kept.head().applied);
    world.create(2);
    world.write(&checkpoint);
    assert!(least() > first);
    assert_eq!(Some(outgoing.reader(least()).unwrap().head().applied), least());
}

#[test]
fn a_state_without_rows_arrives_too() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (checkpoint, _) = open(&from);
    let mut world = World::new();
    world.write(&checkpoint);
    let reader = checkpoint.reader().unwrap().unwrap();
    let arrivals = Arrivals::open(to.path()).unwrap();
    let applied = reader.head().applied;
    let after = arrivals.begin(GROUP, reader.head().clone()).unwrap();
    assert!(reader.rows(&after, usize::MAX).unwrap().is_empty());
    let (_, staged) = arrivals.finish(GROUP, applied, REPLICA).unwrap();
    let loaded = staged.load(&open(&to).0).unwrap();
    assert_eq!(loaded.machine.digest(), world.machine.digest());
}

#[test]
fn a_state_with_a_row_less_is_not_taken() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (checkpoint, _) = open(&from);
    let mut world = World::new();
    (0..20).for_each(|tenant| world.create(tenant));
    world.write(&checkpoint);
    let reader = checkpoint.reader().unwrap().unwrap();
    let arrivals = Arrivals::open(to.path()).unwrap();
    let applied = reader.head().applied;
    let after = arrivals.begin(GROUP, reader.head().clone()).unwrap();
    let mut rows = reader.rows(&after, usize::MAX).unwrap();
    rows.remove(7);
    arrivals.take(GROUP, applied, &after, &rows).unwrap();
    let (_, staged) = arrivals.finish(GROUP, applied, REPLICA).unwrap();
    let (receiver, _) = open(&to);
    assert!(matches!(staged.load(&receiver), Err(CheckpointError::Damaged { .. })));
    let path = staged.path().to_owned();
    drop(staged);
    assert!(!path.exists());
}

#[test]
fn a_checkpoint_of_another_release_is_told_from_a_damaged_one() {
    let dir = TempDir::new().unwrap();
    let mut world = World::new();
    world.create(1);
    world.write(&open(&dir).0);
    let file = dir.path().join("3.redb");
    let change = |head: &dyn Fn(&mut Vec<u8>)| {
        let database = open_file(&file, false).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(HEAD).unwrap();
            let mut bytes = table.get(()).unwrap().unwrap().value().to_vec();
            head(&mut bytes);
            table.insert((), bytes.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
    };
    let refusal = || Checkpoint::open(dir.path(), GROUP, REPLICA).map(drop).unwrap_err();
    // Whatever a newer release writes behind the number.
    change(&|bytes| *bytes = [&(FORMAT + 1).to_le_bytes()[..], b"another head"].concat());
    let CheckpointError::Version { format, .. } = refusal() else { panic!("{}", refusal()) };
    assert_eq!(format, FORMAT + 1);
    change(&|bytes| bytes[..4].copy_from_slice(&FORMAT.to_le_bytes()));
    assert!(matches!(refusal(), CheckpointError::Damaged { .. }));
    change(&|bytes| bytes.truncate(3));
    assert!(matches!(refusal(), CheckpointError::Damaged { .. }));
}
