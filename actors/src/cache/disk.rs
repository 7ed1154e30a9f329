//! Results on this node's disk, in sled, on a thread of its own. It may lose anything at any time, so
//! nothing of it is trusted: a value proves itself by a checksum over its key too, and after any error
//! or panic everything is deleted and begun anew. Invariant: no call waits for the disk longer than its
//! caller wishes.
//!
//! sled gives no space back. So there are two generations: the older is deleted whole when the newer
//! has half of the room.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protocol::codec;
use protocol::versions::CACHE;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::memory::Entry;
use super::names::Key;
use crate::figures::figures;

/// Questions and results that wait for the thread. Beyond it results are not kept, and questions are
/// not answered.
const ORDERS_MAX: usize = 1024;
/// After an error nothing is kept for so long.
const PAUSE: Duration = Duration::from_secs(5);
/// Pages that sled keeps of each generation.
const PAGES_BYTES: u64 = 4 << 20;
/// Milliseconds of results that a crash may lose: they are made again. A sync more often would be felt by
/// the log, which is on the same disk.
const SYNC_EVERY_MS: u64 = 2_000;
/// Results between two looks at the size.
const LOOK_EVERY: u32 = 256;

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Disk {
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
enum Order {
    Get(Vec<Key>, oneshot::Sender<Vec<Option<Entry>>>),
    Put(Vec<(Key, Entry)>),
}

impl Disk {
    /// Starts the thread, which opens what is there.
    pub(super) fn start(dir: PathBuf, bytes: u64) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        std::thread::Builder::new()
            .name("skep-cache".to_owned())
            .spawn(move || Keeper { dir, bytes, store: None, rests_until: None }.run(queue))?;
        Ok(Self { orders })
    }

    /// What is there of some names; nothing, if the disk is slow or broken.
    pub(super) async fn get(&self, keys: Vec<Key>, within: Duration) -> Vec<Option<Entry>> {
        let nothing = vec![None; keys.len()];
        let (reply, found) = oneshot::channel();
        if self.orders.try_send(Order::Get(keys, reply)).is_err() {
            return nothing;
        }
        match tokio::time::timeout(within, found).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => nothing,
        }
    }

    /// Keeps results, if the disk keeps up.
    pub(super) fn put(&self, entries: Vec<(Key, Entry)>) {
        // What is not kept is computed again.
        let _ = self.orders.try_send(Order::Put(entries));
    }
}

struct Keeper {
    dir: PathBuf,
    bytes: u64,
    store: Option<Store>,
    /// After an error.
    rests_until: Option<Instant>,
}

impl Keeper {
    fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        self.open();
        while let Some(order) = orders.blocking_recv() {
            if self.rests_until.is_some_and(|until| Instant::now() >= until) {
                self.rests_until = None;
                self.open();
            }
            // Who asks hears nothing while there is no store, which is an answer.
            if let Some(store) = &mut self.store {
                let served = guarded(|| store.serve(order));
                self.note(served);
            }
        }
    }

    fn open(&mut self) {
        let opened = guarded(|| Store::open(&self.dir, self.bytes));
        let opened = opened.or_else(|why| {
            warn!(why, "the cache on disk cannot be read; it begins anew");
            figures().cache.rebuilds.inc();
            guarded(|| {
                wipe(&self.dir)?;
                Store::open(&self.dir, self.bytes)
            })
        });
        match opened {
            Ok(store) => self.store = Some(store),
            Err(why) => self.broken(&why),
        }
    }

    fn note(&mut self, served: Result<(), String>) {
        if let Err(why) = served {
            self.broken(&why);
        }
    }

    fn broken(&mut self, why: &str) {
        warn!(why, pause_s = PAUSE.as_secs(), "the cache on disk failed; it is deleted");
        figures().cache.rebuilds.inc();
        let store = self.store.take();
        let wiped = guarded(|| {
            drop(store);
            wipe(&self.dir)
        });
        if let Err(why) = wiped {
            warn!(why, "the cache on disk is not deleted");
        }
        self.rests_until = Some(Instant::now() + PAUSE);
    }
}

/// sled panics where others fail.
fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("sled panicked".to_owned()),
    }
}

fn wipe(dir: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        Err(_) | Ok(()) => Ok(()),
    }
}

#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error(transparent)]
    Sled(#[from] sled::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    #[error("its format is {found:?}, this build reads {CACHE}")]
    Format { found: String },
}

/// The generations, each in a directory with its number.
struct Store {
    dir: PathBuf,
    bytes: u64,
    newer: (u64, sled::Db),
    older: Option<(u64, sled::Db)>,
    /// Results since the size was looked at.
    unseen: u32,
}

impl Store {
    fn open(dir: &Path, bytes: u64) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir)?;
        check_format(dir)?;
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        for number in numbers.iter().skip(2) {
            wipe(&path(dir, *number))?;
        }
        let generation = |number| Ok::<_, StoreError>((number, opened(&path(dir, number))?));
        let newer = generation(numbers.first().copied().unwrap_or(1))?;
        let older = numbers.get(1).map(|&number| generation(number)).transpose()?;
        info!(results = newer.1.len(), "cache on disk opened");
        Ok(Self { dir: dir.to_owned(), bytes, newer, older, unseen: 0 })
    }

    fn serve(&mut self, order: Order) -> Result<(), StoreError> {
        match order {
            Order::Get(keys, reply) => {
                // Whoever asked longer ago than it wished is gone.
                if !reply.is_closed() {
                    let found: Result<Vec<_>, _> = keys.iter().map(|key| self.get(key)).collect();
                    let _ = reply.send(found?);
                }
                Ok(())
            }
            Order::Put(entries) => entries.iter().try_for_each(|(key, entry)| self.put(key, entry)),
        }
    }

    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        for (_, generation) in [Some(&self.newer), self.older.as_ref()].into_iter().flatten() {
            if let Some(value) = generation.get(key.0)? {
                // One that is damaged, or is another's, is none.
                return Ok(codec::decode_row(&key.0, &value).ok());
            }
        }
        Ok(None)
    }

    fn put(&mut self, key: &Key, entry: &Entry) -> Result<(), StoreError> {
        self.newer.1.insert(key.0, codec::encode_row(&key.0, entry)?)?;
        self.unseen += 1;
        if self.unseen < LOOK_EVERY {
            return Ok(());
        }
        self.unseen = 0;
        if self.newer.1.size_on_disk()? > self.bytes / 2 { self.turn() } else { Ok(()) }
    }

    /// Begins a generation, and ends the last but one.
    fn turn(&mut self) -> Result<(), StoreError> {
        let number = self.newer.0 + 1;
        let newer = (number, opened(&path(&self.dir, number))?);
        let older = std::mem::replace(&mut self.newer, newer);
        if let Some((number, oldest)) = self.older.replace(older) {
            drop(oldest);
            wipe(&path(&self.dir, number))?;
        }
        Ok(())
    }
}

fn path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(generation.to_string())
}

fn opened(path: &Path) -> sled::Result<sled::Db> {
    sled::Config::new()
        .path(path)
        .cache_capacity(PAGES_BYTES)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(Some(SYNC_EVERY_MS))
        .open()
}

fn check_format(dir: &Path) -> Result<(), StoreError> {
    let file = dir.join("format");
    match std::fs::read_to_string(&file) {
        Ok(found) if found == CACHE.to_string() => Ok(()),
        Ok(found) => Err(StoreError::Format { found }),
        // What is there without it was never finished.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            wipe(dir)?;
            std::fs::create_dir_all(dir)?;
            Ok(std::fs::write(file, CACHE.to_string())?)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::entry;
    use super::*;

    fn key(number: u32) -> Key {
        let mut bytes = [9; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Key(bytes)
    }

    fn put(store: &mut Store, number: u32) {
        store.put(&key(number), &entry(1, 5, "x")).unwrap();
    }

    #[test]
    fn what_was_put_is_there_after_a_start_and_for_no_other_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), 1 << 30).unwrap();
        put(&mut store, 1);
        let value = store.newer.1.get(key(1).0).unwrap().unwrap();
        store.newer.1.insert(key(2).0, value).unwrap();
        drop(store);
        let store = Store::open(dir.path(), 1 << 30).unwrap();
        assert_eq!(store.get(&key(1)).unwrap(), Some(entry(1, 5, "x")));
        assert_eq!(store.get(&key(2)).unwrap(), None, "the value of another name");
        assert_eq!(store.get(&key(3)).unwrap(), None);
    }

    #[test]
    fn the_oldest_goes_when_the_room_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), 1 << 20).unwrap();
        let first = store.newer.0;
        for number in 0..40_000 {
            put(&mut store, number);
        }
        assert!(store.newer.0 > first + 1, "no generation went");
        assert_eq!(store.get(&key(0)).unwrap(), None);
        assert!(store.get(&key(39_999)).unwrap().is_some());
        drop(store);
        let kept = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(kept, 3, "the format and two generations");
    }

    #[tokio::test]
    async fn what_is_damaged_or_of_another_format_begins_anew() {
        let within = Duration::from_secs(30);
        for damage in ["format", "1/db", "1/conf"] {
            let home = tempfile::tempdir().unwrap();
            let dir = home.path().join("cache");
            let mut store = Store::open(&dir, 1 << 30).unwrap();
            (0..2_000).for_each(|number| put(&mut store, number));
            drop(store);
            let file = dir.join(damage);
            let bytes = std::fs::read(&file).unwrap();
            std::fs::write(&file, bytes.iter().map(|byte| !byte).collect::<Vec<_>>()).unwrap();
            let disk = Disk::start(dir.clone(), 1 << 30).unwrap();
            let found = disk.get(vec![key(1)], within).await;
            assert_eq!(found, [None], "{damage}");
            disk.put(vec![(key(1), entry(2, 5, "x"))]);
            let found = disk.get(vec![key(1)], within).await;
            assert_eq!(found, [Some(entry(2, 5, "x"))], "{damage}");
        }
    }
}
