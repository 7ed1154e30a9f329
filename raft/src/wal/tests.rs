//! The log through its handles: what a restart sees, and what segments do.

mod damage;
mod model;

use std::{
    fmt::Write as _,
    fs,
    future::Future,
    ops::Range,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tempfile::TempDir;

use super::{
    Entry, OpenError, Options, ReadError, Record, SubmitError, View, Wal, locked,
    record::{self, Head, Kind},
    segment::{HEADER_BYTES, Header},
};

const LONG: Duration = Duration::from_secs(3600);

/// Tiny segments, next to no cache, and no mark unless a test asks for it.
fn tiny() -> Options {
    Options {
        segment_bytes: 2048,
        first_bytes: 512,
        step_bytes: 512,
        batch_bytes: 4096,
        cache_bytes: 64,
        lag_segments: 3,
        idle: LONG,
    }
}

fn roomy() -> Options {
    // As long from the start as tests need, whatever the preparer has done.
    Options { segment_bytes: 64 << 10, first_bytes: 16 << 10, ..tiny() }
}

fn directory() -> TempDir {
    TempDir::new().unwrap()
}

fn open(dir: &TempDir, options: Options) -> Wal {
    Wal::open_with(dir.path(), options).unwrap().0
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn entry(term: u64, index: u64) -> Record {
    Record::Entry { term, index, payload: Bytes::from(format!("{term}.{index}")) }
}

/// Appends entries as one batch and waits until they are durable.
fn append(wal: &Wal, group: u32, term: u64, indexes: Range<u64>) {
    let records = indexes.map(|index| entry(term, index)).collect();
    run(wal.group(group).sync(records)).unwrap();
}

/// Everything a handle says about a group.
fn tell(wal: &Wal, group: u32) -> String {
    let log = wal.group(group);
    let text = |bytes: Option<Bytes>| {
        bytes.map_or_else(|| "-".to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let replica = log.replica().map_or_else(|| "-".to_owned(), |replica| replica.to_string());
    let purged =
        log.purged().map_or_else(|| "-".to_owned(), |at| format!("{}.{}", at.term, at.index));
    let retired = log.retired().map_or_else(String::new, |replica| format!("retired {replica} "));
    let mut said = format!(
        "{retired}replica {replica} vote {} committed {} purged {purged} entries",
        text(log.vote()),
        text(log.committed())
    );
    for Entry { term, index, payload } in log.read(log.span(), usize::MAX).unwrap() {
        assert_eq!(payload, format!("{term}.{index}"));
        write!(said, " {term}.{index}").unwrap();
    }
    assert_eq!(log.last().map(|(_, index)| index), log.span().next_back());
    said
}

/// What the disk would hold if the process were killed now. Segments come and go in the background: a copy counts if the
/// directory was the same before and after, and files are copied in order, so what moved to the tail is not missed.
fn crashed(dir: &Path) -> TempDir {
    loop {
        let copy = directory();
        fs::create_dir(copy.path().join("wal")).unwrap();
        let paths = segments(dir);
        let copied = paths.iter().all(|path| {
            let name = path.file_name().unwrap();
            fs::copy(path, copy.path().join("wal").join(name)).is_ok()
        });
        if copied && segments(dir) == paths {
            return copy;
        }
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let items = fs::read_dir(dir.join("wal")).unwrap().map(|item| item.unwrap().path());
    let mut paths: Vec<_> =
        items.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect();
    paths.sort();
    paths
}

/// A record as it stands in a file: offset, size, head, batch start.
fn layout(path: &Path) -> Vec<(usize, usize, Head, usize)> {
    let bytes = fs::read(path).unwrap();
    let seed = Header::decode(&bytes).unwrap().seed();
    let mut at = HEADER_BYTES as usize;
    let mut records = Vec::new();
    while let Ok(found) = record::decode(&bytes[at..], seed, at as u32) {
        let size = record::size(found.payload.len());
        records.push((at, size, found.head, found.batch_start as usize));
        at += size;
    }
    records
}

/// Waits for something that another thread does, at most ten seconds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let (_never, tick) = mpsc::channel::<()>();
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "never happened: {what}");
        assert!(tick.recv_timeout(Duration::from_millis(2)).is_err());
    }
}

#[test]
fn a_restart_sees_all_that_was_acknowledged() {
    let dir = directory();
    let wal = open(&dir, roomy());
    run(wal.group(1).host(71)).unwrap();
    run(wal.group(1).save_vote(Bytes::from_static(b"v1"))).unwrap();
    append(&wal, 1, 1, 0..5);
    run(wal.group(1).truncate_from(3)).unwrap();
    append(&wal, 1, 2, 3..6);
    run(wal.group(1).save_committed(Bytes::from_static(b"c2"))).unwrap();
    run(wal.group(1).purge_to(1, 1, Bytes::from_static(b"p"))).unwrap();
    run(wal.group(2).save_vote(Bytes::from_static(b"v2"))).unwrap();
    append(&wal, 2, 7, 100..102);
    run(wal.group(3).host(73)).unwrap();
    append(&wal, 3, 1, 0..3);
    run(wal.group(3).retire(73)).unwrap();
    run(wal.group(3).host(74)).unwrap();

    let expected = [
        "replica 71 vote v1 committed c2 purged 1.1 entries 1.2 2.3 2.4 2.5",
        "replica - vote v2 committed - purged - entries 7.100 7.101",
        "retired 73 replica 74 vote - committed - purged - entries",
    ];
    let all = |wal: &Wal| [tell(wal, 1), tell(wal, 2), tell(wal, 3)];
    assert_eq!(all(&wal), expected);
    let copy = crashed(dir.path());
    assert_eq!(all(&open(&copy, roomy())), expected, "after a crash");
    drop(wal);
    let (wal, found) = Wal::open_with(dir.path(), roomy()).unwrap();
    assert_eq!(all(&wal), expected, "after a clean end");
    assert_eq!(found.groups.into_iter().collect::<Vec<_>>(), [(1, 71), (3, 74)]);
    assert_eq!(found.torn, None);
}

#[test]
fn entries_can_be_read_before_they_are_durable() {
    let dir = directory();
    let wal = open(&dir, roomy());
    let log = wal.group(1);
    let (done, durable) = mpsc::channel();
    let entries = vec![Entry { term: 1, index: 0, payload: Bytes::from_static(b"1.0") }];
    run(log.append(entries, move || done.send(()).unwrap())).unwrap();
    assert_eq!(log.read(0..9, 0).unwrap().len(), 1);
    durable.recv().unwrap();
    assert_eq!(log.last(), Some((1, 0)));
}

#[test]
fn an_unwritten_entry_stays_in_memory_whatever_its_size() {
    let mut view = View::default();
    for index in 0..3 {
        view.accept(&entry(1, index));
    }
    assert_eq!(view.recent_from(), 0);
    view.wrote(2, 0);
    assert_eq!(view.recent_from(), 2);
    view.wrote(1, 0);
    assert_eq!(view.recent_from(), 3);
}

#[test]
fn a_read_keeps_to_its_bounds() {
    let dir = directory();
    let wal = open(&dir, Options { cache_bytes: 10, ..roomy() });
    append(&wal, 1, 1, 0..10);
    let log = wal.group(1);
    let indexes = |range, bytes_max| {
        let entries = log.read(range, bytes_max).unwrap();
        entries.into_iter().map(|entry| entry.index).collect::<Vec<_>>()
    };
    assert_eq!(indexes(2..5, 100), [2, 3, 4]);
    assert_eq!(indexes(2..5, 6), [2, 3]);
    assert_eq!(indexes(2..5, 0), [2]);
    assert_eq!(indexes(8..50, 100), [8, 9]);
    assert!(indexes(10..50, 100).is_empty());
    run(log.purge_to(1, 3, Bytes::new())).unwrap();
    assert!(matches!(log.read(3..5, 100), Err(ReadError::Absent { first: 4, .. })));
}

#[test]
fn refused_records_leave_no_trace() {
    let dir = directory();
    let wal = open(&dir, tiny());
    append(&wal, 1, 1, 0..2);
    let before = tell(&wal, 1);
    let refuse = |records| run(wal.group(1).sync(records)).unwrap_err();
    let gap = |expected, found| SubmitError::Gap { group: 1, expected, found };
    assert_eq!(refuse(vec![entry(1, 3)]), gap(2, 3));
    assert_eq!(refuse(vec![entry(1, 2), entry(1, 2)]), gap(3, 2));
    assert_eq!(refuse(vec![Record::Truncate { from: 1 }, entry(2, 2)]), gap(1, 2));
    let large = Record::Vote(Bytes::from(vec![1; 4000]));
    let limit = tiny().payload_bytes_max();
    assert_eq!(refuse(vec![entry(1, 2), large]), SubmitError::TooLarge { bytes: 4000, limit });
    assert_eq!(tell(&wal, 1), before);
    run(wal.group(1).sync(vec![Record::Vote(Bytes::from(vec![b'v'; limit]))])).unwrap();
    append(&wal, 1, 1, 2..3);
}

#[test]
fn a_log_longer_than_a_segment_goes_on_in_the_next() {
    let dir = directory();
    let wal = open(&dir, tiny());
    for index in 0..100 {
        append(&wal, 1, 1, 3 * index..3 * index + 3);
    }
    append(&wal, 1, 1, 300..400);
    let said = tell(&wal, 1);
    assert!(segments(dir.path()).len() > 8);
    assert_eq!(tell(&open(&crashed(dir.path()), tiny()), 1), said);
    drop(wal);
    assert_eq!(tell(&open(&dir, tiny()), 1), said);
}

#[test]
fn purged_segments_are_deleted_and_cold_groups_stay_readable() {
    let dir = directory();
    let wal = open(&dir, tiny());
    run(wal.group(9).host(79)).unwrap();
    run(wal.group(9).save_vote(Bytes::from_static(b"cold"))).unwrap();
    append(&wal, 9, 1, 0..4);
    run(wal.group(9).purge_to(1, 0, Bytes::new())).unwrap();
    let cold = tell(&wal, 9);
    for index in 0..400 {
        append(&wal, 1, 1, index..index + 1);
        if index % 10 == 9 {
            run(wal.group(1).purge_to(1, index - 2, Bytes::new())).unwrap();
        }
    }
    // Purges are written in the background; this waits for them.
    run(wal.group(1).sync(vec![])).unwrap();
    until("old segments are deleted", || segments(dir.path()).len() < 8);
    assert!(!dir.path().join("wal/0000000000000001.seg").exists());
    let hot = tell(&wal, 1);
    let copy = crashed(dir.path());
    let again = open(&copy, tiny());
    assert_eq!([tell(&again, 1), tell(&again, 9)], [hot.clone(), cold.clone()]);
    assert_eq!([tell(&wal, 1), tell(&wal, 9)], [hot, cold]);
}

#[test]
fn an_idle_log_gets_one_mark_and_stops_growing() {
    let dir = directory();
    let wal = open(&dir, Options { idle: Duration::from_millis(5), ..roomy() });
    let kinds = || -> Vec<Kind> {
        layout(&segments(dir.path())[0]).iter().map(|(_, _, head, _)| head.kind).collect()
    };
    append(&wal, 1, 1, 0..1);
    until("a mark follows", || kinds() == [Kind::Mark, Kind::Entry, Kind::Mark]);
    let (_never, tick) = mpsc::channel::<()>();
    assert!(tick.recv_timeout(Duration::from_millis(60)).is_err());
    assert_eq!(kinds().len(), 3);
    drop(wal);
    let wal = open(&dir, Options { idle: Duration::from_millis(5), ..roomy() });
    assert!(tick.recv_timeout(Duration::from_millis(60)).is_err());
    drop(wal);
    assert_eq!(kinds().len(), 3, "a restart adds none");
}

#[test]
fn a_directory_in_use_is_refused_and_free_again_after() {
    let dir = directory();
    let wal = open(&dir, tiny());
    let log = wal.group(1);
    let locked = || matches!(Wal::open_with(dir.path(), tiny()), Err(OpenError::Locked(_)));
    assert!(locked());
    drop(wal);
    assert!(locked(), "a handle keeps the log open");
    drop(log);
    assert!(!locked());
}

#[test]
fn an_empty_directory_is_private_and_opens_with_little_written() {
    use std::os::unix::fs::PermissionsExt;
    let dir = directory();
    let start = Instant::now();
    let (wal, found) = Wal::open(dir.path()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!((found.records, found.segments), (0, 1));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let segment = dir.path().join("wal/0000000000000001.seg");
    assert_eq!((mode(&dir.path().join("wal")), mode(&segment)), (0o700, 0o600));
    until("the segment is made ready", || fs::metadata(&segment).unwrap().len() == 4 << 20);
    drop(wal);
}

#[test]
fn many_groups_at_once_each_keep_their_order() {
    const GROUPS: u32 = 16;
    const ENTRIES: u64 = 300;
    let dir = directory();
    let options = Options { segment_bytes: 16 << 10, cache_bytes: 200, ..tiny() };
    let wal = open(&dir, options);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let completed = Arc::new(Mutex::new(vec![Vec::new(); GROUPS as usize]));
    let writers: Vec<_> = (0..GROUPS)
        .map(|group| {
            let (log, completed) = (wal.group(group), Arc::clone(&completed));
            runtime.spawn(async move {
                for index in 0..ENTRIES {
                    let completed = Arc::clone(&completed);
                    let done = move || locked(&completed)[group as usize].push(index);
                    log.submit(vec![entry(1, index)], Box::new(done)).await.unwrap();
                    if index % 50 == 49 {
                        log.save_vote(Bytes::from(index.to_string())).await.unwrap();
                        assert_eq!(log.read(0..ENTRIES, 1 << 20).unwrap().len() as u64, index + 1);
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        runtime.block_on(writer).unwrap();
    }
    let said: Vec<_> = (0..GROUPS).map(|group| tell(&wal, group)).collect();
    drop(wal);
    let in_order: Vec<u64> = (0..ENTRIES).collect();
    assert!(locked(&completed).iter().all(|completed| *completed == in_order));
    let wal = open(&dir, options);
    assert_eq!((0..GROUPS).map(|group| tell(&wal, group)).collect::<Vec<_>>(), said);
}

const DYING: &str = "SKEP_WAL_TEST_DYING";

/// Runs in a child of the test below: the next segment cannot be created, since the directory is gone.
#[test]
fn dying_child() {
    if std::env::var_os(DYING).is_none() {
        return;
    }
    let dir = directory();
    let wal = open(&dir, Options { segment_bytes: 8192, ..tiny() });
    append(&wal, 1, 1, 0..1);
    fs::rename(dir.path().join("wal"), dir.path().join("gone")).unwrap();
    append(&wal, 1, 1, 1..2000);
}

#[test]
fn a_failed_write_ends_the_process() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["wal::tests::dying_child", "--exact", "--test-threads=1"])
        .env(DYING, "yes")
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(6), "{child:?}");
}
