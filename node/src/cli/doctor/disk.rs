//! How long the disk takes to sync what the log would write, and what room there is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Finding, grade, size};

/// A batch of a few entries.
const RECORD_BYTES: usize = 4096;
const RECORDS_MAX: usize = 512;
/// A slow disk is told by fewer records.
const TIME_MAX: Duration = Duration::from_secs(2);
/// Every write of a client waits for one sync and a round between nodes.
const P50_WARN: Duration = Duration::from_millis(10);
const P50_FAIL: Duration = Duration::from_millis(100);
const P99_WARN: Duration = Duration::from_millis(50);
/// Half of the time after which followers elect another leader.
const P99_FAIL: Duration = Duration::from_millis(300);
/// A few segments of the log, and a checkpoint beside the one that it replaces.
const ROOM_WARN: u64 = 2 << 30;
const ROOM_FAIL: u64 = 256 << 20;

pub(super) async fn check(data: &Path) -> Vec<Finding> {
    let Some(dir) = existing(data) else {
        return vec![Finding::fail("disk", format!("{} has no parent", data.display()))];
    };
    let measured = {
        let dir = dir.clone();
        tokio::task::spawn_blocking(move || measure(&dir)).await
    };
    let sync = match measured {
        Ok(Ok(times)) => told(&times),
        Ok(Err(error)) => vec![
            Finding::fail("disk sync", format!("{}: {error}", dir.display()))
                .advice("a node must be able to write there"),
        ],
        Err(error) => vec![Finding::fail("disk sync", error.to_string())],
    };
    sync.into_iter().chain([room(&dir)]).collect()
}

/// The directory, or the nearest one above that exists.
fn existing(data: &Path) -> Option<PathBuf> {
    let data = std::path::absolute(data).ok()?;
    data.ancestors().find(|path| path.is_dir()).map(Path::to_owned)
}

/// Removed again, whatever happens in between.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(file = %self.0.display(), %error, "not removed");
        }
    }
}

/// As the log does it: into a file that is filled with zeros first, so that a sync is of data alone.
fn measure(dir: &Path) -> io::Result<Vec<Duration>> {
    let path = dir.join(format!(".skep-doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let _scratch = Scratch(path);
    file.write_all_at(&vec![0; RECORD_BYTES * RECORDS_MAX], 0)?;
    file.sync_all()?;
    let record = [0xA5; RECORD_BYTES];
    let began = Instant::now();
    let mut times = Vec::with_capacity(RECORDS_MAX);
    while times.len() < RECORDS_MAX && began.elapsed() < TIME_MAX {
        times.push(timed(&file, &record, (times.len() * RECORD_BYTES) as u64)?);
    }
    Ok(times)
}

fn timed(file: &File, record: &[u8], at: u64) -> io::Result<Duration> {
    let began = Instant::now();
    file.write_all_at(record, at)?;
    file.sync_data()?;
    Ok(began.elapsed())
}

fn told(times: &[Duration]) -> Vec<Finding> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    let of = |per_mille: usize| sorted.get((sorted.len() * per_mille / 1000).min(last));
    let (Some(&p50), Some(&p99)) = (of(500), of(990)) else { return Vec::new() };
    let one = |check, got: Duration, warn, fail| {
        let found = format!("{got:.1?} ({} syncs)", times.len());
        Finding::new(check, grade(got, warn, fail), found)
            .bound(format!("{warn:?}, at most {fail:?}"))
            .advice("every write waits for it: use a faster disk, or give it less other work")
    };
    vec![
        one("disk sync p50", p50, P50_WARN, P50_FAIL),
        one("disk sync p99", p99, P99_WARN, P99_FAIL),
    ]
}

fn room(dir: &Path) -> Finding {
    let check = "disk room";
    match rustix::fs::statvfs(dir) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            Finding::new(check, lacks(free, ROOM_WARN, ROOM_FAIL), size(free))
                .bound(format!("{}, at least {}", size(ROOM_WARN), size(ROOM_FAIL)))
                .advice("a node ends when its log finds no room: make some")
        }
        Err(error) => Finding::skip(check, error.to_string()),
    }
}

/// The smaller, the worse.
pub(super) fn lacks(got: u64, warn_below: u64, fail_below: u64) -> super::Verdict {
    grade(std::cmp::Reverse(got), std::cmp::Reverse(warn_below), std::cmp::Reverse(fail_below))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_disk_is_measured_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let times = measure(dir.path()).unwrap();
        assert!(!times.is_empty() && times.len() <= RECORDS_MAX);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(existing(&dir.path().join("not/yet")).unwrap(), dir.path());
    }

    #[test]
    fn slow_syncs_are_told_by_their_median_and_their_tail() {
        let verdicts = |times: &[u64]| {
            let times: Vec<_> = times.iter().map(|&ms| Duration::from_millis(ms)).collect();
            told(&times).into_iter().map(|finding| finding.verdict).collect::<Vec<_>>()
        };
        assert_eq!(verdicts(&[1; 200]), [Verdict::Ok, Verdict::Ok]);
        assert_eq!(verdicts(&[20; 200]), [Verdict::Warn, Verdict::Ok]);
        let tail = [vec![1; 97], vec![400; 3]].concat();
        assert_eq!(verdicts(&tail), [Verdict::Ok, Verdict::Fail]);
        assert!(told(&[]).is_empty());
    }

    #[test]
    fn little_room_is_worse_than_much() {
        assert_eq!(
            [1, 5, 10].map(|free| lacks(free, 10, 5)),
            [Verdict::Fail, Verdict::Warn, Verdict::Ok]
        );
    }
}
