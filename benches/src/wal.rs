//! The write-ahead log alone, beside the least that a durable write can be in the same directory.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use raft::wal::{Entry, GroupLog, Wal};
use tokio::sync::Semaphore;

use crate::cpu;
use crate::sample::{Medians, Sample, Seen, median};
use crate::table::{Table, line, preamble};

/// What an entry holds, here and in the plain file.
const PAYLOAD_BYTES: usize = 256;
/// The plain file is written in place from its beginning when it ends.
const PLAIN_BYTES: u64 = 16 << 20;
const IN_FLIGHT: [usize; 3] = [1, 64, 512];
/// `f_type` of a file system in memory, on which a sync means nothing.
const TMPFS: i64 = 0x0102_1994;

/// How much to measure.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Seconds per cell
    #[arg(long, default_value_t = 2.0)]
    secs: f64,
    /// Rounds, contestants in turn; medians are told
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where the files are made; the temporary directory if not given
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { secs: 2.0, rounds: 3, dir: None }
    }
}

/// One cell: appends, and how many syncs they took.
struct Cell {
    sample: Sample,
    syncs: u64,
}

pub(crate) async fn run(plan: &Plan) -> Result<()> {
    preamble("wal: the log alone beside write + fdatasync; 256 bytes an append");
    let parent = plan.dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new().prefix("skep-bench-wal-").tempdir_in(&parent)?;
    line(&format!(
        "in {}; fdatasync of the log = write calls of its commit thread",
        parent.display()
    ));
    if rustix::fs::statfs(directory.path())?.f_type == TMPFS {
        line("WARNING: this directory is in memory; the figures mean nothing");
    }
    let (wal, _) = Wal::open(directory.path())?;
    let mut appender = Appender::new(wal.group(1)).await?;
    let time = Duration::from_secs_f64(plan.secs);

    let mut rows: Vec<(String, Vec<Cell>)> = Vec::new();
    for _ in 0..plan.rounds {
        for kind in [Plain::Prepared, Plain::Growing] {
            let path = directory.path().join("plain");
            let cell = tokio::task::spawn_blocking(move || plain(&path, kind, time)).await??;
            add(&mut rows, kind.name(), cell);
        }
        for in_flight in IN_FLIGHT {
            let cell = appender.measure(in_flight, time).await?;
            add(&mut rows, &format!("raft::wal, {in_flight} in flight"), cell);
        }
    }
    tell(&rows);
    Ok(directory.close()?)
}

fn add(rows: &mut Vec<(String, Vec<Cell>)>, name: &str, cell: Cell) {
    match rows.iter_mut().find(|(known, _)| known == name) {
        Some((_, cells)) => cells.push(cell),
        None => rows.push((name.to_owned(), vec![cell])),
    }
}

fn tell(rows: &[(String, Vec<Cell>)]) {
    let head =
        ["contestant", "appends/s", "fdatasync/s", "p50 ms", "p99 ms", "CPU-ms/append", "of limit"];
    let mut table = Table::new(&head);
    let mut limit = None;
    for (name, cells) in rows {
        let samples: Vec<Sample> = cells.iter().map(|cell| cell.sample.clone()).collect();
        let medians = Medians::of(&samples);
        let syncs = |cell: &Cell| cell.syncs as f64 / cell.sample.seconds;
        let syncs = median(cells.iter().map(syncs).collect());
        let [rate, p50, p99, _, cpu, _] = medians.cells();
        let of_limit = medians.per_second / *limit.get_or_insert(medians.per_second);
        let (syncs, of_limit) = (format!("{syncs:.0}"), format!("{of_limit:.2}x"));
        table.row(vec![name.clone(), rate, syncs, p50, p99, cpu, of_limit]);
    }
    table.print();
    line("of limit: appends a second beside one plain writer on a prepared file");
}

/// A file that is written and synced, record by record.
#[derive(Debug, Clone, Copy)]
enum Plain {
    /// Every block is there: a sync has only data to write. What the log prepares as well.
    Prepared,
    /// Each sync commits the new length too.
    Growing,
}

impl Plain {
    fn name(self) -> &'static str {
        match self {
            Self::Prepared => "write + fdatasync, prepared file",
            Self::Growing => "write + fdatasync, growing file",
        }
    }
}

fn plain(path: &Path, kind: Plain, time: Duration) -> Result<Cell> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    if matches!(kind, Plain::Prepared) {
        prepare(&file)?;
    }
    let me = [std::process::id()];
    let cpu_before = cpu::used_ms(&me)?;
    let payload = [0xa5; PAYLOAD_BYTES];
    let mut seen = Seen::default();
    let begin = Instant::now();
    let mut at = 0;
    while begin.elapsed() < time {
        let since = Instant::now();
        file.write_all_at(&payload, at)?;
        file.sync_data()?;
        seen.success(since.elapsed());
        at = match kind {
            Plain::Prepared => (at + PAYLOAD_BYTES as u64) % PLAIN_BYTES,
            Plain::Growing => at + PAYLOAD_BYTES as u64,
        };
    }
    let mut sample = seen.sample(begin.elapsed());
    sample.cpu_ms = cpu::used_ms(&me)? - cpu_before;
    std::fs::remove_file(path)?;
    Ok(Cell { syncs: sample.ops, sample })
}

fn prepare(file: &File) -> Result<()> {
    file.write_all_at(&vec![0; PLAIN_BYTES as usize], 0)?;
    Ok(file.sync_all()?)
}

/// Appends to one group, a number of them in flight.
struct Appender {
    log: GroupLog,
    next: u64,
    commit_thread: PathBuf,
}

impl Appender {
    async fn new(log: GroupLog) -> Result<Appender> {
        log.host(1).await?;
        Ok(Appender { log, next: 1, commit_thread: commit_thread()? })
    }

    /// One task submits, for entries of a group must come in their order; a permit comes back when
    /// its entry is durable.
    async fn measure(&mut self, in_flight: usize, time: Duration) -> Result<Cell> {
        let me = [std::process::id()];
        let (cpu_before, syncs_before) = (cpu::used_ms(&me)?, self.writes()?);
        let room = Arc::new(Semaphore::new(in_flight));
        let (took, durable) = mpsc::channel();
        let payload = Bytes::from(vec![0xa5; PAYLOAD_BYTES]);
        let begin = Instant::now();
        while begin.elapsed() < time {
            let permit = Arc::clone(&room).acquire_owned().await?;
            let entry = Entry { term: 1, index: self.next, payload: payload.clone() };
            let (took, since) = (took.clone(), Instant::now());
            let done = move || {
                // The receiver outlives every append.
                let _ = took.send(since.elapsed());
                drop(permit);
            };
            self.log.append(vec![entry], done).await?;
            self.next += 1;
        }
        let _all = room.acquire_many(in_flight as u32).await?;
        let elapsed = begin.elapsed();
        let mut seen = Seen::default();
        durable.try_iter().for_each(|took| seen.success(took));
        let mut sample = seen.sample(elapsed);
        sample.cpu_ms = cpu::used_ms(&me)? - cpu_before;
        Ok(Cell { sample, syncs: self.writes()? - syncs_before })
    }

    /// Write calls of the commit thread: it makes one before each sync.
    fn writes(&self) -> Result<u64> {
        let counts = std::fs::read_to_string(&self.commit_thread)?;
        let writes = counts.lines().find_map(|line| line.strip_prefix("syscw: "));
        Ok(writes.context("no syscw")?.parse()?)
    }
}

fn commit_thread() -> Result<PathBuf> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.trim() == "skep-wal" {
            return Ok(task.join("io"));
        }
    }
    anyhow::bail!("the log has no commit thread")
}
